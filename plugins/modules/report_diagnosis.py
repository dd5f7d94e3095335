#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report_diagnosis
short_description: Tell what llm_diagnose found on all hosts, the first cause on top
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Prints the findings of all hosts as a table, and returns them as data and as Markdown.
  - What one host finds wrong with another, such as a gateway with a node, is told as unknown where that other host is
    sick itself.
  - The action runs on the controller.
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
      - Name of the variable in which each host has the result of M(onprem.llm.llm_diagnose). A host without it is told
        as one that does not answer.
    type: str
    required: true
  directory:
    description:
      - Directory on the controller for C(diagnosis.json) and C(diagnosis.md). Nothing is written where it is empty.
    type: path
    default: ""
  bundle:
    description:
      - Whether a support bundle is put there, too, of what M(onprem.llm.llm_diagnose) collected.
    type: bool
    default: false
seealso:
  - module: onprem.llm.llm_diagnose
"""

EXAMPLES = r"""
- name: Tell what was found
  onprem.llm.report_diagnosis:
    hosts: "{{ ansible_play_hosts_all }}"
    registered: diagnose_result
  run_once: true
"""

RETURN = r"""
report:
  description: The findings by host, with C(healthy), C(causes) and C(unreachable).
  returned: success
  type: dict
  sample:
    schema: 1
    healthy: false
    unreachable: []
    causes: [{host: gpu01, rung: cdi}]
    hosts: {}
markdown:
  description: The same as a page.
  returned: success
  type: str
  sample: "# Diagnosis\n\nNothing is broken.\n"
files:
  description: Paths of what was written on the controller.
  returned: success
  type: list
  elements: str
  sample: [reports/diagnosis.json, reports/diagnosis.md]
lines:
  description: The same as the lines that were printed.
  returned: success
  type: list
  elements: str
  sample: [Nothing is broken.]
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    # The action plugin of this name does the work, on the controller.
    AnsibleModule(
        argument_spec={
            "hosts": {"type": "list", "elements": "str", "required": True},
            "registered": {"type": "str", "required": True},
            "directory": {"type": "path", "default": ""},
            "bundle": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    ).fail_json(msg="report_diagnosis runs on the controller, by the action plugin of its name")


if __name__ == "__main__":
    main()
