# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible_collections.onprem.llm.plugins.module_utils import _preflight

ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "roles")


def innermost(error: BaseException) -> str:
    """What an error says at its root, without the chain of templates that led there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__


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
        roles = [role.rsplit(".", 1)[-1] for role in arguments["roles"]]
        absent = [role for role in roles if not os.path.isdir(os.path.join(ROLES, role))]
        if absent:
            raise AnsibleError(f"roles: this collection has no role {absent[0]}")
        # A role with a variable of the wrong type can be judged no further.
        spoiled = {fault["role"] for fault in arguments["known"]}
        faults: list[dict[str, str]] = []
        outlook: dict[str, list[str]] = {section: [] for section in _preflight.SECTIONS}
        if arguments["refusal"]:
            user = str(variables.get("ansible_user") or "the user that logs in")
            python = str(variables.get("ansible_python_interpreter") or "")
            faults.append({"role": "", "message": _preflight.refusal(arguments["refusal"], user, python)})
        else:
            self._judge(roles, spoiled, variables, faults, outlook)
        result.update(changed=False, faults=faults, outlook=outlook)
        if faults and arguments["tell"]:
            result.update(failed=True, msg="\n".join(fault["message"] for fault in faults))
        return result

    def _judge(
        self,
        roles: t.Sequence[str],
        spoiled: t.Container[str],
        variables: dict[str, t.Any],
        faults: list[dict[str, str]],
        outlook: dict[str, list[str]],
    ) -> None:
        """Evaluate what the roles state of the host, with its state at hand."""
        known = self._roles_variables() | variables
        for role in roles:
            known |= self._load(role, "vars")
        statements: dict[str, dict[str, t.Any]] = {}
        for role in roles:
            statements[role] = {}
            for name in ("packages", "files", "paths", "units", "containers", "users", "filesystems"):
                statements[role][name] = self._stated(role, name, known)
        known["__host_state"] = self._host_state(statements, variables)
        for role in roles:
            statements[role]["files"] = [self._file(role, entry, known) for entry in statements[role]["files"]]
            self._judge_role(role, role in spoiled, statements[role], known, faults, outlook)

    def _judge_role(
        self,
        role: str,
        spoiled: bool,
        statement: dict[str, t.Any],
        known: dict[str, t.Any],
        faults: list[dict[str, str]],
        outlook: dict[str, list[str]],
    ) -> None:
        state = known["__host_state"]
        try:
            for sentence in _preflight.sentences(self._evaluate(role, f"__{role}_faults", known)):
                faults.append({"role": role, "message": sentence})
        except Exception as error:
            if not spoiled:
                said = self._evaluate(role, f"__{role}_undecidable", known) or f"the role {role} cannot be checked"
                faults.append({"role": role, "message": f"{said}: {innermost(error)}"})
            return
        foreseen = _preflight.changes(statement, state)
        here = known | {"__outlook": foreseen}
        for section in _preflight.SECTIONS:
            stated = _preflight.sentences(self._stated(role, section, here))
            outlook[section].extend(item for item in foreseen.get(section, []) + stated if item not in outlook[section])
        needs = [_preflight.Need(**need) for need in self._stated(role, "space", known)]
        for message in _preflight.space_faults(needs, state["filesystems"]):
            faults.append({"role": role, "message": message})

    def _host_state(
        self, statements: t.Mapping[str, t.Mapping[str, t.Any]], variables: dict[str, t.Any]
    ) -> dict[str, t.Any]:
        """What the host has of all that the roles name, in one look."""
        wanted: dict[str, list[str]] = {
            name: [] for name in ("files", "packages", "units", "containers", "users", "filesystems")
        }
        for statement in statements.values():
            for name, items in wanted.items():
                items.extend(_preflight.wanted_paths(statement) if name == "files" else statement[name])
        state: dict[str, t.Any] = self._execute_module(
            module_name="onprem.llm.host_state",
            module_args={name: sorted(set(items)) for name, items in wanted.items()},
            task_vars=variables,
        )
        if state.get("failed"):
            raise AnsibleError(f"the host's state cannot be read: {state.get('msg')}")
        return state

    def _stated(self, role: str, name: str, known: dict[str, t.Any]) -> t.Any:
        """One part of what a role states of itself.

        Empty where it cannot be known before a fault is mended, or before the run itself has made something.
        """
        raw = (known.get(f"__{role}_outlook") or {}).get(name)
        if name == "files" and isinstance(raw, list):
            # One by one: a content that is not known yet takes nothing away from the other files.
            return [
                {key: self._foretold(role, f"{key} of a file", item, known) for key, item in entry.items()}
                for entry in raw
            ]
        return self._foretold(role, name, raw, known) or []

    def _foretold(self, role: str, what: str, raw: t.Any, known: dict[str, t.Any]) -> t.Any:
        try:
            return self._templar_for(role, known).template(raw)
        except Exception as error:
            self._display.vv(f"{role}: {what} cannot be foretold: {innermost(error)}")
            return None

    def _file(self, role: str, entry: dict[str, t.Any], known: dict[str, t.Any]) -> dict[str, t.Any]:
        """A file of a role's statement, with the SHA-256 of its content, or None where that cannot be told yet."""
        content: bytes | None = None
        try:
            if "template" in entry:
                source = os.path.join(ROLES, role, "templates", entry["template"])
                lookup = lookup_loader.get("template", loader=self._loader, templar=self._templar_for(role, known))
                content = str(lookup.run([source], variables=self._context(role, known))[0]).encode()
            elif "source" in entry:
                with open(os.path.join(ROLES, role, "files", entry["source"]), "rb") as stream:
                    content = stream.read()
            elif entry.get("content") is not None:
                content = str(entry["content"]).encode()
        except Exception as error:
            self._display.vv(f"{role}: what {entry['path']} will hold cannot be told yet: {innermost(error)}")
        return {
            "path": entry["path"],
            "mode": entry.get("mode"),
            "sha256": hashlib.sha256(content).hexdigest() if content is not None else None,
        }

    def _evaluate(self, role: str, name: str, known: dict[str, t.Any]) -> t.Any:
        return self._templar_for(role, known).template(known[name]) if name in known else None

    def _templar_for(self, role: str, known: dict[str, t.Any]) -> t.Any:
        return self._templar.copy_with_new_env(available_variables=self._context(role, known))

    def _context(self, role: str, known: dict[str, t.Any]) -> dict[str, t.Any]:
        """The variables as the role's own tasks would see them."""
        place = os.path.join(ROLES, role)
        return known | {"role_path": place, "role_name": role, "ansible_search_path": [place]}

    def _roles_variables(self) -> dict[str, t.Any]:
        """Defaults and variables of every role: some refer to those of others."""
        found: dict[str, t.Any] = {}
        for kind in ("defaults", "vars"):
            for role in sorted(os.listdir(ROLES)):
                found |= self._load(role, kind)
        return found

    def _load(self, role: str, kind: str) -> dict[str, t.Any]:
        path = os.path.join(ROLES, role, kind, "main.yml")
        if not os.path.isfile(path):
            return {}
        return dict(self._loader.load_from_file(path, unsafe=True, trusted_as_template=True) or {})
