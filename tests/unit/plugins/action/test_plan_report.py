# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""plan_report: every host's plan, the fleet's after them, and a failure for a host that has none."""

from __future__ import annotations

from typing import Any

from ansible_collections.onprem.llm.plugins.action import plan_report

MODEL = {"workload": "chat", "name": "qwen3:8b", "context_length": 8192, "slots": 2, "gpus": ["GPU-0"]}


def selection(name: str, planned: int = 5) -> dict[str, Any]:
    return {
        "report": [f"ollama on {name}"],
        "plan": {"instances": [{"models": [MODEL]}], "devices": [{"id": name, "planned_bytes": planned}]},
    }


def test_one_host_has_its_plan_alone() -> None:
    lines, without = plan_report.report({"a": selection("GPU-0")})
    assert [text for text, _colour in lines] == ["a:", "  ollama on GPU-0"]
    assert without == []


def test_several_hosts_are_a_fleet_and_one_without_a_plan_is_told() -> None:
    lines, without = plan_report.report(
        {"a": selection("GPU-0"), "b": selection("GPU-1", planned=0), "c": {"msg": "nothing fits on c"}, "d": {}}
    )
    texts = [text for text, _colour in lines]
    assert "  no plan: nothing fits on c" in texts
    assert "  no plan: none was made" in texts
    assert "the fleet:" in texts
    assert texts[-1] == "  idle on b: GPU-1"
    assert without == ["c", "d"]
