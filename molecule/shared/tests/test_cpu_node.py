"""A node without a GPU is bound to its processors and its memory."""

from __future__ import annotations

import pytest
import yaml
from conftest import CPU_NODES

GIB = 2**30


@pytest.fixture(autouse=True)
def without_gpu(node) -> None:
    if node.name not in CPU_NODES:
        pytest.skip("a node with a GPU is bound to that")


def test_engine_is_bound_to_processors_and_cannot_swap(node) -> None:
    # As Compose reads it: the engine inside a test host has neither controller, and drops both with a warning.
    project = yaml.safe_load(node.host.check_output("docker compose -f /opt/onprem-llm/ollama/compose.yml config"))
    engine = project["services"]["ollama"]
    planned = sum(model["account"]["total_bytes"] for model in node.models)
    assert int(engine["mem_limit"]) == int(engine["memswap_limit"])
    assert planned * 1.25 + 2 * GIB <= int(engine["mem_limit"]) <= planned * 1.25 + 2 * GIB + 2**20
    assert engine["cpuset"] == "0-1"


def test_models_have_as_many_threads_as_there_are_cores(node) -> None:
    shown = node.api("/api/show", {"model": "gemma3:270m"})
    topology = node.host.check_output("cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    expected = 1 if topology in ("0-1", "0,1") else 2
    assert f"num_thread                     {expected}" in shown["parameters"]
