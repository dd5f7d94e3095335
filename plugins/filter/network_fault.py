# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: network_fault
short_description: Say what is wrong with an IP network
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Checks an address or a network in CIDR form, IPv4 or IPv6, as UFW takes it. C(any) passes.
options:
  _input:
    description: The text.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ '192.168.10.5/24' | onprem.llm.network_fault }}"
"""

RETURN = r"""
_value:
  description: What is wrong and what would be right; empty if nothing is.
  type: str
"""

from ansible_collections.onprem.llm.plugins.module_utils import _networks


def network_fault(text: t.Any) -> str:
    return _networks.network_fault(str(text)) or ""


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"network_fault": network_fault}
