# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Published comparisons: what may be given, which one orders, and where a model without a figure stands."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _benchmarks, _candidates, _catalog
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import BENCHMARKS, CATALOG, ENTRIES, chat, gpu, models, outcome, work

TABLES = _benchmarks.read(BENCHMARKS)
EXAM = {"name": "exam", "source": "a page", "date": "2026-01", "uses": ["chat"], "language": "ja", "figures": {}}


def rated(sizes: dict[str, int], figures: dict[str, float], **more: Any) -> dict[str, _catalog.Entry]:
    """A catalog of models of so many billion parameters, and one benchmark's figures of some of them."""
    entries = [{"name": name, "parameters": size * 10**9, "uses": ["chat"]} for name, size in sizes.items()]
    return _catalog.merge(entries, _benchmarks.read([{**EXAM, "figures": figures, **more}]))


def order(entries: dict[str, _catalog.Entry], **wishes: Any) -> list[str]:
    return [entry.name for entry in _candidates.chosen(work(**wishes), entries, _catalog.NO_LIBRARY)]


@pytest.mark.parametrize("table", BENCHMARKS, ids=lambda table: table["name"])
def test_every_shipped_benchmark_can_be_looked_up(table: dict[str, Any]) -> None:
    assert re.match(r"https://github\.com/[\w.-]+/[\w.-]+/(blob|tree)/[0-9a-f]{40}/", table["source"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["date"])
    assert set(table["figures"]) <= {data["name"] for data in CATALOG}
    assert len(table["figures"]) > 5
    values = list(table["figures"].values())
    assert values == sorted(values, reverse=True)


def test_tags_that_hold_a_later_edition_than_was_measured_have_no_figure() -> None:
    # Qwen3-4B and Qwen3-30B-A3B were measured as of April 2025; the tags hold the thinking models of July and August.
    for name in ("qwen3:4b", "qwen3:30b-a3b"):
        assert not any(table.startswith("swallow") for table in ENTRIES[name].benchmarks)


def test_a_larger_model_without_a_figure_stands_behind_the_worst_that_is_as_large() -> None:
    entries = rated(
        {"old:70b": 70, "new:30b": 30, "new:8b": 8, "mid:32b": 32, "mid:9b": 9, "small:1b": 1, "huge:400b": 400},
        {"old:70b": 40, "new:30b": 60, "new:8b": 50, "small:1b": 10},
    )
    assert order(entries, languages=["ja"]) == [
        "new:30b",
        "new:8b",
        "old:70b",
        # Larger than all that were measured: no better than the largest.
        "huge:400b",
        # old:70b is as large as either, and worse than all others that are.
        "mid:32b",
        "mid:9b",
        "small:1b",
    ]


def test_without_figures_parameters_decide() -> None:
    entries = rated({"a:70b": 70, "b:8b": 8}, {"b:8b": 99})
    assert order(entries, languages=["ja"]) == ["b:8b", "a:70b"]
    for wishes in ({"languages": ["fr"]}, {}, {"languages": ["ja"], "quality": "parameters"}):
        assert order(entries, **wishes) == ["a:70b", "b:8b"]


_SIZES = st.integers(0, 40)


@given(
    st.lists(st.tuples(_SIZES, st.none() | st.integers(0, 6)), min_size=1, max_size=9),
    st.permutations(range(9)),
)
def test_the_order_is_total_and_keeps_both_rules(
    given_models: list[tuple[int, int | None]], shuffled: list[int]
) -> None:
    sizes = {f"m{number}:x": size for number, (size, _figure) in enumerate(given_models)}
    figures = {f"m{number}:x": figure for number, (_size, figure) in enumerate(given_models) if figure is not None}
    names = order(rated(sizes, figures or {"absent:x": 1}), languages=["ja"])
    # Whatever the order in which the catalog has them.
    turned = {name: sizes[name] for name in sorted(sizes, key=lambda name: shuffled[int(name[1])])}
    assert order(rated(turned, figures or {"absent:x": 1}), languages=["ja"]) == names
    place = {name: number for number, name in enumerate(names)}
    # Any two stand as they would without a third that was not measured: no circle can be.
    for left_out in set(sizes) - set(figures):
        fewer = {name: size for name, size in sizes.items() if name != left_out}
        assert order(rated(fewer, figures or {"absent:x": 1}), languages=["ja"]) == [n for n in names if n != left_out]
    for better, other in itertools.permutations(sizes, 2):
        ahead = place[better] < place[other]
        if better in figures and other in figures and figures[better] > figures[other]:
            assert ahead
        if better not in figures and other not in figures and sizes[better] > sizes[other]:
            assert ahead
        if better in figures and other not in figures and sizes[better] >= sizes[other]:
            assert ahead


@pytest.mark.parametrize(
    ("wishes", "name"),
    [
        ({"languages": ["ja"]}, "swallow-ja"),
        ({"languages": ["ja", "en"]}, "swallow-ja"),
        ({}, "swallow-en"),
        ({"languages": ["de"]}, None),
        ({"use": "code"}, "swallow-livecodebench"),
        ({"use": "code", "languages": ["de"]}, "swallow-livecodebench"),
        ({"use": "embedding", "languages": ["ja"]}, "miracl-ja"),
        ({"use": "embedding"}, "miracl-en"),
        ({"use": "vision"}, None),
        ({"quality": "aider-edit", "use": "code"}, "aider-edit"),
        ({"quality": "parameters"}, None),
    ],
)
def test_use_and_first_language_choose_the_benchmark_and_the_plan_says_which(
    wishes: dict[str, Any], name: str | None
) -> None:
    asked = _candidates.chosen(work(**wishes), ENTRIES, _catalog.NO_LIBRARY)
    stated = _candidates.order_stated(work(**wishes), asked)
    if name is None:
        assert "published figures" not in stated
    else:
        assert f"published figures of {name} of 20" in stated


def test_a_japanese_chat_is_ordered_by_japanese_figures() -> None:
    names = [entry.name for entry in _candidates.chosen(work(languages=["ja"]), ENTRIES, _catalog.NO_LIBRARY)]
    figures = next(table for table in TABLES if table.name == "swallow-ja").figures
    measured = [name for name in names if name in figures]
    assert [figures[name] for name in measured] == sorted(figures.values(), reverse=True)
    # Forty times as many parameters, and two years older.
    assert names.index("qwen3.5:9b") < names.index("qwen2.5:72b")


def test_embeddings_are_ordered_by_the_language_searched() -> None:
    japanese = [entry.name for entry in _candidates.chosen(
        work(use="embedding", languages=["ja"]), ENTRIES, _catalog.NO_LIBRARY)]  # fmt: skip
    english = [entry.name for entry in _candidates.chosen(work(use="embedding"), ENTRIES, _catalog.NO_LIBRARY)]
    assert japanese.index("bge-m3:567m") < japanese.index("qwen3-embedding:4b")
    assert english.index("qwen3-embedding:4b") < english.index("bge-m3:567m")


def test_the_runner_up_lost_by_the_benchmark_that_ordered() -> None:
    entries = [
        {"name": name, "size_bytes": 10**9, "quantization": "Q4_K_M", "parameters": size, "uses": ["chat"],
         "languages": ["ja"], "shape": ENTRIES["qwen3:1.7b"].shape}
        for name, size in (("a:1b", 10**9), ("b:2b", 2 * 10**9), ("c:1b", 10**9))
    ]  # fmt: skip
    tables = [{**EXAM, "figures": {"a:1b": 7.5, "b:2b": 3}}, {**EXAM, "name": "second", "figures": {"c:1b": 99}}]
    made = outcome([chat(languages=["ja"])], [gpu(0, 8)], catalog=entries, benchmarks=tables)
    [model] = models(made)
    assert (model["name"], model["runner_up"]["model"]) == ("a:1b", "b:2b")
    assert model["runner_up"]["reason"] == "exam of 2026-01: 3 against 7.5"
    assert "exam of 2026-01 (2 of 3 models have one)" in model["order"]
    without = outcome([chat(languages=["ja"])], [gpu(0, 8)], catalog=[entries[0], entries[2]], benchmarks=tables)
    assert models(without)[0]["runner_up"]["reason"] == "exam of 2026-01 has no figure of it, and 7.5 of a:1b"


def test_a_benchmark_that_is_not_given_is_told_with_the_likely_one() -> None:
    with pytest.raises(PlanError, match=r"quality is 'swalow-ja'.*did you mean swallow-ja\?"):
        outcome([chat(quality="swalow-ja")], [gpu(0, 24)])


def test_an_entrys_own_figure_has_the_last_word() -> None:
    entry = {"name": "a:1b", "benchmarks": {"exam": {"value": 9, "source": "our own"}}}
    merged = _catalog.merge([entry], _benchmarks.read([{**EXAM, "figures": {"a:1b": 1}}]))
    assert merged["a:1b"].benchmarks["exam"].value == 9


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "parameters"}, "a name other than parameters"),
        ({"source": ""}, "where the figures stand"),
        ({"figures": {}}, "a number for each model"),
        ({"figures": {"a:1b": "good"}}, "the figure of a:1b is 'good'"),
        ({"figures": {"a:1b": float("nan")}}, "the figure of a:1b is nan"),
        ({"figures": {"a:1b": True}}, "the figure of a:1b is True"),
        ({"uses": "chat"}, r"a list such as \[chat\]"),
        ({"langauge": "ja"}, "did you mean language"),
    ],
)
def test_a_wrong_benchmark_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(_benchmarks.BenchmarkError, match=says):
        _benchmarks.read([{**EXAM, "figures": {"a:1b": 1}, **wrong}])


def test_a_name_stands_once() -> None:
    table = {**EXAM, "figures": {"a:1b": 1}}
    with pytest.raises(_benchmarks.BenchmarkError, match="stands twice"):
        _benchmarks.read([table, table])
