#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: plan_report
short_description: Show the plans of hosts, and what serves what in the fleet
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads what M(onprem.llm.model_select) returned for each host, with its option C(advise), and prints it.
  - Of several hosts it prints what serves each workload, too, and which GPUs run nothing.
  - Fails where a host has no plan, after everything was printed.
  - The lines are printed with Ansible's default output only; any other has them in RV(lines).
  - Runs on the controller and does not connect to a host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  hosts:
    description:
      - Names of the hosts to report on.
    type: list
    elements: str
    required: true
  registered:
    description:
      - Name of the variable that M(onprem.llm.model_select) was registered in.
    type: str
    default: models_selection
seealso:
  - module: onprem.llm.model_select
"""

EXAMPLES = r"""
- name: Show what every node would run
  onprem.llm.plan_report:
    hosts: "{{ ansible_play_hosts }}"
  run_once: true
"""

RETURN = r"""
lines:
  description: The report.
  returned: always
  type: list
  elements: str
  sample: ["gpu1:", "  ollama on RTX 4090"]
without:
  description: The hosts that have no plan.
  returned: always
  type: list
  elements: str
  sample: []
"""
