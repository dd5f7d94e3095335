"""What may take a GPU away happens, and the GPU check of the timer says whether it did."""

from __future__ import annotations

import json

import pytest
from conftest import SCENARIO, Node

STATE = "/run/onprem-llm-gpu/proof.json"
UNIT = "onprem-llm-gpu-proof.service"
# The tests after these ask an engine that is healthy and has its models.
IS_WARM = (
    "for i in $(seq 120); do sleep 0.5;"
    " docker inspect --format '{{.State.Health.Status}}' onprem-llm-ollama | grep -qx healthy || continue;"
    " grep -q '\"ready\": true' /run/onprem-llm/warm.json && break; done"
)


@pytest.fixture(autouse=True)
def one_scenario(node: Node) -> None:
    if SCENARIO != "single" or not node.has_gpu:
        pytest.skip("one scenario shows it")


def check(node: Node) -> dict:
    """The state as the timer's next run leaves it. systemd would refuse a sixth start within ten seconds."""
    node.host.run(f"systemctl reset-failed {UNIT}; systemctl start {UNIT}")
    return json.loads(node.host.check_output(f"cat {STATE}"))


def test_the_timer_runs_it_beside_the_health_check(node: Node) -> None:
    node.host.check_output(f"rm -f {STATE}")
    node.host.run("systemctl start onprem-llm-health.service")
    node.host.check_output(f"for i in $(seq 50); do [ -e {STATE} ] && break; sleep 0.2; done; cat {STATE}")
    line = json.loads(node.host.check_output("tail -n 1 /var/log/ollama/gpu_proof.log"))
    assert line["event"] == "gpu_proof"
    assert {"ts", "level", "status", "duration_ms", "cause", "rungs"} <= line.keys()


@pytest.mark.contract(6)
@pytest.mark.parametrize("restart", ["true", "systemctl daemon-reload", "systemctl restart docker.service"])
def test_it_is_healthy_after(node: Node, restart: str) -> None:
    node.host.check_output(restart)
    state = check(node)
    assert (state["status"], state["cause"]) == ("healthy", ""), state
    rungs = {rung["rung"]: rung["ok"] for rung in state["rungs"]}
    # No process is on a simulated GPU, and the state says that nobody asked.
    assert rungs == {
        "driver": True, "cdi_spec": True, "container": True, "inside": None, "runners": None, "share": True
    }  # fmt: skip
    assert state["simulated"]


@pytest.mark.parametrize(
    ("fault", "mend", "cause"),
    [
        # Docker hears of a file that is renamed in the directory, and of none that is moved in from another.
        ("mv /etc/cdi/nvidia.yaml /etc/cdi/away", "mv /etc/cdi/away /etc/cdi/nvidia.yaml", "cdi_spec_missing"),
        ("mv /etc/simulated-gpus.csv /etc/away.csv", "mv /etc/away.csv /etc/simulated-gpus.csv", "driver_not_loaded"),
        ("docker stop onprem-llm-ollama", f"docker start onprem-llm-ollama; {IS_WARM}", "container_stopped"),
    ],
)  # fmt: skip
def test_what_is_gone_is_the_cause(node: Node, fault: str, mend: str, cause: str) -> None:
    node.host.check_output(fault)
    try:
        state = check(node)
        failed = node.host.run(f"systemctl is-failed {UNIT}").stdout.strip()
    finally:
        node.host.check_output(mend)
    assert (state["status"], state["cause"], failed) == ("unhealthy", cause, "failed")
    assert state["message"]
    assert check(node)["status"] == "healthy"


def test_whoever_runs_it_has_no_more_rights_than_it_needs(node: Node) -> None:
    shown = node.host.check_output(f"systemctl show {UNIT} -p CapabilityBoundingSet,NoNewPrivileges,ProtectSystem")
    assert set(shown.splitlines()) == {
        "CapabilityBoundingSet=cap_dac_read_search", "NoNewPrivileges=yes", "ProtectSystem=strict"
    }  # fmt: skip
    assert node.host.check_output(f"stat -c '%U %a' {STATE}") == "root 644"
