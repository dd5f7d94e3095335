# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model registries: names, manifests, and the bytes of blobs.

A registry speaks the OCI distribution protocol, ``/v2/<namespace>/<model>/manifests/<tag>`` and ``…/blobs/<digest>``,
and its token flow where it wants a login. A GGUF header lies at the beginning of the blob of weights, so a range of it
says all that an account of memory needs. The digest cannot be held against a part of a blob: what a registry answers
of a part is believed as far as it is plausible, and the whole is checked when it has been transferred. Proxies are
those of the environment.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import queue
import re
import threading
import time
import typing as t
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _gguf, _http
from ansible_collections.onprem.llm.plugins.module_utils._ollama_store import WEIGHTS_TYPE
from ansible_collections.onprem.llm.plugins.module_utils._repository import Name, RegistryError, Repository

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PROJECTOR_TYPE = "application/vnd.ollama.image.projector"
# Manifests of images and their indexes, too, each as the registry has it.
ANY_MANIFEST = ", ".join(
    [
        MANIFEST_TYPE,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    ]
)

# A manifest names a dozen layers in a few KiB.
MAX_MANIFEST_BYTES = 2**20
# The first range that is asked for; each further one doubles what is there. Headers take up to some 20 MiB.
FIRST_BYTES = 2**20
_BLOCK_BYTES = 2**16

