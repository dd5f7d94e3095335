# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory account against llama.cpp's own planner, and by hand where a figure can be had by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _gguf, _memory, _select
from gguf_files import F16, F32, Q4_K, gguf_header, llama

CATALOG = _catalog.merge(
    yaml.safe_load((Path(__file__).resolve().parents[4] / "roles/models/files/catalog.yml").read_text(encoding="utf-8"))
)
MIB = 2**20


def shape(**arguments: Any) -> _memory.Shape:
    data = llama(**arguments)
    return _memory.shape_from_header(_gguf.read_header(io.BytesIO(data), len(data)))


# Model, context, slots, cache type, flash attention, batch; KV cache and compute buffers in bytes as llama.cpp v0.5.0
# plans them (no_alloc, everything on one device that follows the CUDA backend's rules).
PLANNED = [
    ("llama3.2:1b", 4096, 4, "f16", False, 1024, 536870912, 591409280),
    ("llama3.2:1b", 2048, 4, "q4_0", True, 1024, 75497472, 130076800),
    ("qwen3:8b", 16384, 1, "q8_0", True, 1024, 1283457024, 234983552),
    ("qwen3:8b", 16384, 4, "q4_0", True, 2048, 2717908992, 469885056),
    ("gemma3:27b", 2048, 4, "q8_0", True, 1024, 2210398208, 333648000),
    ("gemma3:27b", 2048, 4, "f16", True, 1024, 4160749568, 333484160),
    ("gemma2:9b", 8192, 1, "q8_0", True, 1024, 1216610304, 250155136),
    ("gpt-oss:20b", 131072, 1, "f16", False, 2048, 3277848576, 69943206016),
    ("gpt-oss:20b", 131072, 1, "f16", True, 2048, 3277848576, 910237824),
    ("phi4:14b", 2048, 4, "f16", True, 1024, 1677721600, 266358912),
    ("qwen3.5:27b", 8192, 1, "f16", True, 1024, 693764096, 272662784),
    ("qwen3:30b-a3b", 65536, 1, "q8_0", True, 2048, 3422552064, 620880000),
]


@pytest.mark.parametrize(("name", "context", "slots", "cache", "flash", "batch", "kv", "compute"), PLANNED)
def test_a_catalog_entry_agrees_with_llama_cpps_planner(
    name: str, context: int, slots: int, cache: str, flash: bool, batch: int, kv: int, compute: int
) -> None:
    model = _select.candidate(CATALOG[name]).shape
    run = _memory.Run(context, slots, cache, cache, flash, batch)
    (gpu,) = _memory.place(model, run).gpus
    assert (gpu.kv_cache, gpu.compute) == (kv, compute)


def test_weights_are_exact_and_tied_embeddings_count_on_both_sides() -> None:
    tied = shape(layers=1, width=512, heads=4, kv_heads=4, feed_forward=512, vocabulary=1024, kind=F16)
    embedding, square, norm = 2 * 512 * 1024, 2 * 512 * 512, 4 * 512
    assert tied.weights.device == embedding + 7 * square + 2 * norm
    assert tied.weights.host == embedding + 7 * square + 2 * norm
    assert tied.weights.layers == (7 * square + norm,)
    assert tied.weights.output == embedding + norm


def test_untied_input_embeddings_stay_with_the_host() -> None:
    values = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": 256, "llama.attention.head_count": 2,
    }  # fmt: skip
    tensors = [("token_embd.weight", (256, 100), F16), ("output.weight", (256, 100), Q4_K), ("blk.0.x", (256,), F32)]
    data = gguf_header(values, tensors)
    weights = _memory.shape_from_header(_gguf.read_header(io.BytesIO(data), len(data))).weights
    # 14,400 bytes and one row's padding to 512 elements, up to the next 128.
    assert (weights.device, weights.output) == (14592 + 1024, 14592)
    assert weights.host == 51200 + 14400 + 1024


def test_slots_multiply_the_cache_and_context_is_clamped_to_what_was_trained() -> None:
    model = shape(context=2048)
    one = _memory.account(model, _memory.Setting(2048, 1), True).kv_cache
    # 4 layers, K and V, 2 heads of 64 elements of 2 bytes.
    assert one == 4 * 2 * 2 * 64 * 2 * 2048
    assert _memory.account(model, _memory.Setting(2048, 3), True).kv_cache == 3 * one
    assert _memory.account(model, _memory.Setting(1 << 20, 1), True).kv_cache == one


def test_a_quantized_cache_is_smaller_by_its_block_size() -> None:
    model = shape(width=1024, heads=8, kv_heads=4)
    sizes = [_memory.account(model, _memory.Setting(4096, 1, kind), True).kv_cache for kind in ("f16", "q8_0", "q4_0")]
    assert [size / sizes[0] for size in sizes] == [1, 34 / 64, 18 / 64]


def test_window_layers_keep_the_window_only() -> None:
    model = shape(layers=6, architecture="gemma3", gemma3__attention__sliding_window=512)
    assert model.windowed == (True,) * 5 + (False,)
    layer = 2 * 2 * 64 * 2
    assert _memory.account(model, _memory.Setting(8192, 1), True).kv_cache == layer * (5 * (512 + 1024) + 8192)


def test_an_unknown_window_pattern_counts_in_full_and_lowers_confidence() -> None:
    model = shape(architecture="novel", novel__attention__sliding_window=512)
    assert model.windowed == (False,) * 4
    assert model.confidence == "low"
    assert shape().confidence == "medium"


def test_encoders_keep_no_cache_and_take_one_slot() -> None:
    model = shape(architecture="bert", context=512, bert__pooling_type=1)
    account = _memory.account(model, _memory.Setting(8192, 8), True)
    assert (model.embedding, model.one_slot, account.kv_cache) == (True, True, 0)


