# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.onprem.llm.plugins.lookup import template
from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from ansible_collections.onprem.llm.plugins.plugin_utils._roles import ROLES, short_names

# Parts of a role's outlook that say what to look at on the host.
LOOKS = ("packages", "files", "paths", "units", "containers", "users", "filesystems")


def innermost(error: BaseException) -> str:
    """What an error says at its root, without the chain of templates that led there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__


class Statements:
    """What roles state in their variables, evaluated as their own tasks would see it."""

    def __init__(self, loader: t.Any, templar: t.Any, display: t.Any, variables: dict[str, t.Any]) -> None:
        self._loader, self._templar, self._display = loader, templar, display
        # Some roles refer to the variables of others. Defaults yield to the inventory, a role's own variables do not.
        names = sorted(os.listdir(ROLES))
        self.known: dict[str, t.Any] = {}
        for role in names:
            self.known |= self._load(role, "defaults")
        self.known |= variables
        for role in names:
            self.known |= self._load(role, "vars")

    def faults(self, role: str) -> list[str]:
        """What the role cannot work with.

        :raises Exception: of any kind, where a template cannot be evaluated.
        """
        return _preflight.sentences(self._evaluated(role, self.known.get(f"__{role}_faults")))

    def undecidable(self, role: str) -> str:
        """What it means that the role's faults cannot be evaluated."""
        said = self._evaluated(role, self.known.get(f"__{role}_undecidable"))
        return str(said or f"the role {role} cannot be checked").strip()

    def stated(self, role: str, part: str, **more: t.Any) -> t.Any:
        """One part of the role's outlook, with more variables at hand.

        Empty where it cannot be known before a fault is mended, or before the run itself has made something.
        """
        raw = (self.known.get(f"__{role}_outlook") or {}).get(part)
        if part == "files" and isinstance(raw, list):
            # One by one: a content that is not known yet takes nothing away from the other files.
            return [{key: self._foretold(role, key, item, more) for key, item in entry.items()} for entry in raw]
        return self._foretold(role, part, raw, more) or []

    def file(self, role: str, entry: dict[str, t.Any]) -> dict[str, t.Any]:
        """A file of a role's outlook, with the SHA-256 of its content, or None where that cannot be told yet."""
        content: bytes | None = None
        try:
            if "template" in entry:
                source = os.path.join(ROLES, role, "templates", entry["template"])
                lookup = template.LookupModule(loader=self._loader, templar=self._templar_of(role, {}))
                content = str(lookup.run([source], self._context(role, {}))[0]).encode()
            elif "source" in entry:
                with open(os.path.join(ROLES, role, "files", entry["source"]), "rb") as stream:
                    content = stream.read()
            elif entry.get("content") is not None:
                content = str(entry["content"]).encode()
        except Exception as error:
            self._display.vv(f"{role}: what {entry['path']} will hold cannot be told yet: {innermost(error)}")
        digest = hashlib.sha256(content).hexdigest() if content is not None else None
        return {"path": entry["path"], "mode": entry.get("mode"), "sha256": digest}

    def _foretold(self, role: str, part: str, raw: t.Any, more: dict[str, t.Any]) -> t.Any:
        try:
            return self._evaluated(role, raw, more)
        except Exception as error:
            self._display.vv(f"{role}: {part} cannot be foretold: {innermost(error)}")
            return None

    def _evaluated(self, role: str, raw: t.Any, more: dict[str, t.Any] | None = None) -> t.Any:
        return self._templar_of(role, more or {}).template(raw)

    def _templar_of(self, role: str, more: dict[str, t.Any]) -> t.Any:
        return self._templar.copy_with_new_env(available_variables=self._context(role, more))

    def _context(self, role: str, more: dict[str, t.Any]) -> dict[str, t.Any]:
        place = os.path.join(ROLES, role)
        return self.known | more | {"role_path": place, "role_name": role, "ansible_search_path": [place]}

    def _load(self, role: str, kind: str) -> dict[str, t.Any]:
        path = os.path.join(ROLES, role, kind, "main.yml")
        if not os.path.isfile(path):
            return {}
        return dict(self._loader.load_from_file(path, unsafe=True, trusted_as_template=True) or {})


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
            statements = Statements(self._loader, self._templar, self._display, variables)
            # A role with a variable of the wrong type can be judged no further.
            faults = self._faults(statements, roles, {fault["role"] for fault in arguments["known"]})
            if not arguments["tell"]:
                faults += self._foretell(statements, roles, variables, outlook)
        result.update(changed=False, faults=faults, outlook=outlook)
        if faults and arguments["tell"]:
            result.update(failed=True, msg="\n".join(fault["message"] for fault in faults))
        return result

    def _faults(
        self, statements: Statements, roles: t.Sequence[str], spoiled: t.Container[str]
    ) -> list[dict[str, str]]:
        """What the roles cannot work with."""
        found: list[dict[str, str]] = []
        for role in roles:
            try:
                found.extend({"role": role, "message": sentence} for sentence in statements.faults(role))
            except Exception as error:
                if role not in spoiled:
                    message = f"{statements.undecidable(role)}: {innermost(error)}"
                    found.append({"role": role, "message": message})
        return found

    def _foretell(
        self,
        statements: Statements,
        roles: t.Sequence[str],
        variables: dict[str, t.Any],
        outlook: dict[str, list[str]],
    ) -> list[dict[str, str]]:
        """Fill in what the roles would do to the host; what the host has no room for is returned, as faults."""
        looks = {role: {part: statements.stated(role, part) for part in LOOKS} for role in roles}
        state = self._host_state(looks.values(), variables)
        statements.known["__host_state"] = state
        found = []
        for role, look in looks.items():
            look["files"] = [statements.file(role, entry) for entry in look["files"]]
            foreseen = _preflight.changes(look, state)
            for section in _preflight.SECTIONS:
                stated = _preflight.sentences(statements.stated(role, section, __outlook=foreseen))
                items = foreseen.get(section, []) + stated
                outlook[section].extend(item for item in items if item not in outlook[section])
            needs = [_preflight.Need(**need) for need in statements.stated(role, "space")]
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
