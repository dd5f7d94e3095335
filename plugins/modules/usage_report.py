#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: usage_report
short_description: Show who has used how much of the fleet in a month
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Adds up what the gateways have counted, by user and model, and prints it.
  - A GPU hour is an hour in which one GPU worked for one user alone. A request counts with the time that it was at the
    engine, by the model's GPUs, divided by the slots that share them.
  - The lines are printed with Ansible's default output only; any other has them in RV(lines).
  - Runs on the controller and does not connect to a host.
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
  - onprem.llm.attributes.action
options:
  ledgers:
    description:
      - What each gateway has counted, as the text of its C(/var/lib/onprem-llm-metrics/gateway.json), by the gateway's
        name. An empty text is a gateway that has counted nothing.
    type: dict
    required: true
  month:
    description:
      - The month by UTC, such as V(2026-11).
    type: str
    required: true
  by_model:
    description:
      - Whether a user has a row a model.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show November
  onprem.llm.usage_report:
    ledgers:
      gw1: "{{ ledger.content | b64decode }}"
    month: 2026-11
  run_once: true
"""

RETURN = r"""
rows:
  description: Rows by user and model, with counts and hours.
  returned: always
  type: list
  elements: dict
  sample:
    - {month: 2026-11, user: app, model: "qwen3:8b", requests: 120, failed: 2, prompt_tokens: 90000,
       completion_tokens: 41000, engine_hours: 1.25, gpu_hours: 0.313}
lines:
  description: The same as a table.
  returned: always
  type: list
  elements: str
  sample: ["user  model", "app   qwen3:8b"]
csv:
  description: The same as CSV with a header.
  returned: always
  type: str
  sample: "month,user,model"
"""
