# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: gateway_models
short_description: List what a fleet serves
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Brings the nodes' models together by name, with the slots of all nodes that have them.
options:
  _input:
    description: Models of P(onprem.llm.gateway_node_models#filter), by name of the node.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what the fleet serves
  ansible.builtin.debug:
    msg: "{{ {'gpu1': models} | onprem.llm.gateway_models }}"
  vars:
    models: "{{ models_selection.plan | onprem.llm.gateway_node_models }}"
"""

RETURN = r"""
_value:
  description: Models as the gateway reads them.
  type: list
  elements: dict
"""

from ansible_collections.onprem.llm.plugins.module_utils import _gateway


def gateway_models(nodes: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]) -> list[dict[str, t.Any]]:
    return _gateway.served(nodes)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gateway_models": gateway_models}
