# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that may serve a workload, the best first, and why others may not.

The order is the operator's where ``models`` or ``preferred`` gives one, then a published benchmark's (see
``_benchmarks``), then the number of parameters (to two figures) and the month of release: facts, and no judgement.
Of one model the library's own quantization comes first, then smaller ones, then larger ones: those who want more bits a
weight say so with ``quantization``, and the plan shows what they cost. :func:`order_stated` says which of them decided.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.llm.plugins.module_utils import (
    _benchmarks,
    _catalog,
    _gguf,
    _memory,
    _quantization,
    _text,
)
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Workload

# How far a catalog's parameters or size may be from the file's before it is told.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Candidate:
    """A model that can be planned with. ``file_bytes`` is the size of its file; ``active_bytes`` what one token of one
    sequence reads of the weights, at least. ``remark`` tells where header and catalog disagree."""

    entry: _catalog.Entry
    shape: _memory.Shape
    quantization: str | None
    file_bytes: int = 0
    active_bytes: int = 0
    remark: str = ""

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class Turned:
    """A model turned down before any memory was counted."""

    name: str
    reason: str


# Reading the same header for each of several hundred hosts would be the larger part of a fleet's plan.
_HEADERS: dict[tuple[str, int, int], _gguf.Header] = {}


def _header(path: str) -> _gguf.Header:
    status = os.stat(path)
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _HEADERS:
        _HEADERS[key] = _gguf.read_file(path)
    return _HEADERS[key]


def plannable(entry: _catalog.Entry) -> bool:
    """Whether enough is known of the entry for an account of its memory."""
    return entry.path is not None or entry.header is not None or (entry.shape is not None and entry.size_bytes > 0)


def candidate(entry: _catalog.Entry) -> Candidate:
    """What is known about an entry's model; a GGUF file's header is read, and wins over the entry.

    :raises PlanError: the file cannot be read or is no model, or the catalog says too little for an account.
    """
    embedding = "embedding" in entry.uses
    beginning = entry.path or entry.header
    try:
        if beginning is not None:
            header = _header(beginning)
            shape = _memory.shape_from_header(header, entry.projector_bytes)
            if embedding and not shape.embedding:
                raise PlanError(
                    f"{entry.name}: the catalog calls it an embedding model, the file {beginning} has no pooling type"
                )
            remark = _disagreement(entry, header)
            if entry.header and entry.projector_bytes is None and "vision" in entry.uses and not shape.projector:
                shape = replace(shape, projector=_memory.PROJECTOR_COMPUTE_BYTES)
                told = f"{entry.name}: the size of its vision projector was not read, so its weights are not counted"
                remark = f"{remark}. {told}" if remark else told
            return Candidate(
                entry,
                shape,
                header.quantization or entry.quantization,
                os.path.getsize(entry.path) if entry.path else entry.size_bytes,
                _active_of_tensors(header, shape),
                remark,
            )
        if entry.shape is None or not entry.size_bytes:
            raise PlanError(
                f"{entry.name}: its hyper-parameters are not in the catalog, so its memory cannot be computed; "
                "give its shape and size_bytes, or a GGUF file"
            )
        # Where the catalog calls it a vision model and knows no more, its size is that of all its parts.
        projector = entry.projector_bytes or (0 if "vision" in entry.uses else None)
        shape = _memory.shape_from_entry(entry.shape, entry.size_bytes, embedding, projector, entry.quantization)
        return Candidate(entry, shape, entry.quantization, entry.size_bytes, _active_of_entry(entry, shape))
    except OSError as error:
        raise PlanError(
            f"{entry.name}: cannot read the model file {beginning} on the machine that plans: {error.strerror}"
        ) from error
    except (_gguf.GgufError, _memory.ShapeError) as error:
        raise PlanError(f"{entry.name}{f' ({beginning})' if beginning else ''}: {error}") from error


def _disagreement(entry: _catalog.Entry, header: _gguf.Header) -> str:
    """What the catalog says of a file otherwise than the file itself."""
    told = []
    if entry.quantization and header.quantization and entry.quantization != header.quantization:
        told.append(f"quantization {entry.quantization}, the file's is {header.quantization}")
    for key, said in (entry.shape or {}).items():
        found = header.architecture if key == "architecture" else header.get(key)
        if key != "vocabulary" and said is not None and found is not None and said != found:
            told.append(f"{key} {said}, the file's is {found}")
    parameters = sum(tensor.elements for tensor in header.tensors)
    if entry.parameters and parameters and abs(entry.parameters - parameters) > parameters * _TOLERANCE:
        told.append(f"parameters {entry.parameters}, the file's are {parameters}")
    return f"{entry.name}: the catalog says {'; '.join(told)}. The file counts" if told else ""


