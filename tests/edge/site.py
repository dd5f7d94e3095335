"""The fleet of the steps: plays, looks inside, questions from the neighbour, and a count of what held."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import docker

from tests import plays
from tests.fleet.hosts import ROOT, Fleet

INVENTORY = ROOT / "tests" / "edge" / "inventory"
GATEWAYS, NODE, CLIENT = ("edge-gw1", "edge-gw2"), "edge-cpu1", "edge-client"
# Of the Molecule scenario site: what a host is, in one object.
SNAPSHOT = ROOT / "molecule" / "site" / "snapshot.py"
# Run on the neighbour: whether a port accepts a connection, from an address of its own.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2, (sys.argv[3], 0))"


class Site:
    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        self.client, self.fleet = client, fleet
        self.address = {host.name: host.address for host in fleet.hosts}
        self.failed = self.passed = 0

    def check(self, what: str, found: object, ok: bool) -> None:
        print(f"{'ok    ' if ok else 'FAILED'} {what}: {found}", flush=True)
        self.passed += ok
        self.failed += not ok

    def play(self, *arguments: str | Path, fails: bool = False, killed_at: str = "", **variables: object) -> str:
        """A play's output; the last argument is its playbook.

        :param killed_at: the end of a task's name, at whose start the run is killed (SIGKILL).
        :raises SystemExit: it did not end as it should.
        """
        *options, playbook = arguments
        environment = plays.callback("interrupt") | {"INTERRUPT_AT_NAME": killed_at} if killed_at else {}
        began = time.monotonic()
        run = plays.run(
            playbook, *options, inventory=INVENTORY, variables=variables, environment=environment,
            own_session=bool(killed_at),
        )  # fmt: skip
        print(f"--- {playbook} {variables}: status {run.returncode} after {time.monotonic() - began:.0f} s", flush=True)
        (self.fleet.state / "last.log").write_text(run.stdout, encoding="utf-8")
        if (run.returncode < 0, run.returncode != 0) != (bool(killed_at), fails or bool(killed_at)):
            print(run.stdout[-12000:])
            raise SystemExit(f"{playbook} ended with {run.returncode}")
        return run.stdout

    def unchanged(self, *arguments: str, **variables: object) -> None:
        output = self.play(*arguments, **variables)
        recap = [line.split("unreachable")[0].strip() for line in output.splitlines() if "ok=" in line]
        self.check("a further run changes nothing", recap, all("changed=0" in line for line in recap))

    def run(self, host: str, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command on a host, as root, by Docker."""
        return subprocess.run(
            ["docker", "exec", "-i", host, *command], input=given, capture_output=True, text=True, check=False
        )

    def inside(self, host: str, command: str) -> str:
        done = self.run(host, "sh", "-c", command)
        return (done.stdout + done.stderr).strip()

    def state(self, host: str) -> dict[str, object]:
        """Files, rules and units of a host; its packages and accounts, too."""
        return json.loads(self.run(host, "python3", "-", given=SNAPSHOT.read_text(encoding="utf-8")).stdout)

    def same(self, what: str, host: str, before: dict[str, object], but: tuple[str, ...] = ()) -> None:
        """That a host is as it was, but for what may differ."""
        now = self.state(host)
        keys = (before.keys() | now.keys()) - set(but)
        differing = sorted(key for key in keys if before.get(key) != now.get(key))
        told = [f"{key}: {before.get(key)} → {now.get(key)}"[:300] for key in differing[:5]]
        self.check(what, told or f"{len(now)} files, rules and units", not differing)

    def reaches(self, address: str, port: int, source: str = "") -> bool:
        """Whether the neighbour gets a connection, from an address of its own."""
        source = source or self.address[CLIENT]
        return self.run(CLIENT, "python3", "-c", CONNECT, address, str(port), source).returncode == 0

    def within(self, seconds: float, holds: Callable[[], bool], every: float = 0.25) -> float | None:
        """Seconds until something holds; None where it does not within ``seconds``."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(every)
        return round(time.monotonic() - began, 1)
