# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rungs of a GPU host, from what ``gpu_info`` returns: from the bus to the CDI specifications."""

from __future__ import annotations

import os
import re
import stat
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._diagnosis import Finding, broken, not_asked, ok, remark
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_reader import Host
from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import KNOWN

Info = t.Mapping[str, t.Any]
_GPU_CLASSES = ("0x0300", "0x0302")
# Problems of gpu_info by the rung that tells of them: what the driver answers, what a GPU says of itself, and of the
# latter what is worth knowing and no fault yet.
_SMI_CODES = {
    "blocked", "device_lost", "driver_not_loaded", "driver_too_old", "gpu_missing", "hangs", "library_missing",
    "no_devices", "no_permission", "nvidia_smi_failed", "nvidia_smi_missing", "nvml_failed", "reset_required",
    "version_mismatch",
}  # fmt: skip
_HEALTH_CODES = {
    "compute_mode", "fabricmanager_inactive", "fabricmanager_missing", "fabricmanager_version", "mig_no_instance",
    "power_brake", "recovery_due", "row_remap_failure", "thermal_slowdown",
}  # fmt: skip
_WORTH_KNOWING = {
    "ecc_mode_pending", "ecc_uncorrected", "mig_mode_pending", "mig_unknown", "mig_unreadable", "retired_pages_pending",
    "row_remap_pending",
}  # fmt: skip
# CVE-2025-23266 and CVE-2025-23267 are fixed in the first, CVE-2026-24260 in the second.
TOOLKIT_FLOOR, TOOLKIT_PREFERRED = (1, 17, 8), (1, 20, 0)
KIND = "nvidia.com/gpu"
DRIVER = "ansible-playbook site.yml --limit {host} (role nvidia_driver)"
TOOLKIT = "ansible-playbook site.yml --limit {host} (role nvidia_container_toolkit)"
REGENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


def planned_gpus(plan: t.Mapping[str, t.Any] | None) -> list[str]:
    """UUIDs of the GPUs, or MIG devices, that the plan gives the engine."""
    return [str(gpu) for instance in (plan or {}).get("instances") or [] for gpu in instance.get("gpus") or []]


def _cards(info: Info) -> list[t.Mapping[str, t.Any]]:
    return [device for device in info["pci_devices"] if str(device["class"])[:6] in _GPU_CLASSES]


def _hidden(info: Info) -> bool:
    """Whether nvidia-smi shows GPUs that the PCI bus does not, as in a container."""
    return bool(info["gpus"]) and not _cards(info)


def hardware(info: Info, plan: t.Mapping[str, t.Any] | None, wanted: Wanted) -> Finding:
    cards = _cards(info)
    if _hidden(info):
        return not_asked("hardware", "the PCI bus is not shown here, and nvidia-smi answers: a container, or simulated")
    if not cards:
        return broken(
            "hardware",
            "no NVIDIA GPU on the PCI bus",
            "It is not in its slot, has no power, is off in the firmware, or was not passed on to this machine.",
            "lspci -nn -d 10de:; the firmware's PCIe settings (Above 4G Decoding); the hypervisor's passthrough; or "
            "move the host to cpu_nodes",
        )
    taken = [card for card in cards if card["driver"] in ("vfio-pci", "pci-stub")]
    if len(taken) == len(cards):
        return broken(
            "hardware",
            f"{len(taken)} GPUs, each held by {taken[0]['driver']}",
            "They are set aside for virtual machines.",
            "take their ids out of vfio-pci.ids (kernel command line, /etc/modprobe.d), or run the engine in the VM",
        )
    # By the bus of what nvidia-smi shows: instances of MIG share a card.
    missing = len({gpu.split("/")[0] for gpu in planned_gpus(plan) if gpu.startswith("GPU-")}) - len(cards)
    if missing > 0:
        return broken(
            "hardware",
            f"{len(cards)} GPUs on the PCI bus, and the plan has {len(cards) + missing}",
            "A GPU fell off the bus or was taken out.",
            "journalctl -k -b | grep -E 'NVRM|AER|pcieport'; switch the host off and on; then "
            + wanted.mend("ansible-playbook playbooks/plan.yml --limit {host}"),
        )
    return ok("hardware", f"{len(cards)} NVIDIA GPUs on the PCI bus")


def firmware(info: Info, wanted: Wanted) -> Finding:
    kernel = info["kernel"]
    state = kernel["secure_boot"]
    unloaded = not info["driver"]["loaded_version"] and not _hidden(info)
    if state == "enabled" and unloaded and kernel["mok_enrolled"] is not True and info["driver"]["installed_version"]:
        return broken(
            "firmware",
            "Secure Boot is on, the module is not loaded, and its signing key is not among those enrolled",
            "The kernel refuses a module whose signature it does not know (modprobe: Key was rejected by service).",
            "mokutil --import /var/lib/dkms/mok.pub; restart, and enrol the key at the console (MOK manager); or use "
            "the distribution's signed modules",
        )
    return ok("firmware", f"Secure Boot is {state or 'not told, as without UEFI'}")


