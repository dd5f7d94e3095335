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
  - Returns the NVIDIA GPUs of a host with their memory and health, the driver that is loaded and installed, the kernels
    and what they have of the driver, XID messages, what gives containers GPUs, the devices on the PCI bus and the
    host's memory.
  - Asks C(nvidia-smi) once, twice more where a GPU's MIG is enabled (C(-L) and C(-q -x)), and twice more where it does
    not know a field. NVML (C(libnvidia-ml.so.1)) is asked for what C(nvidia-smi) does not tell, and for all where
    there is no C(nvidia-smi).
  - It works without a GPU, without a driver and with a driver that hangs, and says in words what is missing and why.
    Each word is in the table of docs/gpu.md, with what to do.
  - A host without an NVIDIA device and without a driver is asked nothing that takes time.
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
  root:
    description:
      - Directory below which /proc, /sys, /boot, /lib/modules, /etc, /usr and /var are read, for a system that is
        mounted for rescue. Commands are those of the running system; services, the journal and NVML are not asked
        below another root.
    type: path
    default: /
    version_added: 0.1.0
  timeout:
    description:
      - Seconds after which C(nvidia-smi) or NVML is taken for hung.
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
    pci_device_id:
      description: Device and vendor on the PCI bus, as C(nvidia-smi) writes them.
      type: str
      sample: "0x26B910DE"
    architecture:
      description:
        - Architecture by compute capability, else by PCI device. V(older) is older than Maxwell; null is newer than
          this release of the collection knows.
      type: str
      choices: [older, maxwell, pascal, volta, turing, ampere, ada, hopper, blackwell, rubin]
      sample: ada
    compute_mode:
      description: Who may compute on it, V(Default), V(Exclusive_Process) or V(Prohibited).
      type: str
      sample: Default
    temperature_celsius:
      description: Temperature of the GPU in degrees Celsius.
      type: int
      sample: 34
    temperature_slowdown_celsius:
      description:
        - Temperature from which on the driver slows it down. Of GPUs that tell the margin instead, it is temperature
          and margin together, which differs by some degrees with the load.
      type: int
      sample: 88
    temperature_margin_celsius:
      description: Degrees that are left before the driver slows it down (T.Limit), of GPUs that tell them.
      type: int
      sample: 54
    power_draw_watts:
      description: What it draws, in watts.
      type: float
      sample: 35.1
    power_limit_watts:
      description: Limit that is set, in watts.
      type: float
      sample: 350.0
    power_limit_min_watts:
      description: Least limit that can be set, in watts.
      type: float
      sample: 100.0
    power_limit_max_watts:
      description: Highest limit that can be set, in watts.
      type: float
      sample: 350.0
    power_limit_default_watts:
      description: Limit without anybody's setting, in watts.
      type: float
      sample: 350.0
    clocks_event_reasons:
      description:
        - Why its clocks are lower than they could be. C(gpu_idle), C(applications_clocks_setting), C(sw_power_cap),
          C(hw_slowdown), C(sync_boost), C(sw_thermal_slowdown), C(hw_thermal_slowdown), C(hw_power_brake_slowdown),
          C(display_clock_setting). A reason that this release does not know is its bit in hexadecimal.
      type: list
      elements: str
      sample: [gpu_idle]
    processes:
      description: Programs that compute on it, as NVML tells; null where NVML cannot be asked.
      type: list
      elements: dict
      contains:
        pid:
          description: Number of the process.
          type: int
          sample: 20037
        name:
          description: Name of its program.
          type: str
          sample: /usr/bin/ollama
        memory_bytes:
          description: Memory of the GPU that it holds, in bytes.
          type: int
          sample: 564133888
    ecc_errors_uncorrected:
      description: Errors of its memory that could not be corrected since the driver was loaded.
      type: int
      sample: 0
    row_remap:
      description: Rows of its memory that were replaced by spare ones; null where it has none to spare (before Ampere).
      type: dict
      contains:
        correctable:
          description: Rows replaced for errors that could be corrected.
          type: int
          sample: 0
        uncorrectable:
          description: Rows replaced for errors that could not.
          type: int
          sample: 0
        pending:
          description: Whether the next reset replaces one.
          type: bool
          sample: false
        failure:
          description: Whether one could not be replaced.
          type: bool
          sample: false
    retired_pages_pending:
      description: Whether the next restart retires pages of its memory; null where it retires none (from Ampere on).
      type: bool
      sample: false
    recovery_action:
      description: What the driver asks for to recover it, V(None) where nothing. Null from drivers that do not tell.
      type: str
      sample: None
    fabric_state:
      description: Whether it is registered with the fabric of NVSwitches, V(Completed) where it is.
      type: str
      sample: Completed
    nvlink_active:
      description: NVLinks that are up; null where it has none or NVML cannot be asked.
      type: int
      sample: 18
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
    loaded_flavor:
      description: Kind of the module that runs.
      type: str
      choices: [open, proprietary]
      sample: open
    installed_flavor:
      description: Kind of the module on disk, by its licence.
      type: str
      choices: [open, proprietary]
      sample: open
    library_version:
      description: Version of libnvidia-ml on disk.
      type: str
      sample: 580.159.03
    branch:
      description: Branch of what is installed, else of what runs.
      type: str
      sample: "580"
    runfile:
      description: Whether NVIDIA's runfile installed it, of which no package manager knows.
      type: bool
      sample: false
    packages:
      description: NVIDIA's packages of the driver, by name.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the package.
          type: str
          sample: nvidia-kernel-open-dkms
        version:
          description: Its whole version.
          type: str
          sample: 580.159.03-1
        held:
          description: Whether it is held (C(apt-mark hold)) or a versionlock of dnf names it.
          type: bool
          sample: true
        whole:
          description: Whether it is installed whole; false where it is unpacked and not configured.
          type: bool
          sample: true