def test_every_row_of_logits_counts_up_to_0_17() -> None:
    model = shape(vocabulary=100000)
    new, old = (
        _memory.account(model, _memory.Setting(4096, 1, before_0_30=flag), True).compute for flag in (False, True)
    )
    assert old >= 512 * 100000 * 4 > new


def test_ollamas_own_engine_reserves_a_row_of_logits_a_slot() -> None:
    model = shape(architecture="qwen3", vocabulary=100000)
    one, four = (
        _memory.account(model, _memory.Setting(4096, slots, before_0_30=True), True).compute for slots in (1, 4)
    )
    assert 512 * 100000 * 4 > four > one > 100000 * 4


def test_layers_are_split_by_free_memory_with_the_output_last() -> None:
    model = shape(layers=9)
    placed = _memory.place(model, _memory.Run(4096), _memory.Devices((3.0, 1.0)))
    first, second = placed.gpus
    assert (first.weights, first.kv_cache) == (sum(model.weights.layers[:8]), 8 * 2 * 2 * 64 * 2 * 4096)
    assert (second.weights, second.kv_cache) == (
        model.weights.layers[8] + model.weights.output,
        2 * 2 * 64 * 2 * 4096,
    )
    account = _memory.account(model, _memory.Setting(4096, 1), True)
    assert _memory.split_over(account, [3, 1]) == [first.total, second.total]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("block_count", 0, "block_count is 0"),
        ("block_count", "x", "block_count is 'x'"),
        ("embedding_length", 0, "embedding_length is 0"),
        ("context_length", 0, "context_length is 0"),
        ("attention__head_count_kv", [1, 2], "2 values for 4 layers"),
        ("attention__head_count_kv", [-1] * 4, "head_count_kv is -1"),
    ],
)
def test_refuses_impossible_hyper_parameters(field: str, value: Any, says: str) -> None:
    with pytest.raises(_memory.ShapeError, match=says):
        shape(**{f"llama__{field}": value})


def test_refuses_head_sizes_without_a_kernel() -> None:
    model = shape(width=640, kind=F16)
    assert model.key_length == 160
    assert "no CUDA flash-attention kernel" in str(_memory.refusal(model, _memory.Setting(4096, 1), True))
    assert _memory.refusal(model, _memory.Setting(4096, 1), False) is None
    assert "no quantized KV cache" in str(
        _memory.refusal(shape(width=320, kind=F16), _memory.Setting(4096, 1, "q8_0"), True)
    )


def test_a_header_of_endless_layers_or_experts_is_refused() -> None:
    with pytest.raises(_memory.ShapeError, match="at most 4096 layers"):
        shape(llama__block_count=2**31)
    with pytest.raises(_memory.ShapeError, match="contradicts itself"):
        shape(llama__expert_used_count=100000)


@pytest.mark.parametrize(
    ("context", "slots", "free", "size", "batch"),
    [
        (4096, 1, 0, 0, 512),
        (4097, 1, 0, 0, 1024),
        (2048, 4, 0, 0, 1024),
        (32768, 1, 0, 0, 1024),
        (16384, 4, 0, 0, 2048),
        # 2048 must leave 2 GiB of four fifths of what is free, 1024 three quarters of a GiB.
        (16384, 4, 24 * 2**30, 4 * 2**30, 2048),
        (16384, 4, 7 * 2**30, 4 * 2**30, 1024),
        (16384, 4, 6 * 2**30, 4 * 2**30, 512),
    ],
)
def test_the_batch_is_ollamas(context: int, slots: int, free: int, size: int, batch: int) -> None:
    setting = _memory.Setting(context, slots)
    assert _memory.ubatch(shape(), setting, free, size) == batch
    assert _memory.ubatch(shape(), _memory.Setting(context, slots, flash_attention=False), free, size) == 512
    assert _memory.ubatch(shape(), _memory.Setting(context, slots, before_0_30=True), free, size) == 512


def test_the_output_buffer_is_a_row_of_logits_a_sequence() -> None:
    placed = _memory.place(shape(vocabulary=1000), _memory.Run(4096, 3))
    assert placed.output_buffer == 3 * 4 * 1000
    setting = _memory.Setting(4096, 3)
    cpu = _memory.place(shape(vocabulary=1000), _memory.engine_run(shape(), setting), _memory.Devices(()))
    account = _memory.account(shape(vocabulary=1000), setting, on_gpu=False)
    assert account.compute == cpu.host.compute + cpu.output_buffer


def test_a_projector_counts_with_its_file_and_an_upper_value_of_its_work() -> None:
    data = llama(layers=1)
    header = _gguf.read_header(io.BytesIO(data), len(data))
    weights = _memory.projector_bytes(header) - _memory.PROJECTOR_COMPUTE_BYTES
    assert weights >= sum(tensor.bytes for tensor in header.tensors)
    assert _memory.projector_bytes(None, 5) == 5 + _memory.PROJECTOR_COMPUTE_BYTES


@pytest.mark.parametrize("shares", [(0.0,), (-1.0, 2.0), (float("nan"),)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(_memory.ShapeError, match="shares of the GPUs"):
        _memory.place(shape(), _memory.Run(4096), _memory.Devices(shares))


def test_a_cuda_context_is_the_gpus_own_or_the_largest_known() -> None:
    assert _memory.cuda_context_bytes("NVIDIA GeForce RTX 4060 Ti") == 107 * MIB
    assert {_memory.cuda_context_bytes(name) for name in (None, "NVIDIA H100 PCIe")} == {555 * MIB}
