# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans made from wishes: what is chosen, what is told, what could be changed."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _catalog, _hardware, _select
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import CATALOG, ENTRIES, GIB, HOST, JAPANESE, LIBRARY, chat, gpu, models, outcome, work

SEARCH = {"name": "search", "use": "embedding", "languages": ["ja"]}
ENTRY = {entry["name"]: entry for entry in CATALOG}
NAMES = ["RTX 4060", "RTX 4070", "RTX 4080", "RTX 4090", "RTX A6000", "H100 80GB HBM3"]


def rank(name: str, wishes: dict[str, Any]) -> int:
    data = {key: value for key, value in wishes.items() if key != "name"}
    asked = _candidates.chosen(work(**data), ENTRIES, _catalog.library(LIBRARY))
    return [entry.name for entry in asked].index(name)


def test_larger_gpus_get_better_japanese_models() -> None:
    chosen = [models(outcome(JAPANESE, [name])) for name in NAMES]
    ranks = [rank(talk["name"], JAPANESE[0]) for talk, _search in chosen]
    assert ranks == sorted(ranks, reverse=True)
    # Between two of these sizes there is no better model, and the larger GPU gives context.
    assert len(set(ranks)) >= 4
    for talk, search in chosen:
        assert _candidates.misfit(work(languages=["ja"]), ENTRIES[talk["name"]]) is None
        assert "ja" in ENTRIES[search["name"]].languages
        assert talk["slots"] >= 2
        assert talk["context_length"] >= 8192


def test_the_plan_says_why_the_second_lost() -> None:
    [model] = models(outcome([chat(languages=["ja"])], ["RTX 4080"]))
    assert model["name"] == "qwen3:14b"
    assert model["runner_up"] == {"model": "gpt-oss:20b", "reason": "swallow-ja of 2026-05-07: 0.521 against 0.524"}
    assert "published figures of swallow-ja of 2026-05-07" in model["order"]
    wishes = chat(languages=["ja"], quality="parameters", quantization="Q4_K_M")
    [by_size] = models(outcome([wishes], ["RTX 4080"]))
    assert by_size["runner_up"] == {"model": "phi4:14b", "reason": "released 2024-12, qwen3:14b 2025-04"}
    assert by_size["order"].endswith("as the wish is")
    [pinned] = models(outcome([chat(models=["qwen3:8b", "llama3.2:3b"])], ["RTX 4080"]))
    assert pinned["runner_up"] == {"model": "llama3.2:3b", "reason": "it stands after qwen3:8b in models"}


def test_every_model_turned_down_has_one_sentence_and_those_too_large_have_bytes() -> None:
    [model] = models(outcome([chat(languages=["ja"])], ["RTX 4080"]))
    reasons = {item["model"]: item["reason"] for item in model["rejected"]}
    assert "bytes) that one GPU has for models" in reasons["qwen3:32b"]
    assert reasons["llama3.3:70b"] == "its card does not name the language ja"
    chosen = rank(model["name"], chat(languages=["ja"]))
    assert all(rank(name, chat(languages=["ja"])) < chosen for name, reason in reasons.items() if "bytes" in reason)


def test_a_floor_of_the_quantization_is_kept() -> None:
    [model] = models(outcome([chat(quantization="Q8_0")], ["RTX 4090"]))
    assert model["quantization"] in ("Q8_0", "F16", "BF16")


def test_a_floor_of_the_speed_turns_down_what_the_memory_is_too_slow_for() -> None:
    host = _hardware.host_by_size({"memory_gib": 64, "channels": 2, "mega_transfers": 5600})
    named = outcome([chat(models=["qwen2.5:72b"])], [], host)
    assert "slower models out" in named.remarks[0]
    [any_speed] = models(named)
    [quick] = models(outcome([chat(languages=["ja"], quality="parameters", tokens_per_second=8)], [], host))
    assert any_speed["speed"]["tokens_per_second_bound"] < 8 <= quick["speed"]["tokens_per_second_bound"]
    reason = next(
        item["reason"] for item in quick["rejected"] if item["model"] == any_speed["name"].split("-instruct")[0]
    )
    assert re.search(r"at most \d+\.\d tokens a second, less than 8: each reads .* \(\d+ bytes\) at 89.6 GB/s", reason)


