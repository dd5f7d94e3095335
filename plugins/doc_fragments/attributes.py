# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What every module of this collection says about itself; a module adds its own details.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description:
      - Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description:
      - Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
"""

    # For modules that only read.
    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This action does not modify state.
  diff_mode:
    support: N/A
    details:
      - This action does not modify state.
  idempotent:
    support: full
    details:
      - This action does not modify state.
"""

    # For modules that are an action plugin, or have one before them.
    ACTION = r"""
options: {}
attributes:
  action:
    description: Has an action plugin, which runs on the controller.
    support: full
"""

    # How the Ollama modules reach the server.
    OLLAMA = r"""
options:
  api_url:
    description:
      - Address of the Ollama server as the managed host reaches it.
      - It is spoken to directly; proxy variables of the environment are not followed.
    type: str
    default: http://127.0.0.1:11434
  timeout:
    description:
      - Seconds without a byte from the server after which it is taken for dead.
      - A model that is being loaded sends none until it is ready, so the time that the largest model takes to load is
        the least that is right.
    type: float
    default: 600
"""
