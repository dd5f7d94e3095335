# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a model's blobs into a store: which registries are asked, what has to come, and the transfer in turns.

A turn is bounded in seconds. What it got stays in the staging directory and in the store, and the next turn goes on
from there; the manifest is written when every blob is whole.
"""

from __future__ import annotations

import hashlib
import os
import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from ansible_collections.onprem.llm.plugins.module_utils import _registry, _repository, _transfer
from ansible_collections.onprem.llm.plugins.module_utils._ollama_store import (
    WEIGHTS_TYPE,
    Blob,
    Store,
    StoreError,
    blob_name,
    blobs,
)
from ansible_collections.onprem.llm.plugins.module_utils._ollama_verify import FileDigests, Verification
from ansible_collections.onprem.llm.plugins.module_utils._turn import Pending, Turn

GGUF_MAGIC = b"GGUF"


class PullError(Exception):
    """The model cannot be brought in; the text says why, and what would be right."""


@dataclass(frozen=True)
class Source:
    """A registry that may have the model: where, under which tag, how it is asked, and whether it is a mirror."""

    client: _registry.Client
    repository: _repository.Repository
    tag: str
    mirror: bool = False

    @property
    def host(self) -> str:
        return self.repository.host


@dataclass(frozen=True)
class Offer:
    """What a registry has under the model's name: the manifest, byte by byte, and who has its blobs, in order."""

    manifest: bytes
    layers: tuple[_registry.Layer, ...]
    weights_digest: str
    sources: tuple[Source, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest as the server lists it."""
        return hashlib.sha256(self.manifest).hexdigest()


class PathOrigin:
    """A file of this host, to be copied as a registry's blob is transferred."""

    label = "this host"

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self, start: int, stop: int) -> t.Any:
        try:
            stream = open(self._path, "rb")  # noqa: SIM115 - the reader closes it
        except OSError as error:
            raise _registry.Refused(f"{self._path} cannot be read: {error.strerror}") from error
        size = os.fstat(stream.fileno()).st_size
        stream.seek(start)
        return _PathAnswer(stream, f"bytes {start}-{min(stop, size) - 1}/{size}")


class _PathAnswer:
    """What of an HTTP answer is read."""

    status = 206

    def __init__(self, stream: t.BinaryIO, content_range: str) -> None:
        self.headers = {"Content-Range": content_range}
        self.read1, self.close = stream.read, stream.close


# --- Registries ------------------------------------------------------------------------------------------------------


def sources(name: str, origins: t.Sequence[t.Mapping[str, t.Any]], timeout: float) -> list[Source]:
    """The registries to ask for a model, in order; without origins, its name's own.

    An origin is ``url``, ``kind`` (``mirror`` or ``registry``), and may have ``ca_path``, ``client_cert``,
    ``client_key``, ``username`` and ``password``. A name that has a registry's host itself is asked for there where the
    origin is a plain registry, and an origin's login and certificates are for its own host alone.

    :raises PullError: the name is none, or an origin's address.
    """
    found = []
    try:
        public = _repository.parse_name(name)
        for origin in origins or [{"url": f"https://{public.host}", "kind": "registry"}]:
            scheme, host = _repository.parse_address(origin["url"])
            if origin.get("kind") == "mirror":
                repository = _repository.mirrored(public, origin["url"])
            else:
                own = _repository.parse_name(name, f"{scheme}://{host}")
                repository = own.repository
            client = _registry.Client(timeout, time_limit=None)
            if repository.host == host:
                repository, client = replace(repository, scheme=scheme), _client(origin, timeout)
            found.append(Source(client, repository, public.tag, origin.get("kind") == "mirror"))
    except _repository.RegistryError as error:
        raise PullError(str(error)) from error
    return found


def _client(origin: t.Mapping[str, t.Any], timeout: float) -> _registry.Client:
    """Who asks an origin, with what is for its host alone."""
    login = (origin["username"], origin.get("password") or "") if origin.get("username") else None
    files = {key: origin.get(key) or None for key in ("ca_path", "client_cert", "client_key")}
    return _registry.Client(timeout, time_limit=None, login=login, **files)


