# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model registry says of a model before anything is downloaded: its manifest, and the beginning of its weights.

A registry speaks the OCI distribution protocol, ``/v2/<namespace>/<model>/manifests/<tag>`` and ``…/blobs/<digest>``.
A GGUF header lies at the beginning of the blob of weights, so a range of it says all that an account of memory needs.
The digest cannot be held against a part of a blob: what a registry answers here is believed as far as it is plausible,
and the whole is checked when the engine has pulled it. Proxies are those of the environment.
"""

from __future__ import annotations

import http.client
import io
import json
import queue
import re
import threading
import time
import typing as t
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlsplit

from ansible.module_utils import urls  # type: ignore[import-untyped]
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _gguf
from ansible_collections.onprem.llm.plugins.module_utils._ollama_store import WEIGHTS_TYPE

HOST, NAMESPACE = "registry.ollama.ai", "library"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PROJECTOR_TYPE = "application/vnd.ollama.image.projector"

# A manifest names a dozen layers in a few KiB.
MAX_MANIFEST_BYTES = 2**20
# The first range that is asked for; each further one doubles what is there. Headers take up to some 20 MiB.
FIRST_BYTES = 2**20
_BLOCK_BYTES = 2**16

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# types/model/name.go of Ollama 0.32.15, isValidPart.
_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,343}(:[0-9]{1,5})?"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class RegistryError(Exception):
    """An answer of the registry that cannot be used; the text says of what, and why."""


class Unreachable(RegistryError):
    """The registry gave no answer, or one that says nothing of the model (busy, broken, login wanted)."""


class Refused(RegistryError):
    """The model is not to be had: no such tag, or no GGUF weights. Asking again gives the same."""


@dataclass(frozen=True)
class Name:
    """A model's name in all its parts."""

    scheme: str
    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def url(self, *parts: str) -> str:
        return "/".join([f"{self.scheme}://{self.host}/v2/{self.namespace}/{self.model}", *parts])


