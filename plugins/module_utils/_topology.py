# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processors of a host by core and NUMA node, and which of them an engine without a GPU is bound to.

Sources: the kernel's Documentation/admin-guide/cputopology.rst and Documentation/admin-guide/mm/numaperf.rst. A list of
processors is written as the kernel and Docker write it, ``0-3,8``.
"""

from __future__ import annotations

import glob
import os
import re
import typing as t

# Of a node's memory, what the kernel and other programs are left.
_NODE_SHARE = 0.9


class CpusetError(Exception):
    """A set of processors that the host does not have; the text says what would be right."""


def parse(text: str) -> list[int]:
    """The numbers of a list such as ``0-3,8``, in order.

    :raises CpusetError: the text is no such list.
    """
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.match(r"^(\d+)(?:-(\d+))?$", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise CpusetError(f"{text} is no list of processors such as 0-7 or 0-3,8-11")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def write(numbers: t.Iterable[int]) -> str:
    """The shortest list of numbers: ``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def numa_nodes(root: str = "/") -> list[dict[str, t.Any]]:
    """Each NUMA node with memory and processors: its number, its bytes, and its cores as lists of their hyper-threads.

    A host whose kernel knows no nodes has none here.
    """
    nodes = []
    for directory in glob.glob(os.path.join(root, "sys/devices/system/node/node[0-9]*")):
        cores: dict[str, list[int]] = {}
        for number in parse(_read(os.path.join(directory, "cpulist"))):
            place = os.path.join(root, f"sys/devices/system/cpu/cpu{number}/topology")
            siblings = _read(os.path.join(place, "thread_siblings_list")) or str(number)
            cores.setdefault(siblings, []).append(number)
        total = re.search(r"MemTotal:\s+(\d+) kB", _read(os.path.join(directory, "meminfo")))
        size = int(total[1]) * 1024 if total else 0
        if cores and size:
            number = int(os.path.basename(directory)[4:])
            nodes.append({"id": number, "memory_total_bytes": size, "cores": sorted(cores.values())})
    return sorted(nodes, key=lambda node: t.cast("int", node["id"]))


def cpuset(nodes: t.Sequence[t.Mapping[str, t.Any]], cpus: str, needed_bytes: int) -> dict[str, t.Any]:
    """What the engine is bound to: ``cpus`` as Docker takes them (empty is all), and ``threads``.

    ``auto`` takes, on a host of several nodes, the first whose memory holds ``needed_bytes``, and of each of its cores
    one hyper-thread: two share the arithmetic that inference is made of. ``threads`` is the number of physical cores in
    the set, 0 where the engine decides; the engine counts the host's cores whatever it is bound to.

    :raises CpusetError: ``cpus`` names what the host does not have.
    """
    if cpus == "auto":
        mates = [node for node in nodes if node["memory_total_bytes"] * _NODE_SHARE >= needed_bytes]
        if len(nodes) < 2 or not mates:
            return {"cpus": "", "threads": 0}
        first = [core[0] for core in mates[0]["cores"]]
        return {"cpus": write(first), "threads": len(first)}
    cores = [core for node in nodes for core in node["cores"]]
    wanted = parse(cpus)
    absent = sorted(set(wanted) - {number for core in cores for number in core}) if cores else []
    if absent:
        have = write(number for core in cores for number in core)
        raise CpusetError(f"the host has no processor {write(absent)}; it has {have}")
    return {"cpus": write(wanted), "threads": sum(1 for core in cores if set(core) & set(wanted)) or len(wanted)}
