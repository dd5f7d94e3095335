# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Published comparisons of models, and the order that one of them gives.

A benchmark is a mapping::

    name: swallow-ja                      # what a workload's ``quality`` calls it
    title: Swallow LLM Leaderboard, ...   # for people
    source: https://...                   # where the figures can be read, at a commit or in an edition
    date: "2026-05-07"                    # of its figures, or of that commit
    uses: [chat]                          # for which it orders where a workload names no ``quality``
    language: ja                          # of which it tells; without it, of any
    figures: {qwen3:8b: 0.491}            # the higher the better

Figures are comparable within one benchmark alone, so one at a time gives the order, and none are added up.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import _text

# The quality of a workload that wants no benchmark's order.
PARAMETERS = "parameters"
# What a workload that names no language is taken to speak.
DEFAULT_LANGUAGE = "en"

_FIELDS = frozenset({"date", "figures", "language", "name", "note", "source", "title", "uses"})


class BenchmarkError(Exception):
    """A benchmark is wrong; the text says which field of which one and what would be right."""


@dataclass(frozen=True)
class Benchmark:
    """One published comparison. ``rank`` is its place among the benchmarks given: the first that suits orders."""

    name: str
    source: str
    title: str = ""
    date: str = ""
    uses: tuple[str, ...] = ()
    language: str = ""
    rank: int = 0
    figures: t.Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def words(self) -> str:
        """Its name for people: by it alone the figures' source can be found."""
        return self.name + (f" of {self.date}" if self.date else "")


@dataclass(frozen=True)
class Figure:
    """What a benchmark says of one model; the higher the better."""

    value: float
    benchmark: Benchmark


class Rated(t.Protocol):
    """A model with its published figures by benchmark."""

    @property
    def benchmarks(self) -> t.Mapping[str, Figure]: ...

    @property
    def parameters(self) -> int: ...


def figure(value: t.Any) -> float | None:
    """The number that a figure is, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def read(data: t.Any) -> list[Benchmark]:
    """Check benchmarks.

    :raises BenchmarkError: naming the benchmark, the field, the value and what would be right.
    """
    made: list[Benchmark] = []
    for one in data or []:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not name or name == PARAMETERS:
            raise BenchmarkError(f"benchmark {name or one!r}: a mapping with a name other than {PARAMETERS} is needed")
        for word in sorted(set(one) - _FIELDS):
            likely = _text.nearest(word, _FIELDS)
            raise BenchmarkError(
                f"benchmark {name}: there is no field {word!r}" + (f", did you mean {likely}?" if likely else "")
            )
        if name in {other.name for other in made}:
            raise BenchmarkError(f"benchmark {name}: the name stands twice; each edition needs its own")
        if not isinstance(one.get("source"), str) or not one["source"]:
            raise BenchmarkError(
                f"benchmark {name}: source is {one.get('source')!r}; where the figures stand is needed"
            )
        uses, figures = one.get("uses") or [], one.get("figures")
        if not isinstance(uses, list) or not all(isinstance(use, str) for use in uses):
            raise BenchmarkError(f"benchmark {name}: uses is {uses!r}; a list such as [chat] is needed")
        if not isinstance(figures, dict) or not figures:
            raise BenchmarkError(f"benchmark {name}: figures is {figures!r}; a number for each model is needed")
        for model, value in figures.items():
            if figure(value) is None:
                raise BenchmarkError(f"benchmark {name}: the figure of {model} is {value!r}; a number is needed")
        made.append(
            Benchmark(
                name,
                one["source"],
                str(one.get("title") or ""),
                str(one.get("date") or ""),
                tuple(uses),
                str(one.get("language") or ""),
                len(made),
                {str(model): float(value) for model, value in figures.items()},
            )
        )
    return made


def known(models: t.Iterable[Rated]) -> dict[str, Benchmark]:
    """The benchmarks that say something of these models, by name."""
    return {name: rated.benchmark for model in models for name, rated in model.benchmarks.items()}


def applying(quality: str, use: str, languages: t.Sequence[str], models: t.Iterable[Rated]) -> Benchmark | None:
    """The benchmark that orders these models: the one that ``quality`` names, else the first for the use and for the
    first language wanted, or None."""
    if quality:
        return known(models).get(quality)
    language = languages[0] if languages else DEFAULT_LANGUAGE
    suiting = [
        benchmark
        for benchmark in known(models).values()
        if use in benchmark.uses and benchmark.language in ("", language)
    ]
    return min(suiting, key=lambda benchmark: benchmark.rank, default=None)


def rounded(parameters: int) -> int:
    """Parameters to two figures: 14,768,307,200 and 14,770,033,664 are both 15 billion."""
    scale = 10 ** max(0, len(str(parameters)) - 2)
    return int((parameters + scale // 2) // scale * scale)


class Order:
    """The order by one benchmark.

    Models with a figure are ordered by it. One without a figure is held for no better than any measured model that is
    at least as large, and one larger than all of them for no better than the largest: it stands right behind the worst
    of those. So each model has a number, its own figure or that one's, and the numbers order all.
    """

    def __init__(self, benchmark: Benchmark | None, models: t.Iterable[Rated]) -> None:
        self._name = benchmark.name if benchmark else ""
        # Sizes of measured models, the largest first, each with the lowest figure of a model so large or larger.
        self._lowest: list[tuple[int, float]] = []
        measured = [
            (rounded(model.parameters), model.benchmarks[self._name].value)
            for model in models
            if self._name in model.benchmarks
        ]
        for size, value in sorted(set(measured), key=lambda pair: (-pair[0], pair[1])):
            lowest = min(value, self._lowest[-1][1]) if self._lowest else value
            if not self._lowest or size < self._lowest[-1][0]:
                self._lowest.append((size, lowest))

    def key(self, model: Rated) -> tuple[float, bool]:
        """What to sort by: the better first, a measured model before one that is held for no better."""
        if not self._lowest:
            return 0.0, False
        if self._name in model.benchmarks:
            return -model.benchmarks[self._name].value, False
        size = rounded(model.parameters)
        lowest = self._lowest[0][1]
        for measured, value in self._lowest:
            if measured >= size:
                lowest = value
        return -lowest, True
