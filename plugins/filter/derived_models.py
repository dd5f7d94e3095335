# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: derived_models
short_description: Check models that are derived from planned ones
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Reads the entries of C(models_derived), their Modelfiles among them, by Ollama's own grammar, and finds what is
    wrong with them before anything is changed.
options:
  _input:
    description: Entries as in C(models_derived).
    type: list
    elements: dict
    required: true
  served:
    description: Names of the models that the fleet's workloads have.
    type: list
    elements: str
    required: true
  catalog:
    description: Names that no derived model may have.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show what is wrong with them
  ansible.builtin.debug:
    msg: "{{ (models_derived | onprem.llm.derived_models(['gemma3:4b'])).faults }}"
"""

RETURN = r"""
_value:
  description:
    - C(models), the entries that are right, with the fields that M(onprem.llm.ollama_model) takes; C(faults), sentences
      about the others; C(notes), what Ollama leaves out of a Modelfile.
  type: dict
"""

import os

from ansible_collections.onprem.llm.plugins.module_utils import _derived

# No Modelfile comes near it; a path that leads elsewhere, such as a disk, is not read to its end.
_MAX_BYTES = 2**20


def _read(path: str) -> bytes:
    with open(os.path.expanduser(path), "rb") as stream:
        return stream.read(_MAX_BYTES)


def derived_models(entries: t.Any, served: t.Iterable[str], catalog: t.Iterable[str] = ()) -> dict[str, t.Any]:
    return vars(_derived.derive(entries, served, catalog, _read))


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"derived_models": derived_models}