kernel:
  description: The host's kernels and what they have of the driver.
  returned: always
  type: dict
  contains:
    running:
      description: Release of the running kernel.
      type: str
      sample: 6.12.57+deb13-amd64
    newest_installed:
      description: Release of the newest installed kernel, which the next start boots; null where none is installed.
      type: str
      sample: 6.12.57+deb13-amd64
    modules:
      description: By kernel, the version of NVIDIA's module on disk, or null.
      type: dict
      sample: {6.12.57+deb13-amd64: 580.159.03}
    module_flavors:
      description: By kernel, V(open) or V(proprietary), or null.
      type: dict
      sample: {6.12.57+deb13-amd64: open}
    headers:
      description: By kernel, whether modules can be built for it.
      type: dict
      sample: {6.12.57+deb13-amd64: true}
    nouveau_loaded:
      description: Whether the kernel module nouveau is loaded.
      type: bool
      sample: false
    nouveau_blacklisted:
      description: Whether modprobe's configuration or the kernel's command line keeps nouveau from loading.
      type: bool
      sample: true
    secure_boot:
      description: Whether the kernel takes signed modules only. Null where that cannot be told.
      type: str
      choices: [enabled, disabled]
      sample: disabled
    mok_enrolled:
      description: Whether the key that signs DKMS's modules is enrolled. Null where there is no key or no EFI.
      type: bool
      sample: true
    dkms_failed:
      description: Builds of NVIDIA's modules that failed.
      type: list
      elements: dict
      contains:
        kernel:
          description: Release of the kernel that was built for.
          type: str
          sample: 6.12.57+deb13-amd64
        path:
          description: Path of the build's log.
          type: str
          sample: /var/lib/dkms/nvidia/580.159.03/build/make.log
        log:
          description: The last lines of the build's log.
          type: str
          sample: "make: *** [Makefile:246: __sub-make] Error 2"
xid:
  description:
    - NVIDIA's XID messages in the kernel log since the host's start, oldest first; of NVSwitches, too. The same code of
      the same device is told once, with its last time.
  returned: always
  type: list
  elements: dict
  contains:
    time:
      description: When it was last logged, as the log writes it.
      type: str
      sample: "2026-11-22T07:14:03+0000"
    pci_bus_id:
      description: Address of the device.
      type: str
      sample: "0000:65:00.0"
    code:
      description: Number of the message.
      type: int
      sample: 79
    switch:
      description: Whether it is an NVSwitch's (SXID).
      type: bool
      sample: false
    text:
      description: What NVIDIA's catalogue says of the number.
      type: str
      sample: the GPU has fallen off the bus
    action:
      description: What NVIDIA has one do.
      type: str
      sample: restart the host; where it repeats, look at power and seating, and have the GPU replaced
    critical:
      description: Whether the GPU is not to be trusted before that was done; false where only a program was met.
      type: bool
      sample: true
    message:
      description: The driver's own words.
      type: str
      sample: GPU has fallen off the bus.
    count:
      description: How often it was logged.
      type: int
      sample: 1
