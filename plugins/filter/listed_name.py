# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: listed_name
short_description: Tell the name that Ollama lists a model under
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - A name without a tag has C(latest), and the scheme of a registry is no part of it.
options:
  _input:
    description: Name of the model as an inventory has it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ 'http://models.example.com:5000/team/house' | onprem.llm.listed_name }}"
"""

RETURN = r"""
_value:
  description: The name with its tag.
  type: str
  sample: models.example.com:5000/team/house:latest
"""

from ansible_collections.onprem.llm.plugins.module_utils import _catalog


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"listed_name": _catalog.local_name}
