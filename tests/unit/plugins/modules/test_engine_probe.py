# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""engine_probe against a small Ollama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ollama_fake import State, digest, serve

Run = Callable[..., dict[str, Any]]
CHAT = {"name": "chat:1", "use": "chat", "account": {"total_bytes": 4000}}
EMBED = {"name": "embed", "use": "embedding", "account": {"total_bytes": 4000}}
PROMPTS = ["One,", "Two,"]


@pytest.fixture
def engine() -> Iterator[tuple[State, str]]:
    with serve() as (state, url):
        state.put("chat:1", digest(b"chat"))
        state.put("clerk:1", digest(b"chat"))
        state.put("embed:latest", digest(b"embed"))
        yield state, url


def test_every_model_answers_every_prompt(run: Run, engine: tuple[State, str]) -> None:
    state, url = engine
    result = run("engine_probe", api_url=url, models=[CHAT, EMBED], prompts=PROMPTS, judge=True)
    assert result["faults"] == []
    assert result["probe"]["chat:1"]["answers"] == ["x", "x"]
    assert result["probe"]["chat:1"]["size_bytes"] == 2000
    assert result["probe"]["embed"]["answers"] == [[0.6, 0.8]] * 2
    (first, _second) = state.asked("/api/generate")
    assert first["options"] == {"seed": 0, "temperature": 0, "num_predict": 32}
    assert first["keep_alive"] == -1


def test_a_model_that_shares_its_runner_is_in_memory(run: Run, engine: tuple[State, str]) -> None:
    state, url = engine
    run("engine_probe", api_url=url, models=[{**CHAT, "name": "clerk:1"}], prompts=PROMPTS)
    result = run("engine_probe", api_url=url, models=[CHAT], prompts=PROMPTS, judge=True)
    assert list(state.running) == ["clerk:1"]
    assert result["probe"]["chat:1"]["size_bytes"] == 2000


def test_one_that_fails_is_told_and_the_others_are_asked(run: Run, engine: tuple[State, str]) -> None:
    state, url = engine
    state.load_errors["chat:1"] = "unknown model architecture: 'mllama'"
    result = run("engine_probe", api_url=url, models=[CHAT, EMBED], prompts=PROMPTS, judge=True)
    assert result["failed"]
    assert result["msg"] == "chat:1 does not answer: unknown model architecture: 'mllama'"
    assert result["probe"]["embed"]["error"] == ""


def test_other_answers_than_before_fail(run: Run, engine: tuple[State, str]) -> None:
    before = {"chat:1": {"answers": ["four, five", "three"], "size_bytes": 2000}}
    arguments = {"api_url": engine[1], "models": [CHAT], "prompts": PROMPTS, "before": before}
    assert "agrees with its answers before by 0.00" in run("engine_probe", judge=True, **arguments)["msg"]
    assert not run("engine_probe", judge=True, answer_agreement=0, **arguments).get("failed")
    measured = run("engine_probe", **arguments)
    assert not measured.get("failed")
    assert len(measured["faults"]) == 1


def test_the_time_is_bounded(run: Run, engine: tuple[State, str]) -> None:
    engine[0].load_seconds = 30.0
    result = run("engine_probe", api_url=engine[1], models=[CHAT, EMBED], prompts=PROMPTS, judge=True, seconds=0.5)
    assert result["seconds"] < 5
    assert "gave no answer" in result["msg"]
    assert "embed does not answer" in result["msg"]


def test_an_engine_that_is_down_fails(run: Run) -> None:
    result = run("engine_probe", api_url="http://127.0.0.1:9", models=[CHAT], prompts=PROMPTS, judge=True)
    assert "cannot be reached" in result["msg"]
    assert "is no address" in run("engine_probe", api_url="ftp://x", models=[CHAT], prompts=PROMPTS)["msg"]
