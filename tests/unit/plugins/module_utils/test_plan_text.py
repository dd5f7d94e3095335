# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as people read them."""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _fleet, _hardware, _plan_text
from plan_cases import HOST, JAPANESE, chat, gpu, outcome


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


def test_a_fleet_names_hosts_and_idle_gpus() -> None:
    plans = {"b": outcome([chat(models=["qwen3:8b"], context_length=4096, slots=1)], [gpu(0, 24), gpu(1, 24)]).plan,
             "a": outcome([chat(models=["qwen3:8b"])], []).plan}  # fmt: skip
    told = _fleet.summary(plans)
    lines = _plan_text.fleet_lines(told["serves"], told["idle"])
    assert [line.split()[:2] for line in lines[1:3]] == [["chat", "a"], ["chat", "b"]]
    assert lines[1].endswith("CPU")
    assert lines[3] == "idle on b: GPU-1"


def test_an_account_is_a_table_with_each_rule_once_below() -> None:
    made = outcome(
        [chat(models=["gemma3:27b"], context_length=4096)], [gpu(0, 16), gpu(1, 16)], HOST, explain="gemma3:27b"
    )
    lines = _plan_text.explained_lines(made.explained)
    assert lines[0] == "the account of gemma3:27b"
    below = lines.index("its rules")
    heading, *rows = lines[1:below]
    for column in ("bytes", "MiB"):
        end = heading.index(column) + len(column)
        assert all(row[end - 1].isdigit() and row[end : end + 1] in ("", " ") for row in rows)
    cells = [row.split(maxsplit=4) for row in rows]
    assert all(f"{int(size) / 2**20:.1f}" == mebibytes for _device, _term, size, mebibytes, *_rule in cells)
    for device in ("GPU-0", "GPU-1"):
        sizes = [int(row[2]) for row in cells if row[0] == device]
        assert sum(sizes[:-1]) == sizes[-1] == made.plan["devices"][int(device[-1])]["planned_bytes"]
    # The devices first, then what lies on none, each together.
    order = [row[0] for row in cells]
    assert sorted(set(order), key=order.index) == ["GPU-0", "GPU-1", "host", "scheduler", "token"]
    assert order == sorted(order, key=order.index)
    names = {row[4] for row in cells if len(row) > 4}
    told = [line for line in lines[below + 1 :] if not line.startswith("   ")]
    assert {next(name for name in names if line.startswith(f"  {name}  ")) for line in told} == names
    assert len(told) == len(names) >= 6
    text = " ".join(" ".join(lines[below + 1 :]).split())
    assert all(text.count(" ".join(term["rule"].split())) == 1 for term in made.explained)
    assert max(map(len, lines)) <= 120
