# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook costs its controller: seconds, CPU seconds and memory of it and all that it starts."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import plays

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Cost:
    """One run.

    :ivar cpu_s: user and system seconds of the controller's processes, SSH clients with them; not the hosts'.
    :ivar peak_bytes: the most memory that they had together, shared pages counted once (PSS), sampled every second.
    :ivar hosts: executions and recap by host.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    returncode: int
    hosts: dict[str, dict[str, int]]
    output: str


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def _below(pid: int) -> list[int]:
    children, found = _children(), [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _bytes(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _end_leftovers() -> None:
    """SSH's masters outlive the run as children of ours; their time counts once they have been waited for."""
    for pid in _below(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return


def run(
    playbook: str,
    inventory: Path,
    environment: Mapping[str, str],
    variables: Mapping[str, Any] | None = None,
    timeout: float = 1800,
) -> Cost:
    """Run it from a fresh start: no connection of an earlier run is left to it."""
    # What a play leaves behind becomes our child, not init's.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    with tempfile.TemporaryDirectory(prefix="onprem-llm-scale-") as directory:
        report = Path(directory) / "executions.json"
        settings = {
            **plays.callback("executions"), "EXECUTIONS_FILE": str(report), "ANSIBLE_SSH_CONTROL_PATH_DIR": directory,
            "ANSIBLE_LOCAL_TEMP": directory, **environment,
        }  # fmt: skip
        peak, over = 0, threading.Event()

        def sample() -> None:
            nonlocal peak
            while not over.wait(SAMPLE_SECONDS):
                peak = max(peak, _bytes(_below(os.getpid())))

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        process = plays.start(playbook, inventory=inventory, environment=settings, variables=variables)
        try:
            output, _none = process.communicate(timeout=timeout)
        finally:
            wall = time.monotonic() - begun
            if process.poll() is None:
                process.kill()
                process.wait()
            over.set()
            sampler.join()
            _end_leftovers()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        hosts = json.loads(report.read_text(encoding="utf-8"))["hosts"] if report.is_file() else {}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(round(wall, 1), round(cpu, 2), peak, process.returncode, hosts, output)


if __name__ == "__main__":
    sys.exit("this is a part of tests.scale")
