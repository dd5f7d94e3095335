"""``make test-long``: site.yml on a virgin box, killed (SIGKILL) at every tenth task, then run to its end.

Each run goes on from what the one before left. At the end the box must be what an undisturbed run makes of it:
verify.yml passes and a further run changes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import docker

from tests.fleet.hosts import ROOT, Fleet
from tests.fleet.supplies import supply
from tests.interrupt import interrupted_run

FLEET = "molecule-single"
INVENTORY = "molecule/single/inventory"
STEP = 10


def play(playbook: str, report: Path) -> tuple[bool, dict]:
    environment = os.environ | {
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "executions",
        "EXECUTIONS_FILE": str(report),
    }
    run = subprocess.run(
        ["ansible-playbook", "-i", INVENTORY, playbook],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        print(run.stdout[-4000:])
    return run.returncode == 0, json.loads(report.read_text(encoding="utf-8"))["hosts"]


def main() -> int:
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    client = docker.from_env(timeout=300)
    fleet = Fleet.load(FLEET)
    fleet.down(client)
    supply(client, fleet.state)
    fleet.up(client)
    report = fleet.state / "executions.json"
    results: dict[str, bool] = {}
    task, started, killed = STEP, time.monotonic(), True
    while killed:
        try:
            killed = interrupted_run(INVENTORY, task)
        except RuntimeError as error:
            print(f"  FAILED {error}")
            results[f"site.yml after its kill at task {task - STEP}"] = False
            break
        name = f"killed at task {task}" if killed else "ran to its end"
        print(f"  ok     {name:<24} {time.monotonic() - started:6.0f} s", flush=True)
        results[name] = True
        task += STEP
    for name, playbook in (("verify", "playbooks/verify.yml"), ("second run", "site.yml")):
        passed, hosts = play(playbook, report)
        results[name] = passed and (name != "second run" or all(recap["changed"] == 0 for recap in hosts.values()))
        print(f"  {'ok    ' if results[name] else 'FAILED'} {name}", flush=True)
    fleet.down(client)
    failed = sum(not passed for passed in results.values())
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