# --- what a token reads ----------------------------------------------------------------------------------------------


def _active_of_tensors(header: _gguf.Header, shape: _memory.Shape) -> int:
    """Bytes of the tensors that a token goes through: of the experts those that are used, of input embeddings a row."""
    experts = int(header.get("expert_count") or 0)
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    active = 0
    for tensor in header.tensors:
        if (tensor.name.startswith("token_embd.") and not tied) or _memory.of_projector(tensor.name):
            continue
        if "_exps." in tensor.name and experts > 0:
            active += tensor.bytes * min(shape.experts_used, experts) // experts
        else:
            active += tensor.bytes
    return active


def _active_of_entry(entry: _catalog.Entry, shape: _memory.Shape) -> int:
    """A lower bound from the hyper-parameters: the share of the experts that are not used, and of the embeddings."""
    values = entry.shape or {}
    experts = values.get("expert_count") or 0
    if not entry.parameters:
        # How the file divides is not known; a dense model reads nearly all of it.
        return entry.size_bytes if not shape.experts_used else 0
    idle = shape.vocabulary * shape.embedding_length
    if shape.experts_used and experts:
        unused = max(0, experts - shape.experts_used)
        sparse = max(0, shape.layers - int(values.get("leading_dense_block_count") or 0))
        idle += sparse * 3 * shape.embedding_length * shape.expert_feed_forward_length * unused
    elif shape.experts_used:
        return 0
    return max(0, int(entry.size_bytes * (1 - min(1.0, idle / entry.parameters))))


# --- what may serve --------------------------------------------------------------------------------------------------


def chosen(work: Workload, entries: t.Mapping[str, _catalog.Entry], known: _catalog.Library) -> list[_catalog.Entry]:
    """The entries to try for a workload, in order: those it names, else all that serve its use, the best first.

    :raises PlanError: naming every model that is not in the catalog, or a benchmark that no model has a figure of.
    """
    absent: list[str] = []
    named: list[_catalog.Entry] = []
    for name in work.models or work.preferred:
        try:
            named.append(_catalog.find(entries, name, known))
        except _catalog.CatalogError as error:
            absent.append(str(error))
    if absent:
        raise PlanError("; ".join(absent))
    if work.models:
        return named
    first = {entry.name for entry in named}
    serving = [entry for entry in entries.values() if _serves(entry, work.use)]
    figures = {*_benchmarks.known(serving), _benchmarks.PARAMETERS}
    if work.quality and work.quality not in figures:
        likely = _text.nearest(work.quality, figures)
        raise PlanError(
            f"workload {work.name}: quality is {work.quality!r}, of which no model for {work.use} has a figure"
            + (f", did you mean {likely}?" if likely else "")
            + f"; {', '.join(sorted(figures))} would do"
        )
    order = _benchmarks.Order(_benchmark(work, serving), serving)
    rest = [entry for entry in serving if entry.name not in first]
    return named + sorted(rest, key=lambda entry: (order.key(entry), _rank(entry, entries)))


def _serves(entry: _catalog.Entry, use: str) -> bool:
    return use in entry.uses and (use == "embedding" or "embedding" not in entry.uses)


def _benchmark(work: Workload, entries: t.Iterable[_catalog.Entry]) -> _benchmarks.Benchmark | None:
    """The benchmark that orders the models for a workload."""
    serving = [entry for entry in entries if _serves(entry, work.use)]
    return _benchmarks.applying(work.quality, work.use, work.languages, serving)


def _rank(
    entry: _catalog.Entry, entries: t.Mapping[str, _catalog.Entry]
) -> tuple[int, tuple[int, ...], int, float, str]:
    month = tuple(-int(part) for part in entry.released.split("-") if part.isdigit()) or (0,)
    own = entries.get(_catalog.canonical_name(entry.variant_of)) if entry.variant_of else None
    ratio = _quantization.bits(entry.quantization) / (_quantization.bits(own.quantization) or 1.0) if own else 0.0
    return (
        -_benchmarks.rounded(entry.parameters),
        month,
        0 if own is None else 1 if ratio <= 1 else 2,
        -ratio if ratio <= 1 else ratio,
        entry.name,
    )


def order_stated(work: Workload, entries: t.Sequence[_catalog.Entry]) -> str:
    """By what the candidates were ordered, in a sentence's part."""
    if work.models:
        return "the order of models"
    words = ["the order of preferred"] if work.preferred else []
    benchmark = _benchmark(work, entries)
    if benchmark:
        have = sum(benchmark.name in entry.benchmarks for entry in entries)
        words.append(f"published figures of {benchmark.words} ({have} of {len(entries)} models have one)")
    why = "" if benchmark else ", as the wish is" if work.quality else ", as no benchmark suits"
    words.append(f"parameters, month of release and the library's own quantization{why}")
    return ", then ".join(words)


