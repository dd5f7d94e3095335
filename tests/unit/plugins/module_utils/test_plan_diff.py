# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new plan would change of what runs, before anything changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _plan_diff
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import JAPANESE, chat, gpu, outcome

SMALL = outcome([chat(models=["qwen3:8b"], context_length=8192, slots=4)], [gpu(0, 24)]).plan
LARGE = outcome([chat(models=["qwen3:14b"], context_length=16384, slots=2)], [gpu(0, 24)]).plan
TWO = outcome(JAPANESE, [gpu(0, 48)]).plan


def test_another_model_goes_out_and_in() -> None:
    assert _plan_diff.changes(SMALL, LARGE) == [
        (
            "chat: -qwen3:8b Q4_K_M, 8192 tokens x 4 slots, KV cache f16, on GPU-0; "
            "+qwen3:14b Q4_K_M, 16384 tokens x 2 slots, KV cache f16, on GPU-0"
        ),
        "ollama: OLLAMA_CONTEXT_LENGTH 8192 -> 16384, OLLAMA_NUM_PARALLEL 4 -> 2",
    ]


def test_a_workload_more_and_less() -> None:
    [talk, search] = TWO["instances"][0]["models"]
    one = copy.deepcopy(TWO)
    one["instances"][0]["models"] = one["instances"][0]["models"][:1]
    [more] = _plan_diff.changes(one, TWO)
    assert more.startswith(f"search: +{search['name']} {search['quantization']}, ")
    [less] = _plan_diff.changes(TWO, one)
    assert less == more.replace("+", "-")
    assert talk["workload"] == "chat"


def changed(plan: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A copy of the plan with another value of its only model, instance or engine."""
    made = copy.deepcopy(plan)
    [instance] = made["instances"]
    for key, value in values.items():
        owner = made["engine"] if key == "version" else instance if key in instance else instance["models"][0]
        owner[key] = value
    return made


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"context_length": 4096, "slots": 8}, ["chat: qwen3:8b Q4_K_M: 8192 -> 4096 tokens a slot, 4 -> 8 slots"]),
        ({"kv_cache_type": "q8_0"}, ["chat: qwen3:8b Q4_K_M: KV cache f16 -> q8_0"]),
        ({"source": {"type": "registry", "digest": None}},
         ["chat: qwen3:8b Q4_K_M: weights a3de86cd1c13 -> weights not pinned"]),
        ({"gpus": ["GPU-1", "GPU-2"]}, ["ollama: from GPU-0 to GPU-1 + GPU-2"]),
        ({"gpus": []}, ["ollama: from GPU-0 to the CPU"]),
        ({"version": "0.33.0"}, ["engine 0.32.15 -> 0.33.0"]),
        ({"environment": {"OLLAMA_FLASH_ATTENTION": "0", "LLAMA_ARG_FIT_TARGET": "512"}},
         [("ollama: +LLAMA_ARG_FIT_TARGET=512, -OLLAMA_CONTEXT_LENGTH=8192, OLLAMA_FLASH_ATTENTION 1 -> 0, "
          "-OLLAMA_KV_CACHE_TYPE=f16, -OLLAMA_MAX_LOADED_MODELS=1, -OLLAMA_NUM_PARALLEL=4")]),
        ({"quantization": "Q8_0"},
         [("chat: -qwen3:8b Q4_K_M, 8192 tokens x 4 slots, KV cache f16, on GPU-0; "
          "+qwen3:8b Q8_0, 8192 tokens x 4 slots, KV cache f16, on GPU-0")]),
    ],
)  # fmt: skip
def test_one_thing_changed_is_told_alone(values: dict[str, Any], told: list[str]) -> None:
    assert _plan_diff.changes(SMALL, changed(SMALL, **values)) == told


def test_a_models_own_gpus_are_told() -> None:
    other = copy.deepcopy(SMALL)
    other["instances"][0]["models"][0]["gpus"] = []
    assert _plan_diff.changes(SMALL, other) == ["chat: qwen3:8b Q4_K_M: from GPU-0 to the CPU"]


def test_another_instance_is_told_with_its_models() -> None:
    more = copy.deepcopy(SMALL)
    more["instances"].append({**copy.deepcopy(TWO["instances"][0]), "name": "ollama-2", "gpus": ["GPU-1"]})
    more["instances"][1]["models"] = more["instances"][1]["models"][1:]
    [model, instance] = _plan_diff.changes(SMALL, more)
    assert model.startswith("search: +")
    assert instance == "+ollama-2 on GPU-1"
    assert _plan_diff.changes(more, SMALL)[1] == "-ollama-2 on GPU-1"


def test_what_does_not_run_is_no_change() -> None:
    """Free memory, reasons and bounds differ from run to run."""
    other = copy.deepcopy(SMALL)
    other["devices"][0]["free_bytes"] -= 1
    other["instances"][0]["models"][0]["rejected"] = [{"model": "a", "reason": "b"}]
    other["instances"][0]["models"][0]["account"]["total_bytes"] += 1
    for plan in (SMALL, other):
        assert _plan_diff.changes(SMALL, plan) == []
        assert _plan_diff.stated(plan) == _plan_diff.stated(SMALL) != []


@pytest.mark.parametrize("before", [None, {}, [], "x", {"schema": 2, "instances": []}, {"schema": 1, "instances": []}])
def test_without_a_plan_in_force_nothing_is_told(before: Any) -> None:
    assert _plan_diff.changes(before, SMALL) == []
    assert _plan_diff.stated(before) == []


def test_a_plan_of_an_earlier_release_may_lack_what_this_one_has() -> None:
    before = copy.deepcopy(SMALL)
    for key in ("kv_cache_type", "source", "quantization", "gpus"):
        del before["instances"][0]["models"][0][key]
    del before["engine"], before["instances"][0]["environment"]
    assert len(_plan_diff.changes(before, SMALL)) == 3


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "context_length": st.sampled_from([8192, 4096]),
        "slots": st.sampled_from([4, 2]),
        "gpus": st.sampled_from([["GPU-0"], []]),
        "version": st.sampled_from(["0.32.15", "0.33.0"]),
        "environment": st.sampled_from([{}, {"A": "1"}, {"A": "2"}]),
        "name": st.sampled_from(["ollama", "ollama-2"]),
    },
)


@given(VALUES, VALUES)
def test_sentences_and_lines_see_the_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    before, after = changed(SMALL, **first), changed(SMALL, **second)
    assert bool(_plan_diff.changes(before, after)) == (_plan_diff.stated(before) != _plan_diff.stated(after))
