"""``python -m tests.edge [STEP...]``: firewall, jail and two gateways on a fleet of its own.

The steps are in order; each leaves the fleet as the next needs it. ``KEEP=1`` leaves the fleet up, and steps that are
named run on it.
"""

from __future__ import annotations

import json
import os
import sys
import time

import docker

from tests.edge import firewall, jail, revoked, shared
from tests.edge.site import INVENTORY, NODE, Site
from tests.fleet import access
from tests.fleet.hosts import Fleet
from tests.fleet.supplies import supply


def firewall_bare(site: Site) -> None:
    """The firewall's trial where UFW was off."""
    firewall.bare(site)


def firewall_on(site: Site) -> None:
    """The firewall's trial where the role's rules are in force."""
    firewall.in_force(site)


def whole(site: Site) -> None:
    """The whole fleet, with the jail."""
    site.play("site.yml", **jail.SETTINGS)
    hosts = access.variables(INVENTORY / "hosts.yml")
    plan = json.loads(site.inside(NODE, "cat /etc/onprem-llm/plan.json"))
    access.write(site.fleet, hosts, [model for instance in plan["instances"] for model in instance["models"]])


def banned(site: Site) -> None:
    """fail2ban as a service."""
    jail.banned(site)


def revoked_key(site: Site) -> None:
    """A revoked key, on both gateways."""
    revoked.held(site)


def shared_address(site: Site) -> None:
    """One address for two gateways, by keepalived."""
    shared.shared_address(site)


STEPS = {step.__name__: step for step in (firewall_bare, firewall_on, whole, banned, revoked_key, shared_address)}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"no step {unknown[0]!r}; there are: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    client = docker.from_env(timeout=300)
    fleet = Fleet.load("edge")
    if not names:
        fleet.down(client)
    supply(client, fleet.state)
    fleet.up(client)
    site = Site(client, fleet)
    try:
        for name in [name for name in STEPS if name in (names or STEPS)]:
            started = time.monotonic()
            print(f"=== {name}: {STEPS[name].__doc__}", flush=True)
            STEPS[name](site)
            print(f"    {time.monotonic() - started:.0f} s", flush=True)
    finally:
        if not os.environ.get("KEEP"):
            fleet.down(client)
    print(f"{site.passed} passed, {site.failed} failed")
    return int(site.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
