"""A node whose deep health check fails in a row restarts its engine: the real units, in their sandbox."""

from __future__ import annotations

import json
import time

import pytest
from conftest import SCENARIO, Node

if SCENARIO != "single":
    pytest.skip("one node shows it", allow_module_level=True)

STATE = "/var/lib/onprem-llm-recovery/state.json"
TOLD = "/var/lib/prometheus/node-exporter/onprem_llm_metrics.prom"
AGAIN = "systemctl start onprem-llm-recovery.service"


def state(node: Node) -> dict:
    return json.loads(node.host.check_output(f"cat {STATE}"))


def test_the_timer_has_it_run(node: Node) -> None:
    assert node.host.check_output("systemctl show -P Unit onprem-llm-health.timer") == "onprem-llm-recovery.service"
    node.host.check_output(AGAIN)
    found = state(node)
    assert (found["failures"], found["withheld"]) == (0, [])
    deadline = time.monotonic() + 60
    while "onprem_llm_recovery_failures 0" not in node.host.check_output(f"cat {TOLD}"):
        assert time.monotonic() < deadline
        time.sleep(1)


def test_an_engine_that_is_gone_comes_back(node: Node) -> None:
    before = state(node)
    node.host.check_output("docker stop -t 1 onprem-llm-ollama")
    # Two checks have failed already, as far as it knows.
    failed = {**before, "failures": 2, "failing_since": time.time() - 600, "good": 0}
    node.host.check_output("printf %s %s >%s", "%s", json.dumps(failed), STATE)
    node.host.check_output(AGAIN)
    found = state(node)
    assert (found["failures"], found["restarts_total"], found["withheld"]) == (0, before["restarts_total"] + 1, [])
    assert node.host.check_output("docker inspect -f '{{.State.Running}}' onprem-llm-ollama") == "true"
    line = json.loads(node.host.check_output("tail -n 1 /var/log/ollama/recovery.log"))
    assert (line["event"], line["level"]) == ("recovery", "warning")
    assert line["restarts_today"] == len(found["restarts"]) >= 1
    node.host.check_output("python3 -I /usr/local/lib/onprem-llm/warm.py await --seconds 120")
    node.host.check_output(AGAIN)
    assert state(node)["failing_since"] is None


def test_a_withheld_model_is_told_in_warm_json(node: Node) -> None:
    before = state(node)
    name = json.loads(node.host.check_output("cat /run/onprem-llm/warm.json"))["models"][0]["name"]
    verdict = {**before, "withheld": [name], "withheld_since": time.time(), "withheld_until": time.time() + 900}
    node.host.check_output("printf %s %s >%s", "%s", json.dumps(verdict), STATE)
    deadline = time.monotonic() + 20
    while json.loads(node.host.check_output("cat /run/onprem-llm/warm.json"))["models"][0]["state"] != "withheld":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    # Good checks bring it back.
    for _check in range(3):
        node.host.check_output("rm -f /run/onprem-llm-health/report.json")
        node.host.check_output(AGAIN)
    assert state(node)["withheld"] == []
