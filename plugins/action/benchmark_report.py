# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible_collections.onprem.llm.plugins.module_utils import _load_report
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show

# Ansible's own, of no use later; the key is not among a result's members.
DROPPED = ("changed", "failed", "invocation", "exception", "warnings", "deprecations")


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {"runs": {"type": "list", "elements": "dict", "required": True}}

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        runs = [{name: value for name, value in run.items() if name not in DROPPED} for run in arguments["runs"]]
        try:
            lines = _load_report.lines(_load_report.checked(runs))
        except _load_report.ReportError as error:
            raise AnsibleActionFail(str(error)) from error
        show([(line, None) for line in lines])
        svg = _load_report.plot(runs) if any(run["steps"] for run in runs) else ""
        return {"lines": lines, "svg": svg, "report": {"schema": 1, "runs": runs}}
