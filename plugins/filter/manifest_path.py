# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: manifest_path
short_description: Tell where Ollama keeps a model's manifest
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Where this file is, Ollama has the model.
positional: models
options:
  _input:
    description: Name of the model.
    type: str
    required: true
  models:
    description: Ollama's models directory.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Show where it would be
  ansible.builtin.debug:
    msg: "{{ 'gemma3:270m' | onprem.llm.manifest_path('/var/lib/onprem-llm/ollama/models') }}"
"""

RETURN = r"""
_value:
  description: Path of the manifest.
  type: path
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store


def manifest_path(name: str, models: str) -> str:
    try:
        return _ollama_store.manifest_path(models, name)
    except _ollama_store.StoreError as error:
        raise AnsibleFilterError(f"manifest_path: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"manifest_path": manifest_path}
