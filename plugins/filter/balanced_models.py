# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: balanced_models
short_description: Make of nodes and their plans what a balancer has to know of each model
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Turns nodes around, from what each serves to who serves each model, with the share of the slots that one gateway
    may fill.
options:
  _input:
    description:
      - Nodes with C(name), C(address), C(port) and C(models), as P(onprem.llm.gateway_node_models#filter) gives them.
    type: list
    elements: dict
    required: true
  gateways:
    description: How many gateways serve users at a time.
    type: int
    default: 1
  rank:
    description: Number of this gateway among them, from 0.
    type: int
    default: 0
  queue_per_slot:
    description: How many requests may wait for each slot.
    type: int
    default: 1
"""

EXAMPLES = r"""
- name: Show who serves what
  ansible.builtin.debug:
    msg: "{{ nodes | onprem.llm.balanced_models }}"
  vars:
    served: "{{ models_selection.plan | onprem.llm.gateway_node_models }}"
    nodes: [{name: gpu1, address: 192.0.2.11, port: 8443, models: "{{ served }}"}]
"""

RETURN = r"""
_value:
  description:
    - One entry a model, with C(name), C(names), C(backend), C(slots), C(queue), C(warm_pattern) and C(servers).
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _balancing


def balanced_models(
    nodes: t.Sequence[t.Mapping[str, t.Any]],
    gateways: int = 1,
    rank: int = 0,
    queue_per_slot: int = 1,
) -> list[dict[str, t.Any]]:
    try:
        return _balancing.balanced_models(nodes, int(gateways), int(rank), int(queue_per_slot))
    except _balancing.BalancingError as error:
        raise AnsibleFilterError(f"balanced_models: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"balanced_models": balanced_models}