def test_nobody_waits_for_a_model_that_nobody_named() -> None:
    host = _hardware.host_by_size({"memory_gib": 64, "channels": 2, "mega_transfers": 5600})
    for size, told in ((host, "89.6 GB/s; name it"), ({"memory_total_bytes": 64 * GIB}, "which is not known; name it")):
        [model] = models(outcome([chat(languages=["ja"], quality="parameters")], [], size))
        [reason] = [item["reason"] for item in model["rejected"] if item["model"] == "qwen2.5:72b"]
        assert "at most 1.9 tokens a second, fewer than the 4.0 words a second that people read" in reason
        assert told in reason
        assert 89.6e9 / model["speed"]["active_bytes"] > 4
    [preferred] = models(outcome([chat(preferred=["qwen2.5:72b"])], [], host))
    assert preferred["name"] == "qwen2.5:72b"
    # A slow one serves where the quick one, a mixture, does not fit.
    two = [{**ENTRY[name], "variants": {}} for name in ("qwen3:30b-a3b", "gemma3:12b")]
    for gib, name, refused in ((64, "qwen3:30b-a3b", "gemma3:12b"), (16, "gemma3:12b", "qwen3:30b-a3b")):
        size = {"memory_total_bytes": gib * GIB, "memory_bandwidth": 20e9}
        [model] = models(outcome([chat()], [], size, two))
        assert model["name"] == name
        assert [item["model"] for item in model["rejected"]] == [refused]
    # Where all are slow, the order decides.
    slow = {**host, "memory_bandwidth": 1e9}
    [model] = models(outcome([chat(languages=["ja"], quality="parameters")], [], slow))
    assert model["name"].startswith("qwen2.5:72b")


def test_weights_that_are_published_in_four_bits_pass_the_floor_that_nobody_asked_for() -> None:
    wishes = {"use": "reasoning", "context_length": {"min": 32768, "max": 131072}}
    [model] = models(outcome([chat(**wishes)], ["RTX 4060 Ti 16GB"]))
    assert (model["name"], model["quantization"]) == ("gpt-oss:20b", "MXFP4")
    [asked] = models(outcome([chat(quantization="Q8_0", **wishes)], ["RTX 4090"]))
    assert asked["quantization"] == "Q8_0"


def test_a_model_that_nobody_named_has_room_for_a_document() -> None:
    [model] = models(outcome([chat(languages=["ja"])], ["12 GiB"]))
    assert model["context_length"] >= 8192
    [named] = models(outcome([chat(models=["llama3.3:70b"], slots=1)], [gpu(0, 43.5)]))
    assert named["context_length"] == 4096
    assert models(outcome([chat(context_length={"max": 2048})], ["12 GiB"]))[0]["context_length"] == 2048


def test_a_named_model_of_few_tokens_is_taken_as_it_is() -> None:
    short = {**ENTRY["qwen2.5:0.5b"], "name": "short:1b", "context_length": 2048, "variants": {}}
    [model] = models(outcome([chat(models=["short:1b"])], ["12 GiB"], catalog=[short]))
    assert model["context_length"] == 2048
    with pytest.raises(PlanError, match="2048 tokens, fewer than the 4096 asked for"):
        outcome([chat(models=["short:1b"], context_length=4096)], ["12 GiB"], catalog=[short])
    with pytest.raises(PlanError, match="that a context has at least where context_length does not say"):
        outcome([chat()], ["12 GiB"], catalog=[short])


def test_a_speed_that_cannot_be_judged_is_told() -> None:
    made = outcome([chat(models=["qwen3:8b"], tokens_per_second=8)], [gpu(0, 24)])
    assert "bandwidth, which is not known" in made.remarks[0]
    assert models(made)[0]["speed"]["tokens_per_second_bound"] is None


def test_the_bound_is_bandwidth_over_active_bytes() -> None:
    [model] = models(outcome([chat(models=["qwen3:8b"])], ["RTX 4090"]))
    speed = model["speed"]
    assert speed["tokens_per_second_bound"] == pytest.approx(1008e9 / speed["active_bytes"], abs=0.05)
    both = models(outcome([chat(models=["llama3.3:70b"])], ["2x RTX 4090"]))[0]["speed"]
    # Layers on two GPUs follow one another.
    assert both["tokens_per_second_bound"] == pytest.approx(1008e9 / both["active_bytes"], rel=0.01)


