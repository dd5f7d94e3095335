# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice: order, context, slots, placement, stability, and what it says when nothing fits."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _hardware, _select
from hypothesis import given, settings
from hypothesis import strategies as st

CATALOG = yaml.safe_load(
    (Path(__file__).resolve().parents[4] / "roles/models/files/catalog.yml").read_text(encoding="utf-8")
)
GIB = 2**30
HOST = {"memory_total_bytes": 64 * GIB, "memory_available_bytes": 60 * GIB, "cpu_count": 16}


def gpu(number: int, total: int, used: int = 0) -> dict[str, Any]:
    return {"uuid": f"GPU-{number}", "index": number, "memory_total_bytes": total, "memory_free_bytes": total - used}


def chat(*models: str, context: Any = None, slots: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": "chat", "models": list(models), "context_length": context, "slots": slots, **more}


def plan(
    workloads: list[dict[str, Any]],
    gpus: list[dict[str, Any]],
    current: Any = None,
    catalog: list[dict[str, Any]] | None = None,
    host: dict[str, Any] = HOST,
    **options: Any,
) -> dict[str, Any]:
    settings_ = _select.Options(**{"engine_version": "0.32.15", "host_name": "node1", **options})
    made, _remarks = _select.make_plan(
        workloads, gpus, host, CATALOG if catalog is None else catalog, settings_, current
    )
    return made


def models(made: dict[str, Any]) -> list[dict[str, Any]]:
    return made["instances"][0]["models"]


def test_the_operators_order_decides_and_what_was_turned_down_says_by_how_much() -> None:
    made = plan([chat("llama3.3:70b", "qwen3:14b", "qwen3:8b", context=8192)], [gpu(0, 24 * GIB)])
    [model] = models(made)
    assert model["name"] == "qwen3:14b"
    [rejected] = model["rejected"]
    assert rejected["model"] == "llama3.3:70b"
    account = model["account"]
    assert account["total_bytes"] == sum(
        account[key] for key in ("weights_bytes", "kv_cache_bytes", "compute_bytes", "overhead_bytes")
    )
    assert account["total_bytes"] <= account["budget_bytes"] == 23 * GIB
    # What it says it missed by is the need less the budget.
    numbers = [
        int(word) for word in rejected["reason"].replace("(", " ").split() if word.isdigit() and int(word) > 9999
    ]
    need, short, room = numbers
    assert need - room == short > 0
    assert room == 23 * GIB


def test_changing_the_memory_changes_the_plan() -> None:
    wanted = [
        chat("llama3.3:70b", "qwen3:14b", "qwen3:8b", context={"min": 4096, "max": 32768}, slots={"min": 1, "max": 8})
    ]
    chosen = {}
    for size in (8, 12, 16, 24, 48, 80):
        [model] = models(plan(wanted, [gpu(0, size * GIB)]))
        chosen[size] = (model["name"], model["context_length"], model["slots"])
    assert len(set(chosen.values())) == len(chosen), chosen
    assert chosen[8][0] == "qwen3:8b"
    assert chosen[80][0] == "llama3.3:70b"


def test_the_largest_context_is_taken_before_the_most_slots() -> None:
    wanted = [chat("qwen3:8b", context={"min": 4096, "max": 32768}, slots={"min": 1, "max": 8})]
    [small] = models(plan(wanted, [gpu(0, 12 * GIB)]))
    [large] = models(plan(wanted, [gpu(0, 24 * GIB)]))
    assert (small["context_length"], small["slots"]) == (32768, 1)
    assert (large["context_length"], large["slots"]) == (32768, 3)


def test_settings_of_the_instance_are_those_of_its_models() -> None:
    search = {"name": "search", "use": "embedding", "models": ["nomic-embed-text"], "slots": 1}
    made = plan([chat("qwen3:8b", context=8192, slots=2), search], [gpu(0, 24 * GIB)], kv_cache_type="q8_0")
    [instance] = made["instances"]
    assert instance["environment"] == {
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_NUM_PARALLEL": "2",
    }
    talk, embed = instance["models"]
    assert (talk["context_length"], talk["slots"]) == (8192, 2)
    assert (embed["context_length"], embed["slots"]) == (2048, 1)
    [device] = made["devices"]
    assert device["planned_bytes"] == sum(model["account"]["total_bytes"] for model in instance["models"])


def test_all_workloads_share_the_memory() -> None:
    other = {
        "name": "code",
        "use": "code",
        "models": ["qwen2.5-coder:14b", "qwen2.5-coder:7b"],
        "context_length": 4096,
        "slots": 1,
    }
    talk = chat("qwen3:14b", context=4096, slots=1)
    assert [model["name"] for model in models(plan([talk, other], [gpu(0, 24 * GIB)]))] == [
        "qwen3:14b",
        "qwen2.5-coder:14b",
    ]
    first, second = models(plan([talk, other], [gpu(0, 20 * GIB)]))
    assert (first["name"], second["name"]) == ("qwen3:14b", "qwen2.5-coder:7b")
    assert "beside the other workloads" in second["rejected"][0]["reason"]


def test_a_model_of_two_workloads_is_counted_once() -> None:
    made = plan([chat("qwen3:8b", context=4096), chat("qwen3:8b", context=4096) | {"name": "rag"}], [gpu(0, 24 * GIB)])
    assert made["instances"][0]["environment"]["OLLAMA_MAX_LOADED_MODELS"] == "1"
    assert made["devices"][0]["planned_bytes"] == models(made)[0]["account"]["total_bytes"]


def test_one_gpu_is_taken_where_it_holds_everything() -> None:
    made = plan([chat("qwen3:8b", context=4096, slots=1)], [gpu(0, 12 * GIB), gpu(1, 16 * GIB)])
    assert made["instances"][0]["gpus"] == ["GPU-1"]


def test_a_model_too_large_for_one_gpu_is_split_over_all() -> None:
    made = plan([chat("llama3.3:70b", context=4096, slots=1)], [gpu(0, 32 * GIB), gpu(1, 32 * GIB)])
    [model] = models(made)
    assert model["gpus"] == made["instances"][0]["gpus"] == ["GPU-0", "GPU-1"]
    assert model["account"]["confidence"] == "low"
    assert model["account"]["overhead_bytes"] == 2 * _hardware.CUDA_CONTEXT_BYTES
    assert all(0 < device["planned_bytes"] <= device["budget_bytes"] for device in made["devices"])


def test_a_host_without_gpu_keeps_a_share_free_and_takes_the_fewest_slots() -> None:
    made = plan([chat("qwen3:8b", context={"min": 4096, "max": 16384}, slots={"min": 1, "max": 8})], [])
    [instance] = made["instances"]
    assert instance["gpus"] == []
    assert instance["environment"]["OLLAMA_NUM_PARALLEL"] == "1"
    assert made["devices"][0]["budget_bytes"] == 48 * GIB
    busy = plan([chat("qwen3:8b", context=4096)], [], host={**HOST, "memory_available_bytes": 20 * GIB})
    assert busy["devices"][0]["budget_bytes"] == 20 * GIB


def test_the_plan_stands_when_its_own_models_are_loaded() -> None:
    wanted = [chat("qwen3:14b", "qwen3:8b", context={"min": 4096, "max": 32768}, slots={"min": 1, "max": 4})]
    first = plan(wanted, [gpu(0, 24 * GIB)])
    ours = first["devices"][0]["planned_bytes"]
    assert plan(wanted, [gpu(0, 24 * GIB, used=ours)], current=first) == first
    with pytest.raises(_select.PlanError, match="nothing fits"):
        plan(wanted, [gpu(0, 24 * GIB, used=ours)])


def test_the_plan_of_a_loaded_host_follows_changed_wishes_and_hardware() -> None:
    first = plan([chat("qwen3:8b", context=4096, slots=1)], [gpu(0, 24 * GIB)])
    loaded = [gpu(0, 24 * GIB, used=first["devices"][0]["planned_bytes"])]
    assert models(plan([chat("qwen3:14b", context=4096, slots=1)], loaded, current=first))[0]["name"] == "qwen3:14b"
    larger = plan([chat("qwen3:8b", context=4096, slots=1)], [gpu(0, 48 * GIB)], current=first)
    assert larger["devices"][0]["budget_bytes"] == 47 * GIB


def test_memory_that_something_else_took_since_is_told() -> None:
    wanted = [chat("qwen3:8b", context=4096, slots=1)]
    first = plan(wanted, [gpu(0, 24 * GIB)])
    used = first["devices"][0]["planned_bytes"] + 8 * GIB
    settings_ = _select.Options("0.32.15")
    second, remarks = _select.make_plan(wanted, [gpu(0, 24 * GIB, used)], HOST, CATALOG, settings_, first)
    assert second["devices"] == first["devices"]
    assert "something else takes memory" in remarks[0]


@pytest.mark.parametrize(
    "current", [None, {}, [], {"schema": 2, "devices": 5}, {"schema": 1, "devices": [3, {"id": 4}]}]
)
def test_a_plan_in_force_that_is_none_is_no_matter(current: Any) -> None:
    assert plan([chat("qwen3:8b")], [gpu(0, 24 * GIB)], current=current) == plan([chat("qwen3:8b")], [gpu(0, 24 * GIB)])


def test_mig_gpus_are_left_out() -> None:
    divided = {**gpu(0, 140 * GIB), "mig_mode": "Enabled"}
    made, remarks = _select.make_plan(
        [chat("qwen3:8b")], [divided, gpu(1, 24 * GIB)], HOST, CATALOG, _select.Options("0.32.15")
    )
    assert made["instances"][0]["gpus"] == ["GPU-1"]
    assert "MIG" in remarks[0]
    with pytest.raises(_select.PlanError, match="MIG"):
        plan([chat("qwen3:8b")], [divided])


def test_a_gguf_file_gives_exact_weights_and_its_own_quantization(gguf_file: Callable[..., str]) -> None:
    path = gguf_file()
    entry = {"name": "mine:1", "source": {"type": "gguf", "path": path, "sha256": "a5" * 32}}
    [model] = models(plan([chat("mine:1")], [gpu(0, 8 * GIB)], catalog=[entry]))
    assert model["source"] == entry["source"]
    assert (model["quantization"], model["layers"], model["account"]["confidence"]) == ("Q4_K_M", 4, "medium")


def test_context_is_clamped_to_what_the_model_was_trained_for(gguf_file: Callable[..., str]) -> None:
    entry = {"name": "mine:1", "source": {"type": "gguf", "path": gguf_file(context=3000)}}
    [model] = models(plan([chat("mine:1", context={"min": 1024, "max": 65536})], [gpu(0, 8 * GIB)], catalog=[entry]))
    assert model["context_length"] == 3000


@pytest.mark.parametrize(
    ("work", "says"),
    [
        pytest.param(chat("qwen3:14"), "did you mean 'qwen3:14b'", id="unknown tag"),
        pytest.param(chat("gemma2:9b", context=16384), "trained for 8192 tokens, fewer than the 16384", id="untrained"),
        pytest.param(chat("bge-m3:567m"), "is an embedding model and cannot serve chat", id="chat by an encoder"),
        pytest.param(chat("qwen3:8b", use="embedding"), "no embedding model", id="embedding by a chat model"),
        pytest.param(chat("qwen3.5:27b", slots=4), "one slot, 4 are asked for", id="one-slot architecture"),
        pytest.param(chat("qwen3.5:9b"), "hyper-parameters are not in the catalog", id="no shape"),
        pytest.param(chat(), "models is \\[\\]", id="no models"),
        pytest.param(chat("qwen3:8b", context=0), "context_length is 0", id="no context"),
        pytest.param(chat("qwen3:8b", context={"min": 8, "max": 4}), "min <= max", id="min above max"),
        pytest.param(chat("qwen3:8b", slots="many"), "slots is 'many'", id="slots in words"),
        pytest.param(chat("qwen3:8b", size=3), "no field 'size'", id="unknown field"),
        pytest.param({"models": ["x"]}, "with a name is needed", id="no name"),
    ],
)
def test_refuses_wrong_workloads(work: dict[str, Any], says: str) -> None:
    with pytest.raises(_select.PlanError, match=says):
        plan([work], [gpu(0, 80 * GIB)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine_version": "latest"}, "'latest'; a full version"),
        ({"kv_cache_type": "q2"}, "f16, q8_0 or q4_0"),
        ({"kv_cache_type": "q8_0", "flash_attention": False}, "needs flash attention"),
        ({"host_memory_fraction": 1.5}, "above 0 and up to 1"),
    ],
)
def test_refuses_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(_select.PlanError, match=says):
        plan([chat("qwen3:8b")], [gpu(0, 80 * GIB)], **options)


def test_a_model_file_that_cannot_be_read_is_named(tmp_path: Any) -> None:
    gone = str(tmp_path / "gone.gguf")
    with pytest.raises(_select.PlanError, match=rf"{gone}.*No such file"):
        plan([chat("mine:1")], [gpu(0, GIB)], catalog=[{"name": "mine:1", "source": {"type": "gguf", "path": gone}}])
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(_select.PlanError, match=r"bad.gguf.*does not begin with the letters GGUF"):
        plan(
            [chat("m")],
            [gpu(0, GIB)],
            catalog=[{"name": "m", "source": {"type": "gguf", "path": str(tmp_path / "bad.gguf")}}],
        )


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    with pytest.raises(_select.PlanError) as error:
        plan([chat("llama3.3:70b", "qwen3:32b", context=8192)], [gpu(0, 12 * GIB)])
    message = str(error.value)
    assert message.startswith("nothing fits on node1. The nearest miss is ")
    assert "qwen3:32b for chat needs" in message
    assert "of the catalog would fit for the workload chat" in message
    # The advice is good.
    advised = message.rsplit(". ", 1)[1].split(" ")[0]
    assert models(plan([chat(advised, context=8192)], [gpu(0, 12 * GIB)]))[0]["name"] == advised


def test_less_context_is_advised_where_that_is_enough() -> None:
    with pytest.raises(_select.PlanError, match=r"qwen3:8b would fit with 32768 tokens of context and 1 slot"):
        plan([chat("qwen3:8b", context=40960, slots=2)], [gpu(0, 12 * GIB)])
    assert plan([chat("qwen3:8b", context=32768, slots=1)], [gpu(0, 12 * GIB)])


def test_headroom_is_kept() -> None:
    made = plan([chat("qwen3:8b")], [gpu(0, 24 * GIB)], headroom_bytes=5 * GIB)
    assert made["devices"][0]["budget_bytes"] == 18 * GIB


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 200), min_size=0, max_size=4),
    st.integers(1, 6),
    st.sampled_from([4096, 8192, {"min": 2048, "max": 131072}, {"min": 1000, "max": 5000}]),
)
def test_whatever_is_planned_fits_its_devices_and_is_the_same_again(sizes: list[int], slots: int, context: Any) -> None:
    gpus = [gpu(number, size * GIB) for number, size in enumerate(sizes)]
    wanted = [
        chat("llama3.3:70b", "gpt-oss:20b", "qwen3:8b", "llama3.2:1b", context=context, slots={"min": 1, "max": slots}),
        {
            "name": "embed",
            "use": "embedding",
            "models": ["bge-m3:567m", "nomic-embed-text"],
            "slots": 1,
            "context_length": 512,
        },
    ]
    before = copy.deepcopy((wanted, gpus))
    made = None
    with contextlib.suppress(_select.PlanError):
        made = plan(wanted, gpus)
    if made is None:
        # Five GiB hold the smallest of these models beside the embedding one, at each of the contexts' least.
        assert max(sizes) < 5
        return
    assert (wanted, gpus) == before
    assert plan(wanted, gpus) == made
    for device in made["devices"]:
        assert device["planned_bytes"] <= device["budget_bytes"]
    assert sum(device["planned_bytes"] for device in made["devices"]) == sum(
        model["account"]["total_bytes"] for model in models(made)
    )