fabric:
  description: NVSwitches and what they need.
  returned: always
  type: dict
  contains:
    nvswitches:
      description: NVSwitches on the PCI bus.
      type: int
      sample: 4
    fabricmanager_version:
      description: NVIDIA's version of the package of Fabric Manager.
      type: str
      sample: 580.159.03
    fabricmanager_active:
      description: Whether Fabric Manager runs; null where it is not there.
      type: bool
      sample: true
    nscq_version:
      description: NVIDIA's version of the package libnvidia-nscq.
      type: str
      sample: 580.159.03
toolkit:
  description: NVIDIA's container toolkit.
  returned: always
  type: dict
  contains:
    version:
      description: Version of the toolkit, null where there is none.
      type: str
      sample: 1.20.0
    mode:
      description: How Docker is told to give GPUs by its daemon.json. Null where it is told nothing.
      type: str
      choices: [cdi, legacy]
      sample: cdi
    refresh_path_unit:
      description: Whether nvidia-cdi-refresh.path watches for a new driver, V(active), V(inactive) or V(absent).
      type: str
      sample: active
    copies:
      description: Paths of nvidia-ctk that came by no package.
      type: list
      elements: str
      sample: []
    packages:
      description: The toolkit's packages, in the form of RV(driver.packages).
      type: list
      elements: dict
      sample: []
    sources:
      description: Package repositories in force that have the toolkit.
      type: list
      elements: dict
      contains:
        path:
          description: File that names it.
          type: str
          sample: /etc/apt/sources.list.d/nvidia-container-toolkit.list
        url:
          description: Its URL, without the architecture.
          type: str
          sample: https://nvidia.github.io/libnvidia-container/stable/deb
    units_enabled:
      description:
        - Whether nvidia-cdi-refresh.path and nvidia-cdi-refresh.service start with the host. Null where there are none,
          as before 1.18.
      type: bool
      sample: true
    record:
      description:
        - What the role P(onprem.llm.nvidia_container_toolkit#role) installed and held. Null where it did neither.
      type: dict
      sample: {installed: [nvidia-container-toolkit-base], held: [nvidia-container-toolkit-base]}
cdi:
  description: What names GPUs to containers.
  returned: always
  type: dict
  contains:
    specs:
      description: The CDI specifications of GPUs in /etc/cdi and /var/run/cdi, and those that cannot be read.
      type: list
      elements: dict
      contains:
        path:
          description: Path of the file.
          type: str
          sample: /var/run/cdi/nvidia.yaml
        kind:
          description: Vendor and class of its devices.
          type: str
          sample: nvidia.com/gpu
        devices:
          description: Names of its devices.
          type: list
          elements: str
          sample: ["0", GPU-6a1e2f0c-8a51-4b6e-9a53-0d8c9c2f7a10, all]
        version:
          description: Version of the CDI specification that it is of.
          type: str
          sample: 0.5.0
        valid:
          description: Whether Docker can use it, and every file and device that it names is there.
          type: bool
          sample: true
        reason:
          description: Why it is not valid.
          type: str
          sample: it names /dev/nvidia0, which is not there
        driver_version:
          description: Version of the driver's libraries that it names; null where it names none.
          type: str
          sample: 580.159.03
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
    architecture:
      description: Architecture of a GPU, in the words of RV(gpus[].architecture); null of what is none or is not known.
      type: str
      sample: ada
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

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_host


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "nvidia_smi": {"type": "str", "default": "nvidia-smi"},
            "root": {"type": "path", "default": "/"},
            "timeout": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    if module.params["timeout"] <= 0:
        module.fail_json(msg="timeout is {:g}; a number of seconds above 0 is needed".format(module.params["timeout"]))
    root = module.params["root"]
    if not os.path.isdir(root):
        module.fail_json(msg=f"root is {root}, which is no directory; / reads the running system")
    module.exit_json(
        changed=False, **_gpu_host.collect(module.params["nvidia_smi"], module.params["timeout"], root=root)
    )


if __name__ == "__main__":
    main()
