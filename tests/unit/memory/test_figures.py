"""The bench's arithmetic, against figures worked out by hand."""

from __future__ import annotations

import pytest

from tests.memory.figures import CPU, MIB, ONE_GPU, SEVERAL_GPUS, Comparison, decisions, figures, percentile, summary

RESERVE = 1481 * MIB


def compared(
    truth: int, estimate: int, placement: str = CPU, known: bool = True, architecture: str = "a"
) -> Comparison:
    return Comparison(architecture, placement, truth, estimate, known)


@pytest.mark.parametrize(
    ("truth", "estimate", "error", "under"),
    [
        (100, 90, 0.1, 0.1),
        (100, 110, 0.1, -0.1),
        (100, 100, 0.0, 0.0),
        (0, 0, 0.0, 0.0),
        (0, 5, 1.0, -1.0),
        (5, 0, 1.0, 1.0),
    ],
)
def test_error_and_under(truth: int, estimate: int, error: float, under: float) -> None:
    comparison = compared(truth, estimate)
    assert (comparison.error, comparison.under) == (pytest.approx(error), pytest.approx(under))


@pytest.mark.parametrize(("count", "place"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_percentile_is_the_nearest_rank(count: int, place: int) -> None:
    assert percentile([float(number) for number in range(1, count + 1)], 0.95) == place


def test_decisions_are_asked_of_near_cards() -> None:
    """10 GiB and the reserve are 11721 MiB: 40 to 160 % of the cards of 8188 to 24564 MiB."""
    truth = 10 * 2**30
    assert decisions(truth, truth) == [(False, False)] * 2 + [(True, True)] * 3
    # 567 MiB short of the card of 12288 MiB.
    assert decisions(truth, truth + 567 * MIB) == [(False, False)] * 2 + [(True, True)] * 3
    assert decisions(truth, truth + 568 * MIB) == [(False, False)] * 2 + [(True, False)] + [(True, True)] * 2
    assert decisions(truth, 0)[:2] == [(False, True)] * 2


@pytest.mark.parametrize(
    ("needed", "asked"),
    [
        # 40 % of the card of 81559 MiB, the largest, rounded up; then less than that.
        (32624 * MIB, (24564, 32607, 49140, 81559)),
        (32623 * MIB, (24564, 32607, 49140)),
        # 160 % of the card of 6144 MiB, the smallest, rounded down; then more.
        (9830 * MIB, (6144, 8188, 10240, 12288, 16376, 24564)),
        (9831 * MIB, (8188, 10240, 12288, 16376, 24564)),
    ],
)
def test_bounds_of_what_is_a_decision(needed: int, asked: tuple[int, ...]) -> None:
    fits = [(needed <= card * MIB,) * 2 for card in asked]
    assert decisions(needed - RESERVE, needed - RESERVE) == fits


def test_exact_card_is_a_yes() -> None:
    truth = 8188 * MIB - RESERVE
    assert (True, True) in decisions(truth, truth)
    assert decisions(truth, truth + 1)[1] == (True, False)


def test_figures() -> None:
    found = figures(
        [
            compared(100, 101),
            compared(100, 97, SEVERAL_GPUS),
            compared(8188 * MIB - RESERVE, 8189 * MIB - RESERVE, ONE_GPU),
            compared(8189 * MIB - RESERVE, 8188 * MIB - RESERVE, ONE_GPU),
        ]
    )
    # Cards of 6144 to 16376 MiB for both rows with one GPU; at 8188 MiB one errs to each side.
    assert found == {
        "rows": 4,
        "median_error": pytest.approx((1 / 6708 + 0.01) / 2, rel=1e-2),
        "p95_error": pytest.approx(0.03),
        "worst_under": pytest.approx(0.03),
        "decisions_right": pytest.approx(0.8),
        "false_fits": 1,
    }


def test_figures_of_nothing() -> None:
    assert figures([]) == {
        "rows": 0,
        "median_error": None,
        "p95_error": None,
        "worst_under": None,
        "decisions_right": None,
        "false_fits": 0,
    }


def test_several_gpus_decide_nothing() -> None:
    assert figures([compared(2**33, 2**33, SEVERAL_GPUS)])["decisions_right"] is None


def test_unknown_rows_stay_and_are_counted() -> None:
    found = summary(
        [compared(100, 100), compared(100, 200, known=False, architecture="b"), compared(100, 99, known=False)],
        unanswered=3,
    )
    assert found["rows"] == 3
    assert found["p95_error"] == 1.0
    assert found["unknown_rows"] == 2
    assert found["unknown_below_truth"] == 1
    assert found["unanswered"] == 3
    assert found["known"]["rows"] == 1
    assert found["known"]["p95_error"] == 0.0
    assert {name: part["rows"] for name, part in found["by_architecture"].items()} == {"a": 2, "b": 1}
    assert set(found["known"]) == set(found["by_architecture"]["b"]) == set(figures([]))
