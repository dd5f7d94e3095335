# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account under the rules of llama.cpp b10488, where they differ from v0.5.0's, against b10488's own planner.

tests/unit/data/b10488.json.xz has rows of truth as architectures.json.xz has them (see test_architectures.py), made
with b10488 built from source, all of which differ from v0.5.0's; and the headers of the models that are not in there.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gguf, _llama_cpp, _memory, _residency
from test_architectures import DATA, asked, parts

B10488: dict[str, Any] = json.loads(
    lzma.decompress((Path(__file__).resolve().parents[2] / "data" / "b10488.json.xz").read_bytes())
)


def shape(name: str, without: str = "") -> _memory.Shape:
    """``without``: a metadata key or the end of tensors' names that the header is to lack."""
    data = DATA.get(name) or B10488[name]
    metadata = {key: value for key, value in data["metadata"].items() if not without or not key.endswith(without)}
    tensors = tuple(
        _gguf.Tensor(tensor, tuple(extents), kind)
        for tensor, extents, kind in data["tensors"]
        if not without or not tensor.endswith(without)
    )
    return _memory.shape_from_header(_gguf.Header(3, metadata, data["lengths"], tensors))


def run(row: list[Any], rules: _llama_cpp.Rules) -> tuple[_memory.Run, _memory.Devices]:
    made, devices = asked(row)
    return dataclasses.replace(made, rules=rules), devices


@pytest.mark.parametrize("name", sorted(B10488))
def test_every_buffer_is_b10488s_to_the_byte(name: str) -> None:
    model = shape(name)
    for row in B10488[name]["rows"]:
        placed = _memory.place(model, *run(row, _llama_cpp.B10488))
        assert (row[:-1], parts(placed)) == (row[:-1], row[-1])
        # Else the row would say nothing of the rules.
        assert parts(_memory.place(model, *run(row, _llama_cpp.V0_5_0))) != row[-1]


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ((0, 17, 7), "ec98e2002"),
        ((0, 29, 9), "ec98e2002"),
        ((0, 30, 0), "b10488"),
        ((0, 32, 15), "b10488"),
        ((0, 33, 0), "b10488"),
        ((0, 34, 0), "v0.5.0"),
        ((1, 0), "v0.5.0"),
    ],
)
def test_an_engine_has_its_llama_cpps_rules(version: tuple[int, ...], release: str) -> None:
    assert _llama_cpp.of_ollama(version).release == release
    engine = _residency.Engine(version, "f16", True)
    made = _memory.engine_run(shape("mamba2-2.7b"), engine.setting(4096, 1))
    assert made.rules is _llama_cpp.of_ollama(version)


@pytest.mark.parametrize("name", ["granite-swa", "maple", "spark2.5", "dots3-note", "hrm-text-1b", "hy4"])
def test_an_architecture_that_the_engine_does_not_know_is_refused(name: str) -> None:
    model = shape(name)
    says = _memory.refused(model, _memory.Run(4096, rules=_llama_cpp.B10488))
    assert says == f"the engine's llama.cpp (b10488) does not know the architecture {model.architecture}"
    assert _memory.refused(model, _memory.Run(4096)) is None


@pytest.mark.parametrize(
    ("name", "lacks", "says"),
    [
        ("mellum2-12b", "sliding_window_pattern", "needs attention.sliding_window_pattern"),
        ("muse-glimmer", "sliding_window_pattern", "needs attention.sliding_window_pattern"),
        ("cohere2-moe", "sliding_window_pattern", "needs attention.sliding_window_pattern"),
        ("jais2-8b", "attn_q.bias", "needs biases of its attention"),
    ],
)
def test_what_a_header_must_have_for_the_engine(name: str, lacks: str, says: str) -> None:
    for rules, refused in ((_llama_cpp.B10488, True), (_llama_cpp.V0_5_0, False)):
        asked_for = _memory.Run(4096, rules=rules)
        assert _memory.refused(shape(name), asked_for) is None
        assert (says in (_memory.refused(shape(name, lacks), asked_for) or "")) == refused


# Models with their last layer once more, as a layer that predicts. Bytes on one GPU at 8192 tokens: weights, which both
# releases have, the cache with v0.5.0, and with b10488.
PREDICTING = {
    "step3.5-flash": (121232613248, 541065216, 541065216),
    "mimo-v2-flash": (186440770304, 342097920, 342097920),
    "hy3-295b": (180653010944, 2684354560, 2684354560),
    "cohere2-moe": (17819205632, 721420288, 754974720),
    "glm4-9b": (5808070144, 335544320, 343932928),
    "deepseek-v3.2": (404446651264, 703594496, 703594496),
    "glm-5": (447869588992, 899678208, 899678208),
}


def predicting(name: str) -> _memory.Shape:
    data = DATA[name]
    prefix = data["metadata"]["general.architecture"] + "."
    layers, width = (data["metadata"][prefix + key] for key in ("block_count", "embedding_length"))
    metadata = {
        key: [*value, value[-1]] if isinstance(value, list) and len(value) == layers else value
        for key, value in data["metadata"].items()
    }
    metadata.update({prefix + "block_count": layers + 1, prefix + "nextn_predict_layers": 1})
    last, more = f"blk.{layers - 1}.", f"blk.{layers}."
    tensors = [_gguf.Tensor(tensor, tuple(extents), kind) for tensor, extents, kind in data["tensors"]]
    tensors += [
        dataclasses.replace(tensor, name=tensor.name.replace(last, more))
        for tensor in tensors
        if tensor.name.startswith(last)
    ]
    q4_k, f32 = 12, 0
    tensors.append(_gguf.Tensor(more + "nextn.eh_proj.weight", (2 * width, width), q4_k))
    tensors += [
        _gguf.Tensor(f"{more}nextn.{norm}.weight", (width,), f32) for norm in ("enorm", "hnorm", "shared_head_norm")
    ]
    return _memory.shape_from_header(_gguf.Header(3, metadata, data["lengths"], tuple(tensors)))


@pytest.mark.parametrize("name", sorted(PREDICTING))
def test_what_layers_that_predict_take(name: str) -> None:
    """They are not computed, but some of their tensors are loaded, and b10488 gives some a cache."""
    weights, plain, predicted = PREDICTING[name]
    model = predicting(name)
    for rules, cache in ((_llama_cpp.V0_5_0, plain), (_llama_cpp.B10488, predicted), (_llama_cpp.BEFORE_0_30, plain)):
        made = _memory.place(model, _memory.Run(8192, rules=rules)).gpus[0]
        assert (made.weights, made.kv_cache) == (weights, cache)
