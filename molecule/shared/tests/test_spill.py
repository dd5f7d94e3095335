"""A model that does not fit the GPU is a failure with its cause, and mends itself once the cause is gone."""

from __future__ import annotations

import pytest
from conftest import SPILL_SWITCH

from tests.plays import play


@pytest.mark.contract(6)
def test_spill_to_the_cpu_fails_and_says_why(node, supplies: dict) -> None:
    if not node.has_gpu or supplies["engine"]["gpu_proof"] != "required":
        pytest.skip("an engine that can put nothing on a GPU is not asked to")
    chat = node.models[0]["name"]
    node.host.check_output("sh -c %s", f"echo 5 > {SPILL_SWITCH}")
    try:
        node.api("/api/generate", {"model": chat, "keep_alive": 0})
        failed = play("models.yml", "--limit", node.name)
    finally:
        node.host.check_output("rm %s", SPILL_SWITCH)
    assert failed.returncode != 0
    assert f"{chat} is spilled to the CPU" in " ".join(failed.stdout.split())
    mended = play("models.yml", "--limit", node.name)
    assert mended.returncode == 0, mended.stdout[-3000:]
    assert next(m for m in node.api("/api/ps")["models"] if m["name"] == chat)["size_vram"] > 0
