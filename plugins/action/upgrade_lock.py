# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import getpass
import hashlib
import os
import socket
import typing as t
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible_collections.onprem.llm.plugins.module_utils import _upgrade


def started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks since the boot; None where there is none such.

    With the number it names one process: numbers come again, and never with the same start.
    """
    try:
        # The second field, a name in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def boot() -> str:
    """What names this machine since its boot, and where it has several worlds of processes, this one of them."""
    try:
        named = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{named} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def owner(playbook: str) -> dict[str, t.Any]:
    """This run: the process that plays it, of which this one is a child."""
    pid = os.getppid()
    born = started(pid) or ""
    return {
        "run": hashlib.sha256(f"{boot()} {pid} {born}".encode()).hexdigest()[:8],
        "user": getpass.getuser(),
        "controller": socket.gethostname(),
        "boot": boot(),
        "pid": pid,
        "started": born,
        "since": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "playbook": playbook,
    }


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        own = owner(str(arguments.get("playbook") or "upgrade.yml"))
        broken = str(arguments.get("break_run") or "")
        found = self._ask(arguments, own, task_vars)
        if not found.get("failed") and arguments.get("state", "held") == "held" and not found.get("taken"):
            holder = found.get("holder") or {}
            alive = bool(holder.get("pid")) and started(int(holder["pid"])) == holder.get("started")
            refusal = _upgrade.lock_held(holder, own, alive, broken)
            if refusal:
                found.update(failed=True, msg=refusal)
            else:
                self._display.display(f"The lock of run {holder.get('run')} is taken over: that run is dead.")
                taken_from = str(holder.get("run") or "unknown")
                found = self._ask({**arguments, "taken_from": taken_from}, own, task_vars)
                if not found.get("taken") and not found.get("failed"):
                    found.update(failed=True, msg="another run took the lock at this moment; run this again")
        result.update(found)
        return result

    def _ask(
        self, arguments: t.Mapping[str, t.Any], own: t.Mapping[str, t.Any], variables: dict[str, t.Any] | None
    ) -> dict[str, t.Any]:
        found: dict[str, t.Any] = self._execute_module(
            module_name="onprem.llm.upgrade_lock", module_args={**arguments, "owner": dict(own)}, task_vars=variables
        )
        return found