def test_what_does_not_fit_has_three_ways_out_and_each_is_one() -> None:
    wishes = chat(models=["qwen3:14b"], context_length=32768, slots=2)
    with pytest.raises(PlanError) as error:
        outcome([wishes], [gpu(0, 16)])
    message = str(error.value)
    assert re.search(r"The nearest miss is [\d.]+ GiB \(\d+ bytes\)", message)
    ways = message.rsplit(" models. ", 1)[1].rstrip(".").split("; or ")
    assert len(ways) == 3
    less = re.match(r"qwen3:14b would fit with (\d+) tokens of context and 1 slot", ways[0])
    assert less
    assert outcome([chat(models=["qwen3:14b"], context_length=int(less.group(1)), slots=1)], [gpu(0, 16)])
    assert ways[1] == "qwen3:14b would fit with a KV cache of type q8_0"
    assert outcome([wishes], [gpu(0, 16)], kv_cache_type="q8_0")
    other = ways[2].split(" ")[0]
    assert outcome([{**wishes, "models": [other]}], [gpu(0, 16)])


def test_another_card_is_the_last_way_out() -> None:
    wishes = chat(models=["llama3.3:70b"], context_length=4096, slots=1, quantization="Q4_K_M")
    with pytest.raises(PlanError, match=r"llama3.3:70b would fit on one A40 \(45.0 GiB\)"):
        outcome([wishes], [gpu(0, 40)], catalog=[ENTRY["llama3.3:70b"] | {"variants": {}}])
    with pytest.raises(PlanError) as error:
        outcome([wishes], [], HOST | {"memory_total_bytes": GIB}, catalog=[ENTRY["llama3.3:70b"]])
    assert "on one" not in str(error.value)


def test_a_smaller_quantization_is_a_way_out() -> None:
    with pytest.raises(PlanError, match=r"qwen2.5:32b-instruct-q3_K_M, Q3_K_M instead of Q4_K_M, would fit"):
        outcome([chat(models=["qwen2.5:32b"], context_length=8192, slots=1)], [gpu(0, 20)], kv_cache_type="q8_0")


def test_one_workload_less_is_a_way_out() -> None:
    second = {"name": "code", "use": "code", "models": ["qwen2.5-coder:7b"], "context_length": 4096, "slots": 1}
    first = chat(models=["qwen3:32b"], context_length=4096, slots=1)
    with pytest.raises(PlanError, match="the others would fit without the workload code, on another host"):
        outcome([first, second], [gpu(0, 23)], catalog=[ENTRY["qwen3:32b"], ENTRY["qwen2.5-coder:7b"]])
    assert outcome([first], [gpu(0, 23)])


def test_trade_offs_are_plans_of_their_own() -> None:
    made = outcome(JAPANESE, ["2x RTX 4090"], advise=True)
    changes = {change["change"]: change for change in made.tradeoffs}
    eighth = changes["KV cache q8_0 instead of f16"]
    again = models(outcome(JAPANESE, ["2x RTX 4090"], kv_cache_type="q8_0"))[0]
    assert (eighth["models"][0], eighth["context_length"], eighth["slots"]) == (
        again["name"], again["context_length"], again["slots"],
    )  # fmt: skip
    single = changes["1 instead of 2 GPUs"]
    assert single["models"] == [model["name"] for model in models(outcome(JAPANESE, ["RTX 4090"]))]


def test_every_term_is_explained_and_they_add_up() -> None:
    made = outcome([chat(models=["qwen3:8b"])], ["RTX 4090"], explain="qwen3:8b")
    [model] = models(made)
    on_gpu = sum(term["bytes"] for term in made.explained if term["device"] == "gpu0")
    assert on_gpu == model["account"]["total_bytes"]
    assert all(term["rule"] for term in made.explained)
    other = outcome([chat(models=["qwen3:8b"])], ["RTX 4090"], explain="llama3.3:70b").explained
    assert {term["model"] for term in other} == {"llama3.3:70b"}
    with pytest.raises(PlanError, match="explain: the model 'qwen3:9b'"):
        outcome([chat(models=["qwen3:8b"])], ["RTX 4090"], explain="qwen3:9b")


