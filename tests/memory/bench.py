"""Runs every estimator over every row."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.memory.data import Data, Model, Row
from tests.memory.estimators import Estimator, Unanswered
from tests.memory.figures import CPU, ONE_GPU, PARTLY, SEVERAL_GPUS, Comparison, summary


@dataclass
class Result:
    """Of one estimator: its comparisons, and how many devices of which kind of row it has no estimate for."""

    estimator: Estimator
    comparisons: list[Comparison] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        return summary(self.comparisons, self.unanswered.total())


def placement(model: Model, row: Row) -> str:
    if not row.gpus:
        return CPU
    if not row.on_gpus(model.layers):
        return PARTLY
    return ONE_GPU if row.gpus == 1 else SEVERAL_GPUS


def run(
    data: Data, estimators: Sequence[Estimator], progress: Callable[[str], None] = lambda text: None
) -> list[Result]:
    """Compare all of them on all rows. An estimator that fails on a row has no estimate for it: the reason is kept."""
    results = []
    for estimator in estimators:
        result = Result(estimator)
        for number, row in enumerate(data.rows):
            if number % 500 == 0:
                progress(f"{estimator.name}: {number} of {len(data.rows)} rows")
            model = data.models[row.model]
            try:
                answer = estimator.estimate(model, row)
            except Unanswered as reason:
                result.unanswered[str(reason)] += len(row.truth)
                continue
            except Exception as error:
                # Whatever a foreign header makes an estimator do, the others still answer.
                result.unanswered[f"{row.model}: {type(error).__name__}: {error}"] += len(row.truth)
                continue
            placed = placement(model, row)
            result.comparisons += [
                Comparison(
                    model.header.architecture or "",
                    placed,
                    truth,
                    int(size),
                    answer.known,
                    f"{row.describe()} {device}",
                )
                for device, truth, size in zip(row.devices, row.truth, answer.bytes)
            ]
        results.append(result)
    progress("")
    return results


def on_terminal(text: str) -> None:
    """Progress, on a terminal alone."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
