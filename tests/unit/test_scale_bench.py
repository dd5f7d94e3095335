# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench of fleet sizes stands on: hosts whose modules repeat themselves, the line, and the goals."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays
from tests.load.__main__ import beside, known
from tests.scale import __main__ as scale
from tests.scale import meter

HOOK = plays.ROOT / "tests" / "scale" / "host"
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: Tell the time, ansible.builtin.command: {argv: [date, +%N]}, register: now, changed_when: false}
    - {name: Look, ansible.builtin.stat: {path: "{{ looked_at }}"}, register: look}
    - {name: Show, ansible.builtin.debug: {msg: "now={{ now.stdout }} there={{ look.stat.exists }}"}}
"""


def run(directory: Path, verb: str, strategy: str = "linear", **variables: Any) -> str:
    """What the play shows on a host whose interpreter keeps results or repeats them."""
    (directory / "play.yml").write_text(PLAY, encoding="utf-8")
    interpreter = directory / verb
    interpreter.write_text(
        f'#!/bin/sh\nPYTHONPATH={HOOK} SCALE_{verb.upper()}={directory}/kept exec {sys.executable} "$@"\n'
    )
    interpreter.chmod(0o755)
    host = {**plays.local(), "ansible_python_interpreter": str(interpreter)}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"h": host}}}), encoding="utf-8")
    (directory / "kept").mkdir(exist_ok=True)
    play = plays.run(
        directory / "play.yml", inventory=directory / "hosts.yml", variables=variables,
        environment={"ANSIBLE_STRATEGY": strategy},
    )  # fmt: skip
    assert play.returncode == 0, play.stdout
    return next(line for line in play.stdout.splitlines() if "now=" in line)


def test_modules_repeat_what_they_returned_and_do_no_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    kept = run(tmp_path, "record", looked_at=str(file))
    assert "there=True" in kept
    file.unlink()
    assert run(tmp_path, "replay", looked_at=str(file)) == kept
    # Of what was never asked, the likest answer.
    assert run(tmp_path, "replay", looked_at="/nowhere") == kept
    calls = (tmp_path / "kept" / "calls.log").read_text(encoding="utf-8").split("\n")
    assert [line.split()[1:2] for line in calls[:4]] == [["same"], ["same"], ["same"], ["like"]]


def test_the_meter_counts_what_a_play_starts(tmp_path: Path) -> None:
    """Run in a process of its own, for the meter ends whatever is below its own."""
    burn = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{
        "hosts": "all", "gather_facts": False,
        "tasks": [{"name": "Burn", "ansible.builtin.command": {"argv": [sys.executable, "-c", burn]}}],
    }]), encoding="utf-8")  # fmt: skip
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"h": plays.local()}}}), encoding="utf-8")
    child = os.fork()
    if child == 0:
        cost = meter.run(str(tmp_path / "play.yml"), tmp_path / "hosts.yml", {})
        good = (
            cost.returncode == 0 and 1 < cost.cpu_s < 60 and cost.wall_s > 1 and cost.peak_bytes > 2**20
            and cost.hosts["h"]["executions"] == 1
        )  # fmt: skip
        os._exit(0 if good else 1)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert time.monotonic() - begun < 120


def row(hosts: int, cpu: float, strategy: str = "linear", tasks: int = 83) -> dict[str, Any]:
    return {
        "strategy": strategy, "hosts": hosts, "cpu_s": cpu, "wall_s": cpu, "peak_mib": 100 + hosts, "returncode": 0,
        "tasks_per_node": tasks, "cpu_s_per_task_host": round(cpu / (tasks * hosts), 4),
    }  # fmt: skip


def test_the_line_and_what_500_hosts_would_take() -> None:
    rows = [row(hosts, 10 + 4 * hosts) for hosts in (2, 4, 8)]
    assert scale.line(rows, "cpu_s") == pytest.approx((10, 4))
    found = scale.extrapolated(rows)
    assert (found["cpu_s"], found["seconds"], found["peak_mib"]) == (2010, 251, 600)


def test_goals() -> None:
    result = {
        "real": {"site": [row(2, 100, tasks=91)]},
        "stubbed": {
            "site": [row(4, 30), row(8, 60), row(4, 35, "mitogen_linear"), row(8, 70, "mitogen_linear")],
            "preflight": [row(4, 40, tasks=20), row(8, 80, tasks=20)],
            "floor": [row(4, 14), row(8, 30)],
        },
    }  # fmt: skip
    found = scale.summary(result)
    assert found["tasks_per_node"] == 91
    assert found["cpu_s_per_task_host"] == {"linear": 0.0904, "mitogen_linear": 0.1054}
    assert found["times_the_floor"] == pytest.approx(2.0)
    missed = list(scale.goals(found))
    assert [sentence.split(",")[0] for sentence in missed] == [
        "91 tasks a node", "preflight over 500 hosts would take 625 s",
    ]  # fmt: skip


def test_ratios_beside_guidellm() -> None:
    before = {"concurrency": 4, "tokens_per_second": 90.0, "first_token_p50": 0.2, "first_token_p95": 0.3,
              "gap_p50": 0.02, "answer_p50": 1.0}  # fmt: skip
    after = {**before, "tokens_per_second": 110.0}
    found = beside(before, after, {**before, "tokens_per_second": 80.0})
    assert (found["ratio"]["tokens_per_second"], found["ratio"]["gap_p50"]) == (1.25, 1.0)
    assert found["ours_drift"]["tokens_per_second"] == pytest.approx(110 / 90, abs=1e-4)
    assert known({"concurrency": 16}, 64)["tokens_per_second"] == pytest.approx(8 * 64 / (0.2 + 63 * 0.02))
