# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: gateway_user_faults
short_description: Say what is wrong with the gateway's users
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Looks for names and credentials that two users have, credentials that could never work, unknown models, rights and
    limits, and limits that contradict.
  - No value that may be a secret is in the sentences.
options:
  _input:
    description: Users as in C(gateway_users), with all their keys.
    type: list
    elements: dict
    required: true
  models:
    description: Names of models that a user may be given. Empty where they are not known.
    type: list
    elements: str
    required: true
  client_authority:
    description: Whether certificates of clients are looked at.
    type: bool
    required: true
  defaults:
    description: What holds for a user who has no limits, as in P(onprem.llm.gateway_users#filter).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ gateway_users | onprem.llm.gateway_user_faults(['gemma3:270m'], false, limits) }}"
  vars:
    limits: {rights: [system], requests_per_second: 20, burst: 40, concurrency: 16, body_mib: 32, daily_tokens: 0}
"""

RETURN = r"""
_value:
  description: A sentence for each fault.
  type: list
  elements: str
"""

import datetime

from ansible_collections.onprem.llm.plugins.module_utils import _gateway


def gateway_user_faults(
    users: t.Sequence[t.Mapping[str, t.Any]],
    models: t.Iterable[str],
    client_authority: bool,
    defaults: t.Mapping[str, t.Any],
) -> list[str]:
    return _gateway.faults(users, models, client_authority, defaults, datetime.datetime.now(datetime.timezone.utc))


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gateway_user_faults": gateway_user_faults}
