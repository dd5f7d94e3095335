# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: container_toolkit
short_description: Decide what is to be done about a host's NVIDIA Container Toolkit and its CDI specs
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - From what M(onprem.llm.gpu_info) returned and what is wished for, says which packages are to be installed, moved or
    held, whether the specs are to be written anew, and what speaks against it.
options:
  _input:
    description: What M(onprem.llm.gpu_info) returned.
    type: dict
    required: true
  source:
    description: Who installs the toolkit. V(nvidia) is the role, V(none) nobody, V(auto) the role where it is missing.
    type: str
    choices: [auto, nvidia, none]
    required: true
  version:
    description: Version of the toolkit, three numbers.
    type: str
    required: true
  runtime:
    description: V(cdi), or V(legacy) for NVIDIA's runtime with its hook.
    type: str
    choices: [cdi, legacy]
    required: true
  cdi_spec:
    description: V(any) takes specs from whatever wrote them, V(toolkit) asks for the toolkit on the host, too.
    type: str
    choices: [any, toolkit]
    required: true
  hold:
    description: Whether the packages are held.
    type: bool
    required: true
  url:
    description: URL of the package repository; empty where one repository has the packages of all.
    type: str
    required: true
  planned:
    description: Names by which the plan gives the engine its GPUs.
    type: list
    elements: str
    required: true
seealso:
  - module: onprem.llm.gpu_info
"""

EXAMPLES = r"""
- name: Show what is missing
  ansible.builtin.debug:
    msg: >-
      {{ (gpus | onprem.llm.container_toolkit(source='auto', version='1.20.0', runtime='cdi', cdi_spec='any', hold=true,
         url='https://nvidia.github.io/libnvidia-container/stable', planned=[])).outstanding }}
"""

RETURN = r"""
_value:
  description:
    - RV(ignore:managed), whether the role has the toolkit in hand. RV(ignore:packages), the start of the version that
      is wanted, by name. RV(ignore:outstanding), those that are to be installed, moved or held.
    - RV(ignore:write_source), whether the package manager has to be told of the repository. RV(ignore:refresh), why the
      specs are to be written anew, or empty. RV(ignore:enable), whether the units that do so are to be enabled.
    - RV(ignore:names), the devices that the specs give. RV(ignore:faults), RV(ignore:notes) and RV(ignore:report), in
      words.
  type: dict
  sample:
    managed: true
    packages: {nvidia-container-toolkit-base: 1.20.0-}
    outstanding: [nvidia-container-toolkit-base]
    write_source: true
    refresh: the toolkit is new
    enable: false
    names: []
    faults: []
    notes: []
    report: CDI devices none; toolkit not installed.
"""

from ansible_collections.onprem.llm.plugins.module_utils import _container_toolkit


def container_toolkit(info, **wish):
    return _container_toolkit.judge(info or {}, _container_toolkit.Wish(**wish))


class FilterModule:
    """What Ansible loads."""

    def filters(self):
        return {"container_toolkit": container_toolkit}
