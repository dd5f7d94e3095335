"""What the tests of every scenario stand on: the scenario's fleet, seen from inside its containers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import yaml

from tests.fleet.hosts import ROOT, Fleet

SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
FLEET = Fleet.load(f"molecule-{SCENARIO}")
INVENTORY = yaml.safe_load((ROOT / "molecule" / SCENARIO / "inventory" / "hosts.yml").read_text(encoding="utf-8"))
SITE = INVENTORY["all"].get("vars") or {}
GPU_NODES = list(INVENTORY["all"]["children"]["llm_nodes"]["children"]["gpu_nodes"]["hosts"])
CPU_NODES = list((INVENTORY["all"]["children"]["llm_nodes"]["children"].get("cpu_nodes") or {"hosts": {}})["hosts"])
GATEWAYS = list(INVENTORY["all"]["children"]["gateways"]["hosts"])
# What makes the engine stand-in leave layers on the CPU at its next load (tests/engine/README.md).
SPILL_SWITCH = "/var/lib/onprem-llm/ollama/simulate_spill"
FETCH = """
import sys, urllib.request
body = sys.argv[2].encode() or None
request = urllib.request.Request(sys.argv[1], body, {"Content-Type": "application/json"})
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read().decode())
"""
ADDRESSES = {host.name: host.address for host in FLEET.hosts}


@dataclass(frozen=True)
class Node:
    """A managed host and what it keeps about itself."""

    name: str
    host: testinfra.host.Host

    @property
    def has_gpu(self) -> bool:
        return self.name in GPU_NODES

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    @property
    def plan(self) -> dict:
        return json.loads(self.host.file("/etc/onprem-llm/plan.json").content_string)

    @property
    def models(self) -> list[dict]:
        return [model for instance in self.plan["instances"] for model in instance["models"]]

    def api(self, path: str, body: dict | None = None) -> dict:
        """What the engine answers its own host; with a body, to a POST."""
        url = f"http://{ENGINE_ADDRESS}:11434{path}"
        text = json.dumps(body | {"stream": False}) if body else ""
        return json.loads(self.host.check_output("python3 -c %s %s %s", FETCH, url, text))


ENGINE_ADDRESS = yaml.safe_load((ROOT / "roles/ollama/defaults/main.yml").read_text(encoding="utf-8"))["ollama_address"]


@pytest.fixture(scope="session", params=GPU_NODES + CPU_NODES)
def node(request: pytest.FixtureRequest) -> Node:
    return Node(request.param, testinfra.get_host(f"docker://{request.param}"))


@pytest.fixture(scope="session", params=sorted({*GPU_NODES, *CPU_NODES, *GATEWAYS}))
def managed(request: pytest.FixtureRequest) -> Node:
    return Node(request.param, testinfra.get_host(f"docker://{request.param}"))


@pytest.fixture(scope="session")
def gateway() -> Node:
    return Node(GATEWAYS[0], testinfra.get_host(f"docker://{GATEWAYS[0]}"))


@pytest.fixture(scope="session")
def logged(gateway: Node) -> Callable[..., dict]:
    """The newest line of the gateway's access log that tells these fields."""

    def newest(**fields: object) -> dict:
        # nginx writes the log once a second; a busy machine lets it wait for longer.
        for _second in range(30):
            lines = gateway.host.check_output("cat /var/log/nginx/onprem-llm-gateway.log").splitlines()
            for line in reversed([json.loads(line) for line in lines if line.startswith("{")]):
                if fields.items() <= line.items():
                    return line
            time.sleep(1)
        raise AssertionError(f"the access log has no line with {fields}; its last are {lines[-5:]}")

    return newest


@pytest.fixture(scope="session")
def neighbour() -> testinfra.host.Host:
    """An unmanaged host on the same LAN."""
    return testinfra.get_host(f"docker://{next(host.name for host in FLEET.hosts if not host.managed)}")


@pytest.fixture(scope="session")
def secrets() -> dict:
    return json.loads((FLEET.state / "secrets.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def supplies() -> dict:
    return json.loads((FLEET.state / "supplies.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def ca_file() -> str:
    return str(FLEET.state / "pki" / "ca.crt")


@pytest.fixture(scope="session")
def executions() -> dict:
    """What the last play, the second run of site.yml, executed."""
    return json.loads(
        (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "executions.json").read_text(encoding="utf-8")
    )
