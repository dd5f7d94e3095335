"""What loads took raises the next plan's account, and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _measurements, _memory, _select

DIGEST = "ab" * 32
GIB = 2**30
ENTRY = {
    "name": "small:1b",
    "source": {"type": "registry", "digest": f"sha256:{DIGEST}"},
    "size_bytes": GIB,
    "quantization": "Q4_K_M",
    "uses": ["chat"],
    "shape": {
        "architecture": "llama",
        "block_count": 16,
        "embedding_length": 2048,
        "feed_forward_length": 8192,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "context_length": 131072,
        "vocabulary": 128256,
    },
}
GPU = {"uuid": "GPU-1", "name": "NVIDIA L4", "memory_total_bytes": 24 * GIB, "memory_free_bytes": 23 * GIB}
HOST = {"memory_total_bytes": 64 * GIB, "memory_available_bytes": 60 * GIB}
WORK = [{"name": "chat", "models": ["small:1b"], "context_length": 8192, "slots": 2}]


def plan(measurements: list | None = None, gpus: int = 1) -> dict:
    options = _select.Options(engine_version="0.32.15", measured=_measurements.taken(measurements))
    there = [GPU | {"uuid": f"GPU-{number}"} for number in range(gpus)]
    return _select.make_plan(WORK, there, HOST, [ENTRY], options)[0]


def model_of(made: dict) -> dict:
    return made["instances"][0]["models"][0]


def measured(made: dict, size: int) -> list[dict]:
    finding = {"model": "small:1b", "digest": DIGEST, "measured_bytes": size}
    return _measurements.kept(None, [finding], made)


@pytest.mark.parametrize("gpus", [0, 1])
def test_more_than_planned_is_counted_with(gpus: int) -> None:
    first = plan(gpus=gpus)
    account = model_of(first)["account"]
    size = account["total_bytes"] - account["overhead_bytes"] + 100 * _memory.MIB
    again = model_of(plan(measured(first, size), gpus))["account"]
    assert again["total_bytes"] - again["overhead_bytes"] == size
    assert again["compute_bytes"] == account["compute_bytes"] + 100 * _memory.MIB
    assert again["confidence"] == "high"


@pytest.mark.parametrize("less", [500 * _memory.MIB, 0, -8 * _memory.MIB])
def test_less_or_hardly_more_changes_nothing(less: int) -> None:
    first = plan()
    account = model_of(first)["account"]
    size = account["total_bytes"] - account["overhead_bytes"] - less
    assert plan(measured(first, size)) == first


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "cd" * 32},
        {"context_length": 4096},
        {"slots": 1},
        {"kv_cache_type": "q8_0"},
        {"engine_version": "0.32.14"},
        {"gpus": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_load_says_nothing(other: dict) -> None:
    first = plan()
    (item,) = measured(first, 20 * GIB)
    assert plan([item]) != first
    assert plan([item | other]) == first


def test_same_load_is_kept_once_and_the_oldest_go() -> None:
    first = plan()
    (item,) = measured(first, GIB)
    newer = {"model": "small:1b", "digest": DIGEST, "measured_bytes": 2 * GIB}
    assert _measurements.kept([item], [newer], first) == [item | {"bytes": 2 * GIB}]
    assert _measurements.kept([item], [newer | {"measured_bytes": None}], first) == [item]
    many = [item | {"context_length": number} for number in range(_measurements.MOST)]
    after = _measurements.kept(many, [newer], first)
    assert (len(after), after[0]["context_length"], after[-1]["bytes"]) == (_measurements.MOST, 1, 2 * GIB)


@pytest.mark.parametrize("kept", [None, {}, "x", [1], [{}], [{"digest": DIGEST, "bytes": -1}]])
def test_what_is_broken_is_passed_over(kept: object) -> None:
    assert _measurements.taken(kept) == {}


def test_a_host_that_no_longer_fits_is_told() -> None:
    first = plan()
    with pytest.raises(_select.PlanError, match="nothing fits"):
        plan(measured(first, 30 * GIB))


def test_differences_are_told_in_bytes() -> None:
    finding = {"model": "small:1b", "measured_bytes": 1100 * _memory.MIB, "planned_bytes": 1000 * _memory.MIB}
    (more,) = _measurements.differences([finding])
    assert "took 1.1 GiB (1153433600 bytes)" in more
    assert "10.0 % more; the next plan counts with what it took" in more
    (less,) = _measurements.differences([finding | {"measured_bytes": 900 * _memory.MIB}])
    assert "10.0 % less; the plan stays as it is" in less
    assert _measurements.differences([finding | {"measured_bytes": 1010 * _memory.MIB}]) == []
    assert _measurements.differences([finding | {"measured_bytes": None}]) == []


def test_loads_are_told_apart_by_all_that_decides() -> None:
    assert [item.name for item in dataclasses.fields(_measurements.Load)] == [
        "digest",
        "context_length",
        "slots",
        "kv_cache_type",
        "engine_version",
        "gpus",
    ]
