# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as people read them."""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _fleet, _hardware, _plan_text
from plan_cases import JAPANESE, chat, gpu, outcome


def test_a_plan_is_a_table_with_reasons() -> None:
    made = outcome(JAPANESE, ["2x RTX 4090"], advise=True)
    lines = _plan_text.plan_lines(made.plan, made.remarks, made.tradeoffs, {"gpu0": "RTX 4090", "gpu1": "RTX 4090"})
    assert lines[0] == "ollama on RTX 4090, RTX 4090"
    heading, talk, search = lines[1:4]
    assert heading.split()[:5] == ["workload", "model", "quantization", "context", "slots"]
    assert talk.split()[:2] == ["chat", "qwen3:32b"]
    assert talk.index("qwen3:32b") == heading.index("model") == search.index("qwen3-embedding")
    assert any("OLLAMA_NUM_PARALLEL=" in line for line in lines)
    assert "  chat: runner-up qwen3:14b: swallow-ja of 2026-05-07: 0.524 against 0.533" in lines
    assert any(line.startswith("  chat: not gpt-oss:120b: needs") for line in lines)
    assert any(line.startswith("KV cache q8_0 instead of f16: qwen3:32b") for line in lines)
    # No sentence about a model is left out without a word.
    assert any("more were turned down" in line for line in lines)


def test_what_is_idle_and_what_is_noted_stand_at_the_end() -> None:
    made = outcome(
        [chat(models=["qwen3:8b"], context_length=4096, slots=1, tokens_per_second=5)], [gpu(0, 24), gpu(1, 24)]
    )
    lines = _plan_text.plan_lines(made.plan, made.remarks)
    assert lines[-2:] == ["idle: GPU-1", "note: " + made.remarks[0]]


def test_a_hybrid_model_says_where_it_lies() -> None:
    host = _hardware.host_by_size({"memory_gib": 128})
    wishes = chat(models=["llama3.3:70b"], context_length=4096, slots=1, hybrid=True)
    lines = _plan_text.plan_lines(outcome([wishes], ["RTX 4090"], host).plan)
    assert any("of 81 layers on the GPU" in line and "in the host's memory" in line for line in lines)


def test_terms_are_a_table() -> None:
    made = outcome([chat(models=["qwen3:8b"])], ["RTX 4090"], explain="qwen3:8b")
    lines = _plan_text.explained_lines(made.explained)
    assert lines[0].split() == ["model", "device", "term", "bytes", "rule"]
    assert len(lines) == 1 + len(made.explained)
    assert _plan_text.explained_lines([]) == []


def test_a_fleet_names_hosts_and_idle_gpus() -> None:
    plans = {"b": outcome([chat(models=["qwen3:8b"], context_length=4096, slots=1)], [gpu(0, 24), gpu(1, 24)]).plan,
             "a": outcome([chat(models=["qwen3:8b"])], []).plan}  # fmt: skip
    told = _fleet.summary(plans)
    lines = _plan_text.fleet_lines(told["serves"], told["idle"])
    assert [line.split()[:2] for line in lines[1:3]] == [["chat", "a"], ["chat", "b"]]
    assert lines[1].endswith("CPU")
    assert lines[3] == "idle on b: GPU-1"
