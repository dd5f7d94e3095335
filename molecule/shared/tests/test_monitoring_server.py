"""The monitoring server, asked on its own host: who is watched, by what rules, and whether somebody is told."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
from conftest import CPU_NODES, FLEET, GATEWAYS, GPU_NODES, INVENTORY, Node

from tests.alerts import promtool
from tests.fleet.hosts import ROOT

SERVERS = list((INVENTORY["all"]["children"].get("monitoring_servers") or {}).get("hosts") or {})
PROMETHEUS, ALERTMANAGER, BLACKBOX = 9090, 9093, 9115
RECEIVED = "/run/alerts.jsonl"
PATIENCE = 90.0
FETCH = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""

if not SERVERS:
    pytest.skip("no host of this scenario is a monitoring server", allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Node:
    return Node(SERVERS[0], testinfra.get_host(f"docker://{SERVERS[0]}"))


def ask(server: Node, port: int, path: str, body: Any = None) -> str:
    text = "" if body is None else json.dumps(body)
    return server.host.check_output("python3 -I -c %s %s %s", FETCH, f"http://127.0.0.1:{port}/{path}", text)


def query(server: Node, expression: str) -> list[dict[str, Any]]:
    path = "api/v1/query?query=" + urllib.parse.quote(expression)
    found: list[dict[str, Any]] = json.loads(ask(server, PROMETHEUS, path))["data"]["result"]
    return found


def wait_for(what: str, true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {PATIENCE:.0f} s")
        time.sleep(1)
    return found


def test_every_target_answers(server: Node) -> None:
    """By Prometheus' own word: each host, the gateway as the blackbox exporter sees it, ports that are to be closed."""
    active = wait_for(
        "targets that were all asked",
        lambda: [
            found
            for found in [json.loads(ask(server, PROMETHEUS, "api/v1/targets?state=active"))["data"]["activeTargets"]]
            if all(target["health"] == "up" for target in found)
        ],
    )[0]
    by_job: dict[str, set[str]] = {}
    for target in active:
        by_job.setdefault(target["labels"]["job"], set()).add(target["labels"]["instance"])
    assert by_job["node"] == {host.name for host in FLEET.hosts if host.managed}
    assert by_job["gateway"] == set(GATEWAYS)
    assert by_job["closed_ports"] == {*GPU_NODES, *CPU_NODES} - {server.name}
    assert {job for job, hosts in by_job.items() if hosts == {server.name}} >= {
        "prometheus",
        "alertmanager",
        "blackbox",
    }


def test_the_gateway_is_probed_by_tls_and_closed_ports_are_closed(server: Node) -> None:
    (probe,) = query(server, 'probe_success{job="gateway"}')
    assert probe["value"][1] == "1"
    (ends,) = query(server, 'probe_ssl_earliest_cert_expiry{job="gateway"}-time()')
    assert float(ends["value"][1]) > 14 * 86400
    assert query(server, 'probe_success{job="closed_ports"}==0')
    assert not query(server, 'probe_success{job="closed_ports"}==1')


def test_rules_are_loaded_and_none_fails(server: Node) -> None:
    groups = json.loads(ask(server, PROMETHEUS, "api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(promtool.alerts())
    assert not [rule["name"] for rule in rules if rule["health"] == "err"]
    told = json.loads(ask(server, PROMETHEUS, "api/v1/alertmanagers"))["data"]["activeAlertmanagers"]
    assert [one["url"] for one in told] == [f"http://127.0.0.1:{ALERTMANAGER}/api/v2/alerts"]


def test_they_listen_on_loopback_and_were_started_once(server: Node) -> None:
    listening = server.host.check_output("ss -Hltn")
    for port in (PROMETHEUS, ALERTMANAGER, BLACKBOX):
        assert f" 127.0.0.1:{port} " in listening
    for unit in ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter"):
        assert server.host.check_output("systemctl show --property=NRestarts --value %s", unit) == "0"


@pytest.fixture
def receiver(neighbour: testinfra.host.Host) -> Iterator[Callable[[], None]]:
    """Starts a receiver on the neighbour, to which the inventory sends pages."""
    program = base64.b64encode((ROOT / "tests/fleet/receiver.py").read_bytes()).decode()
    neighbour.check_output("rm -f %s", RECEIVED)

    def start() -> None:
        neighbour.check_output("sh -c %s", f"echo {program} | base64 -d > /run/receiver.py; touch {RECEIVED}")
        neighbour.check_output("systemd-run --unit=receiver /usr/bin/python3 -I /run/receiver.py 9099 %s", RECEIVED)

    yield start
    neighbour.run("systemctl stop receiver")


def test_an_alert_reaches_its_receiver_though_that_was_not_there(
    server: Node, neighbour: testinfra.host.Host, receiver: Callable[[], None]
) -> None:
    labels = {"alertname": "LLMTried", "severity": "page", "instance": server.name}
    ask(server, ALERTMANAGER, "api/v2/alerts", [{"labels": labels, "annotations": {"summary": "A test"}}])
    failed = 'alertmanager_notification_requests_failed_total{integration="webhook"}>0'
    wait_for("an attempt that fails", lambda: query(server, failed))
    receiver()

    def arrived() -> list[dict[str, str]]:
        lines = neighbour.check_output("cat %s", RECEIVED).splitlines()
        return [alert["labels"] for line in lines for alert in json.loads(line)["alerts"]]

    wait_for("the alert", lambda: labels in arrived())
