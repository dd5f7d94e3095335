# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's table: what hosts told, what they did not tell, and what all of it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fleet_sample as sample
import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _fleet_status as status

AT = 1795348995.0


def result(state: dict[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps(state)}


@pytest.fixture
def told(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {host["name"]: {**host, "alerts": None} for host in sample.fleet(tmp_path, AT)["hosts"]}


def monitoring(*alerts: dict[str, str], known: bool = True, reason: str = "") -> dict[str, Any]:
    row = status.heard("mon01", ["monitoring"], None)
    return {**row, "state": "ok", "reason": "", "alerts": {"known": known, "reason": reason, "alerts": list(alerts)}}


def an_alert(name: str, host: str, severity: str = "ticket") -> dict[str, str]:
    return {"name": name, "host": host, "severity": severity, "summary": f"{host} is not well"}


@pytest.mark.parametrize(
    ("given", "state", "reason"),
    [
        (None, "unreachable", "no answer"),
        ({"unreachable": True, "msg": "Task failed: no route\n"}, "unreachable", "no route"),
        (
            {"rc": 2, "stderr": "python3: can't open file '/x': [Errno 2] No such file or directory"},
            "unknown", "it has no status program yet: run site.yml",
        ),
        ({"rc": 1, "stderr": "Traceback\nKeyError: 'x'\n"}, "unknown", "KeyError: 'x'"),
        ({"msg": "python3 was not found"}, "unknown", "python3 was not found"),
        ({"rc": 0, "stdout": "{"}, "unknown", "what it tells cannot be understood: "),
        ({"rc": 0, "stdout": "[]"}, "unknown", "what it tells cannot be understood: no state"),
    ],
)  # fmt: skip
def test_a_host_that_tells_nothing(given: dict[str, Any] | None, state: str, reason: str) -> None:
    row = status.heard("gpu01", ["node"], given)
    assert row["state"] == state
    assert row["reason"].startswith(reason)
    fleet = status.summary([row])
    assert not fleet["well"]
    assert any(line.startswith("gpu01: ") for _colour, line in status.lines(fleet))


def test_rows_have_the_hosts_figures(told: dict[str, dict[str, Any]]) -> None:
    fleet = status.summary([status.heard(name, [], result(state)) for name, state in told.items()])
    rows = {row["host"]: row for row in fleet["hosts"]}
    assert (rows["gpu01"]["models_warm"], rows["gpu01"]["models_planned"], rows["gpu01"]["slots"]) == (2, 2, 8)
    assert rows["gpu01"]["gpus"] == 2
    assert rows["gw01"]["slots"] == 20
    assert rows["gw01"]["slots_running"] == 10
    assert rows["gw01"]["requests_waiting"] == 2
    # The slowest model's.
    assert rows["gw01"]["first_token_p95_seconds"] == max(model["first_token_p95"] for model in fleet["models"])
    assert rows["cpu01"]["gpu_memory_total_bytes"] is None
    assert [model["gateway"] for model in fleet["models"]] == ["gw01"] * 4
    assert not fleet["well"]
    text = "\n".join(line for _state, line in status.lines(fleet))
    assert "cpu01: its figures are 23 minutes old  [LLMMetricsStale]" in text
    assert text.count("23 minutes old") == 1


def test_a_drained_node_is_not_well(told: dict[str, dict[str, Any]]) -> None:
    told["gw01"]["gateway"]["drained"] = ["gpu01"]
    fleet = status.summary([told["gw01"], told["gpu01"]])
    assert [row["drained"] for row in fleet["hosts"]] == [False, True]
    assert not fleet["well"]
    assert ("degraded", True) in [(state, "ok, drained" in line) for state, line in status.lines(fleet)]


def test_a_fleet_that_is_well(told: dict[str, dict[str, Any]]) -> None:
    fleet = status.summary([told["gw01"], told["gpu01"], monitoring()])
    assert fleet["well"]
    assert fleet["alerts"] == []
    assert ("", "No alert fires.") in status.lines(fleet)


def test_alerts_count_by_host_and_once(told: dict[str, dict[str, Any]]) -> None:
    fired = [an_alert("LLMEngineDown", "gpu01", "page"), an_alert("LLMGpuSlowed", "gpu01")]
    fleet = status.summary([told["gpu01"], told["gw01"], monitoring(*fired), monitoring(fired[0])])
    assert [row["alerts"] for row in fleet["hosts"]] == [2, 0, 0, 0]
    assert not fleet["well"]
    assert ("failing", "LLMEngineDown (page)  gpu01 is not well") in status.lines(fleet)


@pytest.mark.parametrize(
    ("watchers", "said"),
    [
        ([], "no monitoring server was asked"),
        ([monitoring(known=False, reason="Alertmanager at x: no answer")], "Alertmanager at x: no answer"),
    ],
)
def test_alerts_that_nobody_knows_are_not_none(
    told: dict[str, dict[str, Any]], watchers: list[dict[str, Any]], said: str
) -> None:
    fleet = status.summary([told["gpu01"], *watchers])
    assert fleet["alerts"] is None
    assert fleet["hosts"][0]["alerts"] is None
    assert ("", f"Alerts are not known: {said}.") in status.lines(fleet)
