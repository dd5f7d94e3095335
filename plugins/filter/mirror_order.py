# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: mirror_order
short_description: Put the fleet's mirrors into the order in which a host asks them
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - A host that is a mirror itself asks itself first. The others begin with one mirror after the other, by their place
    in the inventory, so that each mirror is the first of as many, and go on in the inventory's order.
  - A host that is added at the end of the inventory changes nothing for the others.
positional: _input, host, hosts
options:
  _input:
    description: The mirrors, in the inventory's order.
    type: list
    elements: str
    required: true
  host:
    description: The host that asks.
    type: str
    required: true
  hosts:
    description: All hosts that ask, in the inventory's order.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show whom this node asks first
  ansible.builtin.debug:
    msg: "{{ groups['model_mirrors'] | onprem.llm.mirror_order(inventory_hostname, groups['llm_nodes']) | first }}"
"""

RETURN = r"""
_value:
  description: The mirrors, the first to ask first.
  type: list
  elements: str
"""


def mirror_order(mirrors: t.Sequence[str], host: str, hosts: t.Sequence[str]) -> list[str]:
    others = [name for name in hosts if name not in mirrors]
    start = 0
    if host in mirrors:
        start = mirrors.index(host)
    elif host in others and mirrors:
        start = others.index(host) % len(mirrors)
    return [*mirrors[start:], *mirrors[:start]]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mirror_order": mirror_order}
