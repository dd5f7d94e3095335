"""playbooks/verify.yml on a fleet with faults: it tells all of them, says why, and fails."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from conftest import INVENTORY, SCENARIO, SPILL_SWITCH

from tests.plays import play

PUBLISHED = 18080


@contextlib.contextmanager
def faults(node, image: str) -> Iterator[None]:
    """A spill at the next load, a container that somebody published past the firewall, and a dead exporter."""
    node.host.check_output("sh -c %s", f"echo 5 > {SPILL_SWITCH}")
    node.host.check_output("docker run --detach --name published --publish %s:11434 %s", str(PUBLISHED), image)
    node.host.check_output("iptables -I DOCKER-USER 1 -j ACCEPT")
    node.host.check_output("systemctl stop prometheus-node-exporter")
    try:
        yield
    finally:
        node.host.run("rm %s", SPILL_SWITCH)
        node.host.run("docker rm --force published")
        node.host.run("iptables -D DOCKER-USER -j ACCEPT")
        node.host.run("systemctl start prometheus-node-exporter")


@pytest.mark.contract(6)
@pytest.mark.contract(7)
def test_verify_tells_every_fault_and_fails(node, supplies: dict) -> None:
    if SCENARIO != "fleet":
        pytest.skip("one scenario shows it; the others run verify.yml on a sound fleet, before remove.yml")
    if not node.has_gpu or supplies["engine"]["gpu_proof"] != "required":
        pytest.skip("an engine that can put nothing on a GPU is not asked to")
    (vantage_point,) = INVENTORY["all"]["children"]["vantage_points"]["hosts"]
    chat = node.models[0]["name"]
    with faults(node, supplies["engine"]["image_id"]):
        run = play("verify.yml", "--limit", node.name)
    try:
        assert run.returncode == 2, run.stdout[-3000:]
        # One line a check and host.
        lines = [
            line.split(None, 3) for line in run.stdout.splitlines() if re.match(rf"(ok|FAILED) +{node.name} ", line)
        ]
        failed = {component: "" for verdict, _, component, _ in lines if verdict == "FAILED"}
        for verdict, _, component, text in lines:
            if verdict == "FAILED":
                failed[component] += text + "\n"
        assert set(failed) == {"firewall", "monitoring", "proof", "outside"}
        assert f"{chat} is spilled to the CPU: " in failed["proof"]
        assert "layers are on the GPU" in failed["proof"]
        assert "nothing listens" in failed["monitoring"]
        assert f"From {vantage_point}" in failed["outside"]
        assert f"{node.address}:{PUBLISHED}" in failed["outside"], "by the port that it publishes"
        assert re.search(r"172\.\d+\.\d+\.\d+:11434 open", failed["outside"]), "and by a route to its own address"
        assert {component for verdict, _, component, _ in lines if verdict == "ok"} > {"docker", "firewall", "ollama"}
        # A simulated GPU is not compared with the CPU, and the report says so.
        assert re.search(
            rf"(?m)^not asked +{node.name} +proof +{chat} decodes faster .*ollama_verify_compare_cpu", run.stdout
        )
    finally:
        # The spill stays until the model is loaded anew.
        for model in node.models:
            node.api("/api/generate", {"model": model["name"], "keep_alive": 0})
            load = ("/api/embed", {"input": ""}) if model["use"] == "embedding" else ("/api/generate", {})
            node.api(load[0], {"model": model["name"], "keep_alive": -1, **load[1]})
