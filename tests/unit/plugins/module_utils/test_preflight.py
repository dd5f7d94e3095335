# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what roles state and a host has to the sentences that people read."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _preflight as preflight


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, []),
        ("", []),
        ("\n  \n", []),
        ("one\ntwo\n", ["one", "two"]),
        ("one\n  and more\n\ntwo", ["one and more", "two"]),
        ("  indented from the first", ["indented from the first"]),
        (["", "one", None, " two\n  and more "], ["one", "two and more"]),
    ],
)
def test_sentences(value: Any, said: list[str]) -> None:
    assert preflight.sentences(value) == said


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("Task failed: Missing sudo password", ("ansible_become_password is not set", "admin", "--ask-become-pass")),
        ("Incorrect sudo password", ("ansible_become_password is refused", "admin")),
        (
            "ansible-core requires a minimum of Python version 3.8. Current version: 3.7.17 (default)",
            ("ansible_python_interpreter is /usr/bin/python3, Python 3.7.17", "3.8 or newer"),
        ),
        ("The module interpreter '/usr/bin/python9' was not found.", ("no Python there", "install python3")),
        ("Something else", ("facts cannot be gathered: Something else",)),
        ("", ("no reason was given",)),
    ],
)
def test_refusal_names_what_would_be_right(message: str, parts: tuple[str, ...]) -> None:
    said = preflight.refusal(message, "admin", "/usr/bin/python3")
    assert all(part in said for part in parts), said


GIB = 2**30


def test_space_is_summed_by_file_system() -> None:
    needs = [
        preflight.Need("/models", 3 * GIB, "gemma3:4b", "models_store_dir"),
        preflight.Need("/staging", 2 * GIB, "the copy of gemma3:4b", "models_staging_dir"),
        preflight.Need("/other", 9 * GIB, "qwen3:8b", "other_dir"),
    ]
    places = {
        "/models": {"device": 1, "free_bytes": 4 * GIB},
        "/staging": {"device": 1, "free_bytes": 4 * GIB},
        "/other": {"device": 2, "free_bytes": 9 * GIB},
    }
    (fault,) = preflight.space_faults(needs, places)
    assert "models_store_dir is /models, whose file system has 4.0 GiB (4294967296 bytes) free" in fault
    assert "5.0 GiB (5368709120 bytes) are needed (gemma3:4b 3.0 GiB, the copy of gemma3:4b 2.0 GiB)" in fault


def test_no_need_no_fault() -> None:
    nothing = [preflight.Need("/models", 0, "nothing", "models_store_dir"), preflight.Need("/gone", 5, "x", "y")]
    assert preflight.space_faults(nothing, {"/models": {"device": 1, "free_bytes": 0}}) == []


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ({}, "llm_nodes: the group has no host"),
        ({"llm_nodes": ["a"], "gpu_nodes": ["a"], "cpu_nodes": ["a"]}, "a is in both"),
        ({"llm_nodes": ["a"]}, "a is neither in gpu_nodes nor in cpu_nodes"),
        ({"llm_nodes": ["a"], "cpu_nodes": ["a"], "gpu_nodes": ["b"]}, "gpu_nodes: b is not in llm_nodes"),
    ],
)
def test_groups_that_contradict_each_other(groups: dict[str, list[str]], part: str) -> None:
    (fault,) = preflight.groups_faults(groups)
    assert part in fault


def test_groups_as_they_should_be() -> None:
    assert preflight.groups_faults({"llm_nodes": ["a", "b"], "gpu_nodes": ["a"], "cpu_nodes": ["b"]}) == []


def test_a_fleet_may_have_several_mirrors() -> None:
    groups = {"llm_nodes": ["a"], "gpu_nodes": ["a"], "model_mirrors": ["m", "n"]}
    assert preflight.groups_faults(groups) == []


def test_two_hosts_at_one_address() -> None:
    addresses = {"ansible_host": {"a": "10.0.0.1", "b": "10.0.0.1", "c": "10.0.0.2"}, "endpoint_address": {"a": ""}}
    (fault,) = preflight.address_faults(addresses)
    assert fault.startswith("ansible_host is 10.0.0.1 for a, b;")


STATEMENT = {
    "packages": ["nginx", "ufw"],
    "files": [
        {"path": "/etc/new", "sha256": "1", "mode": "0644"},
        {"path": "/etc/same", "sha256": "2", "mode": "0644"},
        {"path": "/etc/other", "sha256": "3", "mode": "0644"},
        {"path": "/etc/open", "sha256": "4", "mode": "0600"},
        {"path": "/etc/later", "sha256": None, "mode": None},
    ],
    "units": ["run.service", "stopped.service", "off.service"],
    "containers": ["up", "down", "gone"],
}
STATE = {
    "packages": {"ufw": "0.36"},
    "files": {
        "/etc/new": {"exists": False},
        "/etc/same": {"exists": True, "sha256": "2", "mode": "0644"},
        "/etc/other": {"exists": True, "sha256": "x", "mode": "0644"},
        "/etc/open": {"exists": True, "sha256": "4", "mode": "0644"},
        "/etc/later": {"exists": True, "sha256": "y", "mode": "0644"},
    },
    "units": {
        "run.service": {"active": True, "enabled": True},
        "stopped.service": {"active": False, "enabled": True},
        "off.service": {"active": True, "enabled": False},
    },
    "containers": {"up": {"running": True}, "down": {"running": False}},
}


def test_changes_are_what_differs() -> None:
    assert preflight.changes(STATEMENT, STATE) == {
        "install": ["nginx"],
        "change": [
            "/etc/new (new)",
            "/etc/other",
            "/etc/open (mode 0644, will be 0600)",
            "off.service (enable at boot)",
        ],
        "restart": ["stopped.service (start)", "the container down (start)", "the container gone (start)"],
    }


def test_a_virgin_host_gets_everything() -> None:
    found = preflight.changes(STATEMENT, {})
    assert found["install"] == ["nginx, ufw"]
    assert found["change"] == [f"{entry['path']} (new)" for entry in STATEMENT["files"]]
    assert found["restart"][:3] == ["run.service (start)", "stopped.service (start)", "off.service (start)"]
    assert found["restart"][3:] == [f"the container {name} (start)" for name in STATEMENT["containers"]]


def test_a_sentence_is_told_once_with_its_hosts() -> None:
    told = {"a": ["x", "y", "x"], "b": ["x"], "c": ["z"]}
    assert preflight.grouped(told, ["a", "b", "c"]) == ["a, b: x", "a: y", "c: z"]
    assert preflight.grouped({"a": ["x"], "b": ["x"]}, ["a", "b"]) == ["all 2 hosts: x"]
    assert preflight.grouped({"a": ["x"]}, ["a"]) == ["a: x"]


def test_hosts_with_one_outlook_stand_together() -> None:
    idle: dict[str, list[str]] = {section: [] for section in preflight.SECTIONS}
    busy = {**idle, "install": ["nginx", "ufw"], "restart": ["nginx.service (start)"]}
    assert preflight.outlook_lines({"a": busy, "b": idle, "c": busy}, ["a", "b", "c", "lost"]) == [
        "a, c:",
        "  install   nginx",
        "            ufw",
        "  restart   nginx.service (start)",
        "b:",
        "  nothing to do",
    ]
    noted = {**idle, "note": ["driver 580"]}
    assert preflight.outlook_lines({"a": noted}, ["a"]) == ["a:", "  nothing to do", "  note      driver 580"]
