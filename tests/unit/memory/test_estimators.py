"""The public estimators, against figures of their own code and figures worked out by hand from their sources.

``RECORDED`` are what gguf-parser-go v0.25.0 (EstimateLLaMACppRun, SummarizeItem without mapping and footprint) and
Ollama v0.17.7 (GraphSize) gave, compiled from their sources, for rows of the repository's data.
"""

from __future__ import annotations

from typing import Any

import pytest
from gguf_files import llama

from tests.memory import data
from tests.memory.data import HEADERS, Model, Row, read_model
from tests.memory.estimators import (
    Unanswered,
    articles,
    every,
    gguf_parser_go,
    llmfit,
    ollama_0_17,
    ollama_0_32,
    whichllm,
)

# Model, context, sequences, cache type, flash attention, ubatch, GPUs, layers on them; gguf-parser-go's bytes of each
# device; Ollama's bytes of all layers' cache, of the graph where part is offloaded, and where all is (0: as in part).
RECORDED: list[tuple[Any, ...]] = [
    ("llama3.1-8b", 8192, 1, "q8_0", 1, 512, 1, 9999, [5755103232], (536870912, 710385664, 587204608)),
    ("gemma3-12b", 16384, 4, "f16", 1, 512, 1, 9999, [14406784896], (5804916736, 2859927552, 2314211328)),
    ("deepseek-v2-lite", 8192, 1, "f16", 0, 512, 1, 9999, [10903453696], (481296384, 394330112, 222298112)),
    ("qwen3-30b-a3b", 2048, 1, "f16", 1, 512, 2, 9999, [9576526848, 9708020736], (201326592, 268435456, 0)),
    ("llama3.3-70b", 2048, 1, "f16", 1, 512, 2, 9999, [21591040000, 21879250944], (671088640, 1158103040, 339740672)),
    ("qwen2.5-14b", 6144, 4, "q8_0", 1, 1024, 1, 8, [2134507520], (2415919104, 4672479232, 4169142272)),
    ("gpt-oss-20b", 8192, 1, "f16", 1, 512, 0, 0, [15051926224], (314572800, 127926272, 0)),
    ("nomic-embed-text", 2048, 1, "f16", 1, 2048, 1, 9999, [353233920], (75497472, 12582912, 0)),
    ("qwen3.5-27b", 8192, 4, "f16", 1, 512, 1, 9999, [25598136320], (8589934592, 8589934592, 0)),
    ("phi3.5-mini", 4096, 1, "f16", 0, 512, 1, 9999, [4217841152], (1610612736, 268435456, 0)),
]
NAMES = [recorded[0] for recorded in RECORDED]
P = 262144 + 256 + 4 * (256 * 768 + 3 * 131072 + 256)
ROW = {"model": "m", "ctx": 1024, "np": 2, "tk": "f16", "tv": "f16", "fa": 1, "ub": 512, "nout": 2, "ng": 1}


def row(**change: Any) -> Row:
    return data.row({**ROW, **change})


def recorded_row(recorded: tuple[Any, ...]) -> tuple[Model, Row]:
    name, context, sequences, cache, flash, batch, gpus, layers, *_figures = recorded
    asked = row(model=name, ctx=context, np=sequences, tk=cache, tv=cache, fa=flash, ub=batch, ng=gpus, ngl=layers)
    return read_model(HEADERS / f"{name}.txt"), asked


@pytest.fixture
def model() -> Model:
    return data.model("m", llama(layers=4, width=256, heads=4, kv_heads=2, feed_forward=512, vocabulary=1024))


@pytest.mark.parametrize("recorded", RECORDED, ids=NAMES)
def test_gguf_parser_go(recorded: tuple[Any, ...]) -> None:
    # Where its header ends exactly at the alignment, the original counts 32 bytes more.
    assert list(gguf_parser_go.estimate(*recorded_row(recorded)).bytes) == recorded[8]


@pytest.mark.parametrize("recorded", RECORDED, ids=NAMES)
def test_ollama_0_17_graph(recorded: tuple[Any, ...]) -> None:
    """Where GraphSize has no formula, it is a sixth of the cache times the heads that share one (llm/server.go)."""
    cache, partial, full = ollama_0_17._cache_and_graph(*recorded_row(recorded))
    assert (sum(cache), partial, full) == (*recorded[9][:2], recorded[9][2] or partial)


def test_ollama_0_17_layers_go_to_gpus() -> None:
    """The fullest GPU as empty as can be, the last layers on the last GPU; larger shares take more."""
    assert ollama_0_17._spread([1] * 8, (0.5, 0.5)) == [[3, 2, 1, 0], [7, 6, 5, 4]]
    assert [len(part) for part in ollama_0_17._spread([1] * 8, (0.75, 0.25))] == [6, 2]
    assert ollama_0_17._spread([1, 1, 5], (0.5, 0.5)) == [[1, 0], [2]]


