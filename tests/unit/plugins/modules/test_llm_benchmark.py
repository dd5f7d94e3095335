# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llm_benchmark against a scripted server: what it asks, what it measures, and where it stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.streaming_server import Script, serving

Run = Callable[..., dict[str, Any]]
KEY = "key-of-a-user-that-nobody-sees"
SMALL: dict[str, Any] = {
    "model": "m", "addresses": [], "concurrency": [1, 4], "prompt_tokens": [60], "answer_tokens": [8],
    "prefix_cache": ["cold"], "requests_per_stream": 2, "timeout": 10,
}  # fmt: skip


def prompts(server: Any) -> list[str]:
    return [body["messages"][0]["content"] for body in server.bodies]


def test_figures_of_a_server_with_known_delays(run: Run) -> None:
    with serving(lambda _number, _body: Script(first=0.1, gap=0.02, pieces=8)) as (url, server):
        result = run("llm_benchmark", url=url, api_key=KEY, **SMALL)
    assert [row["concurrency"] for row in result["steps"]] == [1, 4]
    assert server.most == 4
    for row in result["steps"]:
        assert row["requests"] == row["completed"] == 2 * row["concurrency"]
        assert 0.1 <= row["first_token_seconds"]["p50"] < 0.5
        assert 0.019 <= row["gap_seconds"]["p50"] < 0.2
        # Eight tokens take 0.24 s at least.
        assert 0 < row["tokens_per_second"] <= row["concurrency"] * 8 / 0.24 + 0.1
        assert row["answer_tokens_mean"] == 8
        assert row["prompt_tokens_mean"] == pytest.approx(60, abs=2)
    slow, fast = (row["tokens_per_second"] for row in result["steps"])
    assert fast > 2 * slow
    assert result["tokens"] == sum(
        body["max_tokens"] + 2 * len(text.split()) + 7 for body, text in zip(server.bodies, prompts(server))
    )
    assert (result["stopped"], result["changed"], result["asked"]) == ("", False, True)
    assert KEY not in str(result)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert all(body["stream_options"] == {"include_usage": True} for body in server.bodies)


def test_slots_are_seen_in_the_first_token_and_the_knee(run: Run) -> None:
    # Two at once take 0.1 s each: the third waits.
    with serving(lambda _number, _body: Script(first=0.02, gap=0.02, pieces=5), slots=2) as (url, _server):
        given = {**SMALL, "concurrency": [1, 2, 8], "requests_per_stream": 3, "slots": 2, "think_seconds": 1}
        result = run("llm_benchmark", url=url, first_token_goal=0.15, **given)
    one, two, eight = result["steps"]
    assert two["tokens_per_second"] > 1.5 * one["tokens_per_second"]
    assert eight["tokens_per_second"] < 1.4 * two["tokens_per_second"]
    assert eight["first_token_seconds"]["p95"] > 0.2
    (capacity,) = result["capacity"]
    assert (capacity["concurrency"], capacity["missed_at"]) == (2, 8)
    # A thinker of 1 s between answers of 0.1 s: far more users than streams.
    assert capacity["users"] > 8
    assert (capacity["advice"]["verdict"], capacity["advice"]["knee"]) == ("more_slots", 2)


def test_cold_prompts_begin_as_none_before_and_warm_ones_alike(run: Run) -> None:
    with serving(lambda _number, _body: Script()) as (url, server):
        run("llm_benchmark", url=url, **{**SMALL, "prefix_cache": ["cold", "warm"], "concurrency": [2]})
    texts = prompts(server)
    assignment = texts[0].partition(":")[0]
    assert all(text.startswith(assignment) for text in texts)
    # Two by which a word is measured, four cold; then two that warm up, and four.
    cold, warm = texts[2:6], texts[6:]
    assert len({text.partition(": ")[2][:25] for text in cold}) == 4
    assert len(warm) == 6
    assert len({" ".join(text.split()[:-8]) for text in warm}) == 1
    assert len(set(warm)) == 6
    assert [body["max_tokens"] for body in server.bodies[6:8]] == [1, 1]


def test_two_runs_share_no_prompt_unless_told_to(run: Run) -> None:
    with serving(lambda _number, _body: Script()) as (url, server):
        for seed in (None, None, 7, 7):
            run("llm_benchmark", url=url, **{**SMALL, "concurrency": [1]}, **({} if seed is None else {"seed": seed}))
    texts = prompts(server)
    assert len(set(texts[:8])) == 8
    assert texts[8:12] == texts[12:16]


