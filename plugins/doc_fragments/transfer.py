# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How bytes come over the network: _transfer_options.TRANSFER.
    DOCUMENTATION = r"""
options:
  connections:
    description:
      - How many parts of a file are transferred at once.
    type: int
    default: 4
  reserve_bytes:
    description:
      - Bytes that have to stay free beside what is transferred.
    type: int
    default: 0
  stall_timeout:
    description:
      - Seconds without a byte after which a connection is given up and made anew.
    type: float
    default: 30
"""

    # Long work in turns: _transfer_options.TURNS. The module returns pending.
    TURNS = r"""
options:
  transfer_seconds:
    description:
      - Seconds after which the module hands back with RV(pending) though it is not done. 0 means never. The action
        plugin sets it to O(progress_interval) and calls again.
    type: float
    default: 0
  progress_interval:
    description:
      - Seconds between the lines that tell of the progress. After some lines it becomes longer, up to four times as
        long, since each costs a call of the module.
    type: float
    default: 15
  announce:
    description:
      - Whether to hand back with RV(pending) before the first byte. Set by the action plugin.
    type: bool
    default: false
  resume:
    description:
      - The RV(pending.resume) of the call before. Set by the action plugin.
    type: dict
    default: {}
"""

    # The way out: _transfer_options.PROXY.
    PROXY = r"""
options:
  proxy:
    description:
      - Address of the proxy for transfers, with its login where it wants one. Unlike E(HTTPS_PROXY) in the task's
        environment it is not seen in the list of processes. Without it, the environment's holds.
    type: str
  no_proxy:
    description:
      - Hosts that are reached without O(proxy).
    type: list
    elements: str
    default: []
"""
