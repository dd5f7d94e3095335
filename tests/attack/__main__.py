"""``make attack``: every attack from the fleet's unmanaged neighbour, a table, build/attack.json, and an exit status.

The neighbour lends its network alone: the process enters it (``nsenter``), keeps this machine's programs, and looks
into the hosts by Docker's socket, which is no matter of networks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import docker

from tests.attack import health, report
from tests.attack.access import Access, AccessError, load, require_local_containers
from tests.attack.groups import ATTACKS, ports
from tests.attack.model import FAILED, Attack, Result, carry_out
from tests.attack.position import Container, Position
from tests.fleet.hosts import ROOT

INSIDE = "ONPREM_LLM_ATTACK_INSIDE"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("access", type=Path, help="access.json of a fleet in local containers")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "attack.json")
    parser.add_argument("--only", action="append", default=[], metavar="GROUP", help="only this group; may be repeated")
    return parser.parse_args()


def enter(pid: int) -> None:
    """Become a process in the network of the neighbour. Does not return."""
    tool = shutil.which("nsenter")
    if tool is None:
        raise AccessError("nsenter is missing; it is in the package util-linux")
    os.environ[INSIDE] = "1"
    os.execv(tool, [tool, f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-m", "tests.attack", *sys.argv[1:]])


def attacks(access: Access, only: list[str]) -> list[Attack]:
    groups = list(dict.fromkeys(attack.group for attack in ATTACKS))
    chosen = sorted([*ATTACKS, *ports.attacks(access.machines)], key=lambda attack: groups.index(attack.group))
    if set(only) - set(groups):
        raise AccessError(f"no group {sorted(set(only) - set(groups))[0]!r}; there are: {', '.join(sorted(groups))}")
    return [attack for attack in chosen if not only or attack.group in only]


def run(position: Position, chosen: list[Attack]) -> list[Result]:
    results: list[Result] = []
    for attack in chosen:
        result = carry_out(attack, position)
        if not results or results[-1].group != result.group:
            print(report.heading(result.group))
        print(report.line(result), flush=True)
        results.append(result)
    return results


def main() -> int:
    given = arguments()
    began = time.monotonic()
    try:
        access = load(given.access)
        # Once more inside: what was a container's address may have changed hands since.
        pid = require_local_containers(access, docker.from_env(timeout=60))
        chosen = attacks(access, given.only)
        if INSIDE not in os.environ:
            enter(pid)
    except AccessError as error:
        print(f"attack: {error}", file=sys.stderr)
        return 2
    hosts = {name: Container(machine.container) for name, machine in access.machines.items()}
    position = Position(access, dict(hosts), Container(access.outside))
    before = health.look(position)
    print(f"{len(chosen)} attacks on {access.gateway[0]} and {len(hosts)} hosts, from {access.outside}")
    results = run(position, chosen)
    left = health.healed(position, before)
    report.write(given.report, results, left, time.monotonic() - began)
    print(report.summary(results, left))
    return int(bool(left) or any(result.outcome == FAILED for result in results))


if __name__ == "__main__":
    sys.exit(main())
