# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``tests.faults.watched`` puts in, waits for and tells; the run itself needs a fleet."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.alerts import promtool
from tests.faults import watched
from tests.faults.injection import load


def test_every_fault_has_an_alert_that_exists_and_a_way_out() -> None:
    cases = watched.cases()
    assert len(cases) >= 10
    assert {case.alert for case in cases} <= promtool.alerts().keys()
    assert {case.fault.spec["host"] for case in cases} <= watched.HOSTS.keys()
    for case in cases:
        assert ("put" in case.fault.spec) == ("out" in case.fault.spec), case.fault.name
    ladder = {fault.name for fault in load()}
    assert len([case for case in cases if case.fault.name in ladder]) >= 8
    assert len({case.fault.name for case in cases}) == len(cases)


def test_hasty_rules_wait_for_nothing_and_are_rules(tmp_path: Path) -> None:
    text = watched.hasty((promtool.RULES / "alerts.yml").read_text())
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == promtool.alerts().keys()
    assert not [rule for rule in rules if {"for", "keep_firing_for"} & rule.keys() or "12h" in rule["expr"]]
    file = tmp_path / "alerts.yml"
    file.write_text(text)
    done = subprocess.run([promtool.promtool(), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("duration", "expected"), [("0s", 0), ("20m", 1200), ("1h30m", 5400)])
def test_times(duration: str, expected: int) -> None:
    assert watched.seconds(duration) == expected


def test_what_is_no_time() -> None:
    with pytest.raises(ValueError, match="'3 m' is no time"):
        watched.seconds("3 m")


def test_what_rule_and_alertmanager_wait_is_added() -> None:
    assert watched.waits(promtool.alerts()["LLMNodeDrained"]) == 12 * 3600
    (case,) = [case for case in watched.cases() if case.fault.name == "UFW is off"]
    # A look each minute, a scrape and an evaluation; 5 minutes of the rule; 10 seconds of Alertmanager.
    assert case.told_by == 60 + 15 + 15 + 300 + 10
    seen = watched.Seen("UFW is off", "LLMFirewallOff", noticed=31.4)
    assert "| UFW is off | LLMFirewallOff (page) | 5 min 00 s | 6 min 40 s | 31 s |" in watched.table(
        {seen.fault: seen}
    )
    seen.missed = "nothing fires"
    assert "| 6 min 40 s | missed |" in watched.table({seen.fault: seen})


class Told(watched.Monitor):
    """A monitor whose host answers what it is given."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def shell(self, script: str) -> str:
        return self.answer


@pytest.mark.parametrize(("part", "seconds"), [("", 0.0), (".5", 0.5), (".541404641", 0.541404641)])
def test_what_fires_for_a_host_and_since_when(part: str, seconds: float) -> None:
    labels = {"alertname": "LLMEngineDown", "instance": "faults-cpu1"}
    alerts = [
        {"labels": labels, "state": "firing", "activeAt": f"2026-11-22T12:10:39{part}Z"},
        {"labels": {**labels, "instance": "faults-gpu1"}, "state": "firing", "activeAt": "2026-11-22T12:00:00Z"},
    ]
    found = Told(json.dumps({"data": {"alerts": alerts}})).alerts("faults-cpu1")
    assert found == {"LLMEngineDown": pytest.approx(1795349439 + seconds)}


def test_what_was_received_of_a_fault_and_not_before_it() -> None:
    def body(time: float, status: str, instance: str = "a") -> str:
        alert = {"labels": {"alertname": "LLMHostDown", "instance": instance}, "status": status}
        return json.dumps({"time": time, "path": "/page", "alerts": [alert]})

    lines = [body(10, "firing"), body(30, "firing", "b"), body(40, "resolved"), body(50, "firing")]
    assert Told("\n".join(lines)).received("LLMHostDown", "a", after=20) == 50
    assert Told("\n".join(lines[:3])).received("LLMHostDown", "a", after=20) == 0


def test_the_constants_are_the_role_s() -> None:
    roles = promtool.RULES.parents[1]
    assert (
        f"monitoring_server_scrape_interval: {watched.SCRAPE_INTERVAL}s\n" in (roles / "defaults/main.yml").read_text()
    )
    waits = re.findall(r"group_wait: (\d+)s", (roles / "templates/alertmanager.yml.j2").read_text())
    assert sorted(map(int, waits)) == sorted(watched.GROUP_WAIT.values())


def test_the_page_has_the_table() -> None:
    assert watched.table(watched.results()) in watched.PAGE.read_text(encoding="utf-8")