def file_origins(
    url: str, digest: str, origins: t.Sequence[t.Mapping[str, t.Any]], timeout: float, elsewhere: str | None = None
) -> list[_transfer.Origin]:
    """Where a file is asked for, in order. A blob of one of the origins is asked for as that one's, for a mirror has
    files, too; where it is a mirror, of those that come after it as well.

    :param elsewhere: an address that is asked after all of them.
    :raises PullError: an address is none.
    """
    found: list[_transfer.Origin] = []
    path, end = "", f"/blobs/{digest}"
    try:
        for origin in origins:
            scheme, host = _repository.parse_address(origin["url"])
            start = f"{scheme}://{host}/v2/"
            if not path and url.startswith(start) and url.endswith(end):
                path = url[len(start) : -len(end)]
            elif not (found and origin.get("kind") == "mirror"):
                continue
            repository = _repository.Repository(scheme, host, path)
            found.append(_transfer.RegistryOrigin(_client(origin, timeout), repository, digest))
            if origin.get("kind") != "mirror":
                break
        more = [elsewhere] if elsewhere else []
        return [*found, *(_transfer.UrlOrigin(place) for place in ([] if found else [url]) + more)]
    except (_repository.RegistryError, _transfer.TransferError) as error:
        raise PullError(str(error)) from error


def offer(asked: t.Sequence[Source], limits: _transfer.Limits) -> Offer:
    """The manifest of the first registry that has one. Who comes before it is not asked for blobs. A mirror that does
    not answer is not waited for where another stands beside it.

    :raises PullError: none has the model, each said with its reason.
    """
    told = []
    for index, source in enumerate(asked):
        try:
            spared = source.mirror and any(other.mirror for other in asked[index + 1 :])
            patience = replace(limits, attempts=min(limits.attempts, 2)) if spared else limits
            manifest = _transfer.persistently(partial(source.client.manifest, source.repository, source.tag), patience)
            layers = _registry.layers(manifest)
            return Offer(manifest, layers, _registry.parse_manifest(manifest).weights.digest, tuple(asked[index:]))
        except _repository.RegistryError as error:
            told.append(f"{source.repository}:{source.tag}: {error}")
    raise PullError("no registry gives it: " + "; ".join(told) + _advice([source.mirror for source in asked]))


def _advice(mirrors: t.Collection[bool]) -> str:
    """What is to be done where none but mirrors was asked."""
    if not mirrors or not all(mirrors):
        return ""
    which = "one of these mirrors" if len(mirrors) > 1 else "this mirror"
    return (
        f". Bring {which} up (playbooks/site.yml without a limit fills it), or let a registry be asked "
        "after it (models_mirror_fallback: true)"
    )


# --- Transfers -------------------------------------------------------------------------------------------------------


def pull(
    store: Store, staging_dir: str, wanted: t.Sequence[_registry.Layer], asked: t.Sequence[Source], turn: Turn
) -> None:
    """Bring these blobs into the store, the largest last. A damaged one is replaced when its own is whole.

    :raises Pending: the turn is over.
    :raises PullError: it cannot be done; what came is kept, but for bytes of a wrong sha256.
    """
    layers = sorted({layer.digest: layer for layer in wanted}.values(), key=lambda layer: layer.size)
    with staged(store, staging_dir, _advice([of.mirror for of in asked])) as staging:
        total = sum(layer.size for layer in layers)
        account = turn.account
        account.total_bytes, account.free_bytes = total, staging.free_bytes
        account.held_bytes = sum(min(staging.held(layer.digest), layer.size) for layer in layers)
        account.origin = asked[0].host
        fits(total - account.held_bytes, account.free_bytes, turn.limits.reserve_bytes, staging_dir)
        if turn.announce:
            raise Pending("announced", account.held_bytes, total)
        done = 0
        with turn.timed():
            for layer in layers:
                origins = [_transfer.RegistryOrigin(of.client, of.repository, layer.digest) for of in asked]
                _bring(store, staging, layer.digest, layer.size, origins, turn, done, total)
                done += layer.size


