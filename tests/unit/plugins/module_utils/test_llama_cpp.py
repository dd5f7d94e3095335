# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account under the rules of llama.cpp b10488, where they differ from v0.5.0's, against b10488's own planner.

tests/unit/data/b10488.json.xz has rows of truth as architectures.json.xz has them (see test_architectures.py), made
with b10488 built from source, all of which differ from v0.5.0's; and the headers of the models that are not in there.
"""

from __future__ import annotations

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
    return _memory.Run(**{**vars(made), "rules": rules}), devices


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
    engine = _residency.Engine(version, "f16", True, 0)
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


def test_prediction_layers_keep_a_cache_where_the_release_gives_them_one() -> None:
    """One layer more of 47; not before 0.30, not with v0.5.0."""
    sizes = {
        rules.release: _memory.place(shape("glm4.5-air-mtp"), _memory.Run(4096, rules=rules)).gpus[0].kv_cache
        for rules in (_llama_cpp.V0_5_0, _llama_cpp.BEFORE_0_30, _llama_cpp.B10488)
    }
    assert sizes["v0.5.0"] == sizes["ec98e2002"] == sizes["b10488"] * 46 // 47
