# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify.yml says after a restart, of what the GPU check and the proof found."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from role_templates import ROLES, evaluated, trusted

TASKS = yaml.safe_load((ROLES / "ollama/tasks/verify_restart.yml").read_text(encoding="utf-8"))
HEALTHY = {"status": "healthy", "cause": "", "message": "", "simulated": False}
LOST = {**HEALTHY, "status": "unhealthy", "cause": "nvml_lost", "message": "the container lost its GPUs"}


def result(restart: str = "docker", **found: Any) -> dict[str, Any]:
    variables = {
        "__ollama_restart": restart,
        "__ollama_gpu_check": {"stdout": json.dumps(HEALTHY), "stderr": ""},
        "__ollama_warm": {"rc": 0, "stderr": ""},
        "__ollama_driver_units": {"skipped": True},
        "__ollama_misplaced": [],
        "__ollama_findings": [{"found": "19 of 19 layers on the GPU"}],
        "ollama_gpu_proof": "required",
        **found,
    }
    told = TASKS[-1]
    assert told["onprem.llm.check_results"]["results"] == ["{{ __ollama_restart_result }}"]
    told_of: dict[str, Any] = evaluated(
        trusted("{{ __ollama_restart_result }}"), {**variables, **trusted(told["vars"])}
    )
    return told_of


def test_nothing_was_lost() -> None:
    told = result("daemon-reload")
    assert told["ok"] is True
    assert told["check"] == "After systemctl daemon-reload the models are where they were"
    assert told["found"] == "the GPU check says healthy; 19 of 19 layers on the GPU"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"__ollama_gpu_check": {"stdout": json.dumps(LOST), "stderr": ""}}, "the container lost its GPUs"),
        ({"__ollama_gpu_check": {"stdout": "", "stderr": "cat: no such file"}}, "cat: no such file"),
        ({"__ollama_warm": {"rc": 1, "stderr": "1 of 2 planned models answer"}}, "1 of 2 planned models answer"),
        ({"__ollama_misplaced": [{"problem": "chat runs on the CPU"}]}, "chat runs on the CPU"),
    ],
    ids=["lost", "no check", "cold", "misplaced"],
)
def test_what_was_lost_is_told(found: dict[str, Any], said: str) -> None:
    told = result(**found)
    assert (told["ok"], told["found"]) == (False, said)


def test_where_the_proof_is_reported_alone_a_place_is_no_fault() -> None:
    assert result(ollama_gpu_proof="report", __ollama_misplaced=[{"problem": "chat runs on the CPU"}])["ok"] is True


def test_the_drivers_units_that_were_restarted_are_named() -> None:
    units = {"stdout_lines": ["nvidia-persistenced.service"]}
    assert "(nvidia-persistenced.service)" in result("driver", __ollama_driver_units=units)["check"]
    assert "(none there)" in result("driver", __ollama_driver_units={"stdout_lines": []})["check"]


@pytest.mark.parametrize(("consent", "asked"), [({}, False), ({"nvidia_driver_reboot": "allow"}, True)])
def test_a_host_is_restarted_with_consent_alone(consent: dict[str, str], asked: bool) -> None:
    assert result("host", **consent)["asked"] is asked
    reboot = next(task for task in TASKS if "ansible.builtin.reboot" in task)
    assert "nvidia_driver_reboot == 'allow'" in reboot["when"]