def pull_file(
    store: Store,
    staging_dir: str,
    digest: str,
    origins: t.Sequence[_transfer.Origin],
    turn: Turn,
    size: int | None = None,
) -> None:
    """Bring one blob from elsewhere into the store. As :func:`pull`."""
    advice = _advice([isinstance(origin, _transfer.RegistryOrigin) for origin in origins])
    with staged(store, staging_dir, advice) as staging:
        account = turn.account
        held = staging.held(digest)
        account.held_bytes, account.free_bytes, account.origin = held, staging.free_bytes, origins[0].label
        account.total_bytes = size or 0
        fits((size or 0) - held, account.free_bytes, turn.limits.reserve_bytes, staging_dir)
        if turn.announce:
            raise Pending("announced", held, size or 0)
        with turn.timed():
            account.total_bytes = _bring(store, staging, digest, size, origins, turn, 0, size)


@contextmanager
def staged(store: Store, staging_dir: str, advice: str = "") -> t.Iterator[_transfer.Staging]:
    """The staging directory, and what goes wrong with it in words.

    :param advice: what is said beside a transfer that failed.
    :raises PullError: it cannot be used, or a transfer failed.
    """
    try:
        store.make()
        with _transfer.Staging(staging_dir) as staging:
            yield staging
    except (_transfer.TransferError, _repository.RegistryError) as error:
        raise PullError(f"{error}{advice}") from error


def fits(needed: int, free: int, reserve: int, place: str) -> None:
    """:raises PullError: the bytes do not fit beside the reserve."""
    if needed > 0 and needed + reserve > free:
        raise PullError(
            f"{needed} bytes are to come, {free} are free at {place}, and {reserve} are to stay so; "
            f"{needed + reserve - free} are missing"
        )


def _bring(
    store: Store,
    staging: _transfer.Staging,
    digest: str,
    size: int | None,
    origins: t.Sequence[t.Any],
    turn: Turn,
    done: int,
    total: int | None,
) -> int:
    """One blob, under its lock; its size. Where another play brings the same one, it need not come twice."""
    held = staging.held(digest)
    before = store.identity(digest)
    try:
        with staging.lock(digest, min(turn.left, 86400.0)):
            if store.identity(digest) != before and store.has(digest, size):
                return t.cast(int, store.size(digest))
            whole = turn.fetch(digest, size, origins, staging, done, total)
            store.install(whole, digest)
            staging.discard(digest)
            return whole.size
    except _transfer.Busy:
        raise Pending("another play transfers it", done + held, total or held) from None


