#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: check_host
short_description: Say what speaks against this collection's roles on a host, and what they would do there
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Every role of this collection states in its own variables what it cannot work with (C(__ROLE_faults)) and what it
    puts on a host (C(__ROLE_outlook)). This module evaluates the statements of several roles against the variables,
    the facts and the state of one host.
  - It changes nothing, and looks at the host at most once.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
attributes:
  action:
    description: Has an action plugin; templates are rendered on the controller, the state is read on the host.
    support: full
options:
  roles:
    description:
      - Names of this collection's roles, in the order in which they will run.
    type: list
    elements: str
    required: true
  refusal:
    description:
      - What C(ansible.builtin.setup) said, where it failed. The host is not asked any more then, and the reason is the
        only fault.
    type: str
    default: ""
  known:
    description:
      - Faults that M(onprem.llm.check_inventory) found on this host. A role whose variables are wrong already is
        evaluated as far as that goes, without a word on the rest.
    type: list
    elements: dict
    default: []
  tell:
    description:
      - Whether a fault fails the task.
      - If not, RV(faults) alone tells of it, for M(onprem.llm.report_preflight) to tell those of all hosts at once,
        and the host is looked at for the RV(outlook), which is empty otherwise.
    type: bool
    default: true
seealso:
  - module: onprem.llm.check_inventory
  - module: onprem.llm.report_preflight
  - module: onprem.llm.host_state
"""

EXAMPLES = r"""
- name: Refuse what Docker cannot be installed or run with
  onprem.llm.check_host:
    roles: [docker]
"""

RETURN = r"""
faults:
  description: What is wrong, with the role that cannot work with it.
  returned: always
  type: list
  elements: dict
  contains:
    role:
      description: Name of the role; empty where the host itself cannot be worked on.
      type: str
      sample: docker
    message:
      description: Which variable or what on the host, its value, and what would be right.
      type: str
      sample: "docker_log_max_size is 10; it must be a number with the unit k, m or g, such as 10m."
outlook:
  description: What the roles would do on the host. Where there are faults, not all of it is known.
  returned: always
  type: dict
  contains:
    note:
      description: What is worth knowing and changes nothing.
      type: list
      elements: str
    install:
      description: Packages, images and models that would come to the host.
      type: list
      elements: str
    change:
      description: Files and settings that would be written or removed.
      type: list
      elements: str
    restart:
      description: Services that would be started, reloaded or restarted.
      type: list
      elements: str
    interrupt:
      description: What users and other programs of the host would notice of it.
      type: list
      elements: str
  sample:
    note: []
    install: [nginx, libnginx-mod-http-js]
    change: ["/etc/nginx/conf.d/onprem-llm-gateway.conf (new)"]
    restart: ["nginx.service (start)"]
    interrupt: []
"""
