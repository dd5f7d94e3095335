"""The fleet of the steps: states of a host that are compared, and questions from the neighbour."""

from __future__ import annotations

import json

import docker

from tests import steps
from tests.fleet.hosts import ROOT, Fleet

INVENTORY = ROOT / "tests" / "edge" / "inventory"
GATEWAYS, NODE, CLIENT = ("edge-gw1", "edge-gw2"), "edge-cpu1", "edge-client"
# Of the Molecule scenario site: what a host is, in one object.
SNAPSHOT = ROOT / "molecule" / "site" / "snapshot.py"
# Run on the neighbour: whether a port accepts a connection, from an address of its own.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2, (sys.argv[3], 0))"


class Site(steps.Site):
    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        super().__init__(client, fleet, INVENTORY)

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
