# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which models may serve a workload, in which order, and what a token reads of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _catalog, _memory
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError
from gguf_files import llama
from plan_cases import CATALOG, ENTRIES, LIBRARY, chat, gpu, models, outcome, work

KNOWN = _catalog.library(LIBRARY)


def order(**wishes: Any) -> list[str]:
    return [entry.name for entry in _candidates.chosen(work(**wishes), ENTRIES, KNOWN)]


def test_parameters_then_the_month_then_the_librarys_own_quantization_decide() -> None:
    names = order(quality="parameters")
    assert names.index("qwen2.5:72b") < names.index("llama3.3:70b") < names.index("qwen3:32b")
    # Of as many parameters, to two figures, the newer one.
    assert names.index("qwen3:14b") < names.index("qwen2.5:14b")
    # Of one model its own quantization, then smaller ones, then larger ones.
    own, smaller, larger = (
        names.index(name) for name in ("qwen2.5:14b", "qwen2.5:14b-instruct-q4_0", "qwen2.5:14b-instruct-q8_0")
    )
    assert own < smaller < larger


def test_preferred_models_go_first_and_the_others_keep_their_order() -> None:
    names = order(preferred=["gemma3:4b", "qwen3:8b"])
    assert names[:2] == ["gemma3:4b", "qwen3:8b"]
    assert names[2:] == [name for name in order() if name not in names[:2]]


def test_a_use_takes_models_for_it_alone() -> None:
    assert set(order(use="embedding")) >= {"bge-m3:567m", "nomic-embed-text:latest"}
    assert "qwen3:8b" not in order(use="embedding")
    assert "bge-m3:567m" not in order(use="rag")


def test_a_published_figure_goes_before_parameters() -> None:
    figure = {"benchmarks": {"jmmlu": {"value": 70.5, "source": "a leaderboard"}}}
    small = next(entry for entry in CATALOG if entry["name"] == "qwen3:1.7b") | figure
    entries = _catalog.merge([*CATALOG, small])
    asked = _candidates.chosen(work(quality="jmmlu"), entries, KNOWN)
    # No better than the one that was measured, whatever their parameters, and the smaller ones behind it.
    assert asked[0].name.startswith("qwen3:1.7b")
    stated = _candidates.order_stated(work(quality="jmmlu"), asked)
    assert "published figures of jmmlu" in stated
    assert "as no benchmark suits" in _candidates.order_stated(work(), asked)


@pytest.mark.parametrize(
    ("wishes", "name", "says"),
    [
        ({"languages": ["ja"]}, "llama3.1:8b", "does not name the language ja"),
        ({"languages": ["ja"]}, "mistral:7b", "not established"),
        # Measured in Japanese; of the second, the card says that it speaks English alone.
        ({"languages": ["ja"]}, "qwen3.5:27b", None),
        ({"languages": ["ja"]}, "gemma3:1b", "does not name the language ja"),
        ({"languages": ["fr"]}, "qwen3.5:27b", "not established"),
        ({"licences": ["Apache-2.0"]}, "gemma3:4b", "its licence is Gemma terms, allowed are Apache-2.0"),
        ({"licences": ["Apache-2.0"]}, "qwen3.8:27b", "licence is not established"),
        ({"capabilities": ["vision"]}, "qwen3:8b", "not known for vision"),
        ({"quantization": "Q8_0"}, "qwen3:8b", "its quantization Q4_K_M is below Q8_0"),
        ({"quantization": "Q4_K_M"}, "gpt-oss:20b", "its quantization MXFP4 is below Q4_K_M"),
        ({}, "gpt-oss:20b", None),
        ({}, "qwen3:8b", None),
        ({"languages": ["ja"], "licences": ["Apache-2.0"], "capabilities": ["tools", "thinking"]}, "qwen3:8b", None),
    ],
)
def test_a_wish_rules_models_out(wishes: dict[str, Any], name: str, says: str | None) -> None:
    reason = _candidates.misfit(work(**wishes), ENTRIES[name])
    assert reason is None if says is None else says in (reason or "")


