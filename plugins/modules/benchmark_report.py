#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_report
short_description: Show what llm_benchmark measured, as a table and a plot
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Prints a table a curve, the users that each bears, and what would raise its throughput; returns a plot besides.
  - The lines are printed with Ansible's default output only; any other has them in RV(lines).
  - Runs on the controller and does not connect to a host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  runs:
    description:
      - Results of M(onprem.llm.llm_benchmark), each with the C(host) that it came from.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the nodes' curves
  onprem.llm.benchmark_report:
    runs: "{{ [benchmark | combine({'host': inventory_hostname})] }}"
"""

RETURN = r"""
lines:
  description: The report.
  returned: always
  type: list
  elements: str
  sample: ["node1 (engine), qwen3:8b"]
svg:
  description: The plot, tokens a second, first token and gaps by concurrency. Empty where nothing was measured.
  returned: always
  type: str
  sample: <svg xmlns="http://www.w3.org/2000/svg"></svg>
report:
  description: The results as they are to be kept.
  returned: always
  type: dict
  sample: {schema: 1, runs: []}
"""
