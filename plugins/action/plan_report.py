# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.onprem.llm.plugins.module_utils import _fleet, _plan_text
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show


def report(selections: t.Mapping[str, t.Mapping[str, t.Any]]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """(line, colour) of every host, then of the fleet; and the hosts that have no plan."""
    lines: list[tuple[str, str | None]] = []
    without: list[str] = []
    for host, selection in selections.items():
        lines.append((f"{host}:", None))
        if "report" in selection:
            lines += [(f"  {line}", None) for line in selection["report"]]
        else:
            without.append(host)
            lines.append((f"  no plan: {selection.get('msg') or 'none was made'}", C.COLOR_ERROR))
    plans = {host: selection["plan"] for host, selection in selections.items() if selection.get("plan")}
    if len(plans) > 1:
        fleet = _fleet.summary(plans)
        lines.append(("the fleet:", None))
        lines += [(f"  {line}", None) for line in _plan_text.fleet_lines(fleet["serves"], fleet["idle"])]
    return lines, without


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _given, arguments = self.validate_argument_spec(
            argument_spec={
                "hosts": {"type": "list", "elements": "str", "required": True},
                "registered": {"type": "str", "default": "models_selection"},
            }
        )
        variables = (task_vars or {}).get("hostvars") or {}
        lines, without = report(
            {
                host: variables[host].get(arguments["registered"]) or {}
                for host in sorted(arguments["hosts"])
                if host in variables
            }
        )
        show(lines)
        result.update(changed=False, lines=[text for text, _colour in lines], without=without)
        if without:
            result.update(failed=True, msg="no plan for {}".format(", ".join(without)))
        return result
