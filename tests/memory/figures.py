"""The bench's arithmetic: comparisons of an estimate with the truth, and what is said of many of them.

Every error and share is a fraction. A share or error of nothing is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 2**20
# What nvidia-smi shows as the memory of cards of 6, 8, 10, 12, 16, 24, 32, 48 and 80 GB, in MiB.
CARDS = (6144, 8188, 10240, 12288, 16376, 24564, 32607, 49140, 81559)
# Placements of a row; only the first decides whether a card is large enough.
ONE_GPU, SEVERAL_GPUS, PARTLY, CPU = PLACEMENTS = ("one GPU", "several GPUs", "partly on GPUs", "CPU")
# Beside the buffers: what Ollama reserves for a CUDA context, and what llama.cpp's fit keeps free.
RESERVE = (457 + 1024) * MIB
# Cards of which the truth needs less or more are no decision that anyone would have to think about.
DECIDED = (0.4, 1.6)


@dataclass(frozen=True)
class Comparison:
    """One device of one row, bytes. ``known``: the estimator knows the architecture. ``what`` is the row in words."""

    architecture: str
    placement: str
    truth: int
    estimate: int
    known: bool = True
    what: str = ""

    @property
    def error(self) -> float:
        """Relative, without its sign. An estimate of nothing where there is nothing is right."""
        return abs(self.estimate - self.truth) / self.truth if self.truth else float(self.estimate > 0)

    @property
    def under(self) -> float:
        """By how much of the truth the estimate lies below it; negative where it lies above."""
        return (self.truth - self.estimate) / self.truth if self.truth else -float(self.estimate > 0)


def decisions(truth: int, estimate: int) -> list[tuple[bool, bool]]:
    """(fits in truth, fits by the estimate) for each card that is a decision."""
    needed = truth + RESERVE
    low, high = DECIDED
    return [
        (needed <= card, estimate + RESERVE <= card)
        for card in (size * MIB for size in CARDS)
        if low * card <= needed <= high * card
    ]


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: the least value that at least ``share`` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What is said of some comparisons, whatever they have in common."""
    errors = sorted(comparison.error for comparison in comparisons)
    made = [
        decision
        for comparison in comparisons
        if comparison.placement == ONE_GPU
        for decision in decisions(comparison.truth, comparison.estimate)
    ]
    return {
        "rows": len(errors),
        "median_error": statistics.median(errors) if errors else None,
        "p95_error": percentile(errors, 0.95) if errors else None,
        "worst_under": max((comparison.under for comparison in comparisons), default=None),
        "decisions_right": sum(truth == estimate for truth, estimate in made) / len(made) if made else None,
        "false_fits": sum(estimate and not truth for truth, estimate in made),
    }


def summary(comparisons: Iterable[Comparison], unanswered: int = 0) -> dict[str, Any]:
    """All that is said of an estimator. ``unanswered`` counts comparisons that it has no estimate for: they are in no
    other figure."""
    every = list(comparisons)
    unknown = [comparison for comparison in every if not comparison.known]
    architectures = sorted({comparison.architecture for comparison in every})
    return {
        **figures(every),
        "unknown_rows": len(unknown),
        "unknown_below_truth": sum(comparison.estimate < comparison.truth for comparison in unknown),
        "unanswered": unanswered,
        "known": figures([comparison for comparison in every if comparison.known]),
        "by_architecture": {
            name: figures([comparison for comparison in every if comparison.architecture == name])
            for name in architectures
        },
    }