def test_instances_have_gpus_and_settings_of_their_own() -> None:
    slots = {"min": 4, "max": 8}
    second = {"name": "code", "use": "code", "models": ["qwen2.5-coder:7b"], "context_length": 4096, "slots": slots}
    wanted = [chat(models=["qwen3:32b"], context_length={"min": 4096, "max": 32768}, slots=1), second]
    one = outcome(wanted, [gpu(0, 48), gpu(1, 12)])
    assert len(one.plan["instances"]) == 1
    two = outcome(wanted, [gpu(0, 48), gpu(1, 12)], max_instances=2)
    first, second = two.plan["instances"]
    assert (first["name"], second["name"]) == ("ollama", "ollama-2")
    assert not set(first["gpus"]) & set(second["gpus"])
    assert (first["environment"]["OLLAMA_CONTEXT_LENGTH"], first["environment"]["OLLAMA_NUM_PARALLEL"]) == (
        "32768",
        "1",
    )
    assert (second["environment"]["OLLAMA_CONTEXT_LENGTH"], second["environment"]["OLLAMA_NUM_PARALLEL"]) == (
        "4096",
        "8",
    )
    assert {model["workload"] for model in first["models"]} == {"chat"}


def test_one_instance_is_kept_where_a_second_gives_nothing() -> None:
    made = outcome([chat(models=["qwen3:8b"], context_length=4096, slots=1)], [gpu(0, 24), gpu(1, 24)], max_instances=2)
    assert len(made.plan["instances"]) == 1
    assert made.plan["devices"][1]["planned_bytes"] == 0


def test_a_mig_instance_serves_and_is_never_joined_with_another() -> None:
    [model] = models(outcome([chat(models=["qwen3:8b"])], ["2x H200 MIG 1g.18gb"]))
    assert len(model["gpus"]) == 1
    with pytest.raises(PlanError, match="nothing fits"):
        outcome([chat(models=["qwen3:32b"], context_length=4096, slots=1)], ["2x H200 MIG 1g.18gb"])


def test_a_model_lies_partly_in_host_memory_only_where_that_is_wished() -> None:
    wishes = {"models": ["llama3.3:70b"], "context_length": 4096, "slots": 1}
    with pytest.raises(PlanError, match="nothing fits"):
        outcome([chat(**wishes)], ["RTX 4090"])
    host = _hardware.host_by_size({"memory_gib": 128, "channels": 2, "mega_transfers": 5600})
    [model] = models(outcome([chat(**wishes, hybrid=True)], ["RTX 4090"], host))
    part = model["hybrid"]
    assert 0 < part["layers_on_gpu"] < model["layers"]
    assert part["host_bytes"] > 10 * GIB
    assert model["account"]["total_bytes"] <= model["account"]["budget_bytes"]
    # Most of a token's time goes to what lies in the host's slow memory.
    assert 1 < model["speed"]["tokens_per_second_bound"] < 10
    with pytest.raises(PlanError, match="nothing fits"):
        outcome([chat(**wishes, hybrid=True)], ["RTX 4090"], _hardware.host_by_size({"memory_gib": 16}))


def test_a_workload_for_other_hosts_is_left_to_them() -> None:
    wanted = [
        chat(models=["qwen3:8b"]),
        {"name": "code", "use": "code", "models": ["qwen2.5-coder:7b"], "hosts": ["node2"]},
    ]
    assert [model["workload"] for model in models(outcome(wanted, [gpu(0, 48)]))] == ["chat"]
    with pytest.raises(PlanError, match="'node1' is in none of them"):
        outcome([{**wanted[1]}], [gpu(0, 48)])


def test_the_engine_gets_the_operators_margin() -> None:
    made = outcome([chat(models=["qwen3:8b"])], [gpu(0, 24)], fit_target_bytes=2 * GIB)
    [instance] = made.plan["instances"]
    assert instance["environment"]["LLAMA_ARG_FIT_TARGET"] == "2048"
    assert made.plan["devices"][0]["budget_bytes"] == 22 * GIB
    plain = outcome([chat(models=["qwen3:8b"])], [gpu(0, 24)])
    assert "LLAMA_ARG_FIT_TARGET" not in plain.plan["instances"][0]["environment"]


