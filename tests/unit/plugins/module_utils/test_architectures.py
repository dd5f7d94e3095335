# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of one model an architecture against llama.cpp v0.5.0's own planner, to the byte.

tests/unit/data/architectures.json.xz has, for each of 147 architectures, a header (hyper-parameters and tensor table,
no vocabulary) and up to five rows of truth: one GPU, quantized cache, several GPUs, layers on the CPU, and one of
experts on the CPU, no GPU and no flash attention; variants.json.xz the same, some rows more, of models whose structure
differs from their architecture's model there: an index on some layers, clamped experts, heads by layer, other rounds,
convolutions in bf16, a prediction layer. Rows are context, sequences, cache type, flash attention, batch, rows of
logits (0: all), GPUs, layers on them, shares, layers whose experts stay with the CPU, and by device (host last) the
bytes of weights, cache and compute. The planner ran with no_alloc on a device that follows the CUDA backend's rules.
"""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _engine, _gguf, _memory


def recorded(name: str) -> dict[str, Any]:
    path = Path(__file__).resolve().parents[2] / "data" / f"{name}.json.xz"
    data: dict[str, Any] = json.loads(lzma.decompress(path.read_bytes()))
    return data


DATA = recorded("architectures") | recorded("variants")


def architecture(name: str) -> str:
    return str(DATA[name]["metadata"]["general.architecture"])


def shape(name: str, rename: str = "") -> _memory.Shape:
    data = DATA[name]
    metadata = data["metadata"]
    if rename:
        prefix = architecture(name) + "."
        metadata = {key.replace(prefix, rename + ".", 1): value for key, value in metadata.items()}
        metadata["general.architecture"] = rename
    tensors = tuple(_gguf.Tensor(tensor, tuple(extents), kind) for tensor, extents, kind in data["tensors"])
    return _memory.shape_from_header(_gguf.Header(3, metadata, data["lengths"], tensors))


def asked(row: list[Any]) -> tuple[_memory.Run, _memory.Devices]:
    context, sequences, kind, flash, batch, logits, gpus, layers, shares, experts, _truth = row
    return (
        _memory.Run(context, sequences, kind, kind, None if flash < 0 else bool(flash), batch, logits),
        _memory.Devices(tuple(map(float, shares or [1.0] * gpus)), layers, experts),
    )


def parts(placed: _memory.Placed) -> list[list[int]]:
    return [[part.weights, part.kv_cache, part.compute] for part in (*placed.gpus, placed.host)]


KNOWN = sorted(DATA)


@pytest.mark.parametrize("name", KNOWN)
def test_every_buffer_is_llama_cpps_to_the_byte(name: str) -> None:
    model = shape(name)
    for row in DATA[name]["rows"]:
        placed = _memory.place(model, *asked(row))
        assert (row[:-1], parts(placed)) == (row[:-1], row[-1])
        assert placed.exact


@pytest.mark.parametrize("name", sorted(set(DATA) - set(KNOWN)))
def test_without_a_graph_nothing_is_below_the_truth(name: str) -> None:
    model = shape(name)
    for row in DATA[name]["rows"]:
        placed = _memory.place(model, *asked(row))
        assert (placed.exact, placed.confidence) == (False, "low")
        assert_bound(placed, row)


@pytest.mark.parametrize("name", KNOWN)
def test_an_architecture_never_heard_of_is_bounded(name: str) -> None:
    """The same tensors under a name that says nothing."""
    model = shape(name, rename="novel")
    for row in DATA[name]["rows"]:
        assert_bound(_memory.place(model, *asked(row)), row)


def assert_bound(placed: _memory.Placed, row: list[Any]) -> None:
    for device, (mine, true) in enumerate(zip(parts(placed), row[-1])):
        if device == row[6] and row[6]:
            continue  # what of the host's memory goes with GPUs is no part of the bound
        assert all(own >= want for own, want in zip(mine, true)), (row[:-1], device, mine, true)


@pytest.mark.parametrize("name", KNOWN)
def test_layers_left_out_of_the_replay_change_nothing(name: str) -> None:
    hyper = shape(name).hyper
    assert hyper is not None
    for row in DATA[name]["rows"][:2]:
        run, devices = asked(row)
        load = _engine.Load(
            run.context_length, run.sequences, run.key_type, run.value_type, run.flash_attention, run.batch,
            run.logits_rows or 0, devices.gpus, devices.layers_on_gpu or 0, devices.expert_layers_on_host,
        )  # fmt: skip
        where = _engine.homes(hyper, load)
        flash = _engine.flash_attention(hyper, load, where)
        short = _engine.compute_bytes(hyper, load, where, flash)
        assert short == _engine.compute_bytes(hyper, load, where, flash, whole=True)


def test_heads_groups_may_lie_in_one_matrix() -> None:
    """Published files of DeepSeek V4 have the output's first projection as one matrix; the loader parts it."""
    model = DATA["deepseek-v4-flash"]
    parted = [
        [name, [extents[0], extents[1] * extents[2]] if name.endswith("attn_output_a.weight") else extents, kind]
        for name, extents, kind in model["tensors"]
    ]
    assert parted != model["tensors"]
    DATA["deepseek-v4-flat"] = {**model, "tensors": parted}
    try:
        test_every_buffer_is_llama_cpps_to_the_byte("deepseek-v4-flat")
    finally:
        del DATA["deepseek-v4-flat"]


