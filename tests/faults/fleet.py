"""The fleet of three hosts that faults are put into: a node with GPUs, one without, and a gateway that is mirror and
monitoring server."""

from __future__ import annotations

import docker

from tests import plays
from tests.faults.injection import HERE, Fleet
from tests.fleet import hosts
from tests.fleet.supplies import supply

INVENTORY = HERE / "inventory"
HOSTS = {"gpu": "faults-gpu1", "node": "faults-cpu1", "gateway": "faults-gw1", "mirror": "faults-gw1"}


def built(keep: bool) -> Fleet:
    """The fleet, bare hosts made into a fleet by site.yml.

    :param keep: take one that is up.
    :raises SystemExit: site.yml failed; the message is the end of its output.
    """
    client = docker.from_env(timeout=300)
    described = hosts.Fleet.load("faults")
    if not (keep and (described.state / "up").exists()):
        described.down(client)
        supply(client, described.state)
        described.up(client)
        run = plays.run("site.yml", inventory=INVENTORY)
        if run.returncode != 0:
            raise SystemExit(run.stdout[-4000:])
        (described.state / "up").touch()
    return Fleet(client, INVENTORY, described.state, HOSTS)


def down() -> None:
    hosts.Fleet.load("faults").down(docker.from_env(timeout=300))
