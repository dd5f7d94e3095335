#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: check_results
short_description: Tell what checks of a running host found, and fail where one failed
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Every role's C(verify.yml) ends with it. All results of a component are told, not the first fault only.
  - The results of a run are kept in the fact C(onprem_llm_check_results), from which C(playbooks/verify.yml) makes
    its report. While the variable C(verify_gather_results) is true, a failed check does not end the play for its host;
    the report does.
  - Runs on the controller and does not connect to the host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  component:
    description:
      - What was asked, a role's name for instance.
    type: str
    required: true
  results:
    description:
      - One entry a check.
    type: list
    elements: dict
    required: true
    suboptions:
      check:
        description:
          - What should be so, as a sentence.
        type: str
        required: true
      found:
        description:
          - What was found, with figures.
        type: str
        default: ""
      ok:
        description:
          - Whether it is as it should be.
        type: bool
        required: true
      asked:
        description:
          - Whether it was asked at all. What was not asked is told as that, and neither passes nor fails.
        type: bool
        default: true
  first:
    description:
      - Whether results of an earlier run, which a fact cache may hold, are forgotten.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Ask which sockets listen
  ansible.builtin.command: ss -Hltn sport = :9100
  register: sockets
  changed_when: false

- name: Tell what was found
  onprem.llm.check_results:
    component: exporter
    results:
      - check: The exporter listens on the loopback address alone
        found: "{{ sockets.stdout }}"
        ok: "{{ sockets.stdout_lines | length == 1 and '127.0.0.1:9100' in sockets.stdout }}"
"""

RETURN = r"""
results:
  description: The results of this component.
  returned: always
  type: list
  elements: dict
  contains:
    component:
      description: What was asked.
      type: str
      sample: firewall
    check:
      description: What should be so.
      type: str
      sample: UFW is active
    found:
      description: What was found.
      type: str
      sample: "Status: active"
    verdict:
      description: V(ok), V(FAILED) or V(not asked).
      type: str
      sample: ok
"""
