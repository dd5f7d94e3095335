# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluates what a role states in its variables, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"


def trusted(value: Any) -> Any:
    """Values as an inventory gives them: their templates may be evaluated."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    return [trusted(item) for item in value] if isinstance(value, list) else value


def role_variables(role: str) -> dict[str, Any]:
    """The role's defaults and vars."""
    variables: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        variables.update(trusted(yaml.safe_load((ROLES / role / part / "main.yml").read_text(encoding="utf-8"))))
    return variables


def evaluated(template: Any, variables: dict[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """:param filters: filters of this collection that the template needs, by their full names."""
    templar = Templar(loader=DataLoader(), variables=variables)
    for name, function in (filters or {}).items():
        templar._engine.environment.filters[name] = function
    return templar.template(template)


def rendered(role: str, template: str, **variables: Any) -> str:
    """A file that the role makes of one of its templates, for a host with these variables."""
    text = (ROLES / role / "templates" / template).read_text(encoding="utf-8")
    host = {
        "inventory_hostname": "mirror",
        "hostvars": {"mirror": {}},
        "groups": {},
        "ansible_managed": "Made by a test",
    }
    return str(evaluated(trusted(text), {**role_variables(role), **host, **variables}))
