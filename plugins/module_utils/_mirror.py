# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's mirror: what lies where in its registry, how it is filled, and what is taken out again.

A mirror is a ``docker-registry`` on a Unix socket. What the fleet wants is brought into it blob by blob, each once and
checked by its digest twice, on its way and by the registry; the manifest comes last, byte by byte as upstream has it.
So a manifest that is there is one whose blobs are there.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import time
import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _registry, _repository, _transfer
from ansible_collections.onprem.llm.plugins.module_utils._mirror_place import MirrorError, Place
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes
from ansible_collections.onprem.llm.plugins.module_utils._turn import Pending, Turn

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
FILE_TYPE = "application/octet-stream"
# image-spec's guidance for a manifest without a configuration: two bytes, the same for all.
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
# image-spec, annotations.md: the name of what an entry of a layout's index is for.
REF_NAME = "org.opencontainers.image.ref.name"

_BLOCK_BYTES = 2**20
# What the registry is sent at a time of a larger blob, so that a turn ends in time; some 100 to 1000 MB/s are measured.
PIECE_BYTES = 64 * 2**20
# The registry hashes and stores what it is sent before it answers.
_ANSWER_SECONDS = 3600.0
_MAX_ANSWER_BYTES = 8 * 2**20


def file_manifest(digest: str, size: int) -> bytes:
    """The manifest of a file: the same bytes for the same file."""
    empty = {"mediaType": EMPTY_TYPE, "digest": _digest.of_bytes(EMPTY), "size": len(EMPTY)}
    layer = {"mediaType": FILE_TYPE, "digest": digest, "size": size}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty, "layers": [layer]}
    return json.dumps(manifest, separators=(",", ":")).encode()


def media_type(manifest: bytes) -> str:
    """The type of a manifest or index, which OCI's need not name themselves.

    :raises MirrorError: it is no JSON object.
    """
    try:
        found = json.loads(manifest)
        named = found.get("mediaType")
    except (ValueError, AttributeError, RecursionError):
        raise MirrorError("a manifest is no JSON object") from None
    return str(named) if named else OCI_INDEX if "manifests" in found else OCI_MANIFEST


