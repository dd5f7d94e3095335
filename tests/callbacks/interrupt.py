# Copyright: onprem.llm contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kill the run at a chosen task, as a power cut on the controller would, and say what it had done by then."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: interrupt
type: aggregate
short_description: Kill the run at a chosen task
description:
  - Sends SIGKILL to the run's whole process group when the task starts whose number the environment variable
    INTERRUPT_AT_TASK says, counted from 1. Without that variable the run goes to its end.
  - Before that, or at the end, writes a JSON file named by the environment variable INTERRUPT_FILE with the number and
    name of the task, the tasks that changed something by then, the handlers that had been notified and never ran, and
    those that ran.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "interrupt"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.last = int(os.environ.get("INTERRUPT_AT_TASK", "0"))
        self.number = 0
        self.numbers = {}
        self.name = ""
        self.changed = []
        self.pending = []
        self.handled = []

    def _write(self):
        report = os.environ.get("INTERRUPT_FILE")
        if report:
            record = {
                "task": self.number,
                "name": self.name,
                "changed": self.changed,
                "handlers_lost": self.pending,
                "handlers_run": self.handled,
            }
            Path(report).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.number += 1
        self.numbers[task._uuid] = self.number
        self.name = task.get_name()
        if self.number == self.last:
            self._write()
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def v2_playbook_on_notify(self, handler, host):
        if handler.get_name() not in self.pending:
            self.pending.append(handler.get_name())

    def v2_playbook_on_handler_task_start(self, task):
        name = task.get_name()
        self.pending = [pending for pending in self.pending if pending != name]
        self.handled.append(name)

    def v2_runner_on_ok(self, result):
        if result._result.get("changed"):
            name = result._task.get_name()
            change = [self.numbers.get(result._task._uuid, self.number), result._host.get_name(), name]
            if name not in self.handled:
                self.changed.append(change)

    def v2_playbook_on_stats(self, stats):
        self._write()
