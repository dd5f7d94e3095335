# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: measurements
short_description: Keep what loads took, and tell what differs from the plan
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Adds to the measurements of a host what the runners of this run said they allocated, by all that decides it (the
    weights' digest, context, slots, cache type, engine version, number of GPUs).
  - Warns of each load that differs from the plan by more than 2 % and 8 MiB.
positional: before, plan
options:
  _input:
    description: What P(onprem.llm.gpu_proof#filter) returned.
    type: list
    elements: dict
    required: true
  before:
    description: The measurements kept so far, null where there are none.
    type: list
    elements: dict
    required: true
  plan:
    description: The plan in force, see RV(onprem.llm.model_select#module:plan).
    type: dict
    required: true
seealso:
  - plugin: onprem.llm.gpu_proof
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Keep what the loads took
  ansible.builtin.copy:
    content: "{{ findings | onprem.llm.measurements(before, plan) | to_nice_json }}\n"
    dest: /etc/onprem-llm/measurements.json
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The measurements to keep, the newest last.
  type: list
  elements: dict
  sample:
    - model: gemma3:270m
      digest: a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
      context_length: 32768
      slots: 4
      kv_cache_type: f16
      engine_version: 0.32.15
      gpus: 1
      bytes: 1015808000
"""

from ansible.utils.display import Display
from ansible_collections.onprem.llm.plugins.module_utils import _measurements


def measurements(findings, before, plan):
    for sentence in _measurements.differences(findings):
        Display().warning(sentence)
    return _measurements.kept(before, findings, plan)


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"measurements": measurements}
