"""``python -m tests.kills``: site.yml on a virgin box, killed (SIGKILL) at every tenth task, then run to its end.

Each run goes on from what the one before left. At the end the box must be what an undisturbed run makes of it:
verify.yml passes and a further run changes nothing. A table says of each kill what it left, and what the next run did
over to mend it. Then its gateway is kept at its limit for ten minutes (tests/soak).
"""

# contract: 10

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import docker
import yaml

from tests import plays
from tests.fleet import access
from tests.fleet.hosts import ROOT, Fleet
from tests.fleet.supplies import supply
from tests.interrupt import Run, run_site

STEP = 10
WIDTH = 150


def play(inventory: str, playbook: str, report: Path) -> tuple[bool, dict]:
    settings = plays.callback("executions") | {"EXECUTIONS_FILE": str(report)}
    run = plays.run(playbook, inventory=inventory, environment=settings)
    if run.returncode != 0:
        print(run.stdout[-4000:])
    return run.returncode == 0, json.loads(report.read_text(encoding="utf-8"))["hosts"]


def soaked(client: docker.DockerClient, fleet: Fleet, inventory: Path) -> bool:
    """Whether the box's gateway kept nothing that it should give back."""
    hosts = access.variables(inventory)
    node = client.containers.get(next(iter(hosts["llm_nodes"])))
    plan = json.loads(node.exec_run(["cat", "/etc/onprem-llm/plan.json"]).output)
    access.write(fleet, hosts, [model for instance in plan["instances"] for model in instance["models"]])
    command = [sys.executable, "-m", "tests.soak", str(fleet.state / "access.json")]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def show(runs: list[Run]) -> None:
    """Each kill with what it left and how the next run mended it."""
    print("\nWhat each run left when it was killed, and what the next one mended before it went on")
    for run, following in zip(runs, runs[1:]):
        print(f"  task {run.task:>3}  {run.name}")
        for title, text in (("left", run.left), ("mended", following.mended(run))):
            print(textwrap.fill(text, WIDTH, initial_indent=f"            {title:<8}", subsequent_indent=" " * 20))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("fleet", nargs="?", default="molecule-single", help="a file under tests/fleet/fleets")
    parser.add_argument("--step", type=int, default=STEP, help="tasks between two kills")
    arguments = parser.parse_args()
    name, step = arguments.fleet, arguments.step
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    client = docker.from_env(timeout=300)
    fleet = Fleet.load(name)
    specification = yaml.safe_load((ROOT / "tests/fleet/fleets" / f"{name}.yml").read_text(encoding="utf-8"))
    inventory = str(Path(specification["inventory"]).parent)
    fleet.down(client)
    supply(client, fleet.state)
    fleet.up(client)
    results: dict[str, bool] = {}
    runs: list[Run] = []
    task, started = step, time.monotonic()
    while not runs or runs[-1].killed:
        try:
            runs.append(run_site(inventory, fleet.state / "interrupted.json", task))
        except RuntimeError as error:
            print(f"  FAILED {error}")
            results[f"site.yml after its kill at task {task - step}"] = False
            break
        text = f"killed at task {task}" if runs[-1].killed else "ran to its end"
        print(f"  ok     {text:<24} {time.monotonic() - started:6.0f} s", flush=True)
        results[text] = True
        task += step
    report = fleet.state / "executions.json"
    for text, playbook in (("verify", "playbooks/verify.yml"), ("second run", "site.yml")):
        passed, hosts = play(inventory, playbook, report)
        results[text] = passed and (text != "second run" or all(recap["changed"] == 0 for recap in hosts.values()))
        print(f"  {'ok    ' if results[text] else 'FAILED'} {text}", flush=True)
    results["soak"] = soaked(client, fleet, ROOT / inventory)
    fleet.down(client)
    show(runs)
    failed = sum(not passed for passed in results.values())
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
