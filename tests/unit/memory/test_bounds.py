"""The account stays within its bounds on the repository's data, and docs/memory-bench.md says what the bench finds."""

from __future__ import annotations

import time

import pytest

from tests.memory import __main__ as command
from tests.memory import bench, bounds, data, plan_speed, report
from tests.memory.estimators import every
from tests.memory.figures import PLACEMENTS, figures


@pytest.fixture(scope="module")
def found() -> data.Data:
    return data.read()


@pytest.fixture(scope="module")
def results(found: data.Data) -> list[bench.Result]:
    return bench.run(found, every())


def exceeded(measured: dict[str, float | None], allowed: dict[str, float]) -> list[str]:
    """What is beyond its bound; ``decisions_right`` is bounded from below."""
    return [
        f"{key} is {value}, {bound} is allowed"
        for key, bound in allowed.items()
        if (value := measured[key]) is not None and (value < bound if key == "decisions_right" else value > bound)
    ]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_account_is_within_its_bounds(results: list[bench.Result], placement: str) -> None:
    comparisons = [item for item in results[0].comparisons if item.placement == placement]
    assert len(comparisons) > 100
    assert exceeded(figures(comparisons), bounds.BOUNDS[placement]) == []


def test_account_answers_every_row(results: list[bench.Result], found: data.Data) -> None:
    assert dict(results[0].unanswered) == {}
    assert len(results[0].comparisons) == sum(len(row.truth) for row in found.rows)
    assert found.left_out == {}


def test_account_never_lies_below_the_truth_where_it_does_not_know(results: list[bench.Result]) -> None:
    measured = results[0].summary()
    assert measured["unknown_rows"] <= bounds.UNKNOWN_SHARE * measured["rows"]
    assert measured["unknown_below_truth"] == 0


def test_bounds_are_seen() -> None:
    measured = {"median_error": 0.1, "decisions_right": 0.9, "worst_under": None}
    assert exceeded(measured, {"median_error": 0.1, "decisions_right": 0.9, "worst_under": 0.0}) == []
    assert len(exceeded(measured, {"median_error": 0.09, "decisions_right": 0.91, "worst_under": 0.0})) == 2


def test_public_estimators_answer(results: list[bench.Result]) -> None:
    """None fails on a row; those that have no notion of something say of what."""
    for result in results[1:]:
        assert all("Error" not in reason for reason in result.unanswered), (result.estimator.name, result.unanswered)
        assert len(result.comparisons) > 10000, result.estimator.name


def test_page_is_up_to_date(results: list[bench.Result], found: data.Data) -> None:
    """When this fails, run `make docs`."""
    assert command.PAGE.read_text(encoding="utf-8") == report.page(results, found)


def test_figures_do_not_depend_on_the_run(found: data.Data, results: list[bench.Result]) -> None:
    again = bench.run(data.Data(found.models, found.rows[:200]), every())
    for first, second in zip(results, again):
        assert first.comparisons[: len(second.comparisons)] == second.comparisons


def test_every_host_gets_a_plan() -> None:
    """The measure of speed, small: four kinds of hosts, six candidates, two context lengths."""
    sizes = plan_speed.Sizes(hosts=4, candidates=6, contexts=(2048, 4096))
    assert plan_speed.account_all(sizes) == 4 * 6 * 2
    started = time.process_time()
    assert plan_speed.plan_all(sizes) == 4
    assert time.process_time() - started < 5