def test_without_a_gpu_the_output_buffer_is_one_of_the_buffers() -> None:
    """A runner's log names it among them: 458.2 MiB where the others are 456.2."""
    made = outcome([chat(models=["qwen3:8b"], context_length=4096, slots=2)], [], explain="qwen3:8b")
    account = models(made)[0]["account"]
    sizes = {row["term"]: row["bytes"] for row in made.explained if row["device"] == "host"}
    assert sizes["output_buffer"] == 2 * 4 * 151936
    assert account["total_bytes"] == sum(sizes.values()) == made.plan["devices"][0]["planned_bytes"]
    assert account["compute_bytes"] == sizes["compute"] + sizes["output_buffer"]
    parts = ("weights_bytes", "kv_cache_bytes", "compute_bytes", "overhead_bytes")
    assert sum(account[part] for part in parts) == account["total_bytes"]


def test_each_gpu_counts_with_its_own_cuda_context() -> None:
    wanted = [chat(models=["qwen3:4b"])]
    [small] = models(outcome(wanted, ["RTX 4060 Ti 16GB"]))
    [other] = models(outcome(wanted, ["RTX 4080"]))
    [given] = models(outcome(wanted, ["RTX 4080"], cuda_context_bytes=3))
    overheads = [made["account"]["overhead_bytes"] for made in (small, other, given)]
    assert overheads == [107 << 20, 555 << 20, 3]
    for made in (small, other, given):
        account = made["account"]
        parts = ("weights_bytes", "kv_cache_bytes", "compute_bytes", "overhead_bytes")
        assert sum(account[part] for part in parts) == account["total_bytes"]
    told = {
        row["device"]: row["bytes"]
        for row in outcome(wanted, ["RTX 4060 Ti"], explain="qwen3:4b").explained
        if row["term"] == "cuda_context"
    }
    assert told == {"gpu0": 107 << 20}


def test_a_vision_model_counts_with_its_projector_on_the_first_gpu() -> None:
    wanted = [chat(models=["gemma3:4b"], context_length=4096, slots=1)]
    blind = [{**entry, "uses": ["chat"]} if entry["name"] == "gemma3:4b" else entry for entry in CATALOG]
    apart = [{**entry, "projector_bytes": 5} if entry["name"] == "gemma3:4b" else entry for entry in CATALOG]
    made = {
        name: outcome(wanted, [gpu(0, 24)], catalog=catalog, explain="gemma3:4b")
        for name, catalog in (("within", CATALOG), ("none", blind), ("apart", apart))
    }
    accounts = {name: models(one)[0]["account"] for name, one in made.items()}
    assert "projector_bytes" not in accounts["none"]
    assert (accounts["within"]["projector_bytes"], accounts["apart"]["projector_bytes"]) == (GIB, GIB + 5)
    for name, more in (("within", GIB), ("apart", GIB + 5)):
        for part in ("total_bytes", "overhead_bytes"):
            assert accounts[name][part] == accounts["none"][part] + more
        [row] = [row for row in made[name].explained if row["term"] == "projector"]
        assert (row["device"], row["bytes"]) == ("GPU-0", more)
        # Without it Ollama would keep the projector free twice.
        environment = made[name].plan["instances"][0]["environment"]
        assert environment["LLAMA_ARG_FIT_TARGET"] == "1024"
    assert "LLAMA_ARG_FIT_TARGET" not in made["none"].plan["instances"][0]["environment"]
    on_cpu = outcome(wanted, [], {"memory_total_bytes": 64 * GIB, "memory_available_bytes": 60 * GIB})
    assert "LLAMA_ARG_FIT_TARGET" not in on_cpu.plan["instances"][0]["environment"]
    assert models(on_cpu)[0]["account"]["overhead_bytes"] == GIB
    assert on_cpu.plan["devices"][0]["planned_bytes"] == models(on_cpu)[0]["account"]["total_bytes"]


def test_a_vision_model_that_misses_by_its_projector_alone_does_not_fit() -> None:
    wanted = [chat(models=["gemma3:4b"], context_length=4096, slots=1)]
    need = models(outcome(wanted, [gpu(0, 24)]))[0]["account"]["total_bytes"] + GIB
    assert outcome(wanted, [gpu(0, (need + 2**20) / GIB)])
    with pytest.raises(PlanError, match="misses by"):
        outcome(wanted, [gpu(0, (need - 2**20) / GIB)])


