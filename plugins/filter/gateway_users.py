# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: gateway_users
short_description: Complete the gateway's users as its program reads them
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Gives each user the rights and limits that the role's variables say where the user has none of its own. Notes are
    left out.
options:
  _input:
    description: Users as in C(gateway_users), with all their keys.
    type: list
    elements: dict
    required: true
  defaults:
    description: C(rights), C(requests_per_second), C(burst), C(concurrency), C(body_mib) and C(daily_tokens) of a
      user who has none.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what holds for each user
  ansible.builtin.debug:
    msg: "{{ gateway_users | onprem.llm.gateway_users(limits) }}"
  vars:
    limits: {rights: [system], requests_per_second: 20, burst: 40, concurrency: 16, body_mib: 32, daily_tokens: 0}
"""

RETURN = r"""
_value:
  description: The users, each with all fields.
  type: list
  elements: dict
"""

from ansible_collections.onprem.llm.plugins.module_utils import _gateway


def gateway_users(users: t.Iterable[t.Mapping[str, t.Any]], defaults: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    return _gateway.stored(users, defaults)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gateway_users": gateway_users}
