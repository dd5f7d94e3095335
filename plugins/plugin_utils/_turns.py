# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long transfers in turns, each told in a line of the play's output.

A module that transfers hands back when its turn is over, with ``pending`` set, and what it got stays. So no job
outlives the play, no connection is silent for long, and somebody who watches sees how far it is.
"""

from __future__ import annotations

import os
import time
import typing as t
from abc import abstractmethod

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# A call costs a start of the module and new connections: after this many lines the interval doubles, up to a bound.
LINES_AN_INTERVAL = 4
MOST_INTERVALS = 4
# What is done with files that are here, by its phase.
PASSES = {"verify": "reading its files", "push": "putting it into the registry", "adopt": "taking its files over"}


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``3 min 20 s``, ``1 h 5 min``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """What is told of the work while it goes on: one line a call of the module.

    :param subject: what every line begins with, such as the host and what is transferred.
    """

    def __init__(self, subject: str) -> None:
        self._head = f"{subject}: "
        self._phase = ""
        self._announced = 0
        self._first: tuple[float, int] = (0.0, 0)

    def line(self, pending: t.Mapping[str, t.Any], transfer: t.Mapping[str, t.Any], now: float) -> str:
        """:param now: seconds of a clock that only goes on."""
        return self._head + self._text(pending["phase"], pending["done_bytes"], pending["total_bytes"], transfer, now)

    def _text(self, phase: str, done: int, total: int, transfer: t.Mapping[str, t.Any], now: float) -> str:
        if phase == "announced":
            self._announced = total
            size = human_bytes(total) if total else "a file whose size is not known yet"
            here = f" ({human_bytes(done)} of it are here already)" if done else ""
            free = human_bytes(transfer.get("free_bytes") or 0)
            return f"{size} to be transferred from {transfer.get('origin')}{here}, {free} free on the disk"
        if phase != "transfer" and phase not in PASSES:
            return f"waiting: {phase}"
        if phase == "transfer" and self._announced > total > 0:
            # Files that were put in place meanwhile count no more in the module's own account.
            done, total = done + self._announced - total, self._announced
        if phase != self._phase:
            self._phase, self._first = phase, (now, done)
        share = f"{100 * done // total} %, {human_bytes(done)} of {human_bytes(total)}" if total else human_bytes(done)
        seconds, gained = now - self._first[0], done - self._first[1]
        if seconds > 0 and gained > 0:
            share += f", {human_bytes(int(gained / seconds))}/s"
            share += f", {duration((total - done) * seconds / gained)} left" if total else ""
        return f"{share}, from {transfer.get('origin')}" if phase == "transfer" else f"{PASSES[phase]}: {share}"


class TurnsAction(ActionBase):
    """Calls :attr:`MODULE` until nothing is pending."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    MODULE = ""

    @abstractmethod
    def subject(self) -> str:
        """What is transferred, by the task's arguments."""

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        interval = float(arguments.get("progress_interval") or 15)
        host = str(variables.get("inventory_hostname") or "")
        if self._task.delegate_to:
            host += f" -> {self._task.delegate_to}"
        progress = Progress(f"{host}: {self.subject()}")
        arguments.update(announce=True, transfer_seconds=arguments.get("transfer_seconds") or interval)
        fetched, seconds, lines = 0, 0.0, 0
        first: dict[str, t.Any] = {}
        account: dict[str, t.Any] = {}
        play = os.getppid()
        while True:
            answer = self._execute_module(module_name=self.MODULE, module_args=arguments, task_vars=variables)
            transfer = answer.get("transfer") or {}
            first, account = first or answer, account or transfer
            fetched += transfer.get("fetched_bytes") or 0
            seconds += transfer.get("seconds") or 0.0
            pending = answer.get("pending")
            if answer.get("failed") or not pending:
                break
            # A killed play leaves its workers behind.
            if os.getppid() != play:
                raise AnsibleActionFail("the play has ended; what has come stays, and the next one goes on from it")
            if not self._task.no_log:
                self._display.display(progress.line(pending, transfer, time.monotonic()))
            lines += 1
            arguments.update(announce=False, resume=pending["resume"])
            if not self._task.args.get("transfer_seconds"):
                arguments["transfer_seconds"] = interval * min(2 ** (lines // LINES_AN_INTERVAL), MOST_INTERVALS)
        if account:
            # What the calls before brought is not in the last one's account.
            answer["transfer"] = dict(account, fetched_bytes=fetched, seconds=round(seconds, 3))
            answer["changed"] = answer.get("changed", False) or fetched > 0
        if answer is not first:
            self.conclude(answer, first)
        result.update(answer)
        return result

    def conclude(self, answer: dict[str, t.Any], first: dict[str, t.Any]) -> None:
        """Put into the last call's answer what only the first one's has."""
