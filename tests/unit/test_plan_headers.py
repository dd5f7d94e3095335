"""The role's plan with headers from a registry on loopback: once a run for all hosts, and without the registry."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from gguf_files import llama
from registry_fake import State, digest

from tests import plays

WEIGHTS = llama() + bytes(2**21)
WORKLOADS = [{"name": "chat", "models": ["own:1b"], "context_length": 4096, "slots": 1}]


@pytest.fixture
def registry() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as served:
        yield served


def play(playbook: Path, inventory: str, *more: str, **variables: Any) -> tuple[int, str]:
    """Exit status and output, on one line."""
    result = plays.run(playbook, *more, inventory=inventory, variables=variables, timeout=120)
    return result.returncode, re.sub(r"\s+", " ", result.stdout)


def plan(url: str, cache: Path, *more: str, **variables: Any) -> tuple[int, str]:
    """playbooks/plan.yml for a card of 8 GB."""
    given = {
        "plan_gpus": ["8188 MiB"],
        "models_workloads": WORKLOADS,
        "models_registry": url,
        "models_header_cache": str(cache),
    }
    return play(plays.ROOT / "playbooks/plan.yml", "localhost,", *more, **{**given, **variables})


def test_a_model_of_no_catalog_is_planned_by_its_header(registry: tuple[State, str], tmp_path: Path) -> None:
    state, url = registry
    state.put("own:1b", WEIGHTS)
    # Check mode keeps headers, too: its plan is the one that will be made.
    status, output = plan(url, tmp_path, "--check")
    assert status == 0, output
    assert "chat own:1b Q4_K_M 4k 1" in output
    assert (tmp_path / "{}-{}.gguf".format(digest(WEIGHTS).replace(":", "-"), len(WEIGHTS))).is_file()


def test_what_the_registry_does_not_have_is_told(registry: tuple[State, str], tmp_path: Path) -> None:
    _state, url = registry
    status, output = plan(url, tmp_path, models_workloads=[{"name": "chat", "models": ["qwen3:8c"]}])
    assert status != 0
    assert "the model 'qwen3:8c' is not to be had" in output
    assert "did you mean 'qwen3:8b'?" in output


@pytest.mark.parametrize("how", ["auto", "always"])
def test_without_the_registry(registry: tuple[State, str], tmp_path: Path, how: str) -> None:
    state, url = registry
    state.fault = "503"
    workloads = [{"name": "chat", "models": ["qwen3:0.6b"], "context_length": 4096, "slots": 1}]
    status, output = plan(url, tmp_path, models_workloads=workloads, models_read_headers=how)
    assert (status == 0) == (how == "auto"), output
    assert ("chat qwen3:0.6b Q4_K_M 4k 1" in output) == (how == "auto")
    assert ("no header of qwen3:0.6b" if how == "auto" else "the header of qwen3:0.6b is not known") in output
    assert len(state.requests) == 1


INVENTORY = """
llm_nodes:
  vars: {{ansible_connection: local, ansible_python_interpreter: "{python}"}}
  hosts:
    node1: {{models_workloads: [{{name: chat, models: ["own:1b", "same:1b"]}}]}}
    node2:
      models_workloads: [{{name: chat, preferred: ["other:1b"]}}]
      models_catalog: [{{name: "same:1b", size_bytes: 5}}]
    node3: {{models_workloads: [{{name: search, use: embedding}}]}}
"""
PLAY = """
- hosts: llm_nodes
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: onprem.llm.models, tasks_from: headers}
    - ansible.builtin.debug:
        msg: "{{ inventory_hostname }} has {{ __models_headers.entries | map(attribute='name') | list }}"
"""


def test_once_for_all_hosts(registry: tuple[State, str], tmp_path: Path) -> None:
    state, url = registry
    for name in ("own:1b", "other:1b", "same:1b"):
        state.put(name, WEIGHTS)
    inventory, playbook = tmp_path / "hosts.yml", tmp_path / "play.yml"
    inventory.write_text(INVENTORY.format(python=sys.executable), encoding="utf-8")
    playbook.write_text(PLAY, encoding="utf-8")
    status, output = play(playbook, str(inventory), models_registry=url, models_header_cache=str(tmp_path / "cache"))
    assert status == 0, output
    # What node2 alone calls same:1b is another model for node1, so neither gets the other's header.
    names = ["other:1b", "own:1b"]
    for host in ("node1", "node2", "node3"):
        assert f"{host} has {names}" in output.replace('"', "'")
    assert sorted(path for path in state.paths if "manifests" in path) == [
        "/v2/library/other/manifests/1b",
        "/v2/library/own/manifests/1b",
    ]
    assert len(state.requests) == len(names) + 1, "the same weights are read once"
