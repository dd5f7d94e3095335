# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog's accounts against those of the same models' headers: an entry must not say less than its file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _catalog, _gguf, _memory

from tests.memory import data, headers

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ROOT / "tests/memory/data/headers"
CATALOG = {
    entry["name"]: entry
    for entry in yaml.safe_load((ROOT / "roles/models/files/catalog.yml").read_text(encoding="utf-8"))
}
# Stem of the header, name in the catalog.
PAIRS = {
    "bge-m3": "bge-m3:567m", "embeddinggemma": "embeddinggemma:300m", "gemma2-9b": "gemma2:9b",
    "gemma3-1b": "gemma3:1b", "gemma3-4b": "gemma3:4b", "gemma3-12b": "gemma3:12b", "gemma3-27b": "gemma3:27b",
    "gpt-oss-20b": "gpt-oss:20b", "gpt-oss-120b": "gpt-oss:120b", "llama3.1-8b": "llama3.1:8b",
    "llama3.2-1b": "llama3.2:1b", "llama3.2-3b": "llama3.2:3b", "llama3.3-70b": "llama3.3:70b",
    "llama4-scout": "llama4:scout",
    "mistral-7b-v0.3": "mistral:7b", "mixtral-8x7b": "mixtral:8x7b", "mxbai-embed-large": "mxbai-embed-large:335m",
    "nomic-embed-text": "nomic-embed-text:latest", "phi4-14b": "phi4:14b", "qwen2.5-0.5b": "qwen2.5:0.5b",
    "qwen2.5-1.5b": "qwen2.5:1.5b", "qwen2.5-3b": "qwen2.5:3b", "qwen2.5-7b": "qwen2.5:7b",
    "qwen2.5-14b": "qwen2.5:14b", "qwen2.5-32b": "qwen2.5:32b", "qwen2.5-72b": "qwen2.5:72b",
    "qwen3-0.6b": "qwen3:0.6b", "qwen3-1.7b": "qwen3:1.7b", "qwen3-4b": "qwen3:4b-q4_K_M", "qwen3-8b": "qwen3:8b",
    "qwen3-14b": "qwen3:14b", "qwen3-32b": "qwen3:32b", "qwen3-30b-a3b": "qwen3:30b-a3b", "qwen3.5-27b": "qwen3.5:27b",
    "qwen3.5-35b-a3b": "qwen3.5:35b-a3b",
}  # fmt: skip
# Hyper-parameters that the entry states otherwise than the header, and why that is right.
STATED = {
    ("mixtral-8x7b", "expert_feed_forward_length"): "files of this age leave it out, and it is feed_forward_length",
}
# Files of which the library's is larger than the tensors of the header, and why.
LARGER = {
    "gemma3-4b": "vision tower", "gemma3-12b": "vision tower", "gemma3-27b": "vision tower",
    "llama4-scout": "vision tower", "qwen3.5-27b": "vision tower",
    "qwen3.5-35b-a3b": "vision tower, and Ollama's own choice of types",
    "qwen3-0.6b": "Ollama's own choice of types, and an output layer that is not tied",
    "qwen3-1.7b": "Ollama's own choice of types, and an output layer that is not tied",
    "qwen3-4b": "Ollama's own choice of types", "qwen3-8b": "Ollama's own choice of types",
    "qwen3-14b": "Ollama's own choice of types", "qwen3-32b": "Ollama's own choice of types",
    "bge-m3": "a vocabulary of 250,002", "embeddinggemma": "a vocabulary of 262,144",
}  # fmt: skip
SETTINGS = [(2048, 1, "f16", 512), (8192, 4, "f16", 1024), (32768, 1, "q8_0", 2048), (131072, 1, "f16", 512)]
# Encoders whose matrices all have one type.
ONE_TYPE = {"bge-m3", "mxbai-embed-large", "nomic-embed-text"}
# Bytes by which an encoder's graph may differ: its pooling, which an entry does not tell of, takes a few a token.
ENCODERS = 16384


@functools.cache
def header(stem: str) -> _gguf.Header:
    text = (TEXTS / f"{stem}.txt").read_text(encoding="utf-8")
    return data.model(stem, headers.to_bytes(headers.from_text(text))).header


def taken(shape: _memory.Shape, context: int, slots: int, cache: str, batch: int) -> tuple[list[Any], Any]:
    placed = _memory.place(shape, _memory.Run(context, slots, cache, cache, True, batch))
    return list(placed.gpus), placed.host


