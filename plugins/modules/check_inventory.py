#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Check the variables of a host against the roles that will use them
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Checks every variable that is set for a host against the argument specifications of this collection's roles,
    before any role runs.
  - Finds wrong types and values, required variables that are not set, and names that no role knows though they
    begin like a role's, with the nearest known name.
  - Finds variables that others have taken the place of (C(playbooks/vars/replaced.yml)), and says what to write now.
    One that still works is a warning.
  - All faults of a host are told in one message, with variable, value and what would be right. The value of a
    variable that may hold a secret is never shown.
  - Runs on the controller and does not connect to the host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  roles:
    description:
      - Names of this collection's roles that will run on the host. Their variables are checked.
      - Names are compared with those of all roles of the collection.
    type: list
    elements: str
    required: true
  foreign:
    description:
      - Variables that belong to something else though they begin like a role's, as names or shell patterns such
        as C(docker_hub_*).
    type: list
    elements: str
    default: []
  tell:
    description:
      - Whether a fault fails the task. If not, RV(faults) alone tells of it, for M(onprem.llm.report_preflight) to
        tell the faults of all hosts at once.
    type: bool
    default: true
notes:
  - A value that is made from facts that are not gathered yet, or from those of other hosts, is not checked.
seealso:
  - module: onprem.llm.check_host
  - module: onprem.llm.report_preflight
  - module: ansible.builtin.validate_argument_spec
    description: Checks one role's variables when the role starts, and stops at that role.
"""

EXAMPLES = r"""
- name: Check the inventory before the first change
  onprem.llm.check_inventory:
    roles:
      - docker
      - ollama
      - models
    foreign:
      - docker_hub_*
"""

RETURN = r"""
faults:
  description: What is wrong, by variable.
  returned: always
  type: list
  elements: dict
  contains:
    variable:
      description: Name of the variable.
      type: str
      sample: ollama_versoin
    role:
      description: The role whose specification it contradicts.
      type: str
      sample: ollama
    message:
      description: What is wrong, and what would be right.
      type: str
      sample: "ollama_versoin: no role has this variable; did you mean ollama_version?"
checked:
  description: Number of variables that were checked.
  returned: always
  type: int
  sample: 42
"""
