# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every trouble that the collection knows of GPUs: its code, what it means, what mends it, and whether it blocks."""

from __future__ import annotations

import typing as t

Problem = dict[str, str]


class Known(t.NamedTuple):
    """``meaning`` and ``remedy``: sentences without their full stop. ``blocks``: no GPU of the host is counted on."""

    meaning: str
    remedy: str
    blocks: bool = False


# docs/gpu.md shows this table.
KNOWN: dict[str, Known] = {
    # The driver does not answer, or says why it cannot.
    "nvidia_smi_missing": Known(
        "there is an NVIDIA GPU and no nvidia-smi: the NVIDIA driver is not installed, or not all of it",
        "install the driver with the role nvidia_driver",
        True,
    ),
    "driver_not_loaded": Known(
        "the NVIDIA kernel module is not loaded",
        "see kernel.modules, kernel.dkms_failed and kernel.secure_boot for why; install the driver where there is none",
        True,
    ),
    "library_missing": Known(
        "the driver's library libnvidia-ml is not installed", "install the driver's packages of one version", True
    ),
    "version_mismatch": Known(
        "the kernel module and the driver library differ in version: an update, and no restart of the host since",
        "restart the host; to install again changes nothing",
        True,
    ),
    "driver_too_old": Known(
        "nvidia-smi does not know a field that is asked for: the driver is too old", "install a newer branch", True
    ),
    "nvml_failed": Known(
        "the driver's management library does not start", "see the kernel log; restart the host", True
    ),
    "nvidia_smi_failed": Known("nvidia-smi failed", "see its words, and the kernel log", True),
    "hangs": Known("nvidia-smi gave no answer: the driver hangs", "see the kernel log and restart the host", True),
    "no_permission": Known(
        "the user lacks the right to ask the driver", "run as root, or see the modes of /dev/nvidia*", True
    ),
    "blocked": Known(
        "the operating system blocks the access to the GPU",
        "in a container: give it the GPU again (its cgroup lost the device); else see SELinux and AppArmor",
        True,
    ),
    "no_devices": Known(
        "the driver runs and finds no GPU",
        "see the kernel log: the module may not support the card (open modules need Turing or newer), or the card "
        "may be given to a virtual machine",
        True,
    ),
    # A GPU is in trouble.
    "device_lost": Known(
        "a GPU does not answer any more",
        "see the kernel log for XID messages and restart the host; where it comes back, look at power and seating",
        True,
    ),
    "reset_required": Known(
        "a GPU must be reset before it computes again", "nvidia-smi --gpu-reset -i INDEX, or restart the host", True
    ),
    "gpu_missing": Known(
        "more GPUs are on the PCI bus than the driver shows",
        "see the kernel log for the missing one; a dead or unsupported GPU is left out by the driver",
        True,
    ),
    "recovery_due": Known(
        "the driver asks for a GPU to be recovered", "reset the GPU or restart the host, as the message says"
    ),
    "memory_unknown": Known("the driver does not tell a GPU's memory", "nothing is planned on it; see the kernel log"),
    "unknown_value": Known("the driver answers 'Unknown Error' for a value of a GPU", "see the kernel log"),
    "fields_unknown": Known(
        "this nvidia-smi does not know some of the fields, which are null", "nothing, or a newer or older driver"
    ),
    "compute_mode": Known(
        "the GPU's compute mode keeps the engine, or its second model, off the GPU", "nvidia-smi -i INDEX -c DEFAULT"
    ),
    "thermal_slowdown": Known(
        "the GPU runs slower because it is too hot", "look at fans, air flow and room; nvidia-smi -q -d TEMPERATURE"
    ),
    "power_brake": Known(
        "the GPU runs slower because the power supply asked for it", "look at power supply and cables"
    ),
    "ecc_uncorrected": Known(
        "the GPU's memory had errors that could not be corrected since the driver was loaded",
        "restart the host; where they come back, have the GPU replaced",
    ),
    "row_remap_pending": Known(
        "a row of the GPU's memory is replaced with the next reset", "reset the GPU or restart the host when it is idle"
    ),
    "row_remap_failure": Known("a row of the GPU's memory could not be replaced", "have the GPU replaced"),
    "retired_pages_pending": Known(
        "pages of the GPU's memory are retired with the next restart", "restart the host when it is idle"
    ),
    "kernel_log_unreadable": Known(
        "the kernel log cannot be read, so nothing is known of XID messages", "run as root, or keep a journal"
    ),
    "xid_critical": Known(
        "the kernel log has an XID message after which NVIDIA has the GPU reset, the host restarted or parts looked at",
        "do what the message says; xid has all of them",
    ),
    "xid_application": Known(
        "the kernel log has an XID message that ends programs and leaves the GPU whole",
        "see the engine's log of that time; where it repeats with any program, treat it as a fault of the GPU",
    ),
    # MIG and ECC.
    "mig_mode_pending": Known("MIG changes with the next reset", "reset the GPU, or take the change back"),
    "mig_no_instance": Known("MIG is enabled, and there is no instance", "make instances, or turn MIG off"),
    "mig_unknown": Known("a MIG device's UUID or memory is not told", "see nvidia-smi -L and nvidia-smi -q -x"),
    "mig_unreadable": Known("the MIG instances cannot be read", "see nvidia-smi -L and nvidia-smi -q -x"),
    "ecc_mode_pending": Known("error correction changes with the next restart", "restart, or take the change back"),
    # Kernel and installed driver.
    "nouveau_loaded": Known(
        "the kernel module nouveau is loaded and keeps the NVIDIA driver from the GPU",
        "keep it from loading (blacklist under /etc/modprobe.d, new initramfs) and restart the host",
    ),
    "restart_due": Known("another driver version is loaded than is installed", "restart the host"),
    "library_differs": Known(
        "the driver's library and its kernel module on disk differ in version, also after a restart",
        "bring the driver's packages to one version",
    ),
    "packages_differ": Known("packages of the driver are of different versions", "bring them to one version"),
    "runfile_driver": Known(
        "the driver was installed by NVIDIA's runfile, of which no package manager knows",
        "nvidia-uninstall as root, then install packages",
    ),
    "module_missing": Known(
        "there is no NVIDIA kernel module for a kernel that runs or that the next start boots",
        "install that kernel's headers and build (dkms autoinstall), or install its module package",
    ),
    "headers_missing": Known(
        "DKMS builds the driver's modules, and a kernel's headers are not there", "install the headers of that kernel"
    ),
    "dkms_failed": Known("DKMS failed to build the driver's modules for a kernel", "see the build's log"),
    "secure_boot_key": Known(
        "Secure Boot is on, and the key that signs DKMS's modules is not enrolled, so the kernel refuses them",
        "mokutil --import KEY, restart, and enroll it at the console; or take modules that the distribution signed",
    ),
    "gpu_unknown": Known(
        "the PCI device of a GPU is not in the table of architectures", "a newer release of the collection may know it"
    ),
    "gpu_too_old": Known("the GPU is older than Maxwell", "no driver branch that is still kept runs it; take it out"),
    "pci_unreadable": Known("the PCI bus cannot be read", "run as root, and see that /sys is mounted"),
    # NVSwitch.
    "fabricmanager_missing": Known(
        "the host has NVSwitches and no Fabric Manager, without which CUDA does not start there",
        "install nvidia-fabricmanager of exactly the driver's version",
    ),
    "fabricmanager_version": Known(
        "Fabric Manager and driver differ in version, so it ends at once",
        "install nvidia-fabricmanager of exactly the driver's version",
    ),
    "fabricmanager_inactive": Known("Fabric Manager does not run", "systemctl status nvidia-fabricmanager"),
    # Containers.
    "two_toolkits": Known(
        "more than one of NVIDIA's container toolkits is installed", "remove the older: nvidia-docker2, or the copy "
        "outside the packages"
    ),
    "cdi_invalid": Known("a CDI specification cannot be used", "nvidia-ctk cdi generate --output=FILE"),
    "cdi_conflict": Known(
        "two CDI specifications of one directory name the same device, so Docker gives neither", "remove one of them"
    ),
    "cdi_stale": Known(
        "a CDI specification is of another driver version", "systemctl restart nvidia-cdi-refresh.service, or "
        "nvidia-ctk cdi generate --output=FILE"
    ),
}  # fmt: skip


def problem(code: str, message: str = "") -> Problem:
    """A trouble that was met, in its own words or in those of the table.

    :raises KeyError: the code is not in the table.
    """
    known = KNOWN[code]
    return {"code": code, "message": message or known.meaning}
