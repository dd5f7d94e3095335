# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""report_preflight: the faults of all hosts and of the inventory in one message, or what the run would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Act = Callable[..., dict[str, Any]]

GROUPS = {"llm_nodes": ["a", "b"], "gpu_nodes": ["a"], "cpu_nodes": ["b"], "gateways": ["g"]}
OUTLOOK = {"note": [], "install": ["nginx"], "change": [], "restart": [], "interrupt": []}


def report(act: Act, hosts: dict[str, dict[str, Any]], reached: list[str] | None = None, **groups: Any) -> Any:
    hostvars = {
        name: {"checked": {"faults": []}, "judged": {"faults": [], "outlook": OUTLOOK}} for name in ("a", "b", "g")
    }
    for name, more in hosts.items():
        hostvars[name] = hostvars.get(name, {}) | more
    names = list(hostvars)
    arguments = {"hosts": names, "reached": names if reached is None else reached, "registered": ["checked", "judged"]}
    return act("report_preflight", arguments, {"groups": GROUPS | groups, "hostvars": hostvars})


def fault(message: str) -> dict[str, Any]:
    return {"faults": [{"message": message}]}


def test_without_faults_the_outlook_is_shown(act: Act) -> None:
    result = report(act, {})
    assert not result.get("failed")
    assert result["lines"] == ["a, b, g:", "  install   nginx"]


def test_all_faults_are_told_at_once_each_with_its_hosts(act: Act) -> None:
    told = {"a": {"checked": fault("x"), "judged": fault("y")}, "b": {"checked": fault("x")}}
    message = report(act, told)["msg"]
    assert message.splitlines() == ["2 faults in the way; nothing was changed on any host:", "- a, b: x", "- a: y"]


def test_faults_of_the_inventory_itself(act: Act) -> None:
    twins = {"a": {"ansible_host": "10.0.0.1"}, "b": {"ansible_host": "10.0.0.1"}}
    message = report(act, twins, cpu_nodes=["a", "b"])["msg"]
    assert "- gpu_nodes, cpu_nodes: a is in both" in message
    assert "- ansible_host is 10.0.0.1 for a, b;" in message


@pytest.mark.parametrize(
    "more",
    [
        {"a": {"ansible_host": "h", "ansible_port": 22}, "b": {"ansible_host": "h", "ansible_port": 23}},
        {"a": {"ansible_host": "h", "ansible_connection": "docker"}, "b": {"ansible_host": "h"}},
    ],
)
def test_one_address_may_lead_to_two_hosts(act: Act, more: dict[str, Any]) -> None:
    assert not report(act, more).get("failed")


def test_a_host_that_was_not_reached_is_named_and_its_variables_still_count(act: Act) -> None:
    result = report(act, {}, reached=["a", "g"])
    assert result["lines"] == ["a, g:", "  install   nginx", "Not reached, and left out: b"]
    message = report(act, {"b": {"checked": fault("x")}}, reached=["a", "g"])["msg"]
    assert "- b: x" in message
    assert message.endswith("Not reached, and left out: b")


def test_hosts_that_nothing_was_registered_for(act: Act) -> None:
    assert not report(act, {"mirror": {}}).get("failed")
