# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog of models: what an entry may say, and looking one up.

An entry is a mapping::

    name: gemma3:1b                       # as users ask for it
    source: {type: registry, digest: "sha256:..."}   # or {type: gguf, path: /models/x.gguf, sha256: ...},
                                          # with node_path or url in place of path
    size_bytes: 815310432                 # of the weights, exact or rounded up
    quantization: Q4_K_M
    parameters: 999885952
    uses: [chat, vision]
    licence: Gemma terms
    languages: [en]                       # that the model's card names; all that it names with languages_complete: true
    shape: {architecture: gemma3, block_count: 26, ...}   # GGUF names; not needed where a GGUF file is given
    variants: {1b-it-q8_0: 1150000000}    # other quantizations of the same model: tag and size in bytes
    header: /headers/gemma3-1b.gguf       # the beginning of the weights' file, for an account without the file itself
    variant_of: gemma3:1b                 # in an entry of one of those quantizations: the entry that names it
    sources: {licence: "https://..."}     # where a field's value was read
    benchmarks: {jmmlu: {value: 41.0, source: "..."}}   # published figures beside those of the benchmarks' tables

Later entries of the same name replace earlier ones, so an operator's list after the collection's own has the last word.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.onprem.llm.plugins.module_utils import _benchmarks, _quantization, _text

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}$")
# A name that says how its registry is asked has all its parts.
_ADDRESSED = re.compile(r"^https?://[^/]+/[^/]+/[^/]+$")
_CODE = re.compile(r"^[a-z]{2,3}$")
_SHA256 = re.compile(r"^(sha256:)?[0-9a-f]{64}$")
# Where a GGUF file lies: on the machine that plans, on the managed host, at a web server.
PLACES = ("path", "node_path", "url")
_FIELDS = frozenset(
    {
        "benchmarks",
        "context_length",
        "header",
        "languages",
        "languages_complete",
        "licence",
        "name",
        "note",
        "parameters",
        "projector_bytes",
        "quantization",
        "released",
        "shape",
        "size_bytes",
        "source",
        "sources",
        "uses",
        "variant_of",
        "variants",
    }
)
# Words in the tags of files that llama.cpp does not load.
_OTHER_ENGINES = re.compile(r"(^|-)(mlx|nvfp4|mxfp8|int4|int8)(-|$)")
# Bits of a file for each parameter: fewer than the smallest quantization has (1.6) no weights have, and F32 has 32.
BITS = (1, 40)


class CatalogError(Exception):
    """An entry is wrong or not there; the text says which and what would be right."""


@dataclass(frozen=True)
class Entry:
    """One model that can be chosen. ``digest`` is that of the weights, ``sha256:<hex>``. A GGUF file lies on the
    machine that plans (``path``), on the managed host (``node_path``) or at a web server (``url``)."""

    name: str
    source_type: str
    digest: str | None
    path: str | None
    size_bytes: int
    quantization: str | None
    uses: tuple[str, ...]
    shape: t.Mapping[str, t.Any] | None
    parameters: int = 0
    released: str = ""
    licence: str | None = None
    languages: tuple[str, ...] = ()
    languages_complete: bool = False
    benchmarks: t.Mapping[str, _benchmarks.Figure] = field(default_factory=dict)
    variants: t.Mapping[str, int] = field(default_factory=dict)
    # The entry that this one is another quantization of.
    variant_of: str = ""
    # A file with the beginning of the weights', header and tensor table.
    header: str | None = None
    # Bytes of the vision projector in a file of its own; None: not known.
    projector_bytes: int | None = None
    node_path: str | None = None
    url: str | None = None

    @property
    def source(self) -> dict[str, t.Any]:
        """The entry's source as the plan states it."""
        if self.source_type == "gguf":
            places = {place: getattr(self, place) for place in PLACES if getattr(self, place)}
            return {"type": "gguf", **places, "sha256": self.digest[7:] if self.digest else None}
        return {"type": "registry", "digest": self.digest}


