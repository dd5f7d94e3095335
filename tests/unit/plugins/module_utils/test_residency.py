# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ollama's own scheduler: its prediction, its batch, where it puts models and what it would unload."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _hardware, _memory, _residency
from plan_cases import ENTRIES, GIB

MIB = 2**20
ENGINE = _residency.Engine((0, 32, 15), "f16", True)


def model(name: str, file_bytes: int | None = None) -> _candidates.Candidate:
    made = _candidates.candidate(ENTRIES[name])
    return made if file_bytes is None else replace(made, file_bytes=file_bytes)


def device(number: int, size: float) -> _hardware.Device:
    total = int(size * GIB)
    return _hardware.Device(f"GPU-{number}", total, total, total - GIB)


def reside(
    names: list[str], sizes: list[float], context: int = 4096, slots: int = 1, spread: bool = False,
    engine: _residency.Engine = ENGINE,
) -> _residency.Residence:  # fmt: skip
    devices = [device(number, size) for number, size in enumerate(sizes)]
    return _residency.Accounts(engine).reside([model(name) for name in names], context, slots, devices, spread)


def test_the_prediction_is_file_and_f16_cache_of_every_layer() -> None:
    # qwen3:8b: 36 layers, 8 KV heads, head size 4096 / 32, and 2 slots of 8192 tokens.
    assert _residency.prediction(model("qwen3:8b"), 8192, 2) == 5225374496 + 2 * 36 * 8 * 128 * 16384 * 2
    # The head size is derived from the width, whatever the header states: qwen3:32b has 5120 / 64, not 128.
    assert _residency.prediction(model("qwen3:32b"), 4096, 1) == 20201240160 + 2 * 64 * 8 * 80 * 4096 * 2
    # Never more tokens than the model was trained for, one slot for an embedding model.
    trained = 2 * 12 * 12 * 64 * 2048 * 2
    assert _residency.prediction(model("nomic-embed-text:latest"), 8192, 4) == 274290656 + trained


@pytest.mark.parametrize(
    ("context", "slots", "free", "expected"),
    [
        pytest.param(4096, 1, 80 * GIB, (512, 0), id="short context"),
        pytest.param(8192, 1, 80 * GIB, (1024, 768 * MIB), id="medium context"),
        pytest.param(32768, 2, 80 * GIB, (2048, 2 * GIB), id="long context of all slots"),
        pytest.param(32768, 2, 20 * GIB, (1024, 768 * MIB), id="too little headroom for the large batch"),
        pytest.param(32768, 2, 16 * GIB, (512, 0), id="too little headroom for any"),
    ],
)
def test_the_batch_steps_down_where_headroom_is_short(
    context: int, slots: int, free: int, expected: tuple[int, int]
) -> None:
    assert _residency.batch(model("qwen3:8b"), context, slots, free) == expected


def test_one_gpu_holds_what_fits() -> None:
    found = reside(["qwen3:8b", "bge-m3:567m"], [16])
    assert found.fits
    assert all(list(share) == ["GPU-0"] for share in found.bytes_on)


def test_what_is_missing_is_counted_in_bytes() -> None:
    found = reside(["qwen3:32b"], [16])
    assert not found.fits
    assert 5 * GIB < found.short < 8 * GIB


def test_each_model_goes_to_the_emptiest_gpu_that_the_engine_thinks_is_enough() -> None:
    found = reside(["gpt-oss:20b", "qwen3:14b"], [24, 16])
    assert [list(share) for share in found.bytes_on] == [["GPU-0"], ["GPU-1"]]


def test_what_the_engine_thinks_is_too_much_for_one_gpu_lies_on_all() -> None:
    found = reside(["qwen3:32b"], [24, 24])
    # It would fit on one: 20 GiB of 23. The engine takes 80 % of what is free at most.
    assert found.fits
    assert list(found.bytes_on[0]) == ["GPU-0", "GPU-1"]
    assert reside(["qwen3:32b"], [24]).fits


def test_the_engine_takes_one_gpu_for_what_is_more_than_it_thinks_unless_it_is_told_to_spread() -> None:
    # The prediction of qwen3:32b has five eighths of its cache.
    alone = reside(["qwen3:32b"], [80, 80], context=32768, slots=8)
    spread = reside(["qwen3:32b"], [80, 80], context=32768, slots=8, spread=True)
    assert alone.short
    assert spread.fits
    assert spread.spread


def test_a_model_that_the_engine_would_make_room_for_is_no_neighbour() -> None:
    # There is room for both by the account; the engine expects 9.3 GiB, more than 80 % of the 11.3 that are left.
    found = reside(["gpt-oss:20b", "qwen3:14b"], [24.85])
    assert not found.short
    assert "would unload the others for qwen3:14b" in found.reason
    # Before 0.30 there was no such prediction.
    assert reside(["gpt-oss:20b", "qwen3:14b"], [24.85], engine=replace(ENGINE, version=(0, 17, 7))).fits


def test_before_0_30_the_fewest_gpus_are_taken_that_hold_the_layers() -> None:
    """Of three GPUs two, by what is free on them; newer engines would take all three."""
    old = replace(ENGINE, version=(0, 17, 7))
    found = reside(["qwen3:32b"], [14, 16, 15], engine=old)
    assert set(found.bytes_on[0]) == {"GPU-1", "GPU-2"}
    assert set(reside(["qwen3:32b"], [14, 16, 15]).bytes_on[0]) == {"GPU-0", "GPU-1", "GPU-2"}
    assert set(reside(["qwen3:32b"], [14, 16, 15], spread=True, engine=old).bytes_on[0]) == {"GPU-0", "GPU-1", "GPU-2"}


def test_the_largest_may_take_all_but_what_the_others_need() -> None:
    assert reside(["qwen3:14b", "bge-m3:567m"], [14.5]).fits


def test_a_model_of_two_workloads_is_loaded_once() -> None:
    found = reside(["qwen3:8b", "qwen3:8b"], [8.5])
    assert found.fits
    assert found.bytes_on[0] == found.bytes_on[1]


def test_a_full_device_holds_nothing_and_breaks_nothing() -> None:
    full = replace(device(0, 24), free=0, budget=0)
    assert _residency.Accounts(ENGINE).reside([model("qwen3:8b")], 4096, 1, [full, full]).short


def test_what_the_engine_refuses_is_no_residence_at_that_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def several(shape: _memory.Shape, setting: _memory.Setting, on_gpu: bool) -> str | None:
        return "it crashes with several slots" if setting.slots > 1 else None

    monkeypatch.setattr(_memory, "refusal", several)
    assert reside(["qwen3:8b"], [24], slots=1).fits
    assert reside(["qwen3:8b"], [24], slots=2).reason == "qwen3:8b: it crashes with several slots"
