# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The headers of a catalog's models, read from the registry and kept by the digest of their weights.

A kept header needs no network. Where the registry is not reached, an entry stays what the catalog says of it. The
directory has a header as ``sha256-<hex>-<size of the blob>.gguf``, and what a tag named when it was last asked for as
``manifests/<host>/<namespace>/<model>/<tag>``.
"""

from __future__ import annotations

import base64
import glob
import os
import re
import struct
import typing as t
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import (
    _catalog,
    _disk,
    _gguf,
    _registry,
    _repository,
    _text,
    _transfer,
)

# How far a catalog's size may be above the file's before it is told: listed sizes are rounded up.
_TOLERANCE = 0.02


def _text_of(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


# GGUF's numbers of the types that hold any value of their kind.
_FLOAT64, _STRING, _ARRAY, _BOOL, _UINT8, _UINT64, _INT64 = 12, 8, 9, 7, 0, 10, 11


def _value_of(value: t.Any) -> tuple[int, bytes]:
    """A scalar's type and bytes."""
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return (_INT64, struct.pack("<q", value)) if value < 2**63 else (_UINT64, struct.pack("<Q", value))
    if isinstance(value, float):
        return _FLOAT64, struct.pack("<d", value)
    return _STRING, _text_of(value)


def shortened(header: _gguf.Header, data: bytes) -> bytes:
    """A header that reads the same as ``data``, with each list that the reader skips as so many zero bytes.

    Vocabularies and merges are nearly all of a header and most of the time that it takes to read it, for each host that
    is planned; only their lengths count.
    """
    if None not in header.metadata.values():
        return data
    parts = [_gguf.MAGIC, struct.pack("<IQQ", header.version, len(header.tensors), len(header.metadata))]
    for key, value in header.metadata.items():
        parts.append(_text_of(key))
        if value is None:
            count = header.lengths[key]
            parts += [struct.pack("<IIQ", _ARRAY, _UINT8, count), bytes(count)]
        elif isinstance(value, list):
            items = [_value_of(item) for item in value]
            kinds = {kind for kind, _bytes in items} or {_UINT8}
            if len(kinds) > 1:
                return data
            parts += [struct.pack("<IIQ", _ARRAY, kinds.pop(), len(items)), *(item for _kind, item in items)]
        else:
            kind, item = _value_of(value)
            parts += [struct.pack("<I", kind), item]
    for tensor in header.tensors:
        count = len(tensor.dimensions)
        parts += [_text_of(tensor.name), struct.pack(f"<I{count}QIQ", count, *tensor.dimensions, tensor.type_id, 0)]
    short = b"".join(parts)
    with suppress(_gguf.GgufError):
        # Where anything reads otherwise, such as a number that is none, the original is kept.
        if _gguf.read_bytes(short) == header:
            return short
    return data


def of_file(path: str) -> tuple[_gguf.Header, bytes]:
    """The header of a file, and its bytes as they are.

    :raises _gguf.GgufError: it is no model file, or a part of one.
    :raises OSError: it cannot be read.
    """
    header = _gguf.read_file(path)
    with open(path, "rb") as stream:
        _gguf.read_header(stream, os.fstat(stream.fileno()).st_size)
        used = stream.tell()
        stream.seek(0)
        return header, stream.read(used)


