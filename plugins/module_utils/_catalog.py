# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog of models: what an entry may say, and looking one up.

An entry is a mapping::

    name: gemma3:1b                       # as users ask for it
    source: {type: registry, digest: "sha256:..."}   # or {type: gguf, path: /models/x.gguf, sha256: ...}
    size_bytes: 815310432                 # of the weights, exact or rounded up
    quantization: Q4_K_M
    uses: [chat, vision]
    licence: Gemma terms
    shape: {architecture: gemma3, block_count: 26, ...}   # GGUF names; not needed where a GGUF file is given

Later entries of the same name replace earlier ones, so an operator's list after the collection's own has the last word.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _text

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}$")
_SHA256 = re.compile(r"^(sha256:)?[0-9a-f]{64}$")
_FIELDS = frozenset(
    {"name", "source", "size_bytes", "quantization", "uses", "licence", "context_length", "languages", "shape", "note"}
)


class CatalogError(Exception):
    """An entry is wrong or not there; the text says which and what would be right."""


@dataclass(frozen=True)
class Entry:
    """One model that can be chosen. ``digest`` is that of the weights, ``sha256:<hex>``; ``path`` is a GGUF file's."""

    name: str
    source_type: str
    digest: str | None
    path: str | None
    size_bytes: int
    quantization: str | None
    uses: tuple[str, ...]
    shape: t.Mapping[str, t.Any] | None

    @property
    def source(self) -> dict[str, t.Any]:
        """The entry's source as the plan states it."""
        if self.source_type == "gguf":
            return {"type": "gguf", "path": self.path, "sha256": self.digest[7:] if self.digest else None}
        return {"type": "registry", "digest": self.digest}


def canonical_name(name: str) -> str:
    """The name with its tag: ``gemma3`` is ``gemma3:latest`` (a colon before a slash belongs to a registry's port)."""
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def registry_name(name: str, registry: str) -> str:
    """Where a model is pulled from: under ``registry``, a host with or without port, unless its name has a host itself.

    Ollama's rule (types/model/name.go, 0.32.15): of three parts the first is the host, and ``library`` is the namespace
    of a name that has one part.
    """
    parts = name.split("/")
    if not registry or len(parts) > 2:
        return name
    return "/".join([registry, *(["library"] if len(parts) == 1 else []), *parts])


def entry(data: t.Any) -> Entry:
    """Check one entry.

    :raises CatalogError: naming the entry, the field, the value and what would be right.
    """
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not _NAME.match(data["name"]):
        raise CatalogError(
            "catalog entry {!r}: a mapping with a name such as 'gemma3:1b' is needed".format(
                data if not isinstance(data, dict) else data.get("name")
            )
        )
    name = data["name"]

    def wrong(field: str, value: t.Any, right: str) -> CatalogError:
        return CatalogError(f"catalog entry {name}: {field} is {value!r}; {right}")

    for field in sorted(set(data) - _FIELDS):
        likely = _text.nearest(field, _FIELDS)
        raise wrong(field, data[field], "there is no such field" + (f", did you mean {likely}?" if likely else ""))
    source = data.get("source") or {"type": "registry"}
    kind = source.get("type") if isinstance(source, dict) else source
    if kind not in ("registry", "gguf"):
        raise wrong("source", source, "its type must be registry or gguf")
    digest = source.get("digest" if kind == "registry" else "sha256")
    if digest is not None and (not isinstance(digest, str) or not _SHA256.match(digest)):
        raise wrong("source", source, "the digest must be 64 hexadecimal digits, after 'sha256:' or alone")
    path = source.get("path")
    if kind == "gguf" and not (isinstance(path, str) and path):
        raise wrong("source", source, "a source of type gguf needs a path")
    size = data.get("size_bytes", 0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise wrong("size_bytes", size, "it must be a whole number of bytes")
    shape = data.get("shape")
    if shape is not None and not isinstance(shape, dict):
        raise wrong("shape", shape, "it must be a mapping of the model's hyper-parameters")
    if shape is not None and "context_length" not in shape:
        shape = dict(shape, context_length=data.get("context_length"))
    uses = data.get("uses") or []
    if not isinstance(uses, list) or not all(isinstance(use, str) for use in uses):
        raise wrong("uses", uses, "it must be a list of words such as chat, code, embedding, vision")
    return Entry(
        name=name,
        source_type=kind,
        digest="sha256:" + digest[-64:] if digest else None,
        path=path if kind == "gguf" else None,
        size_bytes=size,
        quantization=data.get("quantization"),
        uses=tuple(uses),
        shape=shape,
    )


def merge(entries: t.Iterable[t.Any]) -> dict[str, Entry]:
    """All entries by canonical name, the last of a name winning.

    :raises CatalogError: see :func:`entry`.
    """
    return {canonical_name(checked.name): checked for checked in map(entry, entries)}


def find(catalog: t.Mapping[str, Entry], name: str) -> Entry:
    """The entry called ``name``.

    :raises CatalogError: there is none; names the most similar one.
    """
    found = catalog.get(canonical_name(name))
    if found:
        return found
    likely = _text.nearest(canonical_name(name), catalog)
    raise CatalogError(
        "the model {!r} is not in the catalog{}".format(
            name, f"; did you mean {catalog[likely].name!r}?" if likely else ""
        )
    )
