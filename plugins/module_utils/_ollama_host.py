# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Ollama that runs on the host itself, as its installer (scripts/install.sh of Ollama) leaves it or by hand."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
import typing as t
from dataclasses import dataclass

PROGRAMS = ("/usr/local/bin/ollama", "/usr/bin/ollama", "/bin/ollama", "/snap/bin/ollama")
MIB = 2**20
GPU_QUERY = ["--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Process:
    """A process on the host, none in a container."""

    pid: int
    parent: int
    name: str


def unit(text: str) -> dict[str, str]:
    """Properties of a unit, from ``systemctl show``."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def processes(proc: str = "/proc") -> list[Process]:
    """Every process of the host's own PID namespace; those of containers have others."""
    own = os.readlink(os.path.join(proc, "self", "ns", "pid"))
    found = []
    for path in glob.glob(os.path.join(proc, "[0-9]*")):
        try:
            with open(os.path.join(path, "stat"), encoding="utf-8", errors="replace") as stream:
                match = re.match(r"^(\d+) \((.*)\) \S+ (\d+)", stream.read(), re.DOTALL)
            if match and os.readlink(os.path.join(path, "ns", "pid")) == own:
                found.append(Process(int(match[1]), int(match[3]), match[2]))
        except OSError:
            # It ended meanwhile.
            continue
    return found


def family(everyone: t.Iterable[Process], name: str = "ollama") -> set[int]:
    """PIDs of the processes of that name, and of all that they started: a model's runner is a child of the server."""
    children: dict[int, list[int]] = {}
    everyone = list(everyone)
    for process in everyone:
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    left = [process.pid for process in everyone if process.name == name]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def gpu_memory(text: str, pids: t.Collection[int]) -> int:
    """Bytes of GPU memory that these processes hold, from nvidia-smi's list of compute processes (PID, MiB).

    A process whose memory the driver does not tell counts one MiB: that it holds some is certain.
    """
    total = 0
    for line in text.splitlines():
        pid, _comma, memory = (part.strip() for part in line.partition(","))
        if pid.isdigit() and int(pid) in pids:
            total += (int(memory) if memory.isdigit() else 1) * MIB
    return total


def models_directory(properties: dict[str, str]) -> str:
    """Where the unit's server keeps its models, ``OLLAMA_MODELS`` or below its user's home; empty if not there."""
    environment = dict(item.split("=", 1) for item in shlex.split(properties.get("Environment", "")) if "=" in item)
    directory = environment.get("OLLAMA_MODELS")
    if not directory:
        try:
            home = environment.get("HOME") or pwd.getpwnam(properties.get("User") or "root").pw_dir
        except KeyError:
            return ""
        directory = os.path.join(home, ".ollama", "models")
    return directory if os.path.isdir(directory) else ""
