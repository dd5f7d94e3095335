"""access.json: how other tools reach a fleet that runs (docs/attack.md explains the fields)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.fleet.hosts import ROOT, Fleet, Host, write_if_changed
from tests.fleet.supplies import GUEST

GROUPS = ("llm_nodes", "gateways")


def variables(inventory: Path) -> dict[str, dict[str, dict]]:
    """Hosts with their variables by group, as Ansible itself resolves them."""
    output = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", str(inventory), "--list"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listing = json.loads(output)
    resolved = listing["_meta"]["hostvars"]

    def members(group: str) -> list[str]:
        own = listing.get(group, {})
        return own.get("hosts", []) + [host for child in own.get("children", []) for host in members(child)]

    return {group: {host: resolved[host] for host in members(group)} for group in GROUPS}


def default(role: str, name: str) -> object:
    return yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text(encoding="utf-8"))[name]


def engine_address() -> str:
    return str(default("ollama", "ollama_address"))


def describe(fleet: Fleet, hosts: Mapping[str, Mapping[str, dict]], models: list[dict]) -> dict:
    """What access.json says.

    :arg hosts: of ``variables``.
    :arg models: of the first node's plan.
    """
    known = {host.name: host for host in fleet.hosts}
    secrets = json.loads((fleet.state / "secrets.json").read_text(encoding="utf-8"))
    gateways = {name: reached(known[name]) for name in hosts["gateways"]}
    settings = next(iter(hosts["gateways"].values()))
    port = int(settings.get("gateway_port", default("gateway", "gateway_port")))
    address = next(iter(gateways.values()))["address"]
    rights = settings.get("gateway_user_rights", default("gateway", "gateway_user_rights"))
    users = {
        name: {key: value for key, value in user.items() if key != "password_hash"} | {"rights": rights}
        for name, user in secrets["users"].items()
    }
    if "demo_guest_models" in settings:
        users[GUEST] |= {"models": settings["demo_guest_models"], "rights": []}
    else:
        del users[GUEST]
    return {
        "gateway_url": f"https://{address}" + ("" if port == 443 else f":{port}"),
        "ca_file": str(fleet.state / "pki" / "ca.crt"),
        "http_port": int(settings.get("gateway_http_port", default("gateway", "gateway_http_port"))),
        "admin_api": bool(settings.get("gateway_admin_api", default("gateway", "gateway_admin_api"))),
        "body_max_mib": int(settings.get("gateway_body_max_mib", default("gateway", "gateway_body_max_mib"))),
        "users": users,
        "dead_keys": secrets.get("dead_keys", {}),
        "model": next(model["name"] for model in models if model["use"] == "chat"),
        "models": [model["name"] for model in models],
        "nodes": {
            name: reached(known[name])
            | {"engine_address": settings.get("ollama_address", engine_address()), "engine_port": 11434}
            for name, settings in hosts["llm_nodes"].items()
        },
        "gateways": gateways,
        "outside": next(host.name for host in fleet.hosts if not host.managed),
    }


def reached(host: Host) -> dict:
    more = [address for address in (host.address6, host.second) if address]
    return {"address": host.address, "container": host.name} | ({"more_addresses": more} if more else {})


def write(fleet: Fleet, hosts: Mapping[str, Mapping[str, dict]], models: list[dict]) -> dict:
    access = describe(fleet, hosts, models)
    write_if_changed(fleet.state / "access.json", json.dumps(access, indent=1) + "\n")
    return access