def module(info: Info, wanted: Wanted) -> Finding:
    driver, kernel = info["driver"], info["kernel"]
    loaded, installed = driver["loaded_version"], driver["installed_version"]
    if kernel["nouveau_loaded"]:
        return broken(
            "module",
            "nouveau is loaded" + ("" if kernel["nouveau_blacklisted"] else ", and nothing keeps it from loading"),
            "The kernel's own driver holds the GPUs, so NVIDIA's cannot.",
            "echo 'blacklist nouveau' > /etc/modprobe.d/nouveau.conf; update-initramfs -u; restart; or "
            + wanted.mend(DRIVER),
        )
    if not loaded:
        if _hidden(info):
            return not_asked("module", "no module is shown here, and nvidia-smi answers: a container, or simulated")
        failed = kernel["dkms_failed"]
        if failed:
            item = failed[0]
            last = (str(item.get("log") or "").strip().splitlines() or ["no log"])[-1]
            reason = f"its build for the kernel {item['kernel']} failed: {last}"
        elif installed:
            reason = f"{installed} is installed and does not load"
        elif kernel.get("headers", {}).get(kernel.get("running")) is False:
            reason = f"none is built for {kernel['running']}, whose headers are not installed"
        else:
            reason = f"none is installed for the kernel {kernel.get('running')}"
        return broken(
            "module",
            f"no NVIDIA module is loaded: {reason}",
            "No program reaches the GPUs, and the engine computes on the CPU.",
            "modprobe nvidia; dmesg | tail; dkms status; " + wanted.mend(DRIVER),
        )
    if installed and installed != loaded:
        return broken(
            "module",
            f"{loaded} is loaded and {installed} is installed",
            "The driver was updated and the host not restarted: new programs and containers get libraries that do not "
            "match the module (Driver/library version mismatch).",
            "drain the node (playbooks/drain.yml), restart it; reinstalling mends nothing",
        )
    newest = kernel.get("newest_installed")
    if newest and newest != kernel.get("running") and (kernel.get("modules") or {}).get(newest, loaded) is None:
        return remark(
            "module",
            f"{loaded} is loaded; the newest kernel {newest} has none",
            "After the next restart there is no driver.",
            wanted.mend(DRIVER),
        )
    return ok("module", f"{loaded}, {driver.get('loaded_flavor') or 'kind not told'}, as installed")


def xid(info: Info, wanted: Wanted) -> Finding:
    critical = [item for item in info["xid"] if item["critical"]]
    if critical:
        last = critical[-1]
        codes = ", ".join(map(str, sorted({item["code"] for item in critical})))
        when = f" at {last['time']}" if last["time"] else ""
        return broken(
            "xid",
            f"XID {codes} since boot; the last of {last['pci_bus_id']}{when}: {last['text']}",
            "The driver reported faults of the GPU or its link itself, not of a program.",
            f"drain the node (playbooks/drain.yml); {last['action']}",
        )
    others = sorted({item["code"] for item in info["xid"]})
    if others:
        codes = ", ".join(map(str, others))
        return remark("xid", f"XID {codes} since boot", "Programs caused these, such as one that was killed.")
    return ok("xid", "none in the kernel's log")


def device_nodes(host: Host, info: Info, wanted: Wanted) -> Finding:
    nodes = host.glob("/dev/nvidia[0-9]*")
    if not nodes and _hidden(info):
        return not_asked("device_nodes", "none are shown here, and nvidia-smi answers: a container, or simulated")
    missing = [path for path in ("/dev/nvidiactl", "/dev/nvidia-uvm") if not host.exists(path)]
    bound = [card for card in _cards(info) if card["driver"] == "nvidia"]
    if len(nodes) < len(bound):
        missing.append(f"{len(bound) - len(nodes)} of {len(bound)} /dev/nvidia<n>")
    if missing:
        return broken(
            "device_nodes",
            f"not there: {', '.join(missing)}",
            "Containers get no GPU, even where nvidia-smi works on the host.",
            "nvidia-modprobe -u -c=0; systemctl restart nvidia-persistenced",
        )
    shut = [path for path in (*nodes, "/dev/nvidiactl", "/dev/nvidia-uvm") if not _open_to_all(host.path(path))]
    if shut:
        return broken(
            "device_nodes",
            f"not for everybody to use: {', '.join(shut)}",
            "The engine runs as a user without rights, and cannot open them.",
            "NVreg_DeviceFileMode in /etc/modprobe.d; udev rules of others; chmod 0666 until then",
        )
    return ok("device_nodes", f"{len(nodes)} GPUs, nvidiactl, nvidia-uvm")


def _open_to_all(path: str) -> bool:
    try:
        return (os.stat(path).st_mode & (stat.S_IROTH | stat.S_IWOTH)) == stat.S_IROTH | stat.S_IWOTH
    except OSError:
        return True