def test_streams_norms_may_lie_in_one_row() -> None:
    """The loader takes qwen4exp's norms of its streams as a row each or all in one."""
    model = DATA["qwen4exp-mixed"]
    flat = [
        [name, [extents[0] * extents[1]] if "hc_" in name and name.endswith("_norm.weight") else extents, kind]
        for name, extents, kind in model["tensors"]
    ]
    assert flat != model["tensors"]
    DATA["qwen4exp-flat"] = {**model, "tensors": flat}
    try:
        test_every_buffer_is_llama_cpps_to_the_byte("qwen4exp-flat")
    finally:
        del DATA["qwen4exp-flat"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_terms_name_every_byte_and_its_rule(name: str) -> None:
    row = DATA[name]["rows"][0]
    placed = _memory.place(shape(name), *asked(row))
    for number, part in [*enumerate(placed.gpus), (-1, placed.host)]:
        device = "host" if number < 0 else f"gpu{number}"
        terms = [term for term in placed.terms if term.device == device and term.name != "output_buffer"]
        assert sum(term.bytes for term in terms) == part.total
        assert all(term.rule for term in terms)


@pytest.mark.parametrize(
    ("name", "run", "on_gpu", "says"),
    [
        ("t5-small", _memory.Run(512, 2), True, "made for one sequence"),
        ("t5-small", _memory.Run(512), True, None),
        ("plm-1.8b", _memory.Run(512), True, "of another width"),
        ("plm-1.8b", _memory.Run(512, flash_attention=False), True, None),
        ("kimi-linear-48b", _memory.Run(4096, 3), True, "no equal parts for 3"),
        ("kimi-linear-48b", _memory.Run(4096, 4), True, None),
        ("granite3.1-moe-1b", _memory.Run(4096, 1, "q8_0", "q8_0"), True, None),
        ("granite3.1-moe-1b", _memory.Run(4096, 1, "q8_0", "q8_0"), False, "1745 tensors with this cache, 1744 fit"),
        ("granite3.1-moe-1b", _memory.Run(4096, 4, "q8_0", "q8_0"), True, "tensors with this cache"),
        ("granite3.1-moe-1b", _memory.Run(4096, 4), True, None),
        ("minimax-m3", _memory.Run(1024, 12), True, None),
        ("minimax-m3", _memory.Run(1024, 13), True, "40144 tensors with this cache, 37632 fit"),
        ("deepseek-v4-flash", _memory.Run(4096, 1, "q8_0", "f16"), True, "cannot be of different types"),
        ("grok-1", _memory.Run(4096, 1, "q8_0", "q8_0"), True, "needs flash attention"),
        ("grok-1", _memory.Run(4096), True, None),
        ("hy4-dsa-uneven", _memory.Run(4096, 16, "q8_0", "q8_0"), True, None),
        ("hrm-text-3-rounds", _memory.Run(4096, 16, "q8_0", "q8_0"), True, None),
        ("qwen4exp", _memory.Run(4096, 16, "q8_0", "q8_0"), True, None),
        ("wavtokenizer-bf16", _memory.Run(512), True, None),
        ("wavtokenizer-bf16", _memory.Run(512), False, "convolutions in bf16"),
        ("wavtokenizer-large", _memory.Run(512), False, None),
    ],
)
def test_what_llama_cpp_refuses_or_aborts_on(name: str, run: _memory.Run, on_gpu: bool, says: str | None) -> None:
    found = _memory.refused(shape(name), run, on_gpu)
    assert (found is None) == (says is None), found
    assert (says or "") in (found or "")


# Values that no header of such a model has.
ODD = (None, 0, -1, 1, 3, 2**20, 2**31, 2**63, 1.5, "x", [], [1], [-1] * 200, [2**40] * 5, float("nan"))


@pytest.mark.parametrize("name", KNOWN)
def test_a_header_that_contradicts_itself_is_bounded_or_refused(name: str) -> None:
    """Never an exception that nobody expects, and nothing built a million times over."""
    data = DATA[name]
    chance = random.Random(name)
    prefix = architecture(name) + "."
    keys = sorted(key for key in data["metadata"] if key.startswith(prefix))
    tensors = [_gguf.Tensor(tensor, tuple(extents), kind) for tensor, extents, kind in data["tensors"]]
    for _draw in range(12):
        metadata = dict(data["metadata"])
        for key in chance.sample(keys, chance.randint(1, 2)):
            metadata[key] = chance.choice(ODD)
        kept = {key: value for key, value in metadata.items() if value is not None}
        left = [tensor for tensor in tensors if chance.random() > chance.choice((0, 0, 0.01))]
        try:
            model = _memory.shape_from_header(_gguf.Header(3, kept, data["lengths"], tuple(left)))
            placed = _memory.place(model, _memory.Run(512, 2, batch=64))
        except _memory.ShapeError:
            continue
        assert all(min(part.weights, part.kv_cache, part.compute) >= 0 for part in (*placed.gpus, placed.host))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("hy4", "hyper_connection.count", 100000),
        ("deepseek-v4-flash", "hyper_connection.sinkhorn_iterations", 10**9),
        ("qwen4exp", "attention.indexer.head_count", 10**9),
        ("wavtokenizer-large", "convnext.block_count", 10**9),
        ("hy4", "hyper_connection.count", 0),
        ("hy4", "attention.key_length_mla", 200),
        ("hy4-dsa", "attention.indexer.head_count", 31),
        ("hy4-dsa", "attention.indexer.types", [False] * 24),
        ("dots3-note", "attention.kv_lora_rank_swa", 128),
        ("dots3-note", "rope.dimension_count", 0),
        ("hrm-text-1b", "hrm.layers_per_stack", 5),
        ("hrm-text-1b", "hrm.h_cycles", 3),
        ("hrm-text-1b", "attention.head_count", 13),
        ("wavtokenizer-large", "features_length", 100),
        ("wavtokenizer-large", "posnet.block_count", 2**31),
        ("qwen4exp", "hyper_connection.count", 3),
        ("qwen4exp", "attention.compress_ratios", [65] * 24),
        ("qwen4exp", "ple.conv_kernel", 5),
        ("qwen4exp", "ple.heads_per_ngram", 3),
        ("qwen4exp", "attention.indexer.key_length", 64),
        ("qwen3-0.6b", "attention.head_count", 7),
    ],
)
def test_numbers_that_the_tensors_contradict_make_no_exact_account(name: str, key: str, value: Any) -> None:
    data = DATA[name]
    metadata = {**data["metadata"], f"{architecture(name)}.{key}": value}
    tensors = tuple(_gguf.Tensor(tensor, tuple(extents), kind) for tensor, extents, kind in data["tensors"])
    model = _memory.shape_from_header(_gguf.Header(3, metadata, data["lengths"], tensors))
    assert not _memory.place(model, _memory.Run(512)).exact