@dataclass(frozen=True)
class Layer:
    """A blob that a manifest names, its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    weights: Layer
    projectors: tuple[Layer, ...] = ()


def parse_name(name: str, registry: str = "") -> Name:
    """The parts of a model's name. One without a host is ``registry``'s, and without that the public one's.

    :raises RegistryError: it is no name, or its scheme is neither http nor https.
    """
    full = _catalog.canonical_name(_catalog.registry_name(name, registry))
    scheme, separator, rest = full.partition("://")
    scheme, rest = (scheme, rest) if separator else ("https", full)
    path, tag = rest.rsplit(":", 1)
    parts = path.split("/")
    parts = [*(HOST, NAMESPACE)[: 3 - len(parts)], *parts, tag]
    if len(parts) != 4:
        raise RegistryError(f"{full!r} is no model's name; one such as 'qwen3:8b' or 'host/namespace/model:tag' is")
    for part, (kind, pattern) in zip(parts, _PARTS.items()):
        if not pattern.fullmatch(part):
            raise RegistryError(f"{full!r} is no model's name: {part!r} cannot be a {kind}")
    if scheme not in ("http", "https"):
        raise RegistryError(f"{full!r} is to be read by {scheme}; registries are read by https")
    return Name(scheme, *parts)


def _number(text: str) -> int:
    if len(text) > 19:
        raise ValueError("a number of more than 19 digits")
    return int(text)


def parse_manifest(data: bytes) -> Manifest:
    """The layers of a model's manifest that an account of memory depends on.

    :raises Refused: it has no GGUF weights: a model that runs at ollama.com, or one for another engine.
    :raises RegistryError: it is no manifest, or says what cannot be.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise RegistryError(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        found = json.loads(data.decode("utf-8"), parse_int=_number)
    except (ValueError, RecursionError):
        found = None
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise RegistryError("the answer is no manifest: there is no list of layers in it")
    weights = [_layer(layer) for layer in layers if layer.get("mediaType") == WEIGHTS_TYPE]
    if not weights:
        raise Refused(
            "its manifest names no GGUF weights, so nothing of it can be loaded here: it runs at ollama.com, or is for "
            "another engine"
        )
    if len(weights) > 1:
        raise RegistryError(f"the manifest names {len(weights)} layers of weights; models of one are read")
    return Manifest(weights[0], tuple(_layer(layer) for layer in layers if layer.get("mediaType") == PROJECTOR_TYPE))


def _layer(layer: t.Mapping[str, t.Any]) -> Layer:
    digest, size = layer.get("digest"), layer.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise RegistryError(f"the manifest names a layer by {str(digest)[:100]!r}, which is no sha256 digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**63:
        raise RegistryError(f"the manifest gives the layer {digest} the size {str(size)[:100]}")
    return Layer(digest, size)


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
    """Requests to registries. One that was not reached is not asked again.

    :param timeout: seconds in which a manifest has to be here, and the answer to a request for a part of a blob begin.
    :param time_limit: seconds for all requests together.
    :param ca_path: a file of authorities in place of the system's, or None.
    """

    def __init__(self, timeout: float = 5, time_limit: float = 120, ca_path: str | None = None) -> None:
        self._timeout, self._ca_path = timeout, ca_path
        self._limit, self._end = time_limit, time.monotonic() + time_limit
        self._silent: dict[str, str] = {}

    def manifest(self, name: Name) -> bytes:
        """The manifest as it is; :func:`parse_manifest` reads it.

        :raises Refused: the registry has no such model or tag.
        :raises Unreachable: no answer that says anything of the model.
        :raises RegistryError: an answer that cannot be used.
        """

        def ask() -> bytes:
            with self._open(name, name.url("manifests", name.tag), Accept=MANIFEST_TYPE) as response:
                return _read(response, MAX_MANIFEST_BYTES + 1)

        return t.cast(bytes, self._ask(name, self._timeout, ask))

    def blob(self, name: Name, digest: str, size: int | None = None) -> Blob:
        """The blob ``digest`` of the model's repository, to be read from its beginning.

        :param size: its bytes by the manifest, or None where none names it.
        :raises RegistryError: as :meth:`manifest`, or the size is another.
        """
        return Blob(self, name, digest, size)

    def part(self, name: Name, digest: str, start: int, stop: int, whole: _Whole) -> tuple[bytes, int | None]:
        """Bytes ``start`` to ``stop`` of a blob, or up to its end, and its size where the answer tells it.

        ``whole`` keeps the answer of a server that knows no ranges and sends the blob from its start.

        :raises RegistryError: as :meth:`manifest`, or the answer is for another range or breaks off.
        """

        def ask() -> tuple[bytes, int | None]:
            if whole.response is None:
                response = self._open(name, name.url("blobs", digest), Range=f"bytes={start}-{stop - 1}")
                if response.status == 206:
                    with response:
                        size, last = _range(response, digest, start, stop)
                        return _exactly(response, digest, last + 1 - start), size
                if start:
                    response.close()
                    raise RegistryError(f"the blob {digest}: a range of it was answered, a further one is not")
                length = response.headers.get("Content-Length") or ""
                whole.size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
                whole.response = response
            end = stop if whole.size is None else min(stop, whole.size)
            return _exactly(whole.response, digest, end - start), whole.size

        return t.cast("tuple[bytes, int | None]", self._ask(name, self._limit, ask))

    def _ask(self, name: Name, seconds: float, act: t.Callable[[], t.Any]) -> t.Any:
        if name.host in self._silent:
            raise Unreachable(self._silent[name.host])
        left = self._end - time.monotonic()
        told = f"the registry {name.host} was not done answering after {min(seconds, self._limit):g} seconds"
        try:
            return _within(min(seconds, left), told, act)
        except Unreachable as error:
            self._silent[name.host] = str(error)
            raise

    def _open(self, name: Name, url: str, **headers: str) -> t.Any:
        """The answer, its status 200 or 206, after redirects.

        :raises RegistryError: see :meth:`manifest`.
        """
        try:
            response = urls.open_url(
                url,
                headers=headers,
                timeout=self._timeout,
                http_agent="onprem.llm",
                follow_redirects="safe",
                ca_path=self._ca_path,
                # A login for the registry would go with a redirect to wherever it leads.
                use_netrc=False,
                decompress=False,
            )
        except HTTPError as error:
            error.close()
            if error.code == 404:
                raise Refused(f"the registry {name.host} has none") from error
            if error.code in (401, 403, 407):
                raise Unreachable(
                    f"the registry {name.host} answered {error.code} ({error.reason}): it, or a proxy before it, asks "
                    "for a login"
                ) from error
            raise Unreachable(f"the registry {name.host} answered {error.code} ({error.reason})") from error
        except (OSError, http.client.HTTPException, ValueError, urls.ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"the registry {name.host} was not reached: {reason or type(reason).__name__}") from error
        if name.scheme == "https" and urlsplit(response.geturl()).scheme != "https":
            response.close()
            raise RegistryError(f"the registry {name.host} leads away from https, to {response.geturl()[:200]}")
        if response.status not in (200, 206) or response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise RegistryError(
                "the registry {} answered {} with status {} and the encoding {}".format(
                    name.host, url, response.status, response.headers.get("Content-Encoding", "identity")
                )
            )
        return response


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


def _range(response: t.Any, digest: str, start: int, stop: int) -> tuple[int | None, int]:
    """The blob's size, where told, and the last byte of the range that the answer is for."""
    text = response.headers.get("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text)
    if found:
        first, last = int(found[1]), int(found[2])
        size = None if found[3] == "*" else int(found[3])
        if first == start and last == min(stop, stop if size is None else size) - 1:
            return size, last
    raise RegistryError(f"the blob {digest}: asked for bytes {start}-{stop - 1}, got the range {text[:100]!r}")


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
    used = stream.tell()
    tensors = sum(tensor.bytes for tensor in header.tensors)
    if used + tensors > blob.size:
        raise RegistryError(
            f"the blob {blob.digest}: its header announces {tensors} bytes of tensors, and it has {blob.size} in all"
        )
    return header, bytes(blob.data[:used])
