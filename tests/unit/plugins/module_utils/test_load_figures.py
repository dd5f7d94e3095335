# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures by hand: percentiles, throughput, users and advice of curves that are known."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _load_figures as figures
from ansible_collections.onprem.llm.plugins.module_utils._load_stream import Answer
from hypothesis import given
from hypothesis import strategies as some


@given(some.lists(some.floats(0, 1e6), min_size=1, max_size=50), some.sampled_from([0, 50, 95, 99, 100]))
def test_percentiles_are_those_of_numpy(values: list[float], percent: int) -> None:
    assert figures.percentile(values, percent) == pytest.approx(float(numpy.percentile(values, percent)), abs=1e-6)


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        figures.percentile([], 50)
    assert figures.spread([]) is None


def answer(sent: float, first: float, gap: float, pieces: int, tokens: int, outcome: str = "ok") -> Answer:
    arrivals = [sent + first + gap * number for number in range(pieces)]
    ended = arrivals[-1] if arrivals else sent + first
    return Answer(sent, ended, outcome, "" if outcome == "ok" else outcome, arrivals, 100, tokens)


def test_a_step_by_hand() -> None:
    # Two streams of two answers each: 10 pieces of two tokens, the first after 1 s, then every 0.1 s.
    answers = [answer(sent, 1.0, 0.1, 10, 20) for sent in (0.0, 0.0, 2.0, 2.0)]
    answers += [answer(0.0, 0.1, 0, 0, 0, "429"), answer(0.0, 0.5, 0.1, 3, 6, "cut"), answer(1.0, 0.5, 0, 0, 0)]
    found = figures.step_figures(answers, 0.0, 4.0)
    assert (found["requests"], found["completed"], found["empty"]) == (7, 4, 1)
    assert found["errors"] == {"429": 1, "cut": 1}
    assert found["reasons"] == ["429", "cut"]
    assert found["first_token_seconds"] == {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}
    assert found["gap_seconds"]["p50"] == 0.1
    # 80 tokens came within 4 s.
    assert found["tokens_per_second"] == 20.0
    assert found["requests_per_second"] == 1.0
    assert (found["prompt_tokens_mean"], found["answer_tokens_mean"]) == (100.0, 20.0)
    # 19 tokens after the first, in 0.9 s.
    assert found["stream_tokens_per_second"]["p50"] == pytest.approx(21.11, abs=0.01)


def test_what_came_after_the_first_stream_fell_idle_is_no_throughput() -> None:
    answers = [answer(0.0, 1.0, 0.0, 1, 10), answer(0.0, 9.0, 0.0, 1, 10)]
    found = figures.step_figures(answers, 0.0, 2.0)
    assert (found["tokens_per_second"], found["seconds"], found["window_seconds"]) == (5.0, 9.0, 2.0)


def test_percentiles_of_known_delays() -> None:
    answers = [answer(0.0, 0.01 * number, 0.001, 2, 2) for number in range(1, 102)]
    assert figures.step_figures(answers, 0.0, 1.0)["first_token_seconds"] == {
        "p50": 0.51, "p95": 0.96, "p99": 1.0, "max": 1.01,
    }  # fmt: skip


def test_a_step_of_failures_alone() -> None:
    found = figures.step_figures([answer(0.0, 0.1, 0, 0, 0, "5xx")], 0.0, 1.0)
    assert (found["tokens_per_second"], found["requests_per_second"], found["gap_seconds"]) == (0, 0, None)
    assert figures.failed_share(found) == 1


def step(concurrency: int, rate: float, wait: float = 0.5, pace: float = 50.0, completed: int = 100) -> dict[str, Any]:
    return {
        "concurrency": concurrency, "prompt_tokens": 256, "answer_tokens": 100, "prefix_cache": "cold",
        "requests": 100, "completed": completed, "tokens_per_second": rate, "requests_per_second": rate / 100,
        "first_token_seconds": {"p50": wait / 2, "p95": wait}, "stream_tokens_per_second": {"p50": pace},
    }  # fmt: skip


def test_users_by_the_law_of_little() -> None:
    steps = [step(1, 50), step(2, 100, 0.9), step(4, 200, 1.9), step(8, 210, 6.0)]
    # 4 under way, and 2 answers a second of people who think for 30 s.
    found = figures.capacity(steps, 2.0, 30.0)
    assert (found["users"], found["concurrency"], found["missed_at"]) == (64, 4, 8)
    assert figures.capacity(steps, 2.0, 0.0)["users"] == 4
    assert figures.capacity(steps, 10.0, 30.0)["missed_at"] is None
    assert figures.capacity(steps, 0.1, 30.0)["users"] == 0


def test_failures_bear_no_users_and_a_lucky_step_beyond_a_miss_neither() -> None:
    assert figures.capacity([step(1, 50), step(2, 100, completed=90)], 2.0, 10.0)["concurrency"] == 1
    assert figures.capacity([step(1, 50), step(2, 90, 5.0), step(4, 200, 1.0)], 2.0, 10.0)["concurrency"] == 1


CURVES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str, int | None]] = {
    "still growing": ([step(1, 50), step(2, 95), step(4, 180)], {}, "growing", None),
    "flat beyond the slots": ([step(1, 50), step(2, 95), step(4, 180), step(8, 182)], {"slots": 4}, "more_slots", 4),
    "one slot": ([step(1, 50), step(2, 51), step(4, 50)], {"slots": 1}, "more_slots", 1),
    "flat below the slots, memory idle": (
        [step(1, 50), step(2, 55, pace=27), step(4, 56, pace=14)], {"slots": 8, "bound": 100.0}, "another_engine", 2,
    ),
    "flat below the slots, memory busy": (
        [step(1, 50, pace=90), step(2, 52, pace=60), step(4, 52, pace=55)],
        {"slots": 8, "bound": 100.0}, "hardware", 1,
    ),
    "flat, bandwidth unknown": ([step(1, 50), step(2, 52), step(4, 52)], {"slots": 8}, "engine_or_hardware", 1),
    "processors": ([step(1, 50), step(2, 52), step(4, 52)], {"slots": 8, "on_gpu": False}, "hardware", 1),
    "two steps": ([step(1, 50), step(2, 52)], {}, "unknown", None),
    "failures": ([step(1, 50), step(2, 90), step(4, 90, completed=50)], {}, "unknown", None),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_what_would_raise_it(name: str) -> None:
    steps, known, verdict, knee = CURVES[name]
    given = {"slots": None, "bound": None, "on_gpu": True, **known}
    found = figures.advice(steps, **given)
    assert (found["verdict"], found["knee"]) == (verdict, knee)
    assert found["because"]


def test_growth_is_told_a_doubling() -> None:
    assert figures.growth(step(1, 50), step(4, 200)) == pytest.approx(2.0)
    assert figures.growth(step(2, 50), step(6, 0.0)) == 0


def test_curves_by_what_is_asked() -> None:
    rows = [step(4, 1), step(1, 1), {**step(1, 1), "prefix_cache": "warm"}]
    assert {key: [row["concurrency"] for row in found] for key, found in figures.series(rows).items()} == {
        ("cold", 256, 100): [1, 4], ("warm", 256, 100): [1],
    }  # fmt: skip
