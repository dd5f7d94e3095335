# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage by user and month, over all gateways."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _usage


def used(**counted: float) -> dict[str, float]:
    return {**dict.fromkeys(_usage.COUNTED, 0.0), **counted}


ONE = {
    "2026-11": {
        "ann": {"a:1": used(requests=3, failed=1, completion_tokens=10, engine_seconds=3600, gpu_seconds=900)},
        "bob": {"a:1": used(requests=1), "b:2": used(requests=2, prompt_tokens=7)},
    },
    "2026-10": {"ann": {"a:1": used(requests=100)}},
}
TWO = {"2026-11": {"ann": {"a:1": used(requests=4, gpu_seconds=900)}}}


def test_gateways_are_added_up() -> None:
    rows = _usage.rows([ONE, TWO, {}], "2026-11")
    assert [(row["user"], row["model"], row["requests"]) for row in rows] == [
        ("ann", "a:1", 7), ("bob", "a:1", 1), ("bob", "b:2", 2),
    ]  # fmt: skip
    assert (rows[0]["failed"], rows[0]["engine_hours"], rows[0]["gpu_hours"]) == (1, 1.0, 0.5)
    by_user = _usage.rows([ONE, TWO], "2026-11", by_model=False)
    assert [(row["user"], row["model"], row["requests"]) for row in by_user] == [("ann", "all", 7), ("bob", "all", 3)]


def test_the_table_ends_with_the_sums() -> None:
    lines = _usage.lines(_usage.rows([ONE, TWO], "2026-11"))
    assert len(lines) == 5
    assert lines[0].split() == list(_usage.COLUMNS[1:])
    assert lines[-1].split() == ["together", "10", "1", "7", "10", "1.000", "0.500"]
    assert _usage.lines([])[-1].split()[0] == "together"


def test_csv_is_read_back_and_starts_no_formula() -> None:
    months = {"2026-11": {"=cmd()": {'m,"x': used(requests=1)}}}
    (row,) = csv.DictReader(io.StringIO(_usage.as_csv(_usage.rows([months], "2026-11"))))
    assert (row["user"], row["model"], row["requests"]) == ("'=cmd()", 'm,"x', "1")


@pytest.mark.parametrize("month", ["2026-13", "2026-00", "11-2026", "2026-11\n", ""])
def test_a_month_that_does_not_exist(month: str) -> None:
    assert "such as 2026-11" in _usage.month_fault(month)


def test_a_ledger() -> None:
    assert _usage.month_fault("2026-11") == ""
    assert _usage.ledger("\n", "gw1") == {}
    assert _usage.ledger(json.dumps({"schema": 1, "months": ONE}), "gw1") == ONE


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": 2, "months": {}}', '{"schema": 1}', '{"schema": 1, "months": 5}']
)
def test_what_is_no_ledger_is_told_with_its_host(content: str) -> None:
    with pytest.raises(_usage.UsageError, match="gw1"):
        _usage.ledger(content, "gw1")


def test_what_is_no_number_is_told() -> None:
    broken: dict[str, Any] = {"2026-11": {"ann": {"a:1": {"requests": "many"}}}}
    with pytest.raises(_usage.UsageError, match="ann, a:1: requests"):
        _usage.rows([broken], "2026-11")
