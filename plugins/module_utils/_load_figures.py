# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the answers under load amount to: a step's figures, the users that a curve bears, and what would raise it."""

from __future__ import annotations

import math
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._load_stream import FAILURES, OK, Answer

PERCENTILES = (50, 95, 99)
# A step with more failures than this share of its requests bears no users.
MOST_FAILED = 0.01
# Throughput has stopped growing where twice the concurrency gives less than this; the rule's own choice.
FLAT = 1.1
# Up to there, streams share the hardware with gain: twice the streams give half as much again, at least.
STEEP = 1.5
# The share of the memory's bandwidth from which on the hardware is what bounds.
SATURATED = 0.5


def percentile(values: t.Sequence[float], percent: float) -> float:
    """Linear between the closest ranks (Hyndman and Fan 1996, type 7; numpy's default).

    :raises ValueError: there are no values.
    """
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: t.Sequence[float], digits: int = 4) -> dict[str, float] | None:
    """``p50``, ``p95``, ``p99`` and ``max``, or None of nothing."""
    if not values:
        return None
    found = {f"p{percent}": round(percentile(values, percent), digits) for percent in PERCENTILES}
    found["max"] = round(max(values), digits)
    return found


def step_figures(answers: t.Sequence[Answer], begun: float, closed: float) -> dict[str, t.Any]:
    """The figures of one step.

    Throughput counts what came while every stream was busy: from ``begun`` until ``closed``, when the first found
    nothing more to ask. A piece of an answer has its share of the answer's tokens, for one piece may carry several.

    :param begun: when the step began, seconds of the monotonic clock.
    :param closed: when its last request had been sent and a stream fell idle.
    """
    good = [answer for answer in answers if answer.outcome == OK and answer.arrivals]
    empty = sum(answer.outcome == OK and not answer.arrivals for answer in answers)
    window = max(closed - begun, 1e-9)
    tokens = 0.0
    for answer in good:
        share = (answer.completion_tokens or 0) / len(answer.arrivals)
        tokens += share * sum(begun <= at <= closed for at in answer.arrivals)
    mean = _mean([float(answer.completion_tokens or 0) for answer in good])
    rate = tokens / window
    errors = {kind: sum(answer.outcome == kind for answer in answers) for kind in FAILURES}
    paces = [
        ((answer.completion_tokens or 0) - 1) / (answer.arrivals[-1] - answer.arrivals[0])
        for answer in good
        # Tokens that came in a lump say nothing of a pace.
        if 0 < (answer.completion_tokens or 0) <= 2 * len(answer.arrivals) and answer.arrivals[-1] > answer.arrivals[0]
    ]
    return {
        "requests": len(answers),
        "completed": len(good),
        "empty": empty,
        "errors": {kind: count for kind, count in errors.items() if count},
        "reasons": sorted({answer.reason for answer in answers if answer.reason})[:5],
        "seconds": round(max([answer.ended for answer in answers] or [begun]) - begun, 3),
        "window_seconds": round(window, 3),
        "prompt_tokens_mean": round(_mean([float(answer.prompt_tokens or 0) for answer in good]), 1),
        "answer_tokens_mean": round(mean, 1),
        "tokens_per_second": round(rate, 2),
        "requests_per_second": round(rate / mean, 4) if mean else 0.0,
        "first_token_seconds": spread([answer.arrivals[0] - answer.sent for answer in good]),
        "gap_seconds": spread([gap for answer in good for gap in answer.gaps], 5),
        "answer_seconds": spread([answer.ended - answer.sent for answer in good]),
        # Of one stream, without the wait for its first token. Few are slow: of a rate, the low end is what bounds.
        "stream_tokens_per_second": {
            f"p{100 - percent}": round(percentile(paces, 100 - percent), 2) for percent in PERCENTILES
        }
        if paces
        else None,
    }


