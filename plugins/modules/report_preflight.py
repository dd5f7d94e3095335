#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report_preflight
short_description: Tell the faults of all hosts at once, or what a run would do to each
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Puts together what M(onprem.llm.check_inventory) and M(onprem.llm.check_host) found on each host, and what is wrong
    with the inventory as a whole, its groups and addresses.
  - Where there is a fault, the task fails and tells all of them, each once with the hosts that it is true of.
  - Where there is none, it shows by host what the run would install, change, restart and interrupt.
  - Runs on the controller and does not connect to any host. Use it with C(run_once), which also makes its failure one
    of every host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  hosts:
    description:
      - The hosts of the play.
    type: list
    elements: str
    required: true
  reached:
    description:
      - Those of O(hosts) that answer. The others are named, and left out.
    type: list
    elements: str
    required: true
  registered:
    description:
      - Names of the variables in which the results of M(onprem.llm.check_inventory) and M(onprem.llm.check_host) were
        registered.
    type: list
    elements: str
    required: true
seealso:
  - module: onprem.llm.check_inventory
  - module: onprem.llm.check_host
"""

EXAMPLES = r"""
- name: Tell all faults, or what the run would do
  onprem.llm.report_preflight:
    hosts: "{{ ansible_play_hosts_all }}"
    reached: "{{ ansible_play_hosts }}"
    registered: [variables_checked, host_checked]
  run_once: true
"""

RETURN = r"""
msg:
  description: All faults, each with its hosts, a line each.
  returned: failure
  type: str
  sample: |-
    1 fault in the way; nothing was changed on any host:
    - gpu1, gpu2: ollama_version is 0.16.0; it must be at least 0.17.1, which fixes CVE-2026-7482.
lines:
  description: The report for people.
  returned: success
  type: list
  elements: str
  sample: ["gpu1:", "  install   nginx"]
"""
