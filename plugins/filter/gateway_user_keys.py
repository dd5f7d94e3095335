# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: gateway_user_keys
short_description: Add keys that stand apart to the gateway's users
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - C(playbooks/rotate_credentials.yml) writes the digests of keys by the name of their user. Keys of nobody in the
    list are left out.
options:
  _input:
    description: Users as in C(gateway_users).
    type: list
    elements: dict
    required: true
  keys:
    description: Lists of keys as in C(api_keys), by name of the user.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the users with all their keys
  ansible.builtin.debug:
    msg: "{{ gateway_users | onprem.llm.gateway_user_keys(gateway_user_keys) }}"
"""

RETURN = r"""
_value:
  description: The users, each with all keys in C(api_keys).
  type: list
  elements: dict
"""

from ansible_collections.onprem.llm.plugins.module_utils import _gateway


def gateway_user_keys(
    users: t.Iterable[t.Mapping[str, t.Any]], keys: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]
) -> list[dict[str, t.Any]]:
    return _gateway.with_keys(users, keys)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gateway_user_keys": gateway_user_keys}
