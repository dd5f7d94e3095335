# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible import constants as C
from ansible_collections.onprem.llm.plugins.module_utils import _fleet, _plan_text
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
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


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "registered": {"type": "str", "default": "models_selection"},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        hostvars = variables.get("hostvars") or {}
        lines, without = report(
            {
                host: hostvars[host].get(arguments["registered"]) or {}
                for host in sorted(arguments["hosts"])
                if host in hostvars
            }
        )
        show(lines)
        result: dict[str, t.Any] = {"lines": [text for text, _colour in lines], "without": without}
        if without:
            result.update(failed=True, msg="no plan for {}".format(", ".join(without)))
        return result
