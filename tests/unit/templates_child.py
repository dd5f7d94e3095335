# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluates variables of a role with all of Ansible's plugins and the collection's own, in a process of its own.

Reads lines of JSON, ``{"role", "name", "variables"}``, and answers each with ``{"value"}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import sys

from ansible.plugins.loader import init_plugin_loader
from role_templates import ROLES, evaluated, role_variables, trusted


def main() -> None:
    init_plugin_loader()
    for line in sys.stdin:
        asked = json.loads(line)
        place = str(ROLES / asked["role"])
        known = role_variables(asked["role"]) | trusted(asked["variables"])
        known |= {"role_path": place, "ansible_search_path": [place]}
        try:
            answer = {"value": evaluated(known[asked["name"]], known)}
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
