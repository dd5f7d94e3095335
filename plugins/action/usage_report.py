# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible_collections.onprem.llm.plugins.module_utils import _usage
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "ledgers": {"type": "dict", "required": True},
        "month": {"type": "str", "required": True},
        "by_model": {"type": "bool", "default": True},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        fault = _usage.month_fault(arguments["month"])
        if fault:
            raise AnsibleActionFail(fault)
        try:
            ledgers = [_usage.ledger(str(text), host) for host, text in sorted(arguments["ledgers"].items())]
            rows = _usage.rows(ledgers, arguments["month"], arguments["by_model"])
        except _usage.UsageError as error:
            raise AnsibleActionFail(str(error)) from error
        lines = _usage.lines(rows)
        show([(line, None) for line in lines])
        return {"rows": rows, "lines": lines, "csv": _usage.as_csv(rows)}
