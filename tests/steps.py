"""Steps on a fleet of their own, each leaving it as the next needs it: plays, looks inside, and a count of what held.

``KEEP=1`` leaves the fleet up, and steps that are named run on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import docker

from tests import plays
from tests.fleet.hosts import Fleet
from tests.fleet.supplies import supply


class Site:
    """A fleet, and what its steps ask of it.

    :param inventory: what plays run on where they are not told otherwise.
    :param options: of every play.
    """

    def __init__(self, client: docker.DockerClient, fleet: Fleet, inventory: Path, *options: str) -> None:
        self.client, self.fleet, self.inventory, self.options = client, fleet, inventory, options
        self.address = {host.name: host.address for host in fleet.hosts}
        self.failed = self.passed = 0

    def check(self, what: str, found: object, ok: bool) -> None:
        print(f"{'ok    ' if ok else 'FAILED'} {what}: {found}", flush=True)
        self.passed += ok
        self.failed += not ok

    def play(
        self,
        *arguments: str | Path,
        fails: bool = False,
        killed_at: str = "",
        inventory: Path | None = None,
        **variables: object,
    ) -> str:
        """A play's output; the last argument is its playbook.

        :param killed_at: the end of a task's name, at whose start the run is killed (SIGKILL).
        :raises SystemExit: it did not end as it should.
        """
        environment = plays.callback("interrupt") | {"INTERRUPT_AT_NAME": killed_at} if killed_at else {}
        run = self.start(
            *arguments, inventory=inventory, environment=environment, own_session=bool(killed_at), **variables
        )
        what = " ".join([*map(str, arguments), *variables])
        return self.end(run, what, fails or bool(killed_at), killed=bool(killed_at))

    def start(
        self,
        *arguments: str | Path,
        inventory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
        **variables: object,
    ) -> subprocess.Popen[str]:
        """A play that runs; the last argument is its playbook."""
        *options, playbook = arguments
        return plays.start(
            playbook, *self.options, *options, inventory=inventory or self.inventory, variables=variables,
            environment=environment, own_session=own_session,
        )  # fmt: skip

    def end(self, run: subprocess.Popen[str], what: str, fails: bool = False, killed: bool = False) -> str:
        """A play's output, at its end.

        :raises SystemExit: it did not end as it should.
        """
        began = time.monotonic()
        done = plays.ended(run)
        print(f"--- {what}: status {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
        (self.fleet.state / "last.log").write_text(done.stdout, encoding="utf-8")
        if (done.returncode < 0, done.returncode != 0) != (killed, fails):
            print(done.stdout[-12000:])
            raise SystemExit(f"{what} ended with {done.returncode}")
        return done.stdout

    def close(self) -> None:
        """Give up what the site holds beside its fleet."""

    def unchanged(self, *arguments: str, what: str = "a further run changes nothing", **variables: object) -> str:
        """That a play changes nothing; its output."""
        output = self.play(*arguments, **variables)
        recap = [line.split("unreachable")[0].strip() for line in output.splitlines() if "ok=" in line]
        self.check(what, recap, bool(recap) and all("changed=0" in line for line in recap))
        return output

    def run(self, host: str, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command on a host, as root, by Docker."""
        return subprocess.run(
            ["docker", "exec", "-i", host, *command], input=given, capture_output=True, text=True, check=False
        )

    def inside(self, host: str, command: str) -> str:
        done = self.run(host, "sh", "-c", command)
        return (done.stdout + done.stderr).strip()

    def engines(self, nodes: Sequence[str]) -> dict[str, str]:
        """What the nodes' own records say of the version of the engine that runs."""
        records = {node: json.loads(self.inside(node, "cat /etc/onprem-llm/release.json")) for node in nodes}
        return {node: record["engine"]["version"] for node, record in records.items()}

    def within(self, seconds: float, holds: Callable[[], bool], every: float = 0.25) -> float | None:
        """Seconds until something holds; None where it does not within ``seconds``."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(every)
        return round(time.monotonic() - began, 1)


Kind = TypeVar("Kind", bound=Site)


def run(name: str, site: Callable[[docker.DockerClient, Fleet], Kind], steps: Sequence[Callable[[Kind], Any]]) -> int:
    """The steps that the command line names, or all, on the fleet ``name``; the exit status.

    :param site: makes the site of the booted fleet.
    """
    names, known = sys.argv[1:], {step.__name__: step for step in steps}
    unknown = [step for step in names if step not in known]
    if unknown:
        print(f"no step {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    client = docker.from_env(timeout=300)
    fleet = Fleet.load(name)
    if not names:
        fleet.down(client)
    supply(client, fleet.state)
    fleet.up(client)
    made = site(client, fleet)
    try:
        for step in [step for step in known if step in (names or known)]:
            began = time.monotonic()
            print(f"=== {step}: {known[step].__doc__}", flush=True)
            known[step](made)
            print(f"    {time.monotonic() - began:.0f} s", flush=True)
    finally:
        made.close()
        if not os.environ.get("KEEP"):
            fleet.down(client)
    print(f"{made.passed} passed, {made.failed} failed")
    return int(made.failed > 0)