def packed(data: bytes) -> str:
    """A header as a text that goes from one host to another."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpacked(text: str) -> bytes:
    """The header of :func:`packed`; empty where it is none, or longer than a header may be."""
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), _gguf.MAX_HEADER_BYTES)
        return data if stream.eof else b""
    except (ValueError, zlib.error):
        return b""


@dataclass(frozen=True)
class Kept:
    """A header in the cache. ``size`` is the bytes of the whole blob."""

    digest: str
    size: int
    path: str
    header: _gguf.Header


@contextmanager
def _on_disk() -> t.Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _repository.RegistryError(
            f"{error.filename or 'the cache of headers'} cannot be read or written: {error.strerror or error}"
        ) from error


class Cache:
    """Headers and manifests in a directory, which need not be there. ``changed``: something was written, or would be
    if the cache were not for looking at alone (``check``).

    :raises RegistryError: from its methods, the directory cannot be read or written.
    """

    def __init__(self, directory: str, check: bool = False) -> None:
        self._directory, self._check = directory, check
        self.changed = False

    def header(self, digest: str) -> Kept | None:
        """The header of the weights ``sha256:<hex>``, or None; one that cannot be read counts as none."""
        stem = os.path.join(self._directory, digest.replace(":", "-"))
        for path in sorted(glob.glob(f"{glob.escape(stem)}-*.gguf")):
            size = re.fullmatch("-([0-9]{1,18})[.]gguf", path[len(stem) :])
            with _on_disk(), suppress(_gguf.GgufError, FileNotFoundError):
                if size:
                    return Kept(digest, int(size[1]), path, _gguf.read_file(path))
        return None

    def keep_header(self, digest: str, size: int, header: _gguf.Header, data: bytes) -> Kept:
        """Keep the header whose bytes are ``data``, its token lists shortened (:func:`shortened`)."""
        path = os.path.join(self._directory, "{}-{}.gguf".format(digest.replace(":", "-"), size))
        self._write(path, shortened(header, data))
        return Kept(digest, size, path, header)

    def manifest(self, name: _repository.Name) -> _registry.Manifest | None:
        """What the tag named when it was last asked for, or None."""
        data = self._manifest(name)
        with suppress(_repository.RegistryError):
            return _registry.parse_manifest(data) if data is not None else None
        return None

    def keep_manifest(self, name: _repository.Name, data: bytes) -> None:
        if self._manifest(name) != data:
            self._write(self._manifest_path(name), data)

    def _manifest(self, name: _repository.Name) -> bytes | None:
        with _on_disk(), suppress(FileNotFoundError), open(self._manifest_path(name), "rb") as stream:
            return stream.read(_registry.MAX_MANIFEST_BYTES + 1)
        return None

    def _manifest_path(self, name: _repository.Name) -> str:
        return os.path.join(self._directory, "manifests", name.host, name.namespace, name.model, name.tag)

    def _write(self, path: str, data: bytes) -> None:
        """All of it or nothing: several runs may share the directory."""
        self.changed = True
        if self._check:
            return
        with _on_disk():
            _disk.write(path, data)


@dataclass
class Outcome:
    """``entries``: the catalog's, with header and size. ``headers``: what is known of each. ``told``: sentences about
    what was otherwise than the catalog says, or could not be read."""

    entries: list[dict[str, t.Any]] = field(default_factory=list)
    headers: list[dict[str, t.Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class _UrlClient(_registry.Client):
    """A web server's file, asked for as a registry's blob is."""

    def __init__(self, url: str, timeout: float, time_limit: float | None, ca_path: str | None) -> None:
        super().__init__(timeout, time_limit, ca_path)
        self._origin = _transfer.UrlOrigin(url, ca_path, timeout=timeout)
        self.name = _repository.Name("https", self._origin.label, "-", "-", "-")

    def answer(self, repository: _repository.Repository, digest: str, start: int, stop: int) -> t.Any:
        return self._origin.open(start, stop)


@dataclass(frozen=True)
class Reader:
    """Where headers come from. ``registry``: see :func:`_repository.parse_name`. ``known``: the public library's tags.
    ``timeout``, ``time_limit`` (seconds) and ``ca_path`` hold for files at a web server."""

    client: _registry.Client
    cache: Cache
    registry: str = ""
    known: _catalog.Library = _catalog.NO_LIBRARY
    timeout: float = 5
    time_limit: float | None = 120
    ca_path: str | None = None

    def keep(self, catalog: t.Sequence[t.Any], found: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
        """The catalog's entries with headers that were read on a managed host: ``name``, ``digest``, ``size_bytes`` and
        ``header``, its bytes.

        :raises _catalog.CatalogError: an entry of the catalog is wrong.
        :raises _repository.RegistryError: what was read is no header.
        """
        entries = _catalog.merge(catalog)
        raw = {_catalog.canonical_name(data["name"]): data for data in catalog}
        kept = []
        for one in found:
            try:
                header = _gguf.read_bytes(one["header"])
            except _gguf.GgufError as error:
                raise _repository.RegistryError(f"{one['name']}: {error}") from error
            there = self.cache.header(one["digest"]) or self.cache.keep_header(
                one["digest"], one["size_bytes"], header, one["header"]
            )
            name = _catalog.canonical_name(one["name"])
            kept.append(_filled(one["name"], entries[name], raw, there, None))
        return kept

    def read(self, catalog: t.Sequence[t.Any], names: t.Iterable[str], required: bool = False) -> Outcome:
        """The headers of the models called ``names``: entries of the catalog, and others that the registry has. Models
        with a file of their own are passed over.

        :param required: whether every header has to be had; else it is told which could not be.
        :raises _catalog.CatalogError: an entry of the catalog is wrong.
        :raises _registry.Refused: a model is not to be had, and nothing is known of it besides.
        :raises _repository.RegistryError: a name is wrong, or a required header is not to be had.
        """
        entries = _catalog.merge(catalog)
        raw = {_catalog.canonical_name(data["name"]): data for data in catalog}
        outcome = Outcome()
        without: dict[str, list[str]] = {}
        for name in sorted(set(map(_catalog.canonical_name, names))):
            entry = entries.get(name)
            if entry is not None and (entry.path or entry.node_path or entry.header):
                continue
            shown = entry.name if entry else name
            full = _repository.parse_name(shown, self.registry)
            try:
                if entry is not None and entry.url and entry.digest:
                    kept, projectors = self._of_url(entry.url, entry.digest), None
                else:
                    meant = _nearest(name, entries, self.known)
                    kept, projectors = self._header(full, shown, entry, meant, outcome.told)
            except _registry.Refused:
                raise
            except _repository.RegistryError as error:
                reason = str(error)
                if required:
                    raise _repository.RegistryError(f"the header of {shown} is not known: {reason}") from error
                without.setdefault(reason, []).append(shown)
                continue
            if os.path.exists(kept.path):
                outcome.entries.append(_filled(shown, entry, raw, kept, projectors))
            outcome.headers.append(
                {
                    "name": shown,
                    "digest": kept.digest,
                    "size_bytes": kept.size,
                    "path": kept.path,
                    "architecture": kept.header.architecture,
                    "quantization": kept.header.quantization,
                    "projectors": [{"digest": layer.digest, "size_bytes": layer.size} for layer in projectors or ()],
                }
            )
        outcome.told += [
            f"no header of {', '.join(models)}: {reason}. What the catalog says of {_them(models)} counts"
            for reason, models in without.items()
        ]
        return outcome

    def _of_url(self, url: str, digest: str) -> Kept:
        """The header of a file at a web server. Its digest is held against the whole when that is transferred."""
        kept = self.cache.header(digest)
        if kept is None:
            client = _UrlClient(url, self.timeout, self.time_limit, self.ca_path)
            with client.blob(client.name, digest) as blob:
                header, data = _registry.read_header(blob)
                kept = self.cache.keep_header(digest, blob.size, header, data)
        return kept

    def _header(
        self, full: _repository.Name, shown: str, entry: _catalog.Entry | None, meant: str, told: list[str]
    ) -> tuple[Kept, tuple[_registry.Layer, ...] | None]:
        """The header of one model, from the cache or the registry: that of the pinned weights, whatever the tag names
        by now. Its projectors beside it, None where no manifest with these weights is known."""
        if re.search(r"(^|-)cloud$", full.tag) or (entry is None and shown.split(":")[0] in self.known.cloud_only):
            raise _registry.Refused(f"the model {shown!r} runs at ollama.com and has no weights to load{meant}")
        pinned = entry.digest if entry else None
        noted = self.cache.manifest(full)
        kept = self.cache.header(pinned) if pinned else None
        manifest = noted
        if kept is None:
            try:
                data = self.client.manifest(full)
                manifest = _registry.parse_manifest(data)
                self.cache.keep_manifest(full, data)
            except (_registry.Unreachable, _registry.Unauthorized) as error:
                # A login that lacks says nothing of the model either.
                if pinned is not None or noted is None:
                    raise _repository.RegistryError(str(error)) from error
                told.append(f"{shown}: {error}; the header is that of the weights that the tag named before")
            except _registry.Refused as error:
                # What is pinned or was read before is had all the same, or its absence is told.
                if pinned is None and noted is None:
                    raise _registry.Refused(f"the model {shown!r} is not to be had: {error}{meant}") from error
                told.append(f"{shown}: {error}; the header is that of the weights that are pinned or were there before")
        if pinned and manifest and manifest.weights.digest != pinned:
            told.append(
                f"{shown}: the registry's tag names the weights {manifest.weights.digest} by now, and the catalog pins "
                f"{pinned}. The header is that of the pinned ones"
            )
        digest = pinned or t.cast(_registry.Manifest, manifest).weights.digest
        current = manifest if manifest and manifest.weights.digest == digest else None
        size = current.weights.size if current else None
        kept = kept or self.cache.header(digest) or self._fetch(full, digest, size)
        if size is not None and kept.size != size:
            raise _repository.RegistryError(f"the blob {digest} has {kept.size} bytes, and {size} by its manifest")
        if entry and entry.digest == digest and not _agree(entry.size_bytes, kept.size):
            told.append(
                f"{shown}: the catalog says {entry.size_bytes} bytes, the file has {kept.size}. The file counts"
            )
        return kept, current.projectors if current else None

    def _fetch(self, full: _repository.Name, digest: str, size: int | None) -> Kept:
        try:
            with self.client.blob(full, digest, size) as blob:
                header, data = _registry.read_header(blob)
                return self.cache.keep_header(digest, blob.size, header, data)
        except _registry.Refused as error:
            # The model is there, or was.
            raise _repository.RegistryError(f"the blob {digest}: {error}") from error


def _them(models: t.Sequence[str]) -> str:
    return "it" if len(models) == 1 else "them"


def _agree(listed: int, size: int) -> bool:
    return not listed or size <= listed <= size * (1 + _TOLERANCE)


def _nearest(name: str, entries: t.Iterable[str], known: _catalog.Library) -> str:
    """A sentence's part that names the tag that was probably meant, or nothing."""
    model = name.rpartition(":")[0]
    tags = [f"{model}:{tag}" for tag in known.tags.get(model, ())] + [other for other in entries if other != name]
    meant = _text.nearest(name, [other for other in tags if other.startswith(model + ":")]) or _text.nearest(name, tags)
    return f"; did you mean {meant!r}?" if meant else ""


