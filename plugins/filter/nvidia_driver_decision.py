# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: nvidia_driver_decision
short_description: Say what is to be done about a host's NVIDIA driver
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - From what the host has and what is wished to faults, notes, packages and steps that are due.
positional: wish, system
options:
  _input:
    description: What M(onprem.llm.nvidia_driver_info) returned.
    type: dict
    required: true
  wish:
    description: The wishes of the role P(onprem.llm.nvidia_driver#role).
    type: dict
    required: true
  system:
    description: The role's data of the host's release.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell what is wrong
  ansible.builtin.debug:
    msg: "{{ (nvidia_driver_gpu_info | onprem.llm.nvidia_driver_decision(wish, system)).faults }}"
"""

RETURN = r"""
_value:
  description:
    - C(faults) and C(notes), sentences; C(due), whether a run has something to do; C(steps), which of C(packages),
      C(nouveau), C(settings), C(mig) and C(restart) it is; C(packages), the names of the set; C(install), what would be
      installed; C(once) and C(mig), arguments for nvidia-smi; C(reload), whether the modules may be reloaded; C(works).
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_driver


def nvidia_driver_decision(info: t.Any, wish: t.Any, system: t.Any) -> dict[str, t.Any]:
    """The filter; see :func:`_nvidia_driver.decide`."""
    if not all(isinstance(value, dict) for value in (info, wish, system)):
        raise AnsibleFilterError(
            "nvidia_driver_decision needs what nvidia_driver_info returned, a wish and the release's data"
        )
    return _nvidia_driver.decide(info, wish, system)


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nvidia_driver_decision": nvidia_driver_decision}
