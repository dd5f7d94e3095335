# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: release_pins
short_description: Make a lock of versions of what the nodes of a fleet run
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Fails where the nodes do not run the same engine, or not the same weights under one name.
positional: packages
options:
  _input:
    description: What each node's C(release.json) says, by node.
    type: dict
    required: true
  packages:
    description: Versions of packages, by host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what would be pinned
  ansible.builtin.debug:
    msg: "{{ {'gpu1': ansible_facts['ansible_local']['onprem_llm']['release']} | onprem.llm.release_pins({}) }}"
"""

RETURN = r"""
_value:
  description: The lock, with C(engine), C(models) and C(packages).
  type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _upgrade


def release_pins(releases: t.Mapping[str, t.Any], packages: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    try:
        return _upgrade.pins(releases, packages)
    except _upgrade.UpgradeError as error:
        raise AnsibleFilterError(f"release_pins: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"release_pins": release_pins}