@pytest.mark.parametrize("stem", PAIRS)
def test_an_entry_and_its_header_agree(stem: str) -> None:
    found, entry = header(stem), _catalog.entry(CATALOG[PAIRS[stem]])
    values = dict(entry.shape or {})
    assert values.pop("architecture") == found.architecture
    assert values.pop("vocabulary") == (found.lengths.get("tokenizer.ggml.tokens") or found.get("vocab_size"))
    told = {key for key, value in values.items() if value != found.get(key)}
    # Of an encoder, heads are as wide as their share.
    told -= {key for key in told if found.get(key) is None and key.endswith(("key_length", "value_length"))}
    assert {(stem, key) for key in told} == {key for key in STATED if key[0] == stem}
    assert entry.parameters == sum(tensor.elements for tensor in found.tensors)


@pytest.mark.parametrize("stem", PAIRS)
def test_cache_and_graph_of_an_entry_are_those_of_the_header(stem: str) -> None:
    theirs = _memory.shape_from_header(header(stem))
    ours = _candidates.candidate(_catalog.entry(CATALOG[PAIRS[stem]])).shape
    for context, slots, cache, batch in SETTINGS:
        context = min(context, theirs.context_length)
        slots = 1 if theirs.embedding else slots
        ((left,), left_host), ((right,), right_host) = (
            taken(shape, context, slots, cache, batch) for shape in (ours, theirs)
        )
        assert left.kv_cache == right.kv_cache
        slack = ENCODERS if theirs.embedding else 0
        assert abs(left.compute - right.compute) <= slack
        assert abs(left_host.compute - right_host.compute) <= slack


@pytest.mark.parametrize("stem", PAIRS)
def test_the_weights_of_an_entry_are_no_less_than_the_headers(stem: str) -> None:
    found, entry = header(stem), _catalog.entry(CATALOG[PAIRS[stem]])
    tensors = sum(tensor.bytes for tensor in found.tensors)
    ours, theirs = _candidates.candidate(entry).shape.weights, _memory.shape_from_header(found).weights
    assert ours.device >= theirs.device
    if stem in ONE_TYPE:  # what stays with the host is known without the header
        assert ours.device < 1.07 * theirs.device
        assert ours.host == entry.size_bytes
    # What a file has besides its tensors' data is mostly the vocabulary.
    share = entry.size_bytes / tensors
    assert share > 0.998
    assert share < 1.02 or stem in LARGER
    assert share < 1.36


def test_every_header_of_a_model_of_the_catalog_is_compared() -> None:
    others = {"deepseek-r1-671b", "deepseek-v2-lite", "llama2-7b", "llama3.1-8b-f16", "llama3.1-8b-q8", "phi3.5-mini"}
    assert {path.stem for path in TEXTS.glob("*.txt")} == set(PAIRS) | others


def test_the_671b_of_the_library_keeps_full_keys_and_values_and_the_header_is_of_a_converted_file() -> None:
    found = header("deepseek-r1-671b")
    entry = _catalog.entry(CATALOG["deepseek-r1:671b"])
    assert entry.parameters == sum(tensor.elements for tensor in found.tensors)
    ours = _candidates.candidate(entry).shape
    (gpu,), _host = taken(ours, 4096, 1, "f16", 512)
    # 61 layers of 128 heads, 192 and 128 wide.
    assert gpu.kv_cache == 61 * 128 * (192 + 128) * 2 * 4096
    # The file is as large as with an unsplit attn_kv_b in Q4_K, 4.5 bits a weight; the halves attn_k_b of a converted
    # one take Q5_0, 5.5 bits, as rows of 128 do not divide into Q4_K's blocks of 256.
    tensors = sum(tensor.bytes for tensor in found.tensors)
    split = sum(tensor.elements for tensor in found.tensors if tensor.name.endswith("attn_k_b.weight")) // 8
    assert 0 < entry.size_bytes - (tensors - split) < 10 * 10**6
    assert entry.size_bytes < tensors
    # With the converted file's keys the account is the header's.
    converted = {
        **(entry.shape or {}), "attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128,
    }  # fmt: skip
    shape = _memory.shape_from_entry(converted, entry.size_bytes, False)
    for context, slots, cache, batch in SETTINGS:
        ((left,), left_host), ((right,), right_host) = (
            taken(one, context, slots, cache, batch) for one in (shape, _memory.shape_from_header(found))
        )
        assert (left.kv_cache, left.compute, left_host.compute) == (
            right.kv_cache, right.compute, right_host.compute)  # fmt: skip
