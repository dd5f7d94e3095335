# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: engine_network_faults
short_description: Say what is wrong with the engine's own network
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Checks the subnet, the engine's address in it, and whether it overlaps a network that the host has already.
positional: address, facts
options:
  _input:
    description: The subnet in CIDR form.
    type: str
    required: true
  address:
    description: The engine's address.
    type: str
    required: true
  facts:
    description: The host's facts, with those of the subset C(network).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ '172.30.250.0/28' | onprem.llm.engine_network_faults('172.30.250.2', ansible_facts) }}"
"""

RETURN = r"""
_value:
  description: What is wrong and what would be right, a sentence each.
  type: list
  elements: str
"""

from ansible_collections.onprem.llm.plugins.module_utils import _networks


def host_networks(facts: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The IPv4 networks of a host in CIDR form, by interface."""
    found = {}
    for name in facts.get("interfaces") or []:
        place = (facts.get(name.replace("-", "_")) or {}).get("ipv4") or {}
        if place.get("network") and place.get("netmask"):
            found[name] = "{}/{}".format(place["network"], place["netmask"])
    return found


def engine_network_faults(subnet: t.Any, address: t.Any, facts: t.Mapping[str, t.Any]) -> list[str]:
    return _networks.engine_network_faults(str(subnet), str(address), host_networks(facts))


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"engine_network_faults": engine_network_faults}