_CHALLENGE = re.compile(r'(realm|service|scope)="([^"]*)"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Unreachable(RegistryError):
    """The registry gave no answer, or one that says nothing of the model (busy, broken). It may be asked again.

    :ivar retry_after: seconds that the registry asked to be left alone for, or None.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Untrusted(Unreachable):
    """Its certificate is not trusted, or ours cannot be read. Asking again gives the same."""


class Refused(RegistryError):
    """The model is not to be had: no such tag, or no GGUF weights. Asking again gives the same."""


class Unauthorized(Refused):
    """The registry wants a login that is not there, or has refused the one that is."""


@dataclass(frozen=True)
class Layer:
    """A blob or manifest that a manifest names, its size in bytes."""

    digest: str
    size: int
    media_type: str = field(default="", compare=False)


@dataclass(frozen=True)
class Manifest:
    weights: Layer
    projectors: tuple[Layer, ...] = ()


def _number(text: str) -> int:
    if len(text) > 19:
        raise ValueError("a number of more than 19 digits")
    return int(text)


def parse_manifest(data: bytes) -> Manifest:
    """The layers of a model's manifest that an account of memory depends on.

    :raises Refused: it has no GGUF weights: a model that runs at ollama.com, or one for another engine.
    :raises RegistryError: it is no manifest, or says what cannot be.
    """
    layers = _listed(_loaded(data), "layers")
    weights = [_layer(layer) for layer in layers if layer.get("mediaType") == WEIGHTS_TYPE]
    if not weights:
        raise Refused(
            "its manifest names no GGUF weights, so nothing of it can be loaded here: it runs at ollama.com, or is for "
            "another engine"
        )
    if len(weights) > 1:
        raise RegistryError(f"the manifest names {len(weights)} layers of weights; models of one are read")
    return Manifest(weights[0], tuple(_layer(layer) for layer in layers if layer.get("mediaType") == PROJECTOR_TYPE))


def layers(manifest: bytes) -> tuple[Layer, ...]:
    """Every blob that a manifest of a model or of an image names: its configuration first, then its layers in order.

    :raises RegistryError: it is no manifest, names no layer, or says what cannot be.
    """
    found = _loaded(manifest)
    config, listed = found.get("config"), _listed(found, "layers")
    if not listed:
        raise RegistryError("the manifest names no layers")
    if not isinstance(config, dict):
        raise RegistryError("the manifest names no configuration")
    return tuple(_layer(layer) for layer in (config, *listed))


def children(manifest: bytes) -> tuple[Layer, ...]:
    """The manifests that an index of images names; none where it is no index.

    :raises RegistryError: it is no JSON object, or names what cannot be.
    """
    found = _loaded(manifest)
    return tuple(_layer(child) for child in _listed(found, "manifests")) if "manifests" in found else ()


def _loaded(data: bytes) -> dict[str, t.Any]:
    """:raises RegistryError: it is no JSON object, or larger than manifests are."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise RegistryError(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        found = json.loads(data.decode("utf-8"), parse_int=_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RegistryError("the answer is no manifest: it is no JSON object")
    return found


def _listed(found: t.Mapping[str, t.Any], key: str) -> list[dict[str, t.Any]]:
    listed = found.get(key)
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise RegistryError(f"the answer is no manifest: there is no list of {key} in it")
    return listed


def _layer(layer: t.Mapping[str, t.Any]) -> Layer:
    digest, size, kind = layer.get("digest"), layer.get("size"), layer.get("mediaType")
    if not isinstance(digest, str) or not _digest.PATTERN.fullmatch(digest):
        raise RegistryError(f"the manifest names a layer by {str(digest)[:100]!r}, which is no sha256 digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**63:
        raise RegistryError(f"the manifest gives the layer {digest} the size {str(size)[:100]}")
    return Layer(digest, size, kind if isinstance(kind, str) else "")


# --- asking ----------------------------------------------------------------------------------------------------------


def _within(seconds: float, told: str, act: t.Callable[[], t.Any]) -> t.Any:
    """What ``act`` gives. The time that a socket may be silent bounds neither the look-up of a name nor an answer that
    comes byte by byte, so it is waited for in a thread, and left behind when its time is over.

    :raises Unreachable: it takes longer than ``seconds``.
    """
    answers: queue.Queue[tuple[t.Any, BaseException | None]] = queue.Queue()

    def answer() -> None:
        try:
            answers.put((act(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=max(0.0, seconds))
    except queue.Empty:
        raise Unreachable(told) from None
    if error is not None:
        raise error
    return value


class Client:
    """Requests to registries.

    :param timeout: seconds in which a manifest has to be here, and the answer to a request for a part of a blob begin.
    :param time_limit: seconds for all requests together, where one that was not reached is not asked again; None for no
        such bound.
    :param ca_path: a file of authorities in place of the system's, or None.
    :param client_cert: a file with this client's certificate, shown to registries alone, not where they lead.
    :param client_key: a file with its key, where it is not in the same file.
    :param login: user and password, told to a registry that asks for them and to its token service, to no one else.
    """

    def __init__(
        self,
        timeout: float = 5,
        time_limit: float | None = 120,
        ca_path: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self._timeout, self._login = timeout, login
        self._http = _http.Http(timeout, ca_path, client_cert, client_key)
        # A token service is another server, which no certificate of ours is for.
        self._tokens = _http.Http(timeout, ca_path)
        self._limit = time_limit
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self._silent: dict[str, str] = {}
        self._authorization: dict[Repository, str] = {}

    def manifest(self, of: Name | Repository, reference: str | None = None, accept: str = MANIFEST_TYPE) -> bytes:
        """The manifest as it is; :func:`parse_manifest` and :func:`layers` read it.

        :param reference: a tag, or a digest, against which the bytes are held; without it the name's own tag.
        :raises Refused: the registry has no such model or tag.
        :raises Unreachable: no answer that says anything of the model.
        :raises RegistryError: an answer that cannot be used.
        """
        repository = of.repository if isinstance(of, Name) else of
        reference = reference or (of.tag if isinstance(of, Name) else "latest")

        def ask() -> bytes:
            with self._open(repository, repository.url("manifests", reference), Accept=accept) as response:
                return _read(response, MAX_MANIFEST_BYTES + 1)

        data = t.cast(bytes, self._ask(repository, self._timeout, ask))
        if _digest.PATTERN.fullmatch(reference):
            found = _digest.of_bytes(data)
            if found != reference:
                raise RegistryError(f"the registry {repository.host} answers {reference} with the manifest {found}")
        return data

    def blob(self, name: Name, digest: str, size: int | None = None) -> Blob:
        """The blob ``digest`` of the model's repository, to be read from its beginning.

        :param size: its bytes by the manifest, or None where none names it.
        :raises RegistryError: as :meth:`manifest`, or the size is another.
        """
        return Blob(self, name, digest, size)

    def answer(self, repository: Repository, digest: str, start: int, stop: int) -> t.Any:
        """The open answer to a request for bytes ``start`` to ``stop`` of a blob: of status 206, or 200 from a server
        that knows no ranges and sends the whole blob. Nothing is bounded here but the silence of the server.

        :raises RegistryError: as :meth:`manifest`.
        """
        return self._open(repository, repository.url("blobs", digest), Range=f"bytes={start}-{stop - 1}")

    def part(self, name: Name, digest: str, start: int, stop: int, whole: _Whole) -> tuple[bytes, int | None]:
        """Bytes ``start`` to ``stop`` of a blob, or up to its end, and its size where the answer tells it.

        ``whole`` keeps the answer of a server that knows no ranges and sends the blob from its start.

        :raises RegistryError: as :meth:`manifest`, or the answer is for another range or breaks off.
        """

        def ask() -> tuple[bytes, int | None]:
            if whole.response is None:
                response = self.answer(name.repository, digest, start, stop)
                if response.status == 206:
                    with response:
                        size, last = content_range(response, f"the blob {digest}", start, stop)
                        if last != min(stop, stop if size is None else size) - 1:
                            raise RegistryError(f"the blob {digest}: of bytes {start}-{stop - 1} came up to {last}")
                        return _exactly(response, digest, last + 1 - start), size
                if start:
                    response.close()
                    raise RegistryError(f"the blob {digest}: a range of it was answered, a further one is not")
                length = response.headers.get("Content-Length") or ""
                whole.size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
                whole.response = response
            end = stop if whole.size is None else min(stop, whole.size)
            return _exactly(whole.response, digest, end - start), whole.size

        return t.cast("tuple[bytes, int | None]", self._ask(name.repository, self._limit, ask))

    def _ask(self, repository: Repository, seconds: float | None, act: t.Callable[[], t.Any]) -> t.Any:
        host = repository.host
        if self._end is None or self._limit is None:
            return act() if seconds is None else _within(seconds, _late(host, seconds), act)
        if host in self._silent:
            raise Unreachable(self._silent[host])
        seconds = self._limit if seconds is None else min(seconds, self._limit)
        try:
            return _within(min(seconds, self._end - time.monotonic()), _late(host, seconds), act)
        except Unreachable as error:
            self._silent[host] = str(error)
            raise

    def _open(self, repository: Repository, url: str, **headers: str) -> t.Any:
        """The answer, its status 200 or 206, after redirects and the token flow.

        :raises RegistryError: see :meth:`manifest`.
        """
        label = f"the registry {repository.host}"
        held = self._authorization.get(repository, "")
        try:
            try:
                return self._http.open(url, headers, held)
            except _http.Status as error:
                # A challenge from where a redirect led is not the registry's to make.
                if error.code != 401 or error.host != repository.host:
                    raise
                authorization = self._authorized(repository, error.challenges)
            # Tokens run out after some minutes: one that was good is asked for anew, once.
            response = self._http.open(url, headers, authorization)
            self._authorization[repository] = authorization
            return response
        except _http.HttpError as error:
            raise told(error, label, self._login) from error

    def _authorized(self, repository: Repository, challenges: t.Sequence[str]) -> str:
        """The ``Authorization`` that a registry's challenge asks for.

        :raises Unauthorized: it cannot be had.
        """
        label = f"the registry {repository.host}"
        kinds = {challenge.partition(" ")[0].lower(): challenge for challenge in challenges}
        if "bearer" in kinds:
            return f"Bearer {self._token(repository, dict(_CHALLENGE.findall(kinds['bearer'])))}"
        if self._login is None:
            raise Unauthorized(f"{label} asks for a login, and none is given")
        if "basic" not in kinds:
            raise Unauthorized(f"{label} asks for a login in a way other than Basic and Bearer: {', '.join(kinds)}")
        return basic(*self._login)

    def _token(self, repository: Repository, challenge: t.Mapping[str, str]) -> str:
        label = f"the registry {repository.host}"
        realm = challenge.get("realm", "")
        try:
            scheme, host, _port = _http.origin(realm)
        except ValueError:
            scheme = host = ""
        if scheme not in ("http", "https") or not host or "@" in urlsplit(realm).netloc:
            raise Unauthorized(f"{label} names no token service that can be asked: {realm[:200]!r}")
        if scheme != "https":
            if repository.scheme == "https":
                raise Unauthorized(f"{label} sends to the token service {realm[:200]!r}, which is not on https")
            if self._login is not None and host != urlsplit(repository.url()).hostname:
                raise Unauthorized(
                    f"{label} sends the login to the token service {realm[:200]!r}, another host that is not on https"
                )
        query = urlencode({key: challenge[key] for key in ("service", "scope") if challenge.get(key)})
        url = realm + ("&" if "?" in realm else "?") + query if query else realm
        try:
            with self._tokens.open(url, {}, basic(*self._login) if self._login else "") as response:
                data = _read(response, MAX_MANIFEST_BYTES)
        except _http.Status as error:
            if error.code not in (400, 401, 403, 404):
                raise
            who = "this client without a login" if self._login is None else f"the user {self._login[0]!r}"
            raise Unauthorized(f"{label}: its token service {host} refused {who} ({error.code})") from error
        try:
            found = json.loads(data.decode("utf-8"))
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unauthorized(f"{label}: its token service {host} gave no token")
        return token


def told(error: _http.HttpError, label: str, login: tuple[str, str] | None = None) -> RegistryError:
    """What an answer means for who asked ``label``, such as ``the registry example.com``."""
    if isinstance(error, _http.NotReached):
        kind = Untrusted if isinstance(error, _http.Untrusted) else Unreachable
        return kind(f"{_who(label, error.host)} was not reached: {error}")
    if not isinstance(error, _http.Status):
        return RegistryError(f"{label}: {error}")
    if error.code in (404, 410):
        return Refused(f"{label} has none")
    answered = f"{_who(label, error.host)} answered {error.code} ({error.reason})"
    if error.code == 407:
        return Unreachable(f"{answered}: a proxy before it asks for a login")
    if error.code in (401, 403):
        if not label.endswith(error.host):
            return Unauthorized(f"{_who(label, error.host)} answered {error.code} ({error.reason})")
        if login is None:
            return Unauthorized(f"{answered}: it asks for a login, and none is given")
        return Unauthorized(f"{answered}: the user {login[0]!r} may not read there")
    return Unreachable(answered, error.retry_after)


def _who(label: str, host: str) -> str:
    return label if label.endswith(host) else f"{label} leads to {host}, which"


def _late(host: str, seconds: float) -> str:
    return f"the registry {host} was not done answering after {seconds:g} seconds"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


class _Whole:
    """A blob that a server sends from its start, whatever range was asked for: it is read on as needed."""

    response: t.Any = None
    size: int | None = None


def _read(response: t.Any, count: int) -> bytes:
    """Up to ``count`` bytes of the answer's body.

    :raises Unreachable: the connection broke.
    """
    data = bytearray()
    try:
        while len(data) < count:
            block = response.read(min(_BLOCK_BYTES, count - len(data)))
            if not block:
                break
            data += block
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"the registry's answer broke off: {error or type(error).__name__}") from error
    return bytes(data)


def _exactly(response: t.Any, digest: str, count: int) -> bytes:
    data = _read(response, count)
    if len(data) != count:
        raise RegistryError(f"the blob {digest}: {len(data)} bytes came of {count} that were announced")
    return data


def content_range(response: t.Any, what: str, start: int, stop: int) -> tuple[int | None, int]:
    """The whole's size, where told, and the last byte of the range that an answer of status 206 is for.

    :param what: what was asked for, to be named.
    :raises RegistryError: it is for another range.
    """
    text = response.headers.get("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text)
    if found:
        first, last = int(found[1]), int(found[2])
        size = None if found[3] == "*" else int(found[3])
        if first == start and first <= last < min(stop, stop if size is None else size):
            return size, last
    raise RegistryError(f"{what}: asked for bytes {start}-{stop - 1}, got the range {text[:100]!r}")


class Blob(io.RawIOBase):
    """A blob as a seekable stream that asks for its bytes when they are read, in growing parts from its beginning.

    ``data`` is what is there so far. No more is asked for than a header may have.

    :raises RegistryError: while it is made or read, see :meth:`Client.part`.
    """

    def __init__(self, client: Client, name: Name, digest: str, size: int | None) -> None:
        super().__init__()
        self._client, self._name, self.digest = client, name, digest
        self._whole = _Whole()
        self._position = 0
        self.data = bytearray()
        stop = min(size or FIRST_BYTES, FIRST_BYTES)
        piece, told = client.part(name, digest, 0, stop, self._whole)
        if size and told not in (None, size):
            self.close()
            raise RegistryError(f"the blob {digest} has {told} bytes by its server and {size} by the manifest")
        if told is None and size is None:
            self.close()
            raise RegistryError(f"the blob {digest}: the registry does not tell its size")
        self.size = t.cast(int, size or told)
        self.data += piece

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: t.Any) -> int:
        end = min(self._position + len(buffer), self.size, _gguf.MAX_HEADER_BYTES)
        while len(self.data) < end:
            self._grow(end)
        piece = self.data[self._position : end]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _grow(self, end: int) -> None:
        start = len(self.data)
        stop = min(max(end, 2 * start), self.size, _gguf.MAX_HEADER_BYTES)
        piece, told = self._client.part(self._name, self.digest, start, stop, self._whole)
        if told not in (None, self.size):
            raise RegistryError(f"the blob {self.digest} has {told} bytes by its server, and had {self.size} before")
        self.data += piece

    def close(self) -> None:
        if self._whole.response is not None:
            self._whole.response.close()
        super().close()


def read_header(blob: Blob) -> tuple[_gguf.Header, bytes]:
    """The header at the beginning of a blob of weights, and its bytes as they are.

    :raises RegistryError: it is none that can be trusted, or the registry does not give it.
    """
    stream = io.BufferedReader(blob, _BLOCK_BYTES)
    try:
        header = _gguf.read_header(t.cast(t.BinaryIO, stream), blob.size)
    except _gguf.GgufError as error:
        raise RegistryError(f"the blob {blob.digest}: {error}") from error
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise RegistryError(f"the blob {blob.digest}: one of {parts} parts of a model, whose header tells of it alone")
    used = stream.tell()
    tensors = sum(tensor.bytes for tensor in header.tensors)
    if used + tensors > blob.size:
        raise RegistryError(
            f"the blob {blob.digest}: its header announces {tensors} bytes of tensors, and it has {blob.size} in all"
        )
    return header, bytes(blob.data[:used])