class Files:
    """One model in the store: what of it lies there whole, and how the rest comes.

    :param resume: what :meth:`resume` gave at the end of the turn before.
    """

    def __init__(self, store: Store, staging_dir: str, name: str, turn: Turn, resume: t.Mapping[str, t.Any]) -> None:
        self.store, self.staging_dir, self.name, self.turn = store, staging_dir, name, turn
        self._known = Verification(store, turn, resume)
        self._digests = FileDigests(turn, resume.get("files") or {})

    def resume(self) -> dict[str, t.Any]:
        """What the next turn need not find out again."""
        return {**self._known.resume(), "files": self._digests.known}

    def digest(self, path: str) -> str:
        """The sha256 of a file of this host.

        :raises Pending: the turn is over.
        :raises OSError: the file cannot be read.
        """
        with open(path, "rb") as stream:
            return self._digests.of(path, stream)

    @property
    def damaged(self) -> t.Collection[str]:
        """Digests of the blobs that were read and are not what their name says."""
        return self._known.damaged.keys()

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """The blobs of the installed model, by its manifest."""
        content = self.store.manifest(self.name)
        return blobs(content) if content else ()

    def faulty(self, verify: bool) -> set[str]:
        """Digests of the installed model's blobs that are missing or of another size than the manifest says.

        :param verify: read every blob, too, and name the damaged ones.
        :raises Pending: the turn is over before all are read.
        """
        named = self.blobs
        found = {blob.digest for blob in named if not self.store.has(blob.digest, blob.size)}
        if not verify:
            return found
        self._known.read(blob for blob in named if blob.digest not in found)
        return found | {blob.digest for blob in named if blob.digest in self.damaged}

    def _lacking(self, offered: Offer, faulty: t.Collection[str]) -> list[_registry.Layer]:
        return [
            layer for layer in offered.layers if layer.digest in faulty or not self.store.has(layer.digest, layer.size)
        ]

    def foresee(self, offered: Offer, faulty: t.Collection[str]) -> None:
        """Fill in the account of what :meth:`install` would transfer."""
        lacking, account = self._lacking(offered, faulty), self.turn.account
        account.total_bytes = sum(layer.size for layer in lacking)
        account.free_bytes = self.store.free_bytes
        account.origin = offered.sources[0].host

    def install(self, offered: Offer, faulty: t.Collection[str]) -> None:
        """Have what the registry offers, its blobs first. What is installed stays until all of them are here.

        :raises Pending: the turn is over.
        :raises PullError: it cannot be done.
        """
        installed = self.blobs
        # A second look: a server that started meanwhile may have pruned what no manifest named yet.
        for _look in range(2):
            lacking = self._lacking(offered, faulty)
            if lacking:
                pull(self.store, self.staging_dir, lacking, offered.sources, self.turn)
            came = {layer.digest for layer in lacking}
            self._known.mended(came)
            faulty = set(faulty) - came
        weights = [blob.digest for blob in installed if blob.media_type == WEIGHTS_TYPE]
        if weights == [offered.weights_digest] and not faulty:
            # The files were mended; what lies over the weights is the host's own.
            return
        self.store.write_manifest(self.name, offered.manifest)
        self._sweep({blob.digest for blob in installed})

    def take(
        self,
        digest: str,
        path: str | None,
        url: str | None,
        origins: t.Sequence[t.Mapping[str, t.Any]] = (),
        elsewhere: str | None = None,
    ) -> None:
        """Have a GGUF file as a blob: of this host by link or copy, or of a web server.

        :param origins: registries, as of :func:`sources`, one of which ``url`` may lead to.
        :param elsewhere: an address that is asked when ``url`` and the other mirrors do not give it.
        :raises Pending: the turn is over.
        :raises OSError: the file cannot be read.
        """
        try:
            if path:
                self._take_path(digest, path)
            else:
                asked = file_origins(url or "", digest, origins, self.turn.limits.stall_seconds, elsewhere)
                pull_file(self.store, self.staging_dir, digest, asked, self.turn)
        except StoreError as error:
            raise PullError(str(error)) from error

    def _take_path(self, digest: str, path: str) -> None:
        with open(path, "rb") as stream:
            start = stream.read(len(GGUF_MAGIC))
            if start != GGUF_MAGIC:
                raise PullError(f"{path} is no GGUF file: it begins with {start!r}, not {GGUF_MAGIC!r}")
            if not self.store.linkable(stream):
                size = os.fstat(stream.fileno()).st_size
                pull_file(self.store, self.staging_dir, digest, [PathOrigin(path)], self.turn, size)
                return
            with self.turn.timed():
                self.store.link(stream, digest, self._digests.of(path, stream))
            account = self.turn.account
            account.total_bytes, account.origin = os.fstat(stream.fileno()).st_size, PathOrigin.label

    def _sweep(self, digests: t.Collection[str]) -> None:
        """Remove those of the blobs that no model has any more."""
        try:
            used = {digest for named in self.store.names().values() for digest in named}
        except StoreError:
            return
        for digest in set(digests) - used:
            self.store.remove_blob(blob_name(digest))
