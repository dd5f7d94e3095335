# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processors and NUMA nodes, from a tree like the kernel's, and what an engine is bound to."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _topology

GIB = 2**30


def tree(root: Path, nodes: dict[int, tuple[str, int]], siblings: dict[int, str]) -> None:
    for number, (cpus, gibibytes) in nodes.items():
        place = root / f"sys/devices/system/node/node{number}"
        place.mkdir(parents=True)
        (place / "cpulist").write_text(cpus + "\n", encoding="utf-8")
        text = f"Node {number} MemTotal:       {gibibytes * 2**20} kB\nNode {number} MemFree: 1 kB\n"
        (place / "meminfo").write_text(text, encoding="utf-8")
    for number, text in siblings.items():
        place = root / f"sys/devices/system/cpu/cpu{number}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(text + "\n", encoding="utf-8")


# Two sockets of two cores with two threads each, numbered as Linux does on x86; the third node is memory alone (CXL).
@pytest.fixture
def two_sockets(tmp_path: Path) -> list[dict]:
    pairs = {first: f"{first},{first + 4}" for first in range(4)}
    siblings = pairs | {first + 4: text for first, text in pairs.items()}
    tree(tmp_path, {0: ("0-1,4-5", 64), 1: ("2-3,6-7", 128), 2: ("", 256)}, siblings)
    return _topology.numa_nodes(str(tmp_path))


def test_nodes(two_sockets: list[dict]) -> None:
    assert two_sockets == [
        {"id": 0, "memory_total_bytes": 64 * GIB, "cores": [[0, 4], [1, 5]]},
        {"id": 1, "memory_total_bytes": 128 * GIB, "cores": [[2, 6], [3, 7]]},
    ]


def test_a_host_whose_kernel_tells_nothing_has_no_nodes(tmp_path: Path) -> None:
    assert _topology.numa_nodes(str(tmp_path)) == []
    assert _topology.cpuset([], "auto", GIB) == {"cpus": "", "threads": 0}
    assert _topology.cpuset([], "0-3", GIB) == {"cpus": "0-3", "threads": 4}


@pytest.mark.parametrize(
    ("cpus", "gibibytes", "expected"),
    [
        pytest.param("", 1, {"cpus": "", "threads": 0}, id="not bound"),
        pytest.param("auto", 57, {"cpus": "0-1", "threads": 2}, id="the first node holds it"),
        pytest.param("auto", 58, {"cpus": "2-3", "threads": 2}, id="only the second does"),
        pytest.param("auto", 120, {"cpus": "", "threads": 0}, id="no node does"),
        pytest.param("0-1,4-5", 500, {"cpus": "0-1,4-5", "threads": 2}, id="hyper-threads are no cores"),
        pytest.param("0,1,2", 1, {"cpus": "0-2", "threads": 3}, id="three cores"),
    ],
)
def test_cpuset(two_sockets: list[dict], cpus: str, gibibytes: int, expected: dict) -> None:
    assert _topology.cpuset(two_sockets, cpus, gibibytes * GIB) == expected


def test_one_node_is_not_bound_to_itself(two_sockets: list[dict]) -> None:
    assert _topology.cpuset(two_sockets[:1], "auto", GIB)["cpus"] == ""


@pytest.mark.parametrize(
    ("cpus", "says"),
    [
        ("0-15", "no processor 8-15; it has 0-7"),
        ("zero", "no list of processors"),
        ("3-1", "no list of processors"),
    ],
)
def test_what_the_host_does_not_have(two_sockets: list[dict], cpus: str, says: str) -> None:
    with pytest.raises(_topology.CpusetError, match=says):
        _topology.cpuset(two_sockets, cpus, GIB)


@pytest.mark.parametrize("text", ["", "0", "0-3", "0-3,8", "0,2,4"])
def test_lists_are_written_as_read(text: str) -> None:
    assert _topology.write(_topology.parse(text)) == text
