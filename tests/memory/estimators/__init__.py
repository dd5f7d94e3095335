"""Estimators of a model's memory: ours, and public ones rewritten from their published sources.

A public one is followed faithfully, its limits included; what it would be told of a row is said in its module. One that
gives a single total is taken to spread it over the GPUs by their shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.memory.data import Model, Row


class Unanswered(Exception):
    """The estimator has no notion of what the row asks for; the text says of what."""


class Answer(NamedTuple):
    """Bytes of each of the row's devices. ``known``: the estimator knows the architecture, or does not tell."""

    bytes: Sequence[int]
    known: bool = True


@dataclass(frozen=True)
class Estimator:
    """``estimate`` answers a row, or raises Unanswered; ``source`` says where the method is published."""

    name: str
    source: str
    estimate: Callable[[Model, Row], Answer]


def spread(total: float, model: Model, row: Row) -> Answer:
    """A total for everything, over the row's devices.

    :raises Unanswered: not everything is on the GPUs, of which a single total says nothing.
    """
    if not row.gpus:
        return Answer([int(total)])
    if not row.on_gpus(model.layers):
        raise Unanswered("a model partly on the GPU")
    return Answer([int(total * share) for share in row.shares])


def every() -> tuple[Estimator, ...]:
    """All of them, ours first."""
    from tests.memory.estimators import articles, gguf_parser_go, llmfit, ollama_0_17, ollama_0_32, ours, whichllm

    return (
        ours.ESTIMATOR,
        ollama_0_32.ESTIMATOR,
        ollama_0_17.ESTIMATOR,
        llmfit.ESTIMATOR,
        gguf_parser_go.ESTIMATOR,
        whichllm.ESTIMATOR,
        *articles.ESTIMATORS,
    )
