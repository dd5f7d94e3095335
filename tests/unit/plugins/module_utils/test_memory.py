# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory account against llama.cpp's own planner, and by hand where a figure can be had by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _gguf, _llama_cpp, _memory, _select
from gguf_files import F16, F32, Q4_K, gguf_header, llama

CATALOG = _catalog.merge(
    yaml.safe_load((Path(__file__).resolve().parents[4] / "roles/models/files/catalog.yml").read_text(encoding="utf-8"))
)
MIB = 2**20


def shape(**arguments: Any) -> _memory.Shape:
    data = llama(**arguments)
    return _memory.shape_from_header(_gguf.read_header(io.BytesIO(data), len(data)))


def on_gpus(model: _memory.Shape, setting: _memory.Setting, *room: float) -> tuple[_memory.DeviceBytes, ...]:
    """What an instance's setting takes on GPUs with so much room."""
    return _memory.place(model, _memory.engine_run(model, setting), _memory.Devices(room or (1.0,))).gpus


def on_gpu(model: _memory.Shape, setting: _memory.Setting) -> _memory.DeviceBytes:
    return on_gpus(model, setting)[0]


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
    one = on_gpu(model, _memory.Setting(2048, 1)).kv_cache
    # 4 layers, K and V, 2 heads of 64 elements of 2 bytes.
    assert one == 4 * 2 * 2 * 64 * 2 * 2048
    assert on_gpu(model, _memory.Setting(2048, 3)).kv_cache == 3 * one
    assert on_gpu(model, _memory.Setting(1 << 20, 1)).kv_cache == one


def test_a_quantized_cache_is_smaller_by_its_block_size() -> None:
    model = shape(width=1024, heads=8, kv_heads=4)
    sizes = [on_gpu(model, _memory.Setting(4096, 1, kind)).kv_cache for kind in ("f16", "q8_0", "q4_0")]
    assert [size / sizes[0] for size in sizes] == [1, 34 / 64, 18 / 64]


def test_window_layers_keep_the_window_only() -> None:
    model = shape(layers=6, architecture="gemma3", gemma3__attention__sliding_window=512)
    assert model.windowed == (True,) * 5 + (False,)
    layer = 2 * 2 * 64 * 2
    assert on_gpu(model, _memory.Setting(8192, 1)).kv_cache == layer * (5 * (512 + 1024) + 8192)


def test_an_unknown_window_pattern_counts_in_full_and_lowers_confidence() -> None:
    model = shape(architecture="novel", novel__attention__sliding_window=512)
    assert model.windowed == (False,) * 4
    assert model.confidence == "low"
    assert shape().confidence == "medium"


def test_encoders_keep_no_cache_and_take_one_slot() -> None:
    model = shape(architecture="bert", context=512, bert__pooling_type=1)
    kept = on_gpu(model, _memory.Setting(8192, 8)).kv_cache
    assert (model.embedding, model.one_slot, kept) == (True, True, 0)


def test_every_row_of_logits_counts_up_to_0_17() -> None:
    model = shape(vocabulary=100000)
    new, old = (
        on_gpu(model, _memory.Setting(4096, 1, rules=rules)).compute
        for rules in (_llama_cpp.B10488, _llama_cpp.BEFORE_0_30)
    )
    assert old >= 512 * 100000 * 4 > new


def old(context: int = 4096, slots: int = 1, cache: str = "f16") -> _memory.Setting:
    return _memory.Setting(context, slots, cache, rules=_llama_cpp.BEFORE_0_30)


def test_ollamas_own_engine_reserves_a_row_of_logits_a_slot() -> None:
    model = shape(architecture="qwen3", vocabulary=100000)
    one, four = (on_gpu(model, old(slots=slots)) for slots in (1, 4))
    # Besides, its mask spans the cells of all slots.
    assert four.compute - one.compute == 3 * (4 * 100000 + 2 * 4096 * 512)
    assert 512 * 100000 * 4 > four.compute > one.compute > 100000 * 4
    placed = _memory.place(model, _memory.engine_run(model, old()))
    assert (placed.confidence, placed.exact, placed.output_buffer) == ("low", False, 0)


