"""The account stays within its bounds on the repository's data, and docs/memory-bench.md says what the bench finds."""

from __future__ import annotations

import pytest

from tests.memory import __main__ as command
from tests.memory import bench, bounds, data, plan_speed, report
from tests.memory.estimators import every
from tests.memory.figures import PLACEMENTS, figures


@pytest.fixture(scope="module")
def found() -> data.Data:
    return data.read()


@pytest.fixture(scope="module")
def sample(found: data.Data) -> data.Data:
    """The rows that the account is tried on: some of each file and of each model."""
    rows = [
        row
        for name, stride in bounds.STRIDES.items()
        for row in [row for row in found.rows if row.place.startswith(name)][::stride]
    ]
    missing = sorted(set(found.models) - {row.model for row in rows})
    rows += [next(row for row in found.rows if row.model == name) for name in missing]
    return data.Data(found.models, rows)


@pytest.fixture(scope="module")
def ours(sample: data.Data) -> bench.Result:
    return bench.run(sample, every()[:1])[0]


@pytest.fixture(scope="module")
def public(found: data.Data) -> list[bench.Result]:
    return bench.run(found, every()[1:])


def exceeded(measured: dict[str, float | None], allowed: dict[str, float]) -> list[str]:
    """What is beyond its bound; ``decisions_right`` is bounded from below."""
    return [
        f"{key} is {value}, {bound} is allowed"
        for key, bound in allowed.items()
        if (value := measured[key]) is not None and (value < bound if key == "decisions_right" else value > bound)
    ]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_account_is_within_its_bounds(ours: bench.Result, placement: str) -> None:
    comparisons = [item for item in ours.comparisons if item.placement == placement]
    assert len(comparisons) > 15
    assert exceeded(figures(comparisons), bounds.BOUNDS[placement]) == []


def test_account_answers_every_row(ours: bench.Result, sample: data.Data, found: data.Data) -> None:
    assert dict(ours.unanswered) == {}
    assert len(ours.comparisons) == sum(len(row.truth) for row in sample.rows)
    assert {row.model for row in sample.rows} == set(found.models)
    assert found.left_out == {}


def test_account_never_lies_below_the_truth_where_it_does_not_know(ours: bench.Result) -> None:
    measured = ours.summary()
    assert measured["unknown_rows"] <= bounds.UNKNOWN_SHARE * measured["rows"]
    assert measured["unknown_below_truth"] == 0


def test_bounds_are_seen() -> None:
    measured = {"median_error": 0.1, "decisions_right": 0.9, "worst_under": None}
    assert exceeded(measured, {"median_error": 0.1, "decisions_right": 0.9, "worst_under": 0.0}) == []
    assert len(exceeded(measured, {"median_error": 0.09, "decisions_right": 0.91, "worst_under": 0.0})) == 2


def test_public_estimators_answer(public: list[bench.Result]) -> None:
    """None fails on a row; those that have no notion of something say of what."""
    for result in public:
        assert all("Error" not in reason for reason in result.unanswered), (result.estimator.name, result.unanswered)
        assert len(result.comparisons) > 10000, result.estimator.name


def test_page_is_up_to_date(ours: bench.Result, public: list[bench.Result], found: data.Data) -> None:
    """When this fails, run `make bench-memory`. The page has figures of all rows of the account; the sample is held
    against them: what the page calls exact must be so here."""
    lines = command.PAGE.read_text(encoding="utf-8").splitlines()
    rendered = report.page([ours, *public], found).splitlines()
    assert [line for line in lines if not line.startswith("|")] == [line for line in rendered if line[:1] != "|"]
    for line in report.markdown(report.beside(public)).splitlines():
        assert line in lines
    head, *cells = [
        cell.strip() for cell in next(line for line in lines if line.startswith("| onprem.llm ")).split("|")[1:-1]
    ]
    assert (head, cells[0]) == ("onprem.llm", str(sum(len(row.truth) for row in found.rows)))
    measured = report.cells(ours.summary())
    assert [shown for shown, here in zip(cells[1:], measured[1:]) if shown == "0" and here != "0"] == []


def test_figures_do_not_depend_on_the_run(found: data.Data, public: list[bench.Result]) -> None:
    again = bench.run(data.Data(found.models, found.rows[:200]), every()[1:])
    for first, second in zip(public, again):
        assert first.comparisons[: len(second.comparisons)] == second.comparisons


def test_every_host_gets_a_plan() -> None:
    """The measure of speed, small: four kinds of hosts, six candidates, two context lengths."""
    sizes = plan_speed.Sizes(hosts=4, candidates=6, contexts=(2048, 4096))
    assert len(list(plan_speed.account_all(sizes))) == 4 * 6 * 2
    assert len(list(plan_speed.plan_all(sizes))) == 4