def _mean(values: t.Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def failed_share(step: t.Mapping[str, t.Any]) -> float:
    """Share of a step's requests that gave no answer."""
    return 1 - step["completed"] / step["requests"] if step["requests"] else 1.0


def series(steps: t.Iterable[t.Mapping[str, t.Any]]) -> dict[tuple[t.Any, ...], list[t.Mapping[str, t.Any]]]:
    """Steps by what they ask, in the order of their concurrency: the curves."""
    found: dict[tuple[t.Any, ...], list[t.Mapping[str, t.Any]]] = {}
    for step in steps:
        found.setdefault((step["prefix_cache"], step["prompt_tokens"], step["answer_tokens"]), []).append(step)
    return {key: sorted(rows, key=lambda row: row["concurrency"]) for key, rows in found.items()}


def capacity(steps: t.Sequence[t.Mapping[str, t.Any]], goal: float, think: float) -> dict[str, t.Any]:
    """Users that a curve bears.

    A user thinks for ``think`` seconds, asks, reads the answer to its end, and thinks again. With c requests under way
    and X answers a second, N = c + X * think users keep them so (Little's law on both places: Lazowska et al.,
    Quantitative System Performance, 1984, chapter 3). The users are those of the highest concurrency up to which no
    step's 95th percentile of the first token missed ``goal`` seconds and at most 1 % failed.
    """
    best: t.Mapping[str, t.Any] | None = None
    missed: t.Mapping[str, t.Any] | None = None
    for step in steps:
        wait = step["first_token_seconds"]
        if wait is None or wait["p95"] > goal or failed_share(step) > MOST_FAILED:
            missed = step
            break
        best = step
    users = 0 if best is None else int(best["concurrency"] + best["requests_per_second"] * think)
    return {
        "goal_seconds": goal,
        "think_seconds": think,
        "users": users,
        "concurrency": best["concurrency"] if best else 0,
        "missed_at": missed["concurrency"] if missed else None,
    }


def growth(lower: t.Mapping[str, t.Any], upper: t.Mapping[str, t.Any]) -> float:
    """By what factor throughput grows a doubling of the concurrency, between two steps."""
    if not lower["tokens_per_second"] or not upper["tokens_per_second"]:
        return 0.0
    doublings = math.log2(upper["concurrency"] / lower["concurrency"])
    return float((upper["tokens_per_second"] / lower["tokens_per_second"]) ** (1 / doublings))


def advice(
    steps: t.Sequence[t.Mapping[str, t.Any]], slots: int | None, bound: float | None, on_gpu: bool
) -> dict[str, t.Any]:
    """What would raise the throughput, by the measured curve. docs/benchmark.md states the rule and its limits.

    :param slots: requests that the engine computes at once, or None where nobody says.
    :param bound: tokens a second of one stream that the memory's bandwidth allows (the plan's), or None.
    :param on_gpu: whether the model is on GPUs alone.
    """
    usable = [step for step in steps if step["tokens_per_second"] and failed_share(step) <= MOST_FAILED]
    if len(usable) < 3:
        return _said("unknown", "fewer than three steps without failures; measure at more concurrencies", None, None)
    at = next((i for i, pair in enumerate(zip(usable, usable[1:])) if growth(*pair) < FLAT), None)
    if at is None:
        most = usable[-1]["concurrency"]
        return _said("growing", f"throughput still grows at {most} requests at once; nothing to change", None, None)
    knee = usable[at]
    pace = (knee["stream_tokens_per_second"] or {}).get("p50")
    share = round(pace / bound, 3) if bound and pace else None
    place = "throughput stops growing at {} requests at once".format(knee["concurrency"])
    steep = at > 0 and growth(usable[0], knee) >= STEEP
    if slots and knee["concurrency"] >= slots and (slots == 1 or steep):
        why = f"{place}, the engine's slots being {slots}, and grew up to there: more slots, where the plan has memory"
        return _said("more_slots", why, knee["concurrency"], share)
    if not on_gpu:
        why = f"{place}: the processors are busy, and another engine changes little; GPUs or a further node do"
        return _said("hardware", why, knee["concurrency"], share)
    if share is None:
        why = f"{place}; whether the GPU is busy by then cannot be told without the plan's bound on its bandwidth"
        return _said("engine_or_hardware", why, knee["concurrency"], None)
    if share >= SATURATED:
        why = f"{place} with {share:.0%} of the memory's bandwidth in use: a faster GPU or a further node"
        return _said("hardware", why, knee["concurrency"], share)
    why = (
        f"{place} with {share:.0%} of the memory's bandwidth in use: the engine leaves the GPU idle. One that batches "
        "continuously, such as vLLM, is worth a trial with this curve beside its own"
    )
    return _said("another_engine", why, knee["concurrency"], share)


def _said(verdict: str, because: str, knee: int | None, share: float | None) -> dict[str, t.Any]:
    return {"verdict": verdict, "because": because, "knee": knee, "bandwidth_share": share}
