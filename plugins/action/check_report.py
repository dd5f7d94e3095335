# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible import constants as C
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show

from .check_results import FACT

DROPPED = {
    "component": "verify",
    "check": "The host answers",
    "found": "it dropped out of the run, so what stands here of it is not all",
    "verdict": "FAILED",
}


def report(results: t.Mapping[str, t.Sequence[t.Mapping[str, str]]]) -> list[tuple[str, str]]:
    """(verdict, line) of each result, by host; a line has its host, so that a search for one finds all of it."""
    host_width = max(map(len, results), default=0)
    width = max((len(item["component"]) for items in results.values() for item in items), default=0)
    lines = []
    for host, items in results.items():
        for item in items:
            text = "{:<9}  {}  {}  {}".format(
                item["verdict"], host.ljust(host_width), item["component"].ljust(width), item["check"]
            )
            lines.append((item["verdict"], with_found(text, item)))
    return lines


def with_found(text: str, item: t.Mapping[str, str]) -> str:
    """The text and, in the same line, what was found."""
    found = " ".join(item["found"].split())
    return f"{text}: {found}" if found else text


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "dropped": {"type": "list", "elements": "str", "default": []},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        hostvars = variables.get("hostvars") or {}
        results: dict[str, list[dict[str, str]]] = {}
        for host in sorted(arguments["hosts"]):
            facts = hostvars[host]["ansible_facts"] if host in hostvars else {}
            results[host] = list(facts.get(FACT) or [])
            if host in arguments["dropped"]:
                results[host].append(DROPPED)
        lines = report(results)
        colours = {"FAILED": C.COLOR_ERROR, "not asked": C.COLOR_SKIP}
        show((text, colours.get(verdict)) for verdict, text in lines)
        return {
            "lines": [text for _verdict, text in lines],
            "failed_checks": {
                host: [
                    with_found("{component}: {check}".format(**item), item)
                    for item in items
                    if item["verdict"] == "FAILED"
                ]
                for host, items in results.items()
            },
        }
