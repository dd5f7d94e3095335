# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible_collections.onprem.llm.plugins.module_utils import _fleet_status as status
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._report import show

COLOURS = {"": None, status.OK: C.COLOR_OK, "degraded": C.COLOR_WARN}


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "registered": {"type": "str", "required": True},
        "functions": {"type": "dict", "default": {}},
        "file": {"type": "path", "default": ""},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        hostvars, groups = (variables.get(name) or {} for name in ("hostvars", "groups"))
        told = []
        for host in arguments["hosts"]:
            functions = [what for group, what in arguments["functions"].items() if host in groups.get(group, [])]
            told.append(status.heard(host, functions, (hostvars.get(host) or {}).get(arguments["registered"])))
        fleet = status.summary(told)
        lines = status.lines(fleet)
        show((text, COLOURS.get(state, C.COLOR_ERROR)) for state, text in lines)
        unwell = [
            f"{row['host']} is {'drained' if row['state'] == status.OK else row['state']}"
            for row in fleet["hosts"]
            if row["state"] != status.OK or row["drained"]
        ]
        if arguments["file"]:
            try:
                with open(arguments["file"], "w", encoding="utf-8") as file:
                    json.dump(fleet, file, indent=1)
                    file.write("\n")
            except OSError as error:
                raise AnsibleActionFail(f"file is {arguments['file']}, and cannot be written: {error}") from error
        return {"fleet": fleet, "unwell": unwell, "lines": [text for _state, text in lines]}
