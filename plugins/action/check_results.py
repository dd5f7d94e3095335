# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

# The fact that gathers the results of a run, and the variable by which playbooks/verify.yml says that it reads them.
FACT = "onprem_llm_check_results"
GATHER = "verify_gather_results"


def line(result: t.Mapping[str, t.Any]) -> str:
    """One result for people: verdict, component, check, and what was found."""
    found = " ".join(str(result["found"]).split())
    text = "{:<9} {}: {}".format(result["verdict"], result["component"], result["check"])
    return f"{text}: {found}" if found else text


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _given, arguments = self.validate_argument_spec(
            argument_spec={
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
        )
        variables = task_vars or {}
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
        result.update(
            changed=False,
            results=results,
            ansible_facts={FACT: before + results},
            failed=bool(failed) and not variables.get(GATHER),
            msg="\n".join(line(item) for item in (failed or results)),
        )
        return result
