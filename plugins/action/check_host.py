# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from ansible_collections.onprem.llm.plugins.plugin_utils._roles import ROLES, short_names
from ansible_collections.onprem.llm.plugins.plugin_utils._statements import Statements, View, innermost

# Parts of a role's outlook that say what to look at on the host.
LOOKS = ("packages", "files", "paths", "units", "containers", "users", "filesystems")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _given, arguments = self.validate_argument_spec(
            argument_spec={
                "roles": {"type": "list", "elements": "str", "required": True},
                "refusal": {"type": "str", "default": ""},
                "known": {"type": "list", "elements": "dict", "default": []},
                "tell": {"type": "bool", "default": True},
            }
        )
        variables = task_vars or {}
        roles = short_names(arguments["roles"], sorted(os.listdir(ROLES)))
        outlook: dict[str, list[str]] = {section: [] for section in _preflight.SECTIONS}
        if arguments["refusal"]:
            user = str(variables.get("ansible_user") or "the user that logs in")
            python = str(variables.get("ansible_python_interpreter") or "")
            faults = [{"role": "", "message": _preflight.refusal(arguments["refusal"], user, python)}]
        else:
            statements = Statements(self._loader, self._templar, self._display, variables, roles)
            views = {role: statements.view(role) for role in roles}
            # A role with a variable of the wrong type can be judged no further.
            faults = self._faults(views, {fault["role"] for fault in arguments["known"]})
            if not arguments["tell"]:
                faults += self._foretell(statements, views, variables, outlook)
        result.update(changed=False, faults=faults, outlook=outlook)
        if faults and arguments["tell"]:
            result.update(failed=True, msg="\n".join(fault["message"] for fault in faults))
        return result

    def _faults(self, views: dict[str, View], spoiled: t.Container[str]) -> list[dict[str, str]]:
        """What the roles cannot work with."""
        found: list[dict[str, str]] = []
        for role, view in views.items():
            try:
                found.extend({"role": role, "message": sentence} for sentence in view.faults())
            except Exception as error:
                if role not in spoiled:
                    found.append({"role": role, "message": f"{view.undecidable()}: {innermost(error)}"})
        return found

    def _foretell(
        self,
        statements: Statements,
        views: dict[str, View],
        variables: dict[str, t.Any],
        outlook: dict[str, list[str]],
    ) -> list[dict[str, str]]:
        """Fill in what the roles would do to the host; what the host has no room for is returned, as faults."""
        looks = {role: {part: view.stated(part) for part in LOOKS} for role, view in views.items()}
        state = self._host_state(looks.values(), variables)
        found = []
        for role, look in looks.items():
            view = statements.view(role, __host_state=state)
            look["files"] = [view.file(entry) for entry in look["files"]]
            foreseen = _preflight.changes(look, state)
            view = statements.view(role, __host_state=state, __outlook=foreseen)
            for section in _preflight.SECTIONS:
                stated = _preflight.sentences(view.stated(section))
                items = foreseen.get(section, []) + stated
                outlook[section].extend(item for item in items if item not in outlook[section])
            needs = [_preflight.Need(**need) for need in view.stated("space")]
            for message in _preflight.space_faults(needs, state["filesystems"]):
                found.append({"role": role, "message": message})
        return found

    def _host_state(self, looks: t.Iterable[dict[str, t.Any]], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        """What the host has of all that the roles name, in one look."""
        wanted: dict[str, set[str]] = {part: set() for part in LOOKS if part != "paths"}
        for look in looks:
            for part, items in wanted.items():
                items.update(_preflight.wanted_paths(look) if part == "files" else look[part])
        state: dict[str, t.Any] = self._execute_module(
            module_name="onprem.llm.host_state",
            module_args={part: sorted(items) for part, items in wanted.items()},
            task_vars=variables,
        )
        if state.get("failed"):
            raise AnsibleError(f"the host's state cannot be read: {state.get('msg')}")
        return state
