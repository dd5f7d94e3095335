# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: mirror_place
short_description: Tell where something lies in the fleet's mirror
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Models and container images lie in repositories of the mirror's registry, under their own tags.
positional: _input, kind
options:
  _input:
    description: Name of the model or image, with its tag.
    type: str
    required: true
  kind:
    description: What it names.
    type: str
    choices: [model, image]
    default: model
"""

EXAMPLES = r"""
- name: Show where the mirror has them
  ansible.builtin.debug:
    msg:
      - "{{ ('qwen3:8b' | onprem.llm.mirror_place).path }}"
      - "{{ ('ollama/ollama:0.32.15' | onprem.llm.mirror_place('image')).path }}"
"""

RETURN = r"""
_value:
  description: The RV(ignore:path) of the repository and the RV(ignore:tag).
  type: dict
  sample: {path: library/qwen3, tag: 8b}
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _mirror_place


def mirror_place(name: str, kind: str = "model") -> dict[str, str]:
    try:
        place = _mirror_place.parse_image(name).place if kind == "image" else _mirror_place.model_place(name)
    except _mirror_place.MirrorError as error:
        raise AnsibleFilterError(f"mirror_place: {error}") from error
    return {"path": place.path, "tag": place.tag}


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mirror_place": mirror_place}