def compared(work: Workload, better: _catalog.Entry, other: _catalog.Entry, entries: t.Iterable[_catalog.Entry]) -> str:
    """Why ``other`` comes after ``better`` in the order of ``entries``."""
    if work.models:
        return f"it stands after {better.name} in models"
    if better.name in work.preferred:
        return f"{better.name} is preferred"
    benchmark = _benchmark(work, entries)
    figures = [entry.benchmarks.get(benchmark.name) if benchmark else None for entry in (better, other)]
    if benchmark and figures[0] != figures[1]:
        first, second = (figure.value if figure else None for figure in figures)
        if second is None:
            return f"{benchmark.words} has no figure of it, and {first:g} of {better.name}"
        if first is None:
            return (
                f"{benchmark.words}: {second:g}, less than the measured models at least as large as {better.name} have"
            )
        return f"{benchmark.words}: {second:g} against {first:g}"
    if _benchmarks.rounded(better.parameters) != _benchmarks.rounded(other.parameters):
        return f"{_billions(other.parameters)} parameters against {_billions(better.parameters)}"
    if better.released != other.released:
        return f"released {other.released or 'at a time not known'}, {better.name} {better.released}"
    if better.variant_of != other.variant_of:
        return f"{better.name} has the library's own quantization" if other.variant_of == better.name else "by its name"
    return f"{other.quantization} is further from the library's own quantization than {better.quantization}"


def _billions(parameters: int) -> str:
    if not parameters:
        return "an unknown number of"
    return f"{parameters / 10**9:.1f} billion" if parameters >= 10**9 else f"{parameters / 10**6:.0f} million"


def misfit(work: Workload, entry: _catalog.Entry) -> str | None:
    """Which wish the model does not meet, on any amount of memory, or None. What is not established counts against a
    model that nobody named, and not against one that the operator names."""
    named = bool(work.models)
    for language in work.languages:
        if not _speaks(entry, language) and (entry.languages_complete or not named):
            return (
                f"its card does not name the language {language}"
                if entry.languages_complete
                else f"whether it speaks {language} is not established; name it under models if it does"
            )
    if work.licences and entry.licence not in work.licences and (entry.licence or not named):
        return (
            f"its licence is {entry.licence}, allowed are {', '.join(work.licences)}"
            if entry.licence
            else "its licence is not established"
        )
    lacking = [word for word in work.capabilities if word not in entry.uses]
    if lacking and (not named or entry.uses):
        return f"it is not known for {' and '.join(lacking)}"
    floor = _quantization.bits(work.quantization)
    native = entry.quantization in _quantization.NATIVE and not entry.variant_of
    below = bool(entry.quantization) and _quantization.bits(entry.quantization) < floor
    if below and not ((native or named) and _unasked(work)):
        return f"its quantization {entry.quantization} is below {work.quantization}"
    if not entry.quantization and not named:
        return "its quantization is not established"
    return None


def _speaks(entry: _catalog.Entry, language: str) -> bool:
    """Whether the model's card names the language or, where not all that it names is known, a benchmark of that
    language has a figure of the model: how well it speaks it, the order says."""
    measured = any(figure.benchmark.language == language for figure in entry.benchmarks.values())
    return language in entry.languages or (measured and not entry.languages_complete)


def _unasked(work: Workload) -> bool:
    """Whether the floor is the default one, which holds only where the catalog is chosen from."""
    return work.quantization == Workload.quantization


def unsuitable(work: Workload, model: Candidate, setting: _memory.Setting, on_gpu: bool) -> str | None:
    """Why this model cannot serve this workload on any amount of memory, or None."""
    shape = model.shape
    if work.use == "embedding" and not shape.embedding:
        return "it is no embedding model"
    if work.use != "embedding" and shape.embedding:
        return f"it is an embedding model and cannot serve {work.use}"
    asked, named = work.context_asked, bool(work.models)
    held = asked and not named if shape.embedding else asked or not named
    if shape.context_length < work.context.low and held:
        return f"it was trained for {shape.context_length} tokens, fewer than the {work.context.low} " + (
            "asked for" if asked else "that a context has at least where context_length does not say"
        )
    if shape.one_slot and not shape.embedding and work.slots.low > 1:
        return f"Ollama gives the architecture {shape.architecture} one slot, {work.slots.low} are asked for"
    return _memory.refusal(shape, setting, on_gpu)
