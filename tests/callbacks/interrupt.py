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
    INTERRUPT_AT_TASK says, counted from 1, or the first whose name ends as INTERRUPT_AT_NAME says. Without these
    variables the run goes to its end.
  - Before that, or at the end, writes a JSON file named by the environment variable INTERRUPT_FILE with the number and
    name of the task, the names of the tasks before it, hosts and names of what changed, the handlers that were notified
    and never ran, and those that ran.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "interrupt"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.last = int(os.environ.get("INTERRUPT_AT_TASK", "0"))
        self.ending = os.environ.get("INTERRUPT_AT_NAME", "")
        self.number = 0
        self.started = []
        self.changed = []
        self.pending = []
        self.handled = []

    def _write(self):
        report = os.environ.get("INTERRUPT_FILE")
        if report:
            record = {
                "task": self.number,
                "name": self.started[-1] if self.started else "",
                "passed": list(dict.fromkeys(self.started[:-1])),
                "changed": self.changed,
                "handlers_lost": self.pending,
                "handlers_run": self.handled,
            }
            Path(report).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.number += 1
        self.started.append(task.get_name())
        if self.number == self.last or (self.ending and task.get_name().endswith(self.ending)):
            self._write()
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def v2_playbook_on_handler_task_start(self, task):
        # A notification has the handler's name without its role, or what several handlers listen to.
        names = [task.get_name().split(" : ")[-1], *(task.listen or [])]
        self.pending = [pending for pending in self.pending if pending not in names]
        self.handled.extend(name for name in names if name not in self.handled)

    def v2_runner_on_ok(self, result):
        if result._result.get("changed"):
            name = result._task.get_name()
            if name.split(" : ")[-1] not in self.handled:
                self.changed.append([result._host.get_name(), name])
            # Core itself tells of a notification only when handlers are flushed, and a killed run never comes so far.
            notified = result._result.get("_ansible_notify") or result._task.notify or []
            for handler in [notified] if isinstance(notified, str) else notified:
                if handler not in self.pending:
                    self.pending.append(handler)

    def v2_playbook_on_stats(self, stats):
        self._write()
