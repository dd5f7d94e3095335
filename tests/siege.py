"""``python -m tests.siege [STEP...]``: the demo under every attack, ten minutes at its limit, and all clients.

It is the fleet of ``make demo`` itself, anew, and gone afterwards. ``tests.steps`` says how steps run.
"""

from __future__ import annotations

import json
import subprocess
import sys

import docker

from tests import steps
from tests.demo.__main__ import read_nodes, write_access
from tests.fleet.hosts import ROOT, Fleet

INVENTORY = ROOT / "inventories" / "demo"
SOAK_MINUTES = 10


class Site(steps.Site):
    """The demo."""

    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        super().__init__(client, fleet, INVENTORY)
        self.access = fleet.state / "access.json"

    def program(self, module: str, *arguments: str) -> tuple[int, str]:
        """Status and output of a program that takes the fleet's access.json."""
        command = [sys.executable, "-m", f"tests.{module}", str(self.access), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(done.stdout, flush=True)
        return done.returncode, done.stdout.strip().rpartition("\n")[2]


def whole(site: Site) -> None:
    """The demo as `make demo` has it."""
    site.play("site.yml")
    write_access(site.fleet, read_nodes(site.client))


def attacked(site: Site) -> None:
    """Every attack, from the neighbour."""
    report = ROOT / "build" / "attack.json"
    report.unlink(missing_ok=True)
    status, said = site.program("attack")
    found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    site.check("every attack was held", said, status == 0 and found.get("failed") == 0)
    site.check("at least 60 were carried out", found.get("held"), found.get("held", 0) >= 60)
    site.check("the fleet is as it was", found.get("left_behind"), found.get("left_behind") == [])


def soaked(site: Site) -> None:
    """At a user's limit for ten minutes."""
    status, said = site.program("soak", "--minutes", str(SOAK_MINUTES))
    site.check("memory, descriptors and connections are as they were", said, status == 0)


def used(site: Site) -> None:
    """The examples of docs/clients.md, afterwards."""
    status, said = site.program("clients")
    site.check("every client has its answers", said, status == 0)


STEPS = (whole, attacked, soaked, used)


if __name__ == "__main__":
    sys.exit(steps.run("demo", Site, STEPS))
