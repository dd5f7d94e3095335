# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""check_results and check_report: everything that was found is kept and told, and a failed check fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.onprem.llm.plugins.action import check_report, check_results
from ansible_collections.onprem.llm.plugins.plugin_utils import _report

GOOD = {"check": "The door is shut", "found": " shut\n", "ok": True}
BAD = {"check": "The key is turned", "found": "it\nis not", "ok": "no"}
LEFT_OUT = {"check": "The window is shut", "found": "there is none", "ok": False, "asked": False}


def play(plugin: Any, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    loader = DataLoader()
    task = SimpleNamespace(
        args=arguments, action="x", async_val=0, check_mode=False, diff=False, environment=[], no_log=False,
        _role=None, _parent=None, collections=[], delegate_to=None,
    )  # fmt: skip
    action = plugin.ActionModule(
        task=task,
        connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)),
        play_context=SimpleNamespace(check_mode=False, diff=False),
        loader=loader,
        templar=Templar(loader=loader, variables=variables),
        shared_loader_obj=None,
    )
    result: dict[str, Any] = action.run(task_vars=variables)
    return result


def tell(*results: dict[str, Any], first: bool = False, **variables: Any) -> dict[str, Any]:
    return play(check_results, {"component": "house", "results": list(results), "first": first}, variables)


def test_what_is_as_it_should_be_passes() -> None:
    result = tell(GOOD, LEFT_OUT)
    assert not result["failed"]
    assert [item["verdict"] for item in result["results"]] == ["ok", "not asked"]
    assert result["msg"].splitlines()[0].split() == ["ok", "house:", "The", "door", "is", "shut:", "shut"]


def test_a_failed_check_fails_and_all_of_them_are_told() -> None:
    result = tell(GOOD, BAD, BAD | {"check": "The light is out"})
    assert result["failed"]
    assert [line.split()[0] for line in result["msg"].splitlines()] == ["FAILED", "FAILED"]
    assert "The light is out: it is not" in result["msg"]


def test_a_playbook_that_gathers_goes_on() -> None:
    result = tell(BAD, verify_gather_results=True)
    assert not result["failed"]
    assert result["results"][0]["verdict"] == "FAILED"


def test_results_are_added_to_those_before() -> None:
    earlier = tell(GOOD)["ansible_facts"]
    both = tell(BAD, verify_gather_results=True, ansible_facts=earlier)["ansible_facts"]
    assert [item["verdict"] for item in both[check_results.FACT]] == ["ok", "FAILED"]
    assert tell(GOOD, first=True, ansible_facts=both)["ansible_facts"] == earlier


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(_report, "Display", lambda: SimpleNamespace(display=lambda text, color: lines.append(text)))
    return lines


def report_on(dropped: list[str], **results: list[dict[str, Any]]) -> dict[str, Any]:
    hostvars = {
        host: {"ansible_facts": tell(*items, verify_gather_results=True)["ansible_facts"]}
        for host, items in results.items()
    }
    return play(check_report, {"hosts": [*results, "gone"], "dropped": dropped}, {"hostvars": hostvars})


def test_report_has_a_line_a_check_and_host(shown: list[str]) -> None:
    result = report_on(["gone"], node1=[GOOD, BAD], gw1=[LEFT_OUT])
    assert [line.split()[:3] for line in shown] == [
        ["FAILED", "gone", "verify"],
        ["not", "asked", "gw1"],
        ["ok", "node1", "house"],
        ["FAILED", "node1", "house"],
    ]
    assert shown[-1].endswith("The key is turned: it is not")
    assert result["lines"] == shown
    assert result["failed_checks"] == {
        "gone": ["verify: The host answers: it dropped out of the run, so what stands here of it is not all"],
        "gw1": [],
        "node1": ["house: The key is turned: it is not"],
    }


def test_report_leaves_the_standard_output_to_other_callbacks(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_report.C, "DEFAULT_STDOUT_CALLBACK", "ansible.posix.json")
    assert report_on([], node1=[GOOD])["lines"]
    assert shown == []
