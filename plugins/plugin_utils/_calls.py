# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work as calls of a module that is bound in time: what is ``pending`` is told, and the module called again."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes


def line(pending: t.Mapping[str, t.Any], rate: float) -> str:
    """What is done of how much, at which rate in bytes per second, and what time that leaves."""
    done, total = int(pending.get("done_bytes") or 0), int(pending.get("total_bytes") or 0)
    text = f"{pending.get('phase') or 'transfer'}: {human_bytes(done)}"
    if total:
        text += f" of {human_bytes(total)} ({100 * done // total} %)"
    if rate > 0:
        text += f", {human_bytes(int(rate))}/s"
        if total > done:
            text += f", about {max(1, round((total - done) / rate))} s left"
    return text


def until_done(
    action: ActionBase, module: str, arguments: dict[str, t.Any], variables: dict[str, t.Any]
) -> dict[str, t.Any]:
    """The module's last result, with what all of its calls together changed and fetched."""
    host = variables.get("inventory_hostname", "")
    changed = False
    fetched = before = 0
    started = time.monotonic()
    while True:
        result: dict[str, t.Any] = action._execute_module(
            module_name=module, module_args=arguments, task_vars=variables
        )
        changed = changed or bool(result.get("changed"))
        fetched += int(result.get("fetched_bytes") or 0)
        pending = result.get("pending")
        if result.get("failed") or not pending:
            result["changed"] = changed
            if "fetched_bytes" in result:
                result["fetched_bytes"] = fetched
            return result
        now = time.monotonic()
        done = int(pending.get("done_bytes") or 0)
        rate = (done - before) / max(0.001, now - started) if done > before else 0
        Display().display(f"{host}: {line(pending, rate)}")
        before, started = done, now
        arguments = {**arguments, "goes_on": True}
