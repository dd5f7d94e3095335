#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrade_report
short_description: Show what an upgrade or a rollback does to each node, and refuse what cannot be done
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Reads what was found of each node, and prints by host what changes, what is fetched, what restarts, how long the
    node is out by what was measured last, and in which order the nodes have their turn.
  - Fails with the faults of all nodes together.
  - The lines are printed with Ansible's default output only; any other has them in RV(lines).
  - Runs on the controller and does not connect to a host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  hosts:
    description:
      - Names of all nodes.
    type: list
    elements: str
    required: true
  reached:
    description:
      - Those of them that are reached.
    type: list
    elements: str
    required: true
  canary:
    description:
      - The node that comes first.
    type: str
    required: true
  serial:
    description:
      - How many nodes come at once after it.
    type: int
    default: 1
  allow_older:
    description:
      - Whether an engine older than the running one may be installed.
    type: bool
    default: false
  accept_gap:
    description:
      - Whether a batch may take out all nodes that serve a model.
    type: bool
    default: false
  back:
    description:
      - Whether the nodes go back to a release that they have kept.
    type: bool
    default: false
  release:
    description:
      - With O(back), name or version of the release. Empty for the one before.
    type: str
    default: ""
  found:
    description:
      - Name of the variable that has what was found of a node.
    type: str
    default: __upgrade_found
  gateways:
    description:
      - Names of the gateways whose packages are looked at.
    type: list
    elements: str
    default: []
  gateway_found:
    description:
      - Name of the variable that has what M(onprem.llm.kept_packages_info) said of a gateway.
    type: str
    default: __upgrade_gateway_moves
"""

EXAMPLES = r"""
- name: Show what the upgrade does
  onprem.llm.upgrade_report:
    hosts: "{{ groups['llm_nodes'] }}"
    reached: "{{ ansible_play_hosts }}"
    canary: "{{ groups['llm_nodes'][0] }}"
  run_once: true
"""

RETURN = r"""
lines:
  description: The report.
  returned: success
  type: list
  elements: str
  sample: ["gpu1:", "  engine   0.32.15 -> 0.32.16"]
due:
  description: The nodes that have something to do.
  returned: success
  type: list
  elements: str
  sample: [gpu1]
due_gateways:
  description: The gateways whose packages move.
  returned: success
  type: list
  elements: str
  sample: [gw1]
targets:
  description: With O(back), by node the name of the release that it goes back to.
  returned: success
  type: dict
  sample: {gpu1: 20261122T120501Z-0.32.15}
"""