@pytest.mark.parametrize(("wanted", "kept", "overhead"), [(1024, 1024, 567), (457, 457, 0), (0, 457, 0)])
def test_before_0_30_the_margin_is_457_mib_and_an_overhead(wanted: int, kept: int, overhead: int) -> None:
    made = outcome([chat(models=["qwen3:8b"])], [gpu(0, 24)], fit_target_bytes=wanted * 2**20, engine_version="0.17.7")
    [instance] = made.plan["instances"]
    assert made.plan["devices"][0]["budget_bytes"] == 24 * GIB - kept * 2**20
    assert instance["environment"]["OLLAMA_GPU_OVERHEAD"] == str(overhead * 2**20)
    assert "LLAMA_ARG_FIT_TARGET" not in instance["environment"]
    # qwen3 runs in Ollama's own engine.
    assert [model["account"]["confidence"] for model in instance["models"]] == ["low"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"headroom_bytes": -1}, "headroom_bytes is -1"),
        ({"max_instances": 0}, "max_instances is 0"),
        ({"fit_target_bytes": 2**60}, "fit_target_bytes is"),
    ],
)
def test_refuses_absurd_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        outcome([chat()], [gpu(0, 24)], **options)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        pytest.param(
            {"languages": ["tlh"]}, r"languages has 'tlh', which no entry for chat has; known are ar, ", id="Klingon"
        ),
        pytest.param(
            {"licences": ["Apache 2"]},
            r"did you mean 'Apache-2.0'\? It would be served without licences, by \S+ and \d+ more$",
            id="misspelt licence",
        ),
        pytest.param(
            {"models": ["llama3.3:70b"], "licences": ["MIT"]},
            "^no model of the workload chat can serve it: llama3.3:70b: its licence is Llama 3.3 Community, allowed "
            "are MIT. It would be served without licences, by llama3.3:70b$",
            id="named model of another licence",
        ),
        pytest.param(
            {"models": ["qwen2.5:7b"], "context_length": 65536},
            "fewer than the 65536 asked for. It would be served with a context_length of at most 32768, by qwen2.5:7b$",
            id="context above the model's",
        ),
        pytest.param(
            {"quantization": "F32"},
            "It would be served with the quantization BF16, by ",
            id="floor above all quantizations",
        ),
        pytest.param(
            {"models": ["qwen3:8b"], "quantization": "Q8_0"},
            "is below Q8_0. It would be served with the quantization Q4_K_M, by qwen3:8b$",
            id="named model below the floor",
        ),
        pytest.param(
            {"models": ["qwen3:8b"], "tokens_per_second": 5000},
            r"It would be served with tokens_per_second of at most \d+(\.\d)?, by qwen3:8b$",
            id="speed of no GPU",
        ),
        pytest.param(
            {"models": ["gemma3:4b"], "capabilities": ["tools"]}, "without capabilities, by gemma3:4b$", id="tools"
        ),
        pytest.param(
            {"quality": "jmmlu"},
            "quality is 'jmmlu', of which no model for chat has a figure; ",
            id="no such figures",
        ),
        pytest.param(
            {"models": ["llama3.3:70b"], "licences": ["MIT"], "languages": ["ja"]}, "the language ja$", id="two wishes"
        ),
    ],
)
def test_wishes_that_nothing_meets_say_which_one_is_in_the_way(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        outcome([chat(**wishes)], ["RTX 4090"])


def test_what_is_wrong_with_several_workloads_is_told_at_once() -> None:
    wanted = [chat(models=["gemma3:271m"]), {"name": "code", "models": ["qwen3:8b"], "licences": ["MIT"]}]
    with pytest.raises(PlanError, match=r"no tag '271m'.*; no model of the workload code can serve it"):
        outcome(wanted, ["RTX 4090"])
    with pytest.raises(PlanError, match=r"workload chat: slots is 0.*; workload code: users is -1"):
        outcome([chat(slots=0), {"name": "code", "users": -1}], ["RTX 4090"])


def test_a_model_partly_in_host_memory_needs_a_gpu_and_the_host_to_itself() -> None:
    with pytest.raises(PlanError, match="workload chat: hybrid is true, and the host has no GPU"):
        outcome([chat(hybrid=True)], [])
    with pytest.raises(PlanError, match=r"hybrid is true.* take hybrid away, or give search another host"):
        outcome([chat(hybrid=True), SEARCH], ["RTX 4090"])


def test_hardware_by_name_is_none_that_hosts_leaves_out() -> None:
    assert models(outcome([chat(hosts=["a"])], ["RTX 4090"], host_name=""))
    with pytest.raises(PlanError, match="'b' is in none of them"):
        outcome([chat(hosts=["a"])], ["RTX 4090"], host_name="b")


def test_hardware_that_would_do_is_named() -> None:
    with pytest.raises(PlanError, match=r"deepseek-r1:671b would fit on 4 H200 \(.* each\)"):
        outcome([chat(models=["deepseek-r1:671b"])], ["RTX 4090"])
    with pytest.raises(PlanError, match=r"llama3.3:70b would fit on a host with 64 GiB of memory"):
        outcome([chat(models=["llama3.3:70b"])], [], {"memory_total_bytes": 16 * GIB})


def placed(wanted: list[dict[str, Any]], gpus: list[dict[str, Any]], **options: Any) -> _select.Outcome | None:
    with contextlib.suppress(PlanError):
        return outcome(wanted, gpus, HOST, **options)
    return None


WISHES = st.builds(
    lambda languages, low, slots, floor: chat(
        languages=languages,
        context_length={"min": low, "max": 32768},
        slots={"min": 1, "max": slots},
        quantization=floor,
    ),
    st.sampled_from([["ja"], ["en"]]),
    st.sampled_from([2048, 8192]),
    st.integers(1, 4),
    st.sampled_from(["Q4_0", "Q8_0"]),
)


@settings(max_examples=40, deadline=None)
@given(WISHES, st.lists(st.integers(4, 90), min_size=0, max_size=4), st.booleans(), st.integers(1, 2))
def test_no_plan_is_over_its_budget_and_each_is_the_same_again(
    wishes: dict[str, Any], sizes: list[int], both: bool, instances: int
) -> None:
    wanted = [wishes, SEARCH] if both else [wishes]
    gpus = [gpu(number, size) for number, size in enumerate(sizes)]
    made = placed(wanted, gpus, max_instances=instances)
    if made is None:
        return
    again = placed(wanted, gpus, max_instances=instances)
    assert again
    assert again.plan == made.plan
    for device in made.plan["devices"]:
        assert 0 <= device["planned_bytes"] <= device["budget_bytes"] <= device["free_bytes"]
    used = [set(instance["gpus"]) for instance in made.plan["instances"]]
    assert sum(map(len, used)) == len(set().union(*used))
    for model in models(made):
        assert model["slots"] >= 1
        if model["use"] == "chat":
            assert wishes["context_length"]["min"] <= model["context_length"] <= 32768


@settings(max_examples=40, deadline=None)
@given(WISHES, st.integers(4, 60), st.integers(1, 30))
def test_more_memory_is_never_worse(wishes: dict[str, Any], size: int, more: int) -> None:
    small, large = placed([wishes], [gpu(0, size)]), placed([wishes], [gpu(0, size + more)])
    if small is None:
        return
    assert large
    [before], [after] = models(small), models(large)
    ranks = [rank(model["name"], wishes) for model in (before, after)]
    assert ranks[1] <= ranks[0]
    if ranks[0] == ranks[1]:
        assert (after["context_length"], after["slots"]) >= (before["context_length"], before["slots"])


@settings(max_examples=25, deadline=None)
@given(WISHES, st.lists(st.integers(6, 50), min_size=1, max_size=3), st.integers(6, 50))
def test_one_gpu_more_is_never_worse(wishes: dict[str, Any], sizes: list[int], more: int) -> None:
    gpus = [gpu(number, size) for number, size in enumerate(sizes)]
    small, large = placed([wishes], gpus), placed([wishes], [*gpus, gpu(9, more)])
    if small is None:
        return
    assert large
    assert rank(models(large)[0]["name"], wishes) <= rank(models(small)[0]["name"], wishes)


def test_the_model_that_would_unload_the_others_is_loaded_first() -> None:
    search = {"name": "search", "use": "embedding", "models": ["bge-m3:567m"]}
    made = outcome([search, chat(models=["qwen3:8b"], context_length=4096)], [gpu(0, 24)])
    assert [(model["name"], model["load_order"]) for model in models(made)] == [("bge-m3:567m", 1), ("qwen3:8b", 0)]
