# Copyright: onprem.llm contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Count what a play executes on each host: every result is one, every loop item is one, a skipped task is one."""

from __future__ import annotations

import collections
import json
import os
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: executions
type: aggregate
short_description: Count module executions a host
description:
  - Writes, at the end of a run, a JSON file named by the environment variable EXECUTIONS_FILE with each host's recap,
    its executions, and the seconds of the run.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "executions"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.started = time.monotonic()
        self.executions = collections.Counter()
        self.slowest = collections.Counter()
        self.task_started = {}

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.task_started[task._uuid] = time.monotonic()

    def _result(self, result):
        task = result._task
        # A loop's own summary is no execution: its items were counted. An empty loop ran once, to find that out.
        if not task.loop or not result._result.get("results"):
            self.executions[result._host.get_name()] += 1
        elapsed = time.monotonic() - self.task_started.get(task._uuid, time.monotonic())
        self.slowest[task.get_name()] = max(self.slowest[task.get_name()], round(elapsed, 1))

    def _item(self, result):
        self.executions[result._host.get_name()] += 1

    v2_runner_on_ok = v2_runner_on_skipped = v2_runner_on_unreachable = _result
    v2_runner_item_on_ok = v2_runner_item_on_failed = v2_runner_item_on_skipped = _item

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._result(result)

    def v2_playbook_on_stats(self, stats):
        report = {
            "seconds": round(time.monotonic() - self.started, 1),
            "hosts": {
                host: {"executions": self.executions[host], **stats.summarize(host)} for host in sorted(stats.processed)
            },
            "slowest": dict(self.slowest.most_common(12)),
        }
        Path(os.environ["EXECUTIONS_FILE"]).write_text(json.dumps(report, indent=1), encoding="utf-8")
