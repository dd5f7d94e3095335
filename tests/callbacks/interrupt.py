# Copyright: onprem.llm contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kill the run at a chosen task, as a power cut on the controller would."""

from __future__ import annotations

import os
import signal

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: interrupt
type: aggregate
short_description: Kill the run at a chosen task
description:
  - Sends SIGKILL to the run's whole process group when the task starts whose number the environment variable
    INTERRUPT_AT_TASK says, counted from 1. Does nothing without that variable.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "interrupt"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.left = int(os.environ.get("INTERRUPT_AT_TASK", "0"))

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.left -= 1
        if self.left == 0:
            os.killpg(os.getpgid(0), signal.SIGKILL)
