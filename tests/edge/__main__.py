"""``python -m tests.edge [STEP...]``: firewall, jail and two gateways on a fleet of its own.

``tests.steps`` says how steps run.
"""

from __future__ import annotations

import json
import sys

from tests import steps
from tests.edge import firewall, jail, revoked, shared
from tests.edge.site import INVENTORY, NODE, Site
from tests.fleet import access


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


STEPS = (firewall_bare, firewall_on, whole, banned, revoked_key, shared_address)


if __name__ == "__main__":
    sys.exit(steps.run("edge", Site, STEPS))
