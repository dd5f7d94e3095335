"""A node without a GPU is bound to its processors and its memory."""

from __future__ import annotations

import json

import yaml

GIB = 2**30


def test_engine_is_bound_to_processors_and_cannot_swap(box) -> None:
    # As Compose reads it: the engine inside a test host has neither controller, and drops both with a warning.
    project = yaml.safe_load(box.check_output("docker compose -f /opt/onprem-llm/ollama/compose.yml config"))
    engine = project["services"]["ollama"]
    plan = json.loads(box.file("/etc/onprem-llm/plan.json").content_string)
    planned = sum(model["account"]["total_bytes"] for model in plan["instances"][0]["models"])
    assert int(engine["mem_limit"]) == int(engine["memswap_limit"])
    assert planned * 1.25 + 2 * GIB <= int(engine["mem_limit"]) <= planned * 1.25 + 2 * GIB + 2**20
    assert engine["cpuset"] == "0-1"


def test_models_have_as_many_threads_as_there_are_cores(box) -> None:
    question = "import sys,urllib.request as u; print(u.urlopen(sys.argv[1], sys.argv[2].encode()).read().decode())"
    url, model = "http://172.30.250.2:11434/api/show", '{"model": "gemma3:270m"}'
    shown = box.check_output("python3 -c %s %s %s", question, url, model)
    topology = box.check_output("cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    expected = 1 if topology in ("0-1", "0,1") else 2
    assert f"num_thread                     {expected}" in json.loads(shown)["parameters"]