# --- The registry ----------------------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("registry", timeout=timeout, blocksize=_BLOCK_BYTES)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Registry:
    """The mirror's own registry, by its socket, and its directory where its protocol has no answer.

    :param socket_path: the Unix socket that it listens on.
    :param root: its storage directory.
    """

    def __init__(self, socket_path: str, root: str) -> None:
        self._socket, self._root = socket_path, os.path.join(root, "docker", "registry", "v2")

    def _ask(
        self, method: str, target: str, body: t.Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """:raises MirrorError: there is no answer, or it says that the registry is broken."""
        connection = _Connection(self._socket, _ANSWER_SECONDS)
        try:
            connection.request(method, target, body=body, headers=headers or {})
            response = connection.getresponse()
            data = response.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise MirrorError(
                f"the mirror's registry did not answer {method} {urlsplit(target).path}: {error}"
            ) from error
        finally:
            connection.close()
        if response.status >= 500:
            raise MirrorError(f"the mirror's registry answered {method} with {response.status}: {_said(data)}")
        return response.status, response.headers, data

    def wait(self, seconds: float) -> None:
        """Until it answers.

        :raises MirrorError: it does not, for so many seconds.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self._ask("GET", "/v2/")
                return
            except MirrorError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def manifest(self, path: str, reference: str) -> bytes | None:
        """The manifest by tag or digest, or None."""
        accept = {"Accept": _registry.ANY_MANIFEST}
        status, _headers, data = self._ask("GET", f"/v2/{path}/manifests/{reference}", headers=accept)
        if status == 404:
            return None
        if status != 200:
            raise MirrorError(f"the mirror's registry answered {status} for {path}:{reference}: {_said(data)}")
        return data

    def has_blob(self, path: str, digest: str) -> bool:
        status, _headers, _data = self._ask("HEAD", f"/v2/{path}/blobs/{digest}")
        return status == 200

    def blob_path(self, digest: str) -> str:
        """Where it keeps a blob, under whatever repository; there or not."""
        hexadecimal = digest.partition(":")[2]
        return os.path.join(self._root, "blobs", "sha256", hexadecimal[:2], hexadecimal, "data")

    def push_blob(self, path: str, digest: str, content: t.Any, size: int) -> None:
        """Store ``size`` bytes of a stream under their digest, which the registry checks.

        :raises MirrorError: they have another digest, or the registry refuses.
        """
        self.finish(self.upload(path), digest, content, size)

    # A large blob goes in several requests (distribution-spec, "Pushing a blob in chunks"). Each answer has the address
    # of the next, which the registry knows as long as it runs.

    def upload(self, path: str) -> str:
        """Begin to store a blob; the address of the next request.

        :raises MirrorError: the registry refuses.
        """
        status, headers, data = self._ask("POST", f"/v2/{path}/blobs/uploads/", headers={"Content-Length": "0"})
        location = _location(headers)
        if status != 202 or not location:
            raise MirrorError(f"the mirror's registry refused an upload to {path} with {status}: {_said(data)}")
        return location

    def knows(self, location: str, offset: int) -> bool:
        """Whether it goes on with an upload after so many bytes, of which there is one at least."""
        status, headers, _data = self._ask("GET", location)
        return status == 204 and headers.get("Range") == f"0-{offset - 1}"

    def append(self, location: str, content: t.BinaryIO, offset: int, size: int) -> str:
        """Send ``size`` bytes of a stream, which are those from ``offset`` on; the address of the next request.

        :raises MirrorError: the registry refuses.
        """
        sent = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{offset}-{offset + size - 1}",
        }
        status, headers, data = self._ask("PATCH", location, _blocks(content, size), sent)
        following = _location(headers)
        if status != 202 or not following:
            raise MirrorError(f"the mirror's registry refused bytes of a blob with {status}: {_said(data)}")
        return following

    def finish(self, location: str, digest: str, content: t.Any = b"", size: int = 0) -> None:
        """Send the last bytes, and have the whole as a blob.

        :raises MirrorError: it has another digest, or the registry refuses.
        """
        target = f"{location}{'&' if urlsplit(location).query else '?'}digest={quote(digest)}"
        sent = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        status, _headers, data = self._ask("PUT", target, content, sent)
        if status != 201:
            raise MirrorError(f"the mirror's registry refused the blob {digest} with {status}: {_said(data)}")

    def push_manifest(self, path: str, reference: str, manifest: bytes) -> None:
        """:raises MirrorError: a blob of it is not there, or the registry refuses it."""
        kind = {"Content-Type": media_type(manifest)}
        status, _headers, data = self._ask("PUT", f"/v2/{path}/manifests/{reference}", manifest, kind)
        if status != 201:
            raise MirrorError(f"the mirror's registry refused {path}:{reference} with {status}: {_said(data)}")

    def delete_manifest(self, path: str, digest: str) -> None:
        status, _headers, data = self._ask("DELETE", f"/v2/{path}/manifests/{digest}")
        if status not in (202, 404):
            raise MirrorError(f"the mirror's registry did not delete {path}@{digest} ({status}): {_said(data)}")

    # Its protocol lists neither the manifests without a tag nor the blobs.

    def manifests(self) -> dict[str, set[str]]:
        """Digests of all manifests, by repository."""
        found: dict[str, set[str]] = {}
        top = os.path.join(self._root, "repositories")
        for directory, names, _files in os.walk(top):
            if "_manifests" in names:
                revisions = os.path.join(directory, "_manifests", "revisions", "sha256")
                held = os.listdir(revisions) if os.path.isdir(revisions) else []
                digests = {f"sha256:{name}" for name in held if os.path.exists(os.path.join(revisions, name, "link"))}
                found[os.path.relpath(directory, top)] = digests
            names[:] = [name for name in names if not name.startswith("_")]
        return found

    def blobs(self) -> dict[str, int]:
        """Size in bytes of every blob, by its digest."""
        found = {}
        top = os.path.join(self._root, "blobs", "sha256")
        for directory, _names, files in os.walk(top):
            if "data" in files:
                found["sha256:" + os.path.basename(directory)] = os.path.getsize(os.path.join(directory, "data"))
        return found

    def forget(self, path: str) -> None:
        """Remove what is left of a repository without manifests. Only while the registry is stopped."""
        top = os.path.join(self._root, "repositories")
        directory = os.path.join(top, path)
        for name in ("_layers", "_manifests", "_uploads"):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        while directory != top:
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)


def _location(headers: http.client.HTTPMessage) -> str:
    """Path and query of an answer's Location, the last one: the configuration gives each answer a first."""
    found = urlsplit(headers.get_all("Location", [""])[-1])
    return f"{found.path}?{found.query}" if found.query else found.path


def _blocks(stream: t.BinaryIO, size: int) -> t.Iterator[bytes]:
    """The next ``size`` bytes of a stream, or what it has."""
    while size > 0:
        block = stream.read(min(_BLOCK_BYTES, size))
        if not block:
            return
        size -= len(block)
        yield block


def _said(data: bytes) -> str:
    """The registry's own words."""
    try:
        first = json.loads(data)["errors"][0]
        return f"{first.get('code')}: {first.get('message')}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return data[:200].decode("utf-8", "replace").strip() or "it said nothing more"


# --- Where it comes from ---------------------------------------------------------------------------------------------


class Source(t.Protocol):
    """Who has something that is wanted."""

    label: str

    def manifest(self, reference: str) -> bytes:
        """By tag or digest. :raises MirrorError: there is none."""

    def path(self, digest: str) -> str | None:
        """Path of the blob, where it is a file of this host."""

    def origins(self, digest: str) -> list[t.Any]:
        """Where the blob is transferred from, where it is no file of this host."""

    def size(self, digest: str) -> int:
        """Bytes of a file. :raises MirrorError: it is not to be had."""


@dataclass(frozen=True)
class Upstream:
    """A registry's repository."""

    client: _registry.Client
    repository: _repository.Repository

    @property
    def label(self) -> str:
        return self.repository.host

    def manifest(self, reference: str) -> bytes:
        try:
            return self.client.manifest(self.repository, reference, accept=_registry.ANY_MANIFEST)
        except _repository.RegistryError as error:
            raise MirrorError(f"{self.repository}:{reference}: {error}") from error

    def path(self, digest: str) -> str | None:
        return None

    def origins(self, digest: str) -> list[t.Any]:
        return [_transfer.RegistryOrigin(self.client, self.repository, digest)]

    def size(self, digest: str) -> int:
        raise MirrorError(f"{self.repository} is asked by its manifests")


@dataclass(frozen=True)
class Layout:
    """An OCI image layout, a directory with ``index.json`` and ``blobs/sha256``. Entries of the index are named by
    ``<repository>:<tag>``, where they lie in the mirror."""

    directory: str
    place: Place

    @property
    def label(self) -> str:
        return self.directory

    def _read(self, path: str) -> bytes:
        try:
            with open(path, "rb") as stream:
                return stream.read(_registry.MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise MirrorError(f"{path}: {error.strerror}; the layout is not whole") from error

    def blob(self, digest: str) -> str:
        return os.path.join(self.directory, "blobs", "sha256", digest.partition(":")[2])

    def manifest(self, reference: str) -> bytes:
        if not _digest.PATTERN.fullmatch(reference):
            index = os.path.join(self.directory, "index.json")
            try:
                entries = json.loads(self._read(index))["manifests"]
                named = {entry["annotations"][REF_NAME]: entry["digest"] for entry in entries if "annotations" in entry}
            except (ValueError, LookupError, TypeError) as error:
                raise MirrorError(f"{index} is no index of an OCI image layout") from error
            if str(self.place) not in named:
                raise MirrorError(f"{self.place} is missing: {index} does not name it")
            reference = named[str(self.place)]
        data = self._read(self.blob(reference))
        if _digest.of_bytes(data) != reference:
            raise MirrorError(f"{self.blob(reference)} has changed: its sha256 is {_digest.of_bytes(data)[7:]}")
        return data

    def path(self, digest: str) -> str | None:
        return self.blob(digest)

    def origins(self, digest: str) -> list[t.Any]:
        return []

    def size(self, digest: str) -> int:
        return _size(self.blob(digest))


@dataclass(frozen=True)
class LocalFile:
    """One file of this host."""

    file: str

    @property
    def label(self) -> str:
        return self.file

    def manifest(self, reference: str) -> bytes:
        raise MirrorError(f"{self.file} is no manifest")

    def path(self, digest: str) -> str | None:
        return self.file

    def origins(self, digest: str) -> list[t.Any]:
        return []

    def size(self, digest: str) -> int:
        return _size(self.file)


@dataclass(frozen=True)
class Address:
    """One file by its URL."""

    url: str
    ca_path: str | None = None

    @property
    def label(self) -> str:
        return urlsplit(self.url).hostname or self.url

    def manifest(self, reference: str) -> bytes:
        raise MirrorError(f"{self.url} is no manifest")

    def path(self, digest: str) -> str | None:
        return None

    def origins(self, digest: str) -> list[t.Any]:
        try:
            return [_transfer.UrlOrigin(self.url, self.ca_path)]
        except _transfer.TransferError as error:
            raise MirrorError(str(error)) from error

    def size(self, digest: str) -> int:
        try:
            return _transfer.told_size(self.origins(digest)[0])
        except _repository.RegistryError as error:
            raise MirrorError(f"{self.label}, asked for {digest}: {error}") from error


# --- What is wanted --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """One thing that the mirror shall hold.

    :ivar kind: ``models``, ``images`` or ``files``.
    :ivar name: as its owner calls it.
    :ivar digest: of a model's weights, of an image's manifest or index, of a file; None where it may be any.
    :ivar source: who has it, or None where that is not known.
    :ivar manifest_digest: what ``source`` is asked for in place of the tag.
    """

    kind: str
    name: str
    place: Place
    digest: str | None
    source: Source | None
    manifest_digest: str | None = None

    @property
    def exact(self) -> str:
        """What the registry has it under."""
        return self.digest if self.kind == "images" and self.digest else self.place.tag


@dataclass
class Resolved:
    """What belongs to something that is wanted: manifests in the order in which they are pushed, and blobs."""

    wanted: Wanted
    # Reference and bytes.
    manifests: list[tuple[str, bytes]] = field(default_factory=list)
    blobs: tuple[_registry.Layer, ...] = ()
    held: bool = False


def weights(manifest: bytes, name: str) -> str:
    """Digest of a model's weights. :raises MirrorError: it has none."""
    try:
        return _registry.parse_manifest(manifest).weights.digest
    except _repository.RegistryError as error:
        raise MirrorError(f"{name}: {error}") from error


class Mirror:
    """A registry that is filled and cleaned.

    :param registry: where it goes.
    :param staging_dir: directory of what is on its way, on the registry's own file system.
    """

    def __init__(self, registry: Registry, staging_dir: str) -> None:
        self.registry, self.staging_dir = registry, staging_dir

    @contextmanager
    def locked(self, exclusive: bool, seconds: float) -> t.Iterator[None]:
        """Many may fill at a time; who cleans is alone.

        :raises MirrorError: it could not be had in so many seconds.
        """
        descriptor = os.open(
            os.path.join(self.staging_dir, ".mirror.lock"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600
        )
        try:
            end = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        doing = "filling or cleaning" if exclusive else "cleaning"
                        raise MirrorError(
                            f"another run has been {doing} the mirror for {seconds:g} seconds; wait for it"
                        ) from error
                    time.sleep(0.2)
            yield
        finally:
            os.close(descriptor)

    def lacks(self, wanted: Wanted) -> bool:
        """Whether something is missing, as far as the mirror knows by itself."""
        try:
            return not self._held(wanted, update=False).held
        except MirrorError:
            return True

    def resolve(self, wanted: Wanted, update: bool) -> Resolved:
        """What belongs to it, by the mirror's own manifest where that is the one that is wanted, else by its source's.

        :raises MirrorError: the source has none, or another than is pinned.
        """
        held = self._held(wanted, update)
        if held.manifests or wanted.source is None:
            if wanted.source is None and not held.held:
                raise MirrorError(f"{wanted.name} is not on the mirror, and nobody is named who has it")
            return held
        if wanted.kind == "files":
            return self._parsed(
                wanted, file_manifest(wanted.digest or "", wanted.source.size(wanted.digest or "")), None
            )
        reference = wanted.manifest_digest or wanted.exact
        return self._parsed(wanted, wanted.source.manifest(reference), wanted.source.manifest)

    def _held(self, wanted: Wanted, update: bool) -> Resolved:
        """What the mirror has; without manifests where that is not what is wanted."""
        if update and not wanted.digest:
            return Resolved(wanted)
        path = wanted.place.path
        manifest = self.registry.manifest(path, wanted.exact)
        if manifest is None:
            return Resolved(wanted)
        if wanted.kind == "models" and wanted.digest and weights(manifest, wanted.name) != wanted.digest:
            return Resolved(wanted)

        def child(reference: str) -> bytes:
            found = self.registry.manifest(path, reference)
            if found is None:
                raise MirrorError(f"{path}@{reference} is not on the mirror")
            return found

        try:
            resolved = self._parsed(wanted, manifest, child)
        except MirrorError:
            return Resolved(wanted)
        resolved.held = all(self.registry.has_blob(path, blob.digest) for blob in resolved.blobs)
        return resolved

    def _parsed(self, wanted: Wanted, manifest: bytes, child: t.Callable[[str], bytes] | None) -> Resolved:
        if wanted.kind == "models":
            found = weights(manifest, wanted.name)
            if wanted.digest and found != wanted.digest:
                raise MirrorError(
                    f"{wanted.name}: its weights are {found} upstream, and the inventory pins {wanted.digest}; the tag "
                    "was pointed elsewhere. Pin the new one, or name a tag or registry that still has the old"
                )
        try:
            children = _registry.children(manifest) if child else ()
            manifests = [(entry.digest, child(entry.digest)) for entry in children if child]
            blobs: dict[str, _registry.Layer] = {}
            for _reference, data in manifests or [("", manifest)]:
                # Two entries may share layers, and one may name a layer twice.
                blobs.update((layer.digest, layer) for layer in _registry.layers(data))
        except _repository.RegistryError as error:
            raise MirrorError(f"{wanted.name}: {error}") from error
        return Resolved(wanted, [*manifests, (wanted.place.tag, manifest)], tuple(blobs.values()))

    # --- filling

    def missing(self, resolved: t.Iterable[Resolved]) -> list[tuple[Resolved, _registry.Layer]]:
        """The blobs that have to be brought in, each with what it belongs to."""
        found = []
        for item in resolved:
            if not item.held:
                path = item.wanted.place.path
                found += [(item, blob) for blob in item.blobs if not self.registry.has_blob(path, blob.digest)]
        return found

    def fill(self, resolved: t.Sequence[Resolved], turn: Turn, dry: bool = False) -> bool:
        """Bring in what is missing of these; whether anything was, or would be. The account is of everything that is
        wanted.

        :param dry: only the account is made.
        :raises Pending: the turn is over.
        :raises MirrorError: it cannot be done; what came whole is kept.
        """
        account = turn.account
        with _transfer.Staging(self.staging_dir) as staging:
            missing = self.missing(resolved)
            todo = {blob.digest: blob.size for _item, blob in missing}
            account.total_bytes = sum({blob.digest: blob.size for item in resolved for blob in item.blobs}.values())
            account.held_bytes = account.total_bytes - sum(todo.values())
            account.free_bytes = staging.free_bytes
            labels = {item.wanted.source.label for item, _blob in missing if item.wanted.source}
            account.origin = ", ".join(sorted(labels)) or None
            self._fits(todo, staging, turn.limits)
            changed = bool(missing)
            if dry or turn.announce:
                account.held_bytes += sum(min(staging.held(digest), size) for digest, size in todo.items())
                changed = changed or any(self._unpublished(item) for item in resolved)
                if changed and not dry:
                    raise Pending("announced", account.held_bytes, account.total_bytes)
                return changed
            with turn.timed():
                for item in resolved:
                    for blob in [blob for owner, blob in missing if owner is item]:
                        self._bring(item.wanted, blob, staging, turn)
                        # The same blob may be wanted in several repositories, and counts once.
                        account.held_bytes += todo.pop(blob.digest, 0)
                    changed = self._publish(item) or changed
        return changed

    def _fits(self, todo: t.Mapping[str, int], staging: t.Any, limits: _transfer.Limits) -> None:
        """:raises MirrorError: the file system cannot take what is to come, and the largest once more beside it."""
        if not todo:
            return
        there = sum(min(staging.held(digest), size) + _sent(staging, digest) for digest, size in todo.items())
        needed = sum(todo.values()) + max(todo.values()) - there
        free = staging.free_bytes
        if needed + limits.reserve_bytes > free:
            raise MirrorError(
                f"{human_bytes(needed)} ({needed} bytes) are needed below {self.staging_dir}, and {human_bytes(free)} "
                f"are free, of which {human_bytes(limits.reserve_bytes)} shall stay so. Free some, or prune the mirror"
            )

    def _bring(self, wanted: Wanted, blob: _registry.Layer, staging: _transfer.Staging, turn: Turn) -> None:
        """Bring one blob into the registry.

        :raises Pending: the turn is over.
        :raises MirrorError: it is not to be had.
        """
        path = wanted.place.path
        # It may lie there under another repository.
        here = self.registry.blob_path(blob.digest)
        local = here if os.path.exists(here) else wanted.source.path(blob.digest) if wanted.source else None
        if blob.digest == _digest.of_bytes(EMPTY):
            self.registry.push_blob(path, blob.digest, EMPTY, len(EMPTY))
        elif local:
            self._push_file(path, blob, local, staging, turn)
        elif wanted.source is None:
            raise MirrorError(f"{wanted.name}: {blob.digest} is not on the mirror, and nobody is named who has it")
        else:
            account, origins = turn.account, wanted.source.origins(blob.digest)
            try:
                with staging.lock(blob.digest, turn.limits.stall_seconds):
                    staged = turn.fetch(
                        blob.digest, blob.size, origins, staging, account.held_bytes, account.total_bytes
                    )
                    with _opened(staged) as stream:
                        self._push(path, blob, stream, staging, turn)
            except (_transfer.TransferError, _repository.RegistryError) as error:
                raise MirrorError(f"{wanted.name}: {error}") from error

    def _push(
        self, path: str, blob: _registry.Layer, stream: t.BinaryIO, staging: _transfer.Staging, turn: Turn
    ) -> None:
        """Store a blob, from where an earlier turn left it, and drop what is staged of it.

        :raises Pending: the turn is over.
        :raises MirrorError: it has another digest, or the registry refuses.
        """
        digest, size = blob.digest, blob.size
        if size <= PIECE_BYTES:
            self.registry.push_blob(path, digest, stream, size)
            staging.discard(digest)
            return
        note, offset = staging.note(digest), _sent(staging, digest)
        if note.get("path") == path and 0 < offset <= size and self.registry.knows(str(note["location"]), offset):
            location = str(note["location"])
        else:
            location, offset = self.registry.upload(path), 0
        stream.seek(offset)
        while offset < size:
            count = min(PIECE_BYTES, size - offset)
            location = self.registry.append(location, stream, offset, count)
            offset += count
            staging.remember(digest, {"path": path, "location": location, "offset": offset})
            if offset < size and not turn.left:
                raise Pending("push", offset, size)
        # A registry that refuses the whole is not to be asked to go on with it.
        staging.remember(digest, {})
        self.registry.finish(location, digest)
        staging.discard(digest)

    def _push_file(self, path: str, blob: _registry.Layer, file: str, staging: _transfer.Staging, turn: Turn) -> None:
        """:raises MirrorError: the file cannot be read, or has another content."""
        digest, size = blob.digest, blob.size
        try:
            with staging.lock(digest, turn.limits.stall_seconds), open(file, "rb") as stream:
                self._push(path, blob, stream, staging, turn)
        except OSError as error:
            raise MirrorError(f"{file}: {error.strerror}") from error
        except _transfer.TransferError as error:
            raise MirrorError(f"{file}: {error}") from error
        except MirrorError as error:
            if _size(file) != size or _digest.of_file(file) != digest:
                raise MirrorError(f"{file} has changed: its sha256 is not {digest[7:]}") from error
            raise

    def _unpublished(self, item: Resolved) -> list[tuple[str, bytes]]:
        """The manifests that the mirror does not have, children first."""
        path = item.wanted.place.path
        return [(name, data) for name, data in item.manifests if self.registry.manifest(path, name) != data]

    def _publish(self, item: Resolved) -> bool:
        """Push them; whether there were any."""
        manifests = self._unpublished(item)
        for reference, manifest in manifests:
            self.registry.push_manifest(item.wanted.place.path, reference, manifest)
        return bool(manifests)

    # --- cleaning

    def unwanted(self, resolved: t.Iterable[Resolved]) -> Unwanted:
        """What nothing of these needs."""
        manifests: dict[str, set[str]] = {}
        blobs: set[str] = set()
        for item in resolved:
            keep = manifests.setdefault(item.wanted.place.path, set())
            found = [_digest.of_bytes(data) for _reference, data in item.manifests]
            keep.update(found)
            blobs.update(found)
            blobs.update(blob.digest for blob in item.blobs)
            blobs.update({item.wanted.digest} if item.wanted.digest else ())
        there = self.registry.manifests()
        return Unwanted(
            {path: sorted(gone) for path, held in there.items() if (gone := held - manifests.get(path, set()))},
            [path for path in there if path not in manifests],
            {digest: size for digest, size in self.registry.blobs().items() if digest not in blobs},
        )

    def clean(self, unwanted: Unwanted, collect: t.Callable[[], None]) -> int:
        """Remove it; bytes that were freed.

        :param collect: stops the registry, has it collect its garbage, and starts it. Called alone.
        """
        for path, digests in unwanted.manifests.items():
            for digest in digests:
                self.registry.delete_manifest(path, digest)
        before = sum(self.registry.blobs().values())
        collect()
        return before - sum(self.registry.blobs().values())


@dataclass
class Unwanted:
    """Manifests and whole repositories that nothing wants, and the bytes of blobs that only they hold."""

    manifests: dict[str, list[str]]
    repositories: list[str]
    blobs: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.manifests or self.blobs or self.repositories)

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values())

    @property
    def names(self) -> list[str]:
        """Manifests as ``<repository>@<digest>``."""
        return sorted(f"{path}@{digest}" for path, digests in self.manifests.items() for digest in digests)


def _sent(staging: _transfer.Staging, digest: str) -> int:
    """Bytes of a blob that the registry has of an upload that goes on."""
    offset = staging.note(digest).get("offset")
    return offset if isinstance(offset, int) else 0


def _opened(staged: _transfer.Staged) -> t.BinaryIO:
    descriptor = os.open(staged.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staged.dir_fd)
    return open(descriptor, "rb")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise MirrorError(f"{path}: {error.strerror}") from error
