#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report_status
short_description: Show how the hosts of the fleet are, as a table
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Puts together what the hosts' C(fleet_status.py) told, and prints it. A host that did not answer is told as such.
  - The lines are printed with Ansible's default output only; any other has them in RV(lines).
  - Runs on the controller and does not connect to a host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  hosts:
    description:
      - The hosts to tell of.
    type: list
    elements: str
    required: true
  registered:
    description:
      - Name of the variable in which each host has the result of the task that asked it.
    type: str
    required: true
  functions:
    description:
      - What the hosts of a group are, by the group's name, for hosts that did not answer.
    type: dict
    default: {}
  file:
    description:
      - File on the controller for the same as JSON. Nothing is written where it is empty.
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: Show how the fleet is
  onprem.llm.report_status:
    hosts: "{{ ansible_play_hosts_all }}"
    registered: status_told
  run_once: true
"""

RETURN = r"""
fleet:
  description: Rows by host and by model, alerts, and C(well), which is true where every host is and no alert fires.
  returned: always
  type: dict
  sample:
    schema: 1
    well: false
    hosts:
      - {host: gpu01, state: ok, engine: 0.32.15, models_warm: 2, models_planned: 2, slots: 8, alerts: 0}
    models: []
    alerts: []
unwell:
  description: Hosts that are not as they should be, each with its state.
  returned: always
  type: list
  elements: str
  sample: ["gpu02 is degraded"]
lines:
  description: The same as the lines that were printed.
  returned: always
  type: list
  elements: str
  sample: ["HOST   FUNCTION  STATE"]
"""
