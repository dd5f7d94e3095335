#!/usr/bin/python
# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell which NVIDIA GPUs a host has and what is wrong with them
version_added: 0.1.0
author:
  - onprem.llm contributors (@onprem-llm)
description:
  - Returns the NVIDIA GPUs of a host with their memory, the driver's versions, the devices on the PCI bus and the
    host's memory.
  - Asks C(nvidia-smi) once, and twice more where a GPU's MIG is enabled (C(-L) and C(-q -x)). It works without a GPU,
    without a driver and with a driver that hangs, and says in words what is missing and why.
  - It never fails for want of a GPU; see RV(state).
extends_documentation_fragment:
  - onprem.llm.attributes
  - onprem.llm.attributes.info
options:
  nvidia_smi:
    description:
      - The C(nvidia-smi) command, a path or a name found in E(PATH).
    type: str
    default: nvidia-smi
  timeout:
    description:
      - Seconds after which C(nvidia-smi) is taken for hung.
      - Without the persistence daemon the driver starts anew at each call, which takes seconds on hosts with many
        GPUs.
    type: float
    default: 20
seealso:
  - module: onprem.llm.model_select
    description: Chooses models for what this module finds.
"""

EXAMPLES = r"""
- name: See what the host computes on
  onprem.llm.gpu_info:
  register: gpus

- name: Stop where the driver is in trouble
  ansible.builtin.assert:
    that: gpus.state == 'ready'
    fail_msg: "{{ gpus.problems | map(attribute='message') | join('; ') }}"
"""

RETURN = r"""
gpus:
  description:
    - The GPUs as the driver shows them, by index. A value that the driver does not tell (V([N/A]), V([Not
      Supported])) is null.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: Number of the GPU in the driver's order.
      type: int
      sample: 0
    uuid:
      description: Identity of the GPU, stable across restarts.
      type: str
      sample: GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10
    name:
      description: Product name.
      type: str
      sample: NVIDIA L40S
    memory_total_bytes:
      description: Memory of the GPU in bytes.
      type: int
      sample: 48305799168
    memory_free_bytes:
      description: Free memory in bytes.
      type: int
      sample: 47668264960
    memory_used_bytes:
      description: Used memory in bytes, what the driver reserves for itself not counted.
      type: int
      sample: 0
    compute_capability:
      description: CUDA compute capability.
      type: str
      sample: "8.9"
    pci_bus_id:
      description: Address on the PCI bus.
      type: str
      sample: "00000000:01:00.0"
    mig_mode:
      description: Whether the GPU is divided into instances, V(Enabled) or V(Disabled).
      type: str
      sample: Disabled
    mig_mode_pending:
      description: What RV(gpus[].mig_mode) is from the GPU's next reset on, V(Enabled) or V(Disabled).
      type: str
      sample: Disabled
    mig_devices:
      description:
        - The MIG devices of a GPU whose RV(gpus[].mig_mode) is V(Enabled), by index. None where there are none.
        - Those with the same C(gpu_instance_id) share its memory, and each is shown with all of it.
      type: list
      elements: dict
      contains:
        index:
          description: Number of the MIG device on its GPU.
          type: int
          sample: 0
        uuid:
          description: Identity of the MIG device, by which a container is given it.
          type: str
          sample: MIG-8e4b1c72-5a02-5d3e-9f16-c2a7d0b4e682
        profile:
          description: Its compute slices and its memory.
          type: str
          sample: 2g.35gb
        name:
          description: Name of the GPU and the profile.
          type: str
          sample: NVIDIA H200 MIG 2g.35gb
        gpu_instance_id:
          description: GPU instance that has the memory.
          type: int
          sample: 3
        compute_instance_id:
          description: Compute instance in it.
          type: int
          sample: 0
        memory_total_bytes:
          description: Memory of the GPU instance in bytes.
          type: int
          sample: 34896609280
        memory_free_bytes:
          description: Free memory of the GPU instance in bytes.
          type: int
          sample: 34879832064
    ecc_mode:
      description: Whether the memory's error correction is on, V(Enabled) or V(Disabled).
      type: str
      sample: Enabled
    ecc_mode_pending:
      description: What RV(gpus[].ecc_mode) is from the next restart on, V(Enabled) or V(Disabled).
      type: str
      sample: Enabled
    display_active:
      description: Whether a screen hangs on the GPU and has memory of it, V(Enabled) or V(Disabled).
      type: str
      sample: Disabled
    persistence_mode:
      description: Whether the driver stays loaded without a client, V(Enabled) or V(Disabled).
      type: str
      sample: Enabled
driver:
  description: The NVIDIA driver.
  returned: always
  type: dict
  contains:
    loaded_version:
      description: Version of the kernel module that runs, null where none does.
      type: str
      sample: 580.159.03
    installed_version:
      description: Version of the kernel module on disk, which the next start of the host loads.
      type: str
      sample: 580.159.03
    cuda_version:
      description: Newest CUDA version that the driver supports.
      type: str
      sample: "13.0"
pci_devices:
  description: NVIDIA's devices on the PCI bus, whether or not a driver runs.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: Address on the bus.
      type: str
      sample: "0000:01:00.0"
    vendor_id:
      description: Vendor, as sysfs writes it.
      type: str
      sample: "0x10de"
    device_id:
      description: Device, as sysfs writes it.
      type: str
      sample: "0x26b9"
    class:
      description: PCI class, as sysfs writes it. V(0x030000) and V(0x030200) are GPUs, V(0x068000) is an NVSwitch.
      type: str
      sample: "0x030200"
    driver:
      description: Kernel driver that holds the device, null where none does.
      type: str
      sample: nvidia
host:
  description: What the host itself has.
  returned: always
  type: dict
  contains:
    memory_total_bytes:
      description: Memory of the host in bytes.
      type: int
      sample: 134984753152
    memory_available_bytes:
      description: Memory that programs could take without swapping, in bytes.
      type: int
      sample: 129421078528
    cpu_count:
      description: Processors that a process may use.
      type: int
      sample: 32
    numa_nodes:
      description: NUMA nodes that have memory and processors; none where the kernel tells of none.
      type: list
      elements: dict
      contains:
        id:
          description: Number of the node.
          type: int
          sample: 0
        memory_total_bytes:
          description: Memory of the node in bytes.
          type: int
          sample: 67492376576
        cores:
          description: Its physical cores, each with the numbers of its processors, which are its hyper-threads.
          type: list
          elements: list
          sample: [[0, 16], [1, 17]]
state:
  description:
    - V(ready), GPUs are there and answer.
    - V(no_gpu), the host has no NVIDIA GPU.
    - V(no_driver), it has one and no driver runs it.
    - V(broken), driver or GPU are in trouble, see RV(problems).
  returned: always
  type: str
  sample: ready
problems:
  description: What is wrong or worth knowing. RV(state) may be V(ready) all the same.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A word for programs.
      type: str
      sample: version_mismatch
    message:
      description: A sentence for people.
      type: str
      sample: "the driver 580.142 is loaded and 580.159.03 is installed: a restart of the host is due"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_smi


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "nvidia_smi": {"type": "str", "default": "nvidia-smi"},
            "timeout": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    if module.params["timeout"] <= 0:
        module.fail_json(msg="timeout is {:g}; a number of seconds above 0 is needed".format(module.params["timeout"]))
    module.exit_json(changed=False, **_nvidia_smi.collect(module.params["nvidia_smi"], module.params["timeout"]))


if __name__ == "__main__":
    main()
