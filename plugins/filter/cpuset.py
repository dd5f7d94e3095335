# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: cpuset
short_description: Choose the processors that an engine without a GPU is bound to
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Turns what the inventory asks for and what the host has into a set of processors, with the number of
    physical cores in it.
  - With V(auto) a host of several NUMA nodes gives the first whose memory holds what is needed, with one
    hyper-thread of each core.
positional: cpus, needed_bytes
options:
  _input:
    description: RV(onprem.llm.gpu_info#module:host.numa_nodes).
    type: list
    elements: dict
    required: true
  cpus:
    description: Processors as Docker writes them, V(auto), or nothing for all.
    type: str
    required: true
  needed_bytes:
    description: Bytes that V(auto) has to find room for.
    type: int
    required: true
seealso:
  - module: onprem.llm.gpu_info
"""

EXAMPLES = r"""
- name: Show where the engine would run
  ansible.builtin.debug:
    msg: "{{ found.host.numa_nodes | onprem.llm.cpuset('auto', 34359738368) }}"
"""

RETURN = r"""
_value:
  description:
    - RV(ignore:cpus), empty for all, RV(ignore:threads), 0 where the engine decides, and RV(ignore:fault), empty or
      what is wrong.
  type: dict
  sample: {cpus: 0-15, threads: 16, fault: ""}
"""

from ansible_collections.onprem.llm.plugins.module_utils import _topology


def cpuset(nodes, cpus, needed_bytes):
    try:
        return {**_topology.cpuset(nodes or [], str(cpus), int(needed_bytes)), "fault": ""}
    except _topology.CpusetError as error:
        return {"cpus": "", "threads": 0, "fault": str(error)}


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"cpuset": cpuset}
