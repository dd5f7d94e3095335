# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: gateway_node_models
short_description: List what a node serves by its plan
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Takes the models of a plan, and those that are derived from them, with what the gateway has to know of each.
options:
  _input:
    description: A plan, as in docs/architecture.md.
    type: dict
    required: true
  derived:
    description: Derived models with C(name) and C(from), as P(onprem.llm.derived_models#filter) gives them.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what the node serves
  ansible.builtin.debug:
    msg: "{{ models_selection.plan | onprem.llm.gateway_node_models(models_derived) }}"
"""

RETURN = r"""
_value:
  description:
    - Models with C(name), C(slots), C(context_length) and what lists of models tell. A derived one has the slots of the
      model that C(shares) names.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _gateway


def gateway_node_models(
    plan: t.Mapping[str, t.Any], derived: t.Iterable[t.Mapping[str, t.Any]] = ()
) -> list[dict[str, t.Any]]:
    try:
        return _gateway.node_models(plan, derived)
    except ValueError as error:
        raise AnsibleFilterError(f"gateway_node_models: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gateway_node_models": gateway_node_models}
