# Copyright: onprem.llm contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write down what tasks returned: a further task that does so would cost a test more than what it tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: aggregate
short_description: Write down what tasks returned
description:
  - Writes a JSON file named by the environment variable RESULTS_FILE as each task succeeds, with the results by the
    tasks' names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.results = {}

    def v2_runner_on_ok(self, result):
        self.results[result._task.get_name()] = result._result
        Path(os.environ["RESULTS_FILE"]).write_text(json.dumps(self.results), encoding="utf-8")
