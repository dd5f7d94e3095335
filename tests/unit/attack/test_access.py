# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What access.json says, and whom the tool refuses to attack."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import docker.errors
import pytest

from tests.attack import access, health

DEMO = {
    "gateway_url": "https://10.77.0.14",
    "ca_file": "ca.crt",
    "users": {
        "app": {"role": "user", "api_key": "a" * 43, "password": "p"},
        "ops": {"role": "admin", "api_key": "b" * 43, "password": "q"},
    },
    "model": "gemma3:270m",
    "nodes": {
        "gpu1": {"address": "10.77.0.11", "container": "gpu1", "engine_address": "172.30.250.2", "engine_port": 11434}
    },
    "gateways": {"gw1": {"address": "10.77.0.14", "container": "gw1"}},
    "outside": "client",
}
ADDRESSES = {"gpu1": "10.77.0.11", "gw1": "10.77.0.14", "client": "10.77.0.100"}


def containers(addresses: dict[str, str], status: str = "running") -> SimpleNamespace:
    def get(name: str) -> SimpleNamespace:
        if name not in addresses:
            raise docker.errors.NotFound("no such container")
        networks = {"lan": {"IPAddress": addresses[name], "GlobalIPv6Address": ""}}
        attrs = {"NetworkSettings": {"Networks": networks}, "State": {"Pid": 7}}
        return SimpleNamespace(status=status, attrs=attrs)

    return SimpleNamespace(containers=SimpleNamespace(get=get))


def load(tmp_path: Path, change: Callable[[dict], object] = lambda data: None) -> access.Access:
    data = copy.deepcopy(DEMO)
    change(data)
    path = tmp_path / "access.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return access.load(path)


def test_demo_is_understood(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.gateway == ("10.77.0.14", 443)
    assert found.gateway_machine.name == "gw1"
    assert found.machines["gpu1"].engine == ("172.30.250.2", 11434)
    assert set(found.secrets.values()) == {"a" * 43, "b" * 43, "p", "q"}
    assert access.require_local_containers(found, containers(ADDRESSES)) == 7


def test_single_box_is_one_machine(tmp_path: Path) -> None:
    found = load(
        tmp_path, lambda data: data["gateways"].update(gpu1=data["gateways"].pop("gw1") | {"container": "gpu1"})
    )
    assert found.machines["gpu1"].gateway
    assert found.machines["gpu1"].engine


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.pop("model"), "the field 'model' is missing"),
        (lambda data: data.update(gateway_url="http://10.77.0.14"), "has to be https://"),
        (lambda data: data.update(gateway_url="https://10.77.0.15"), "no address of a gateway listed"),
        (lambda data: data["users"].pop("app"), "nobody of the role user"),
    ],
)
def test_fault_is_told(change: Callable[[dict], object], told: str, tmp_path: Path) -> None:
    with pytest.raises(access.AccessError, match=told):
        load(tmp_path, change)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(access.AccessError, match="make demo"):
        access.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("addresses", "status", "told"),
    [
        (ADDRESSES | {"gw1": "10.77.0.99"}, "running", "gw1: 10.77.0.14 is no address of the local container gw1"),
        ({"gpu1": "10.77.0.11", "client": "10.77.0.100"}, "running", "no container gw1 on this machine"),
        (ADDRESSES, "exited", "does not run"),
    ],
)
def test_foreign_address_is_refused(addresses: dict[str, str], status: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(access.AccessError, match=told):
        access.require_local_containers(load(tmp_path), containers(addresses, status))


def test_managed_host_is_no_neighbour(tmp_path: Path) -> None:
    found = load(tmp_path, lambda data: data.update(outside="gpu1"))
    with pytest.raises(access.AccessError, match="a neighbour nobody manages"):
        access.require_local_containers(found, containers(ADDRESSES))


STATE = health.State(
    {"gw1": {"files": {"/etc/nginx/a": "1"}, "bans": [], "rules": "-A INPUT", "failed units": [], "nginx": ["5"]}},
    {"gpu1": [[["m", "digest", 1, 1, 4096, "for good"]], ["9@1"]]},
    {"app": 200},
    True,
)


@pytest.mark.parametrize(
    ("host", "more", "told"),
    [
        ({"files": {}}, {}, "/etc/nginx/a changed"),
        ({"bans": ["10.77.0.100"]}, {}, "bans"),
        ({"rules": "-A INPUT\n-A FORWARD"}, {}, "firewall rules changed"),
        ({"failed units": ["nginx.service"]}, {}, "nginx.service"),
        ({"nginx": ["6"]}, {}, "nginx"),
        ({}, {"models": {"gpu1": [[], []]}}, "loaded"),
        ({}, {"users": {"app": 401}}, "app's key gets 401"),
        ({}, {"alive": False}, "/healthz"),
    ],
)
def test_what_is_left_behind_is_told(host: dict, more: dict, told: str) -> None:
    fields = {"models": STATE.models, "users": STATE.users, "alive": True} | more
    found = health.differences(STATE, health.State({"gw1": STATE.hosts["gw1"] | host}, **fields))
    assert len(found) == 1
    assert told in found[0]


def test_other_runner_of_the_same_model_is_no_difference() -> None:
    models = {"gpu1": [[["m", "digest", 1, 1, 4096, "for good"]], ["10@2"]]}
    assert health.differences(STATE, health.State(STATE.hosts, models, STATE.users, True)) == []