def nvidia_smi(info: Info, plan: t.Mapping[str, t.Any] | None, wanted: Wanted) -> Finding:
    said = [item["message"] for item in info["problems"] if item["code"] in _SMI_CODES]
    known = {gpu["uuid"] for gpu in info["gpus"]} | {
        device["uuid"] for gpu in info["gpus"] for device in gpu["mig_devices"]
    }
    lost = [gpu for gpu in planned_gpus(plan) if gpu not in known]
    if said or not info["gpus"]:
        return broken(
            "nvidia_smi",
            "; ".join(said) or "; ".join(item["message"] for item in info["problems"]) or "it shows no GPU",
            "Driver or GPU are in trouble; a container cannot use what the host cannot.",
            "nvidia-smi; journalctl -k -b | grep -i nvrm; drain the node (playbooks/drain.yml) and restart it",
        )
    if lost:
        return broken(
            "nvidia_smi",
            f"not among the {len(info['gpus'])} GPUs that it shows: {', '.join(lost)}",
            "A GPU that the plan counts with is gone, was exchanged, or is divided otherwise (MIG).",
            "nvidia-smi -L; after a change that was wished: " + wanted.mend(),
        )
    names = ", ".join(sorted({str(gpu["name"]) for gpu in info["gpus"]}))
    return ok(
        "nvidia_smi", f"{len(info['gpus'])} GPUs ({names}), driver {info['driver']['loaded_version'] or 'not told'}"
    )


def gpu_health(info: Info, wanted: Wanted) -> Finding:
    wrong = [item for item in info["problems"] if item["code"] in _HEALTH_CODES]
    worth = [item for item in info["problems"] if item["code"] in _WORTH_KNOWING]
    if wrong:
        return broken(
            "gpu_health",
            "; ".join(item["message"] for item in wrong),
            "The GPU computes slowly, wrongly or not at all.",
            "; ".join(dict.fromkeys(KNOWN[item["code"]].remedy for item in wrong))
            + "; what needs a restart: drain the node first (playbooks/drain.yml)",
        )
    if worth:
        text = "; ".join(item["message"] for item in worth)
        return remark("gpu_health", text, "Restart the node when it suits.", "playbooks/drain.yml, restart")
    heats = [gpu["temperature_celsius"] for gpu in info["gpus"] if gpu["temperature_celsius"] is not None]
    return ok("gpu_health", f"no fault told{f', at most {max(heats)} °C' if heats else ''}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def toolkit(info: Info, wanted: Wanted) -> Finding:
    version = info["toolkit"]["version"]
    if not version:
        return not_asked("toolkit", "not installed; the CDI specification is kept by others")
    if _version(version) < TOOLKIT_FLOOR:
        return broken(
            "toolkit",
            f"{version}, below 1.17.8",
            "CVE-2025-23266 and CVE-2025-23267: a container takes over its host.",
            wanted.mend(TOOLKIT),
        )
    if _version(version) < TOOLKIT_PREFERRED:
        return remark("toolkit", f"{version}, below 1.20.0", "CVE-2026-24260.", wanted.mend(TOOLKIT))
    return ok("toolkit", str(version))


def cdi(info: Info, plan: t.Mapping[str, t.Any] | None, wanted: Wanted) -> Finding:
    specs = info["cdi"]["specs"]
    bad = [f"{spec['path']}: {spec['reason']}" for spec in specs if not spec["valid"]]
    if bad:
        return broken(
            "cdi", "; ".join(bad), "Docker cannot resolve the GPUs' names, and the engine does not start.", REGENERATE
        )
    ours = [spec for spec in specs if spec["kind"] == KIND]
    if not ours:
        return broken(
            "cdi",
            "no specification in /etc/cdi or /var/run/cdi names a device of the kind nvidia.com/gpu",
            "No container can be given a GPU: unresolvable CDI devices.",
            REGENERATE + "; or " + wanted.mend(TOOLKIT),
        )
    named = {str(device) for spec in ours for device in spec["devices"]}
    lacking = [gpu for gpu in planned_gpus(plan) if gpu not in named]
    if lacking:
        return broken(
            "cdi",
            f"the specifications lack {', '.join(lacking)}",
            "They were written for other GPUs, or before MIG was changed; nothing writes them anew by itself then.",
            REGENERATE,
        )
    loaded = info["driver"]["loaded_version"]
    old = [spec for spec in ours if loaded and spec.get("driver_version") not in (None, loaded)]
    if old:
        return broken(
            "cdi",
            f"{old[0]['path']} was written for driver {old[0]['driver_version']}, and {loaded} is loaded",
            "Containers are given libraries that are not there, or do not match the module.",
            REGENERATE,
        )
    return ok("cdi", f"{len(named)} names in {', '.join(spec['path'] for spec in ours)}")