@pytest.mark.parametrize(("context", "measured"), [(4096, 23.5), (8192, 27.5), (32768, 51.5)])
def test_ollamas_own_engine_as_its_log_told_of_gemma3_270m(context: int, measured: float) -> None:
    """Compute buffers in MiB, a CPU build of 0.17.7, one slot."""
    values = {
        "architecture": "gemma3", "block_count": 18, "embedding_length": 640, "attention.head_count": 4,
        "attention.head_count_kv": 1, "attention.key_length": 256, "attention.value_length": 256,
        "feed_forward_length": 2048, "attention.sliding_window": 512, "vocabulary": 262144, "context_length": 32768,
    }  # fmt: skip
    model = _memory.shape_from_entry(values, 290_000_000, embedding=False)
    run = _memory.engine_run(model, old(context))
    compute = _memory.place(model, run, _memory.Devices(())).host.compute
    assert measured * MIB <= compute <= (measured + 1) * MIB


def test_ollamas_own_engine_keeps_one_window_for_all_slots() -> None:
    model = shape(layers=6, architecture="gemma3", gemma3__attention__sliding_window=512)
    layer = 2 * 2 * 64 * 2
    cells = -(-(4 * 513 + 512) // 256) * 256
    assert on_gpu(model, old(8192, 4)).kv_cache == layer * (5 * cells + 4 * 8192)
    assert on_gpu(model, old(8192, 1)).kv_cache == layer * (5 * 1024 + 8192)


def test_ollamas_own_engine_holds_tied_embeddings_twice_on_a_cpu() -> None:
    model = shape(architecture="qwen3", layers=1, vocabulary=1024)
    new, before = (
        _memory.place(model, _memory.engine_run(model, setting), _memory.Devices(())).host.weights
        for setting in (_memory.Setting(4096, 1), old())
    )
    assert model.weights.tied
    assert before == model.weights.host + model.weights.tied > new


@pytest.mark.parametrize(
    ("given", "flash"),
    [
        ({}, True),
        ({"architecture": "gemma2"}, False),
        ({"llama__attention__value_length": 32}, False),
        ({"architecture": "bert", "bert__pooling_type": 1}, False),
        ({"architecture": "qwen3next", "qwen3next__attention__value_length": 32}, True),
    ],
)
def test_flash_attention_and_with_it_the_caches_type_before_0_30(given: dict[str, Any], flash: bool) -> None:
    run = _memory.engine_run(shape(**given), old(cache="q8_0"))
    assert (run.flash_attention, run.key_type) == (flash, "q8_0" if flash else "f16")
    assert _memory.engine_run(shape(**given), _memory.Setting(4096, 1, "q8_0")).flash_attention


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_before_0_30_layers_fill_an_equal_part_of_each_gpus_room(architecture: str) -> None:
    """Whichever engine runs them, the emptiest GPU has the first layers, wherever it stands."""
    model = shape(layers=12, vocabulary=256, architecture=architecture)
    graph = on_gpu(model, old()).compute
    size = model.weights.layers[0] + 2 * 2 * 64 * 2 * 4096
    smaller, larger = on_gpus(model, old(), graph + 20.0 * size, graph + 40.0 * size)
    cache = 2 * 2 * 64 * 2 * 4096
    assert larger.weights == sum(model.weights.layers[:8])
    assert (smaller.weights, smaller.kv_cache) == (sum(model.weights.layers[8:]) + model.weights.output, 4 * cache)
    assert on_gpus(model, old(), graph + 40.0 * size, graph + 20.0 * size) != (smaller, larger)


def test_before_0_30_a_model_too_large_is_laid_out_all_the_same() -> None:
    model = shape(layers=9)
    parts = on_gpus(model, old(), 1000.0, 1000.0)
    assert sum(part.weights for part in parts) == model.weights.device


def test_layers_are_split_by_free_memory_with_the_output_last() -> None:
    model = shape(layers=9)
    placed = _memory.place(model, _memory.Run(4096), _memory.Devices((3.0, 1.0)))
    first, second = placed.gpus
    assert (first.weights, first.kv_cache) == (sum(model.weights.layers[:8]), 8 * 2 * 2 * 64 * 2 * 4096)
    assert (second.weights, second.kv_cache) == (
        model.weights.layers[8] + model.weights.output,
        2 * 2 * 64 * 2 * 4096,
    )


def test_without_tensors_layers_are_split_the_same() -> None:
    values = {
        "architecture": "unheard", "block_count": 9, "embedding_length": 256, "attention.head_count": 4,
        "attention.head_count_kv": 2, "feed_forward_length": 512, "vocabulary": 1000, "context_length": 8192,
    }  # fmt: skip
    model = _memory.shape_from_entry(values, 10_000_000, embedding=False)
    assert model.hyper is None
    placed = _memory.place(model, _memory.Run(4096), _memory.Devices((3.0, 1.0)))
    assert [part.weights for part in placed.gpus] == [8_000_000, 2_000_000]
    assert [part.kv_cache for part in placed.gpus] == [8 * 2 * 2 * 64 * 2 * 4096, 2 * 2 * 64 * 2 * 4096]
    assert placed.gpus[1].compute - placed.gpus[0].compute == 4 * 4 * 256 * 512
    assert (placed.confidence, placed.output_buffer) == ("low", 4000)


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
    assert _memory.ubatch(shape(), _memory.Setting(context, slots, rules=_llama_cpp.BEFORE_0_30), free, size) == 512


@pytest.mark.parametrize("gpus", [(), (1.0,)])
@pytest.mark.parametrize(
    ("architecture", "vocabulary", "width", "sequences", "printed"),
    [
        # llama-server's "output buffer size" in MiB: gemma3 270M for two slots, the same with --embedding for one,
        # and a BERT of two layers.
        ("gemma3", 262144, 640, 2, "2.00"),
        ("gemma-embedding", 262144, 640, 1, "1.00"),
        ("bert", 1024, 128, 1, "0.00"),
    ],
)
def test_the_output_buffer_is_what_the_engines_log_told(
    architecture: str, vocabulary: int, width: int, sequences: int, printed: str, gpus: tuple[float, ...]
) -> None:
    values = {
        "architecture": architecture, "block_count": 2, "embedding_length": width, "attention.head_count": 4,
        "attention.head_count_kv": 1, "feed_forward_length": 512, "vocabulary": vocabulary, "context_length": 512,
        "attention.sliding_window": 512,
    }  # fmt: skip
    model = _memory.shape_from_entry(values, 10_000_000, embedding=architecture != "gemma3")
    placed = _memory.place(model, _memory.Run(512, sequences), _memory.Devices(gpus))
    rows = vocabulary + (0 if architecture == "gemma3" else width)
    assert placed.output_buffer == 4 * sequences * rows
    assert f"{placed.output_buffer / MIB:.2f}" == printed
    # It is host memory on every host.
    assert placed.host_bytes == placed.host.total + placed.output_buffer
    assert [term.device for term in placed.terms if term.name == "output_buffer"] == ["host"]


def test_a_projector_counts_with_its_file_and_an_upper_value_of_its_work() -> None:
    data = llama(layers=1)
    header = _gguf.read_header(io.BytesIO(data), len(data))
    seeing = _memory.shape_from_header(header, 7_000_000)
    assert seeing.projector == 7_000_000 + _memory.PROJECTOR_COMPUTE_BYTES
    assert not _memory.shape_from_header(header, 0).projector
    blind = _memory.place(_memory.shape_from_header(header), _memory.Run(4096), _memory.Devices((1.0, 1.0)))
    placed = _memory.place(seeing, _memory.Run(4096), _memory.Devices((1.0, 1.0)))
    assert (placed.gpus, placed.host, blind.projector) == (blind.gpus, blind.host, 0)
    [term] = [term for term in placed.terms if term.name == "projector"]
    assert (term.device, term.bytes, placed.projector) == ("gpu0", seeing.projector, seeing.projector)
    [term] = [
        term for term in _memory.place(seeing, _memory.Run(4096), _memory.Devices(())).terms if term.name == "projector"
    ]
    assert term.device == "host"


def test_a_projector_in_the_models_own_file_is_none_of_the_models_tensors() -> None:
    data = llama(layers=2)
    header = _gguf.read_header(io.BytesIO(data), len(data))
    more = tuple(
        _gguf.Tensor(name, (512, 512), F16)
        for name in ("v.blk.0.ffn_down.weight", "v.blk.1.attn_q.weight", "mm.input_projection.weight")
    )
    plain = _memory.shape_from_header(header)
    seeing = _memory.shape_from_header(replace(header, tensors=header.tensors + more))
    assert seeing.projector == 3 * 512 * 512 * 2 + _memory.PROJECTOR_COMPUTE_BYTES
    assert replace(seeing, projector=0) == plain
    run = _memory.Run(4096)
    assert _memory.place(seeing, run).gpus == _memory.place(plain, run).gpus


@pytest.mark.parametrize("shares", [(0.0,), (-1.0, 2.0), (float("nan"),)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(_memory.ShapeError, match="shares of the GPUs"):
        _memory.place(shape(), _memory.Run(4096), _memory.Devices(shares))
