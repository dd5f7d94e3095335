# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: release_pin_faults
short_description: Tell what of an inventory is not what its lock of versions says
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Compares the wanted engine with the lock that playbooks/pin.yml has written.
positional: version, digest, image_id
options:
  _input:
    description: The variable C(release_lock). Empty where nothing is pinned.
    type: dict
    required: true
  version:
    description: The wanted version.
    type: str
    required: true
  digest:
    description: Digest of the wanted image, empty where it comes from an archive.
    type: str
    required: true
  image_id:
    description: ID of the wanted image, empty where it comes from a registry.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what differs
  ansible.builtin.debug:
    msg: "{{ release_lock | onprem.llm.release_pin_faults('0.32.16', '', '') }}"
"""

RETURN = r"""
_value:
  description: A sentence for each difference.
  type: list
  elements: str
"""

from ansible_collections.onprem.llm.plugins.module_utils import _upgrade


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"release_pin_faults": _upgrade.pin_faults}