def test_ollama_0_17_totals(model: Model) -> None:
    """Layers and output of the tiny model: 4 x 339968 bytes, 1024 of the norm, and the tied embeddings."""
    layer = (256 * 768 + 3 * 131072) // 256 * 144 + 1024
    cache = 2048 * 128 * 2 * 2
    graph = 4 * 512 * (1 + 4 * 256 + 2048 * 5)
    output = 1024 + 1024 * 144
    assert list(ollama_0_17.estimate(model, row()).bytes) == [4 * (layer + cache) + output + graph]
    assert list(ollama_0_17.estimate(model, row(ng=0)).bytes) == [4 * (layer + cache) + output]
    assert list(ollama_0_17.estimate(model, row(ngl=0)).bytes) == [0]
    halves = ollama_0_17.estimate(model, row(ng=2)).bytes
    assert sum(halves) == 4 * (layer + cache) + output + 2 * graph
    # Two layers of four: no output, and the graph of a part.
    part = ollama_0_17.estimate(model, row(ngl=2)).bytes[0] - 2 * (layer + cache)
    assert part == ollama_0_17._cache_and_graph(model, row())[1]


CACHE = 4 * 4 * 2 * 64 * 2048  # bytes at f16: K and V of four layers, two heads of 64, 2048 cells


@pytest.mark.parametrize("cache", ["f16", "q8_0", "q4_0"])
def test_ollama_0_32(model: Model, cache: str) -> None:
    """It takes every cache for f16, and no more context than the model was trained for."""
    assert list(ollama_0_32.estimate(model, row(tk=cache, tv=cache)).bytes) == [model.file_bytes + CACHE]
    most = ollama_0_32.estimate(model, row(ctx=10**6)).bytes[0]
    assert most == model.file_bytes + CACHE // 2048 * 2 * 32768


@pytest.mark.parametrize(("cache", "part"), [("f16", 1), ("q8_0", 1 / 2), ("q4_0", 1 / 4)])
def test_llmfit(model: Model, cache: str, part: float) -> None:
    total = llmfit.estimate(model, row(tk=cache, tv=cache)).bytes[0]
    assert total == pytest.approx(2**30 * (P / 1e9 * 0.58 + 0.5) + CACHE * part, abs=1)


def test_whichllm(model: Model) -> None:
    expected = model.file_bytes + P / 1e9 * 2 * 3.5 * 2**20 + 400e6 + P * 0.08 + 75e6 + 500e6
    assert whichllm.estimate(model, row()).bytes[0] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("name", "cache", "activations"),
    [("qwen3-30b-a3b", 12e9, 3e9), ("gpt-oss-20b", 14.4e9, 3.6e9), ("mixtral-8x7b", None, None)],
)
def test_whichllm_active_parameters(name: str, cache: float | None, activations: float | None) -> None:
    """By its table, by the name, or by a guess of 60 % in experts, of which 2 in 8 are used."""
    model = read_model(HEADERS / f"{name}.txt")
    guess = model.parameters * (0.4 + 0.6 * 2 / 8)
    assert whichllm.attention_parameters(model) == pytest.approx((cache or 4 * guess, activations or guess))


def test_whichllm_window() -> None:
    """Of gemma3, a sixth of the layers has the whole context."""
    model = read_model(HEADERS / "gemma3-1b.txt")
    near, far = (whichllm.estimate(model, row(ctx=context, np=1)).bytes[0] for context in (512, 30720))
    cells = (30720 / 6 + 512 * 5 / 6) - 512
    assert far - near == pytest.approx(
        model.parameters / 1e9 * cells / 1024 * 3.5 * 2**20 + 30208 / 4096 * 150e6, abs=2
    )


def test_articles(model: Model) -> None:
    three, factor, fifth, cache = (estimator.estimate(model, row()).bytes[0] for estimator in articles.ESTIMATORS)
    assert three == pytest.approx(P / 2 + 1.5 * 2048 / 8192 * P / 8 + 1e9, abs=1)
    assert factor == pytest.approx(P * 0.65, abs=1)
    assert fifth == pytest.approx(P * 0.65 * 1.2, abs=1)
    assert cache == pytest.approx(P * 0.65 + P / 7e9 * 32 * 2 * 32 * 128 * 2048 * 2, abs=1)


def test_a_total_is_spread_by_shares(model: Model) -> None:
    one = ollama_0_32.estimate(model, row()).bytes[0]
    assert list(ollama_0_32.estimate(model, row(ng=2, split=[3, 1])).bytes) == [int(one * 0.75), int(one * 0.25)]
    assert list(ollama_0_32.estimate(model, row(ng=0)).bytes) == [one]


def test_what_has_no_estimate_says_why(model: Model) -> None:
    """A single total says nothing of a part, and experts on the host are unknown to all but ours."""
    for estimator in every()[1:]:
        with pytest.raises(Unanswered):
            estimator.estimate(model, row(cmoe=2))
        if estimator.name not in ("Ollama 0.17", "gguf-parser-go"):
            with pytest.raises(Unanswered):
                estimator.estimate(model, row(ngl=2))
