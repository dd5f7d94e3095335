#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: check_report
short_description: Show what the checks of a run found, a line a check and host
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads what M(onprem.llm.check_results) kept of each host, and prints it. Fails nothing by itself.
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
  dropped:
    description:
      - Those of O(hosts) that dropped out of the run, for instance since they could not be reached. Each gets a line
        that says so, a failed one.
    type: list
    elements: str
    default: []
seealso:
  - module: onprem.llm.check_results
"""

EXAMPLES = r"""
- name: Tell what was asked of each host, and what was found
  onprem.llm.check_report:
    hosts: "{{ ansible_play_hosts_all }}"
    dropped: "{{ ansible_play_hosts_all | difference(ansible_play_hosts) }}"
  run_once: true
"""

RETURN = r"""
lines:
  description: The report.
  returned: always
  type: list
  elements: str
  sample: ["ok         gpu1  firewall  UFW is active: Status: active"]
failed_checks:
  description: The failed checks of each host, by its name, each with what was found.
  returned: always
  type: dict
  sample: {gpu1: ["firewall: UFW is active: Status: inactive"]}
"""
