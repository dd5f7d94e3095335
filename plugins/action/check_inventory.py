# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fnmatch
import os
import re
import typing as t

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.onprem.llm.plugins.module_utils._text import nearest
from ansible_collections.onprem.llm.plugins.plugin_utils._controller import ControllerAction
from ansible_collections.onprem.llm.plugins.plugin_utils._roles import REPLACED, ROLES, short_names

# Names that roles hand on during a run, and groups whose names begin like a role's; nobody sets them.
OUTPUTS = frozenset({"models_selection", "nvidia_driver_gpu_info", "nvidia_driver_reboot_required"})

# Ten times as fast where libyaml is there, and as safe.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# A value made of these may not be known before the hosts were asked.
_LATER = re.compile(r"\b(ansible_facts|ansible_local|hostvars)\b")


def specifications(root: str) -> dict[str, dict[str, dict[str, t.Any]]]:
    """The options of every role's entry points, by role and name.

    :raises AnsibleError: a role's specification cannot be read.
    """
    found: dict[str, dict[str, dict[str, t.Any]]] = {}
    for role in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        for name in ("argument_specs.yml", "argument_specs.yaml"):
            path = os.path.join(root, role, "meta", name)
            if not os.path.isfile(path):
                continue
            try:
                with open(path, encoding="utf-8") as stream:
                    points = (yaml.load(stream, Loader=LOADER) or {}).get("argument_specs") or {}
            except (OSError, yaml.YAMLError, AttributeError) as error:
                raise AnsibleError(f"cannot read {path}: {error}") from error
            # Entry points of a role share their variables; `main` has the last word.
            found[role] = {}
            for point in sorted(points, key=lambda point: point == "main"):
                found[role].update(points[point].get("options") or {})
    return found


def replaced(path: str) -> dict[str, dict[str, str]]:
    """Variables that others have taken the place of, by name.

    :raises AnsibleError: their list cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return {entry["name"]: entry for entry in yaml.safe_load(stream)["replaced_variables"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise AnsibleError(f"cannot read {path}: {error}") from error


def secret(option: t.Mapping[str, t.Any]) -> bool:
    """Whether the option, or one inside of it, holds a secret."""
    return bool(option.get("no_log")) or any(secret(inner) for inner in (option.get("options") or {}).values())


def leaves(value: t.Any) -> t.Iterator[str]:
    """Every scalar inside a value, as text."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def masked(message: str, value: t.Any) -> str:
    """A validator's message without the value: the part that quotes it is cut off, what is left of it is hidden."""
    text = re.sub(
        r"(, got: | and we were unable to convert to (\w+): ).*",
        lambda found: f" and is no {found.group(2)}" if found.group(2) else "",
        message,
        flags=re.S,
    )
    words = {form for leaf in leaves(value) for form in (leaf, repr(leaf)[1:-1]) if form.strip()}
    for word in sorted(words, key=lambda word: (-len(word), word)):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "***", text)
    return text


def needed(option: t.Mapping[str, t.Any]) -> str:
    """What would be right, in words."""
    kind = str(option.get("type", "str"))
    words: str = {
        "str": "a text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "list": "a list",
        "dict": "a mapping",
        "path": "a path",
    }.get(kind, kind)
    if kind == "list" and option.get("elements"):
        words = "a list of {}".format(
            {"str": "texts", "int": "whole numbers", "dict": "mappings"}.get(option["elements"], option["elements"])
        )
    if option.get("choices"):
        words = "one of {}".format(", ".join(str(choice) for choice in option["choices"]))
    return words


def later(raw: t.Any, variables: t.Mapping[str, t.Any], depth: int = 5) -> bool:
    """Whether a value is made of facts, directly or by way of other variables."""
    text = str(raw)
    if "{{" not in text and "{%" not in text:
        return False
    if _LATER.search(text):
        return True
    names = set(re.findall(r"[A-Za-z_]\w*", text))
    return depth > 0 and any(later(variables[name], variables, depth - 1) for name in names if name in variables)


