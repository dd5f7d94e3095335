"""A model that does not fit the GPU is a failure with its cause, and mends itself once the cause is gone."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import SCENARIO

from tests.fleet.hosts import ROOT

# What makes the engine stand-in leave layers on the CPU at its next load (tests/engine/README.md).
SWITCH = "/var/lib/onprem-llm/ollama/simulate_spill"


def models_playbook(node) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", "-i", f"molecule/{SCENARIO}/inventory", "playbooks/models.yml", "--limit", node.name],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.contract(6)
def test_spill_to_the_cpu_fails_and_says_why(node, supplies: dict) -> None:
    if not node.has_gpu or supplies["engine"]["gpu_proof"] != "required":
        pytest.skip("an engine that can put nothing on a GPU is not asked to")
    chat = node.models[0]["name"]
    node.host.check_output("sh -c %s", f"echo 5 > {SWITCH}")
    try:
        node.api("/api/generate", {"model": chat, "keep_alive": 0})
        failed = models_playbook(node)
    finally:
        node.host.check_output("rm %s", SWITCH)
    assert failed.returncode != 0
    assert f"{chat} is spilled to the CPU" in " ".join(failed.stdout.split())
    mended = models_playbook(node)
    assert mended.returncode == 0, mended.stdout[-3000:]
    assert next(m for m in node.api("/api/ps")["models"] if m["name"] == chat)["size_vram"] > 0