def test_failures_are_counted_apart(run: Run) -> None:
    failing = {4: Script(status=429), 5: Script(status=503), 6: Script(ending="cut"), 7: Script(ending="error")}
    with serving(lambda number, _body: failing.get(number, Script())) as (url, _server):
        result = run("llm_benchmark", url=url, **{**SMALL, "concurrency": [2], "requests_per_stream": 8})
    (row,) = result["steps"]
    assert row["errors"] == {"429": 1, "5xx": 1, "error": 1, "cut": 1}
    assert row["completed"] == 12
    assert result["capacity"][0]["users"] == 0


def test_a_curve_ends_where_most_is_refused(run: Run) -> None:
    refused = Script(status=429)
    with serving(lambda number, _body: Script() if number < 4 else refused) as (url, server):
        result = run("llm_benchmark", url=url, **{**SMALL, "concurrency": [1, 2, 4], "requests_per_stream": 2})
    assert [row["concurrency"] for row in result["steps"]] == [1, 2]
    assert result["steps"][1]["errors"] == {"429": 4}
    assert len(server.bodies) == 8


def test_it_stops_at_its_tokens(run: Run) -> None:
    with serving(lambda _number, _body: Script(pieces=8)) as (url, _server):
        given = {**SMALL, "concurrency": [1, 2, 4], "requests_per_stream": 4, "total_tokens": 1400}
        result = run("llm_benchmark", url=url, **given)
    assert result["stopped"] == "total_tokens are used up"
    assert result["tokens"] <= 1400
    assert len(result["steps"]) < 3


def test_it_stops_at_its_time(run: Run) -> None:
    begun = time.monotonic()
    with serving(lambda _number, _body: Script(first=0.2)) as (url, _server):
        result = run("llm_benchmark", url=url, **{**SMALL, "requests_per_stream": 100, "total_seconds": 1.5})
    assert result["stopped"] == "total_seconds are over"
    assert time.monotonic() - begun < 5
    assert result["steps"][0]["requests"] < 100


def test_a_step_has_its_own_time(run: Run) -> None:
    with serving(lambda _number, _body: Script(first=0.1)) as (url, _server):
        result = run("llm_benchmark", url=url, **{**SMALL, "requests_per_stream": 100, "step_seconds": 0.5})
    assert [row["concurrency"] for row in result["steps"]] == [1, 4]
    assert all(row["requests"] < 30 for row in result["steps"])


def test_check_mode_asks_nothing_and_says_what_it_would(run: Run) -> None:
    with serving(lambda _number, _body: Script()) as (url, server):
        result = run("llm_benchmark", check_mode=True, url=url, **SMALL)
    assert server.bodies == []
    assert (result["asked"], result["steps"]) == (False, [])
    assert result["asks"] == {"steps": 2, "requests": 10, "tokens": 10 * 68, "seconds": 1200}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "http://192.0.2.7:11434"}, "192.0.2.7 is no address of the inventory (10.0.0.1)"),
        ({"url": "http://10.0.0.1:11434/api"}, "without a path"),
        ({"concurrency": [0, 1000]}, "concurrency: 0 must be from 1 to 256; concurrency: 1000 must be"),
        ({"concurrency": []}, "each needs a value"),
        ({"prompt_tokens": [-1]}, "prompt_tokens: -1"),
        ({"total_tokens": 0}, "total_tokens: 0 must be above 0"),
        ({"timeout": -1}, "timeout: -1 must be above 0"),
        ({"first_token_goal": 0}, "first_token_goal: 0 must be above 0"),
        ({"think_seconds": -5}, "think_seconds: -5 must be 0 or more"),
        ({"prefix_cache": ["hot"]}, "prefix_cache"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_wishes(run: Run, given: dict[str, Any], said: str) -> None:
    result = run("llm_benchmark", **{"url": "http://10.0.0.1:1", **SMALL, "addresses": ["10.0.0.1"], **given})
    assert result["failed"]
    assert said in result["msg"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(status=404, words='{"error": {"message": "model \'m\' not found"}}'), "model 'm' not found"),
        (Script(ending="no usage"), "without telling its usage"),
        (Script(ending="no JSON"), "no JSON object"),
    ],
    ids=["no such model", "no usage", "no JSON"],
)
def test_a_server_that_cannot_be_measured(run: Run, script: Script, said: str) -> None:
    with serving(lambda _number, _body: script) as (url, _server):
        result = run("llm_benchmark", url=url, **SMALL)
    assert result["failed"]
    assert said in result["msg"]


def test_authorities_that_are_not_there(run: Run) -> None:
    result = run("llm_benchmark", url="https://127.0.0.1:1", ca_path="/nonexistent/ca.crt", **SMALL)
    assert result["failed"]