def canonical_name(name: str) -> str:
    """The name with its tag: ``gemma3`` is ``gemma3:latest`` (a colon before a slash belongs to a registry's port)."""
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def local_name(name: str) -> str:
    """The name that a server lists the model under: with its tag, and without the scheme of the registry that it comes
    from, ``http://models.test:5000/team/model:1``."""
    scheme, separator, rest = name.partition("://")
    return canonical_name(rest if separator and scheme in ("http", "https") else name)


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
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("name"), str)
        or not _NAME.match(data["name"])
        or ("://" in data["name"] and not _ADDRESSED.match(data["name"]))
    ):
        raise CatalogError(
            "catalog entry {!r}: a mapping with a name such as 'gemma3:1b' is needed".format(
                data if not isinstance(data, dict) else data.get("name")
            )
        )
    name = data["name"]

    def wrong(field: str, value: t.Any, right: str) -> CatalogError:
        return CatalogError(f"catalog entry {name}: {field} is {value!r}; {right}")

    for word in sorted(set(data) - _FIELDS):
        likely = _text.nearest(word, _FIELDS)
        raise wrong(word, data[word], "there is no such field" + (f", did you mean {likely}?" if likely else ""))
    source = data.get("source") or {"type": "registry"}
    kind = source.get("type") if isinstance(source, dict) else source
    if kind not in ("registry", "gguf"):
        raise wrong("source", source, "its type must be registry or gguf")
    digest = source.get("digest" if kind == "registry" else "sha256")
    if digest is not None and (not isinstance(digest, str) or not _SHA256.match(digest)):
        raise wrong("source", source, "the digest must be 64 hexadecimal digits, after 'sha256:' or alone")
    places = {place: source[place] for place in PLACES if source.get(place) is not None} if kind == "gguf" else {}
    if kind == "gguf" and not (len(places) == 1 and all(isinstance(place, str) and place for place in places.values())):
        raise wrong("source", source, "a source of type gguf needs one of path, node_path and url")
    if places.get("node_path", "/")[0] != "/":
        raise wrong("source", source, "node_path is absolute, the file's path on the managed host")
    if not places.get("url", "https://").startswith("https://"):
        raise wrong("source", source, "the url must begin with https://")
    if digest is None and not {"node_path", "url"}.isdisjoint(places):
        raise wrong("source", source, "the sha256 of the file is needed, 64 hexadecimal digits")
    header = data.get("header")
    if header is not None and not (isinstance(header, str) and header):
        raise wrong("header", header, "it must be the path of a file with the beginning of the GGUF file")
    for word in ("quantization", "licence"):
        if data.get(word) is not None and not (isinstance(data[word], str) and data[word]):
            raise wrong(word, data[word], "it must be a word such as " + {"licence": "MIT"}.get(word, "Q4_K_M"))
    size = data.get("size_bytes", 0)
    if header and not size:
        raise wrong("size_bytes", size, "an entry with a header needs the size of the whole file")
    projector = data.get("projector_bytes")
    parameters = data.get("parameters") or 0
    for word, number, unit in (
        ("size_bytes", size, "bytes"),
        ("projector_bytes", projector or 0, "bytes"),
        ("parameters", parameters, "parameters"),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise wrong(word, number, f"it must be a whole number of {unit}")
    shape = data.get("shape")
    if shape is not None and not isinstance(shape, dict):
        raise wrong("shape", shape, "it must be a mapping of the model's hyper-parameters")
    if shape is not None and "context_length" not in shape:
        shape = dict(shape, context_length=data.get("context_length"))
    uses = data.get("uses") or []
    if not isinstance(uses, list) or not all(isinstance(use, str) for use in uses):
        raise wrong("uses", uses, "it must be a list of words such as chat, code, embedding, vision")
    if size and parameters and not BITS[0] <= 8 * size / parameters <= BITS[1]:
        raise wrong(
            "size_bytes",
            size,
            f"with {parameters} parameters that is {8 * size / parameters:.3g} bits each; "
            f"{BITS[0]} to {BITS[1]} are possible",
        )
    languages = data.get("languages")
    # Words for people, as catalogs had them before 0.2, name no code.
    if languages is None or isinstance(languages, str):
        languages = [languages] if languages and _CODE.match(languages) else []
    if not isinstance(languages, list) or not all(isinstance(code, str) and code for code in languages):
        raise wrong("languages", languages, "it must be a list of codes such as en, ja")
    variant_of = data.get("variant_of") or ""
    if not isinstance(variant_of, str):
        raise wrong("variant_of", variant_of, "it must be the name of another entry")
    variants = data.get("variants") or {}
    if not isinstance(variants, dict) or not all(
        isinstance(tag, str) and _quantization.of_tag(tag) and isinstance(bytes_, int) and bytes_ > 0
        for tag, bytes_ in variants.items()
    ):
        raise wrong("variants", variants, "tags that end in a quantization, such as 8b-q8_0, with their sizes in bytes")
    sources = data.get("sources") or {}
    if not isinstance(sources, dict) or not set(sources) <= set(data):
        raise wrong("sources", sources, "it must say of fields of the entry where their values were read")
    return Entry(
        name=name,
        source_type=kind,
        digest="sha256:" + digest[-64:] if digest else None,
        path=places.get("path"),
        node_path=places.get("node_path"),
        url=places.get("url"),
        size_bytes=size,
        quantization=data.get("quantization"),
        uses=tuple(uses),
        shape=shape,
        parameters=parameters,
        released=str(data.get("released") or ""),
        licence=data.get("licence"),
        languages=tuple(languages),
        languages_complete=bool(data.get("languages_complete")),
        benchmarks=_figures(data.get("benchmarks"), wrong),
        variants=variants,
        variant_of=variant_of,
        header=header,
        projector_bytes=projector,
    )


def _figures(data: t.Any, wrong: t.Callable[[str, t.Any, str], CatalogError]) -> dict[str, _benchmarks.Figure]:
    """Published figures by benchmark; one without a source is no figure."""
    found: dict[str, _benchmarks.Figure] = {}
    for name, given in (data or {}).items() if isinstance(data or {}, dict) else [("", data)]:
        value = _benchmarks.figure(given.get("value")) if isinstance(given, dict) else None
        if value is None or not given.get("source"):
            raise wrong(
                "benchmarks", data, "each benchmark needs a value (a number, the higher the better) and a source"
            )
        found[str(name)] = _benchmarks.Figure(value, _benchmarks.Benchmark(str(name), str(given["source"])))
    return found


def _with_variants(entry_: Entry) -> list[Entry]:
    """The entry, and one for each other quantization of the same model, whose digest is not known."""
    family = entry_.name.rsplit(":", 1)[0]
    return [entry_] + [
        replace(
            entry_,
            name=f"{family}:{tag}",
            source_type="registry",
            digest=None,
            path=None,
            node_path=None,
            url=None,
            size_bytes=size,
            quantization=_quantization.of_tag(tag),
            variants={},
            header=None,
            variant_of=entry_.name,
        )
        for tag, size in entry_.variants.items()
    ]


def merge(entries: t.Iterable[t.Any], tables: t.Sequence[_benchmarks.Benchmark] = ()) -> dict[str, Entry]:
    """All entries by canonical name, the last of a name winning, with what ``tables`` say of each; an entry's own
    figures have the last word.

    :raises CatalogError: see :func:`entry`; with all that is wrong.
    """
    checked: dict[str, Entry] = {}
    wrong = []
    for data in entries:
        try:
            one = entry(data)
            checked[canonical_name(one.name)] = one
        except CatalogError as error:
            wrong.append(str(error))
    if wrong:
        raise CatalogError("; ".join(wrong))
    for table in reversed(tables):
        for name, value in table.figures.items():
            rated = checked.get(canonical_name(name))
            if rated:
                figures = {table.name: _benchmarks.Figure(value, table), **rated.benchmarks}
                checked[canonical_name(name)] = replace(rated, benchmarks=figures)
    whole: dict[str, Entry] = {}
    for one in checked.values():
        for variant in _with_variants(one):
            name = canonical_name(variant.name)
            if variant is one or name not in checked:
                whole[name] = variant
    return whole


@dataclass(frozen=True)
class Library:
    """Which tags the public library has, by model, and the models that run at ollama.com alone."""

    tags: t.Mapping[str, frozenset[str]] = field(default_factory=dict)
    cloud_only: frozenset[str] = frozenset()


NO_LIBRARY = Library()


def library(data: t.Any) -> Library:
    """Read ``library_tags.yml``: ``exist``, tags in one string by model, and ``cloud_only``, a list."""
    data = data if isinstance(data, dict) else {}
    return Library(
        {str(model): frozenset(str(tags).split()) for model, tags in (data.get("exist") or {}).items()},
        frozenset(map(str, data.get("cloud_only") or [])),
    )


def find(catalog: t.Mapping[str, Entry], name: str, known: Library = NO_LIBRARY) -> Entry:
    """The entry called ``name``.

    :raises CatalogError: there is none; says what is the matter with the name, and names the most similar one.
    """
    wanted = canonical_name(name)
    found = catalog.get(wanted)
    if found:
        return found
    model, tag = wanted.rsplit(":", 1)
    own = [other for other in catalog if other.startswith(model + ":")]
    likely = _text.nearest(wanted, own) or _text.nearest(wanted, catalog)
    meant = f"; did you mean {catalog[likely].name!r}?" if likely else ""
    if re.search(r"(^|-)cloud$", tag) or model in known.cloud_only:
        raise CatalogError(f"the model {name!r} runs at ollama.com and has no weights to load{meant}")
    if model in known.tags and _OTHER_ENGINES.search(tag):
        raise CatalogError(f"the model {name!r} is no GGUF file, and the engine does not load it{meant}")
    if tag in known.tags.get(model, ()):
        raise CatalogError(
            f"the model {name!r} is in the public library and not in the catalog, so its memory cannot be computed; "
            f"give its shape and size_bytes in an entry of its own{meant}"
        )
    if model in known.tags:
        raise CatalogError(f"the model {name!r} is not in the catalog, and {model} has no tag {tag!r}{meant}")
    raise CatalogError(f"the model {name!r} is not in the catalog{meant}")
