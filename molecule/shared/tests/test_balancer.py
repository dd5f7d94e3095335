"""The balancer between a gateway and several nodes, and a node that is drained and put back."""

from __future__ import annotations

import json
import time

import pytest
from conftest import CPU_NODES, GPU_NODES, SCENARIO, Node

from tests.demo.client import complete
from tests.plays import play

MODEL = "gemma3:270m"
PROGRAM = "/usr/bin/python3 -I /usr/local/lib/onprem-llm/balancer.py"
PATIENCE = 30.0

if len(GPU_NODES + CPU_NODES) < 2:
    pytest.skip(f"the scenario {SCENARIO} has one node, which is asked straight", allow_module_level=True)


def status(gateway: Node) -> dict:
    return json.loads(gateway.host.check_output(f"{PROGRAM} status"))


def serving(gateway: Node, backend: str = f"model:{MODEL}") -> set[str]:
    return {s["node"] for s in status(gateway)["servers"] if s["backend"] == backend and s["status"].startswith("UP")}


def await_serving(gateway: Node, names: set[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while serving(gateway) != names:
        assert time.monotonic() < deadline, status(gateway)
        time.sleep(0.5)


def nodes_asked(gateway: Node, ca_file: str, key: str, count: int) -> None:
    for _number in range(count):
        assert complete(f"https://{gateway.address}", ca_file, key, MODEL, "One, two,", max_tokens=4).tokens


def generations(host) -> int:
    """How many generations the gateways have sent a node, by its endpoint's log."""
    return int(host.check_output("sh -c 'grep -c completions /var/log/nginx/onprem-llm-endpoint.log || :'") or 0)


def test_each_planned_model_has_its_nodes_and_their_slots(gateway: Node, node: Node) -> None:
    servers = {s["backend"]: s for s in status(gateway)["servers"] if s["node"] == node.name}
    assert servers["any"]["status"].startswith("UP")
    for model in node.models:
        found = servers[f"model:{model['name']}"]
        assert found["status"].startswith("UP"), found
        assert found["slots"] == model["slots"]


def test_it_listens_on_unix_sockets_alone(gateway: Node) -> None:
    assert "haproxy" not in gateway.host.check_output("ss -Hltunp")
    assert gateway.host.file("/run/onprem-llm-balancer/gateway.sock").mode == 0o660
    assert gateway.host.file("/run/onprem-llm-balancer/admin.sock").mode == 0o600
    assert not gateway.host.service("haproxy").is_running
    workers = gateway.host.check_output("ps -o user:32= -C haproxy").split()
    assert sorted(workers) == ["onprem-llm-balancer", "root"]


def test_the_distributions_configuration_is_untouched(gateway: Node) -> None:
    assert gateway.host.run("dpkg --verify haproxy").stdout == ""


def test_drain_and_undrain(gateway: Node, ca_file: str, secrets: dict) -> None:
    key, target = secrets["users"]["app"]["api_key"], CPU_NODES[0]
    everybody = {*GPU_NODES, *CPU_NODES}
    host = pytest.importorskip("testinfra").get_host(f"docker://{target}")
    for arguments, changed in (("--check",), True), ((), True), ((), False):
        run = play("drain.yml", "-e", f"target={target}", *arguments)
        assert run.returncode == 0, run.stdout[-3000:]
        assert (" changed=0 " not in run.stdout) is changed, run.stdout
        assert serving(gateway) == (everybody if arguments else everybody - {target})
    before = generations(host)
    nodes_asked(gateway, ca_file, key, 6)
    gateway.host.check_output("systemctl reload onprem-llm-balancer")
    await_serving(gateway, everybody - {target})
    gateway.host.check_output("systemctl restart onprem-llm-balancer")
    await_serving(gateway, everybody - {target})
    nodes_asked(gateway, ca_file, key, 4)
    assert generations(host) == before
    for changed in (True, False):
        run = play("undrain.yml", "-e", f"target={target}")
        assert run.returncode == 0, run.stdout[-3000:]
        assert (" changed=0 " not in run.stdout) is changed, run.stdout
    await_serving(gateway, everybody)
    for _round in range(10):
        nodes_asked(gateway, ca_file, key, 2)
        if generations(host) > before:
            return
    pytest.fail(f"{target} gets nothing")


def test_nobody_can_be_drained_who_is_no_node(gateway: Node) -> None:
    run = play("drain.yml", "-e", f"target={gateway.name}")
    assert run.returncode == 2
    assert f"target: {gateway.name} must be a host of the group llm_nodes; these are: " in run.stdout


def test_a_cold_node_gets_nothing(gateway: Node) -> None:
    host = pytest.importorskip("testinfra").get_host(f"docker://{CPU_NODES[0]}")
    host.check_output("systemctl stop onprem-llm-warm")
    try:
        await_serving(gateway, set(GPU_NODES))
        # What needs no model is still answered there.
        assert serving(gateway, "any") == {*GPU_NODES, *CPU_NODES}
    finally:
        host.check_output("systemctl start onprem-llm-warm")
    await_serving(gateway, {*GPU_NODES, *CPU_NODES})
