# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction

# The fact that gathers the results of a run, and the variable by which playbooks/verify.yml says that it reads them.
FACT = "onprem_llm_check_results"
GATHER = "verify_gather_results"


def line(result: t.Mapping[str, t.Any]) -> str:
    """One result for people: verdict, component, check, and what was found."""
    found = " ".join(str(result["found"]).split())
    text = "{:<9} {}: {}".format(result["verdict"], result["component"], result["check"])
    return f"{text}: {found}" if found else text


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "component": {"type": "str", "required": True},
        "results": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "check": {"type": "str", "required": True},
                "found": {"type": "str", "default": ""},
                "ok": {"type": "bool", "required": True},
                "asked": {"type": "bool", "default": True},
            },
        },
        "first": {"type": "bool", "default": False},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        results = [
            {
                "component": arguments["component"],
                "check": item["check"],
                "found": item["found"].strip(),
                "verdict": "not asked" if not item["asked"] else "ok" if item["ok"] else "FAILED",
            }
            for item in arguments["results"]
        ]
        failed = [item for item in results if item["verdict"] == "FAILED"]
        before = [] if arguments["first"] else list((variables.get("ansible_facts") or {}).get(FACT) or [])
        return {
            "results": results,
            "ansible_facts": {FACT: before + results},
            "failed": bool(failed) and not variables.get(GATHER),
            "msg": "\n".join(line(item) for item in (failed or results)),
        }
