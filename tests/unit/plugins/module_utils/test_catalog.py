# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of the catalog, and the catalog that the collection ships."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _quantization, _select

SHIPPED = yaml.safe_load(
    (Path(__file__).resolve().parents[4] / "roles/models/files/catalog.yml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("data", SHIPPED, ids=lambda data: data["name"])
def test_every_shipped_entry_is_whole(data: dict[str, Any]) -> None:
    entry = _catalog.entry(data)
    assert entry.size_bytes > 10**8
    assert entry.uses
    assert "licence" in data
    assert data["context_length"] >= 512
    assert re.search(r":[A-Za-z0-9._-]+$", entry.name), "an entry names its tag"
    assert all(address.startswith("https://") for address in data.get("sources", {}).values())
    if entry.digest is None:
        assert entry.size_bytes % 10**5 == 0, "a size without a digest is a listed one"
    if entry.shape is not None:
        shape = _select.candidate(entry).shape
        assert shape.embedding == ("embedding" in entry.uses)
        # Between one bit and four bytes a parameter, as far as the shape tells: the size belongs to the shape.
        least = shape.vocabulary * shape.embedding_length
        assert entry.size_bytes > least / 8


def test_shipped_names_are_there_once() -> None:
    assert [name for name, count in Counter(data["name"] for data in SHIPPED).items() if count > 1] == []


def test_no_two_shipped_entries_share_a_digest() -> None:
    digests = Counter(data["source"]["digest"] for data in SHIPPED if data["source"]["digest"])
    assert [digest for digest, count in digests.items() if count > 1] == []
    assert len(digests) > 40


DIGEST = "a5" * 32


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("qwen3:8b", "models.test:5000/library/qwen3:8b"),
        ("somebody/qwen3:8b", "models.test:5000/somebody/qwen3:8b"),
        ("hf.co/somebody/qwen3:8b", "hf.co/somebody/qwen3:8b"),
    ],
)
def test_registry_name(name: str, origin: str) -> None:
    assert _catalog.registry_name(name, "models.test:5000") == origin
    assert _catalog.registry_name(name, "") == name


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param("gemma3", "a mapping with a name", id="no mapping"),
        pytest.param({"name": "a b"}, "'a b'", id="name with a space"),
        pytest.param({"name": "a", "qantization": "x"}, "did you mean quantization", id="misspelt field"),
        pytest.param({"name": "a", "source": {"type": "file"}}, "must be registry or gguf", id="source type"),
        pytest.param({"name": "a", "source": {"type": "gguf"}}, "needs one of path", id="no path"),
        pytest.param({"name": "a", "source": {"type": "registry", "digest": "5"}}, "64 hexadecimal", id="short digest"),
        pytest.param({"name": "a", "size_bytes": "4 GB"}, "whole number of bytes", id="size in words"),
        pytest.param({"name": "a", "size_bytes": -1}, "whole number of bytes", id="negative size"),
        pytest.param({"name": "a", "shape": [1]}, "hyper-parameters", id="shape is a list"),
        pytest.param({"name": "a", "uses": "chat"}, "list of words", id="uses is a word"),
        pytest.param({"name": "a", "quantization": 4}, "quantization is 4; it must be a word", id="number of bits"),
        pytest.param({"name": "a", "licence": ["MIT"]}, "it must be a word such as MIT", id="list of licences"),
        pytest.param(
            {"name": "a", "size_bytes": 4, "parameters": 8 * 10**9}, "4e-09 bits each; 1 to 40", id="size in GB"
        ),
    ],
)
def test_refuses_wrong_entries(data: Any, says: str) -> None:
    with pytest.raises(_catalog.CatalogError, match=says):
        _catalog.entry(data)


def test_a_later_entry_replaces_an_earlier_one() -> None:
    mine = {"name": "gemma3", "source": {"type": "gguf", "path": "/x.gguf", "sha256": DIGEST}}
    merged = _catalog.merge([{"name": "gemma3:latest"}, mine])
    assert list(merged) == ["gemma3:latest"]
    assert merged["gemma3:latest"].source == {"type": "gguf", "path": "/x.gguf", "sha256": DIGEST}


def test_an_unknown_name_gets_the_nearest() -> None:
    catalog = _catalog.merge(SHIPPED)
    with pytest.raises(_catalog.CatalogError, match="did you mean 'qwen3:14b'"):
        _catalog.find(catalog, "qwen3:14")
    with pytest.raises(_catalog.CatalogError, match=r"not in the catalog$"):
        _catalog.find(catalog, "zzzzzzzz")
    assert _catalog.find(catalog, "nomic-embed-text").name == "nomic-embed-text:latest"