def _filled(
    shown: str,
    entry: _catalog.Entry | None,
    raw: t.Mapping[str, t.Any],
    kept: Kept,
    projectors: tuple[_registry.Layer, ...] | None,
) -> dict[str, t.Any]:
    """The catalog's entry with header and sizes; of a model that is not in the catalog, what the header tells."""
    known: dict[str, t.Any] = {"header": kept.path, "size_bytes": kept.size}
    if projectors is not None:
        # Ollama loads the first (llm/llama_server.go, appendMMProjArgs).
        known["projector_bytes"] = projectors[0].size if projectors else 0
    if entry is None:
        embedding = f"{kept.header.architecture}.pooling_type" in kept.header.metadata
        return {
            "name": shown,
            "source": {"type": "registry"},
            "quantization": kept.header.quantization,
            "parameters": sum(tensor.elements for tensor in kept.header.tensors),
            "uses": ["embedding"] if embedding else [],
            **known,
        }
    if not entry.variant_of:
        return {**raw[_catalog.canonical_name(shown)], **known}
    whole = raw[_catalog.canonical_name(entry.variant_of)]
    return {
        **{key: value for key, value in whole.items() if key != "variants"},
        "name": shown,
        "source": {"type": "registry"},
        "quantization": entry.quantization,
        "variant_of": entry.variant_of,
        **known,
    }