def shown(value: t.Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else text[:197] + "..."


def value_fault(name: str, option: t.Mapping[str, t.Any], value: t.Any) -> str | None:
    """What is wrong with a variable's value, or None."""
    if value is None:
        return f"{name} has no value; {needed(option)} is needed" if option.get("required") else None
    # One option at a time, so that each fault has its variable and one does not hide the next.
    result = ArgumentSpecValidator(
        {name: {key: item for key, item in option.items() if key not in ("default", "description", "version_added")}}
    ).validate({name: value})
    errors = [str(message) for message in result.error_messages]
    if not errors:
        return None
    if secret(option):
        said = "; ".join(masked(message, value) for message in errors)
        return f"{name} is wrong (its value is not shown, it may hold secrets): {said}; {needed(option)} is needed"
    # What is needed says more than the validator does of the option itself; of what lies inside, it names the place.
    inside = [
        message
        for message in errors
        if not message.startswith((f"argument '{name}' is of type", f"value of {name} must be one of"))
    ]
    said = "".join(": " + message.rstrip(".") for message in inside)
    return f"{name} is {shown(value)}{said}; {needed(option)} is needed"


def unknown(
    names: t.Iterable[str], specs: t.Mapping[str, t.Mapping[str, t.Any]], foreign: t.Sequence[str]
) -> t.Iterator[tuple[str, str, str | None]]:
    """Variables that begin like a role's and that no role knows: name, role, nearest known name."""
    known = {name for options in specs.values() for name in options} | OUTPUTS
    # The longest name first: nvidia_container_toolkit_x is not nvidia's.
    roles = sorted(specs, key=lambda role: -len(role))
    for name in sorted(names):
        role = next((role for role in roles if name.startswith(role + "_")), None)
        if role and name not in known and not any(fnmatch.fnmatchcase(name, pattern) for pattern in foreign):
            # What follows the role's name decides: the prefix alone makes all of its variables look alike.
            rest = {option[len(role) + 1 :]: option for option in specs[role]}
            likely = nearest(name[len(role) + 1 :], rest)
            yield name, role, rest[likely] if likely else None


class ActionModule(ControllerAction):
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "roles": {"type": "list", "elements": "str", "required": True},
        "foreign": {"type": "list", "elements": "str", "default": []},
        "tell": {"type": "bool", "default": True},
    }

    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        result: dict[str, t.Any] = {}
        specs = specifications(ROLES)
        roles = short_names(arguments["roles"], specs, " with a meta/argument_specs.yml")
        faults: list[dict[str, str]] = []
        checked = 0
        for role in roles:
            for name, option in specs[role].items():
                message = None
                if name in variables:
                    checked += 1
                    message = self._fault(name, option, variables)
                elif option.get("required") and "default" not in option:
                    message = f"{name} is not set, and the role {role} needs it; {needed(option)} is needed"
                if message and not any(fault["variable"] == name for fault in faults):
                    faults.append({"variable": name, "role": role, "message": message})
        old = replaced(REPLACED)
        for name in sorted(old.keys() & variables.keys()):
            entry = old[name]
            if "works_until" in entry:
                message = f"{name}: works until {entry['works_until']}; from {entry['since']} on, {entry['instead']}"
                result.setdefault("warnings", []).append(message)
                continue
            message = f"{name}: is no variable any more since {entry['since']}; instead: {entry['instead']}"
            role = next((role for role in sorted(specs, key=lambda role: -len(role)) if name.startswith(role)), "")
            faults.append({"variable": name, "role": role, "message": message})
        for name, role, likely in unknown(
            [name for name in variables if not name.startswith("__") and name not in old], specs, arguments["foreign"]
        ):
            hint = f"did you mean {likely}?" if likely else f"the role {role} has none like it"
            faults.append({"variable": name, "role": role, "message": f"{name}: no role has this variable; {hint}"})
        result.update(checked=checked, faults=faults)
        if faults and arguments["tell"]:
            host = variables.get("inventory_hostname", "this host")
            head = "{} {} in the variables of {}:".format(len(faults), "fault" if len(faults) == 1 else "faults", host)
            result.update(failed=True, msg="\n".join([head] + ["- " + fault["message"] for fault in faults]))
        return result

    def _fault(self, name: str, option: t.Mapping[str, t.Any], variables: t.Mapping[str, t.Any]) -> str | None:
        raw = variables[name]
        try:
            value = self._templar.template(raw)
        except AnsibleError as error:
            if later(raw, variables):
                return None
            # A template's error may quote its source, and a secret's source may be the secret.
            reason = "" if secret(option) else f": {error}"
            return f"{name} cannot be evaluated{reason}; {needed(option)} is needed"
        return value_fault(name, option, value)