@pytest.mark.parametrize(
    ("name", "whole"),
    [("gemma3", "gemma3:latest"), ("gemma3:1b", "gemma3:1b"), ("host:5000/library/x", "host:5000/library/x:latest")],
)
def test_canonical_name(name: str, whole: str) -> None:
    assert _catalog.canonical_name(name) == whole


LIBRARY = yaml.safe_load(
    (Path(__file__).resolve().parents[4] / "roles/models/files/library_tags.yml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("llama3.3:8b", "llama3.3 has no tag '8b'; did you mean 'llama3.3:70b'", id="no such size"),
        pytest.param("llama3.3:70b-q4_K_M", "did you mean 'llama3.3:70b", id="no such quantization's tag"),
        pytest.param("qwen2.5:110b", "qwen2.5 has no tag '110b'; did you mean", id="a size of another generation"),
        pytest.param("gpt-oss:120b-cloud", "runs at ollama.com and has no weights", id="cloud tag"),
        pytest.param("kimi-k2.6", "runs at ollama.com and has no weights", id="cloud-only model"),
        pytest.param("qwen3.5:9b-mlx", "no GGUF file", id="files for another engine"),
        pytest.param("qwen3:235b", "in the public library and not in the catalog", id="not in the catalog"),
        pytest.param("qwen3:8b-q9", "qwen3 has no tag '8b-q9'", id="misspelt quantization"),
    ],
)
def test_a_name_that_cannot_be_served_is_told_why(name: str, says: str) -> None:
    with pytest.raises(_catalog.CatalogError, match=re.escape(says)):
        _catalog.find(_catalog.merge(SHIPPED), name, _catalog.library(LIBRARY))


def test_every_shipped_name_is_a_tag_of_the_library() -> None:
    known = _catalog.library(LIBRARY)
    for entry in _catalog.merge(SHIPPED).values():
        model, tag = _catalog.canonical_name(entry.name).rsplit(":", 1)
        assert tag in known.tags[model], entry.name
        assert "cloud" not in tag


def test_variants_are_entries_with_the_shape_of_their_model() -> None:
    catalog = _catalog.merge(SHIPPED)
    own, eight = catalog["qwen3:8b"], catalog["qwen3:8b-q8_0"]
    assert (eight.quantization, eight.variant_of, eight.digest) == ("Q8_0", "qwen3:8b", None)
    assert eight.shape == own.shape
    assert own.size_bytes * 1.5 < eight.size_bytes < own.size_bytes * 2
    # The bits of a weight and the size go together.
    for entry in catalog.values():
        if entry.variant_of and entry.parameters:
            bits = 8 * entry.size_bytes / entry.parameters
            assert 0.8 < bits / _quantization.bits(entry.quantization) < 1.6, entry.name


def test_an_entry_of_a_variants_name_counts_before_the_variant() -> None:
    mine = {"name": "qwen3:8b-q8_0", "size_bytes": 5, "quantization": "Q8_0"}
    assert _catalog.merge([*SHIPPED, mine])["qwen3:8b-q8_0"].size_bytes == 5
    assert _catalog.merge([mine, *SHIPPED])["qwen3:8b-q8_0"].size_bytes == 5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param({"name": "a", "parameters": -1}, "whole number of parameters", id="negative parameters"),
        pytest.param({"name": "a", "languages": [1]}, "list of codes", id="languages are numbers"),
        pytest.param({"name": "a", "variants": {"8b": 5}}, "end in a quantization", id="variant without one"),
        pytest.param({"name": "a", "variants": {"8b-q8_0": -5}}, "sizes in bytes", id="variant of no size"),
        pytest.param({"name": "a", "benchmarks": {"x": {"value": 5}}}, "a source", id="figure without a source"),
        pytest.param({"name": "a", "benchmarks": {"x": 5}}, "a source", id="bare figure"),
    ],
)
def test_refuses_wrong_facts(data: Any, says: str) -> None:
    with pytest.raises(_catalog.CatalogError, match=says):
        _catalog.entry(data)


def test_languages_in_words_are_no_codes() -> None:
    assert _catalog.entry({"name": "a", "languages": "29+ languages"}).languages == ()
    assert _catalog.entry({"name": "a", "languages": "ja"}).languages == ("ja",)


def test_what_is_wrong_with_several_entries_is_told_at_once() -> None:
    wrong = [{"name": "a", "uses": "chat"}, {"name": "b"}, {"name": "c", "size_bytes": -1}]
    with pytest.raises(_catalog.CatalogError, match=r"entry a: uses .*; catalog entry c: size_bytes"):
        _catalog.merge(wrong)