def test_what_is_not_established_does_not_count_against_a_model_that_was_named() -> None:
    assert _candidates.misfit(work(models=["mistral:7b"], languages=["ja"]), ENTRIES["mistral:7b"]) is None
    assert _candidates.misfit(work(models=["llama3.1:8b"], languages=["ja"]), ENTRIES["llama3.1:8b"])


def test_an_experts_model_reads_the_experts_that_are_used() -> None:
    mixture = _candidates.candidate(ENTRIES["qwen3:30b-a3b"])
    dense = _candidates.candidate(ENTRIES["qwen3:32b"])
    assert mixture.active_bytes < mixture.file_bytes / 5
    # 37 of 671 billion parameters (the model's card), its first layers dense.
    large = _candidates.candidate(ENTRIES["deepseek-r1:671b"])
    assert 0.045 < large.active_bytes / large.file_bytes < 37 / 671
    assert dense.file_bytes * 0.9 < dense.active_bytes < dense.file_bytes


def test_a_header_wins_over_the_catalog_and_a_disagreement_is_told(gguf_file: Callable[..., str]) -> None:
    entry = {
        "name": "mine:1",
        "source": {"type": "gguf", "path": gguf_file()},
        "quantization": "Q8_0",
        "parameters": 10**9,
        "shape": {"architecture": "llama", "block_count": 99},
    }
    made = outcome([chat(models=["mine:1"])], [gpu(0, 8)], catalog=[entry])
    [model] = models(made)
    assert (model["quantization"], model["layers"]) == ("Q4_K_M", 4)
    [remark] = made.remarks
    assert "block_count 99, the file's is 4" in remark
    assert "quantization Q8_0, the file's is Q4_K_M" in remark
    assert "parameters 1000000000, the file's are" in remark
    agreed = outcome(
        [chat(models=["mine:1"])],
        [gpu(0, 8)],
        catalog=[{**entry, "shape": None, "quantization": None, "parameters": 0}],
    )
    assert agreed.remarks == []


def test_all_unknown_names_are_told_at_once() -> None:
    with pytest.raises(PlanError, match=r"qwen3:9b.*nothing:1b"):
        order(preferred=["qwen3:9b", "nothing:1b"])


def test_the_beginning_of_a_file_is_enough_for_a_model_of_a_registry(gguf_file: Callable[..., str]) -> None:
    entry = {"name": "mine:1", "header": gguf_file(), "size_bytes": 5 * 10**6, "source": {"type": "registry"}}
    [model] = models(outcome([chat(models=["mine:1"])], [gpu(0, 8)], catalog=[entry]))
    assert model["source"] == {"type": "registry", "digest": None}
    assert (model["layers"], model["account"]["confidence"]) == (4, "medium")
    with pytest.raises(PlanError, match="size_bytes is 0; an entry with a header needs the size"):
        outcome([chat(models=["mine:1"])], [gpu(0, 8)], catalog=[{**entry, "size_bytes": 0}])


def test_a_projector_that_was_not_read_is_told(tmp_path: Path) -> None:
    header = tmp_path / "header"
    header.write_bytes(llama())
    data = {"name": "sees:1b", "header": str(header), "size_bytes": 10**9, "uses": ["chat", "vision"]}
    made = _candidates.candidate(_catalog.entry(data))
    assert made.shape.projector == _memory.PROJECTOR_COMPUTE_BYTES
    assert "the size of its vision projector was not read" in made.remark
    made = _candidates.candidate(_catalog.entry({**data, "projector_bytes": 5}))
    assert (made.shape.projector, made.remark) == (_memory.PROJECTOR_COMPUTE_BYTES + 5, "")
    made = _candidates.candidate(_catalog.entry({**data, "projector_bytes": 0}))
    assert (made.shape.projector, made.remark) == (0, "")
    with pytest.raises(_catalog.CatalogError, match="projector_bytes is -1; it must be a whole number"):
        _catalog.entry({**data, "projector_bytes": -1})
