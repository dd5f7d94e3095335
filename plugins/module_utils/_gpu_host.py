# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has to compute on: NVIDIA GPUs, the PCI bus beneath, driver, kernel, containers' way to them, memory."""

from __future__ import annotations

import functools
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import (
    _container_gpus,
    _gpu_architectures,
    _gpu_health,
    _kernel,
    _kernel_log,
    _nvidia_driver_files,
    _nvidia_fabric,
    _nvidia_packages,
    _nvidia_smi,
    _nvml,
    _rooted,
    _topology,
)
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run, call_apart, run_bounded
from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import KNOWN, Problem, problem

# PCI classes of graphics cards (VGA, 3D), vendor NVIDIA.
_VENDOR, _GPU_CLASSES = "0x10de", ("0x0300", "0x0302")
# These hold a card for a virtual machine.
_GIVEN_AWAY = ("vfio-pci", "pci-stub")

Nvml = t.Callable[[float], "dict[str, t.Any] | None"]


def ask_nvml(timeout: float) -> dict[str, t.Any] | None:
    """What NVML tells, asked in a child process; None where the child died.

    :raises NotAnswering: it hangs.
    """
    found: dict[str, t.Any] | None = call_apart(functools.partial(_nvml.read, _nvml.LIBRARY), timeout)
    return found


def pci_devices(root: str = "/") -> list[dict[str, t.Any]]:
    """NVIDIA's devices on the PCI bus: address, vendor, device, class as sysfs writes them, bound driver, architecture.

    :raises PermissionError: the bus may not be read.
    """
    base = os.path.join(root, "sys/bus/pci/devices")
    found = []
    for address in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        where = f"sys/bus/pci/devices/{address}"
        vendor, device, kind = (
            (_rooted.read(root, f"{where}/{name}") or "").strip() for name in ("vendor", "device", "class")
        )
        if vendor == _VENDOR:
            link = os.path.join(base, address, "driver")
            found.append(
                {
                    "address": address,
                    "vendor_id": vendor,
                    "device_id": device,
                    "class": kind,
                    "driver": os.path.basename(os.readlink(link)) if os.path.islink(link) else None,
                    "architecture": _gpu_architectures.of_device(device) if kind[:6] in _GPU_CLASSES else None,
                }
            )
    return found


def host(root: str = "/") -> dict[str, t.Any]:
    """The host's memory in bytes, its processors, those that this process may run on, and its NUMA nodes."""
    values = {
        line.split(":")[0]: line.split(":")[1].split()[0]
        for line in (_rooted.read(root, "proc/meminfo") or "").splitlines()
        if re.match(r"^\w+:\s+\d+", line)
    }
    total, available = (int(values[key]) * 1024 if key in values else None for key in ("MemTotal", "MemAvailable"))
    return {
        "memory_total_bytes": total,
        "memory_available_bytes": available,
        "cpu_count": len(os.sched_getaffinity(0)),
        "numa_nodes": _topology.numa_nodes(root),
    }


class _Answer(t.NamedTuple):
    """What the driver said: GPUs, versions, problems. ``asked``: there is a driver of some kind."""

    gpus: list[dict[str, t.Any]]
    version: str | None
    cuda: str | None
    problems: list[Problem]
    asked: bool


def _by_nvml(nvml: Nvml | None, timeout: float) -> _Answer:
    """The GPUs where there is no nvidia-smi."""
    try:
        told = nvml(timeout) if nvml else None
    except NotAnswering:
        return _Answer([], None, None, [_hangs("NVML", timeout)], True)
    if not told or told["code"] == "library_missing":
        return _Answer([], None, None, [], False)
    problems = [problem(told["code"])] if told["code"] else []
    problems += [
        problem(code, f"GPU {index}: {KNOWN[code].meaning}; {KNOWN[code].remedy}") for index, code in told["lost"]
    ]
    return _Answer(told["gpus"], told["driver_version"], told["cuda_version"], problems, True)


def _hangs(what: str, timeout: float) -> Problem:
    return problem(
        "hangs",
        f"{what} gave no answer within {timeout:g} seconds: the driver hangs, see the kernel log and restart the host",
    )


def _ask_driver(nvidia_smi: str, timeout: float, run: Run, nvml: Nvml | None, cards: bool) -> _Answer:
    """Ask nvidia-smi once, and NVML for the rest; NVML for all where there is no nvidia-smi."""
    try:
        gpus, version, problems = _nvidia_smi.query(nvidia_smi, timeout, run)
        problems += _nvidia_smi.add_mig_devices(gpus, nvidia_smi, timeout, run)
    except NotAnswering:
        return _Answer([], None, None, [_hangs("nvidia-smi", timeout)], True)
    except FileNotFoundError:
        found = _by_nvml(nvml, timeout) if cards else _Answer([], None, None, [], False)
        missing = problem("nvidia_smi_missing", f"there is no {nvidia_smi}: the NVIDIA driver is not installed")
        if found.asked:
            missing = problem("nvidia_smi_missing", f"there is no {nvidia_smi}; NVML was asked instead")
        return found._replace(problems=[*([missing] if cards else []), *found.problems])
    except OSError as error:
        return _Answer(
            [], None, None, [problem("no_permission", f"{nvidia_smi} cannot be run: {error.strerror}")], False
        )
    cuda = None
    if gpus and nvml:
        try:
            told = nvml(timeout) or {"gpus": [], "cuda_version": None}
        except NotAnswering:
            problems.append(_hangs("NVML", timeout))
        else:
            _nvml.complete(gpus, told["gpus"])
            cuda = told["cuda_version"]
    return _Answer(gpus, version, cuda, problems, True)


def _gpu_problems(gpus: t.Iterable[dict[str, t.Any]], cards: t.Sequence[dict[str, t.Any]]) -> list[Problem]:
    found = [item for gpu in gpus for item in _gpu_health.problems(gpu)]
    shown = {(gpu["pci_bus_id"] or "").lower()[-12:] for gpu in gpus}
    for card in cards:
        if card["architecture"] is None:
            found.append(
                problem(
                    "gpu_unknown",
                    f"the GPU at {card['address']} (PCI device {card['device_id']}) is of an unknown architecture",
                )
            )
        elif card["architecture"] == "older" and card["address"][-12:] not in shown:
            found.append(problem("gpu_too_old", f"the GPU at {card['address']} is older than Maxwell"))
    return found


def _driver_problems(driver: t.Mapping[str, t.Any], kernel: t.Mapping[str, t.Any]) -> list[Problem]:
    """What is wrong with what is installed: what the next start would meet."""
    found = []
    loaded, installed, library = (driver[f"{key}_version"] for key in ("loaded", "installed", "library"))
    if loaded and installed and loaded != installed:
        found.append(
            problem(
                "restart_due",
                f"the driver {loaded} is loaded and {installed} is installed: a restart of the host is due",
            )
        )
    if driver["runfile"]:
        found.append(
            problem(
                "runfile_driver",
                "the driver was installed by NVIDIA's runfile, of which no package manager knows: nvidia-uninstall as "
                "root, then install packages",
            )
        )
    if library and installed and library != installed:
        found.append(
            problem(
                "library_differs",
                f"the driver's library on disk is {library} and the kernel module {installed}: bring the driver's "
                "packages to one version",
            )
        )
    versions = _nvidia_packages.versions_in_step(driver["packages"])
    if len(versions) > 1:
        told = "; ".join(f"{version}: {', '.join(names[:4])}" for version, names in sorted(versions.items()))
        found.append(problem("packages_differ", f"packages of the driver are of different versions ({told})"))
    built = any(re.search(r"dkms|akmod|kernel-source", one["name"]) for one in driver["packages"])
    modules = kernel["modules"]
    if any(modules.values()) or built:
        for release in dict.fromkeys((kernel["running"], kernel["newest_installed"])):
            if release in modules and not modules[release]:
                when = "runs" if release == kernel["running"] else "is booted next"
                found.append(
                    problem("module_missing", f"there is no NVIDIA kernel module for {release}, the kernel that {when}")
                )
            if built and release in modules and not kernel["headers"].get(release):
                found.append(
                    problem(
                        "headers_missing",
                        f"the headers of kernel {release} are not there, so DKMS builds nothing for it",
                    )
                )
    if built and kernel["secure_boot"] == "enabled" and kernel["mok_enrolled"] is False and not loaded:
        found.append(problem("secure_boot_key"))
    for build in kernel["dkms_failed"]:
        last = build["log"].splitlines()[-1:] or [""]
        found.append(
            problem(
                "dkms_failed",
                f"DKMS built no modules for kernel {build['kernel']} (see {build['path']}): {last[0].strip()}",
            )
        )
    return found


def _xid_problems(events: t.Iterable[t.Mapping[str, t.Any]]) -> list[Problem]:
    found = []
    for event in events:
        name = "SXID" if event["switch"] else "XID"
        times = f" {event['count']} times, last" if event["count"] > 1 else ""
        found.append(
            problem(
                "xid_critical" if event["critical"] else "xid_application",
                f"{event['pci_bus_id']}: {name} {event['code']}{times} at {event['time'] or 'an unknown time'}: "
                f"{event['text']}; {event['action']}",
            )
        )
    return found


def _state(gpus: t.Sequence[t.Any], cards: t.Sequence[t.Any], problems: t.Sequence[Problem], cards_known: bool) -> str:
    """The state, by the problems of the driver and its GPUs."""
    codes = {item["code"] for item in problems if KNOWN[item["code"]].blocks}
    if gpus and codes <= {"nvidia_smi_missing"}:
        return "ready"
    absent = {"driver_not_loaded", "nvidia_smi_missing"}
    if not gpus and not cards and cards_known and codes <= {"no_devices", *absent}:
        return "no_gpu"
    if not gpus and codes <= {"library_missing", *absent} and (cards or codes):
        return "no_driver"
    return "broken"


def collect(
    nvidia_smi: str, timeout: float, run: Run = run_bounded, root: str = "/", nvml: Nvml | None = None
) -> dict[str, t.Any]:
    """Everything, with the state: ``ready``, ``no_gpu``, ``no_driver`` or ``broken``. Times are seconds.

    ``nvml`` asks NVML; by default :func:`ask_nvml` for the running system, and nothing below another root.
    """
    if nvml is None and root == "/":
        nvml = ask_nvml
    problems: list[Problem] = []
    try:
        devices = pci_devices(root)
    except OSError as error:
        devices = []
        problems.append(problem("pci_unreadable", f"the PCI bus cannot be read: {error.strerror}"))
    cards = [
        device for device in devices if device["class"][:6] in _GPU_CLASSES and device["driver"] not in _GIVEN_AWAY
    ]
    answer = _ask_driver(nvidia_smi, timeout, run, nvml, bool(cards))
    gpus = answer.gpus
    problems = [*answer.problems, *problems]
    # A host without a card and without a driver is asked nothing that costs a process.
    concerned = answer.asked or bool(devices)
    kernel = _kernel.read(run, root, concerned)
    packages = _nvidia_packages.read(run, root) if concerned else []
    driver = _nvidia_driver_files.read(run, root, kernel, packages)
    driver["loaded_version"] = answer.version or driver["loaded_version"]
    driver["cuda_version"] = answer.cuda

    if kernel["nouveau_loaded"] or any(card["driver"] == "nouveau" for card in cards):
        problems.append(
            problem("nouveau_loaded", "the kernel module nouveau is loaded and keeps the NVIDIA driver from the GPU")
        )
    if gpus and len(cards) > len(gpus):
        problems.append(
            problem("gpu_missing", f"{len(cards)} NVIDIA GPUs are on the PCI bus, the driver shows {len(gpus)}")
        )
    state = _state(gpus, cards, problems, not any(item["code"] == "pci_unreadable" for item in problems))
    fabric = _nvidia_fabric.read(devices, packages, run, root)
    toolkit = _container_gpus.toolkit(run, root, _nvidia_packages.of_toolkit(packages))
    specs = _container_gpus.specs(root)
    events = _kernel_log.read(run, root) if concerned else []
    if state == "no_gpu":
        problems = []
    else:
        problems += _gpu_problems(gpus, cards)
        problems += _driver_problems(driver, kernel)
        problems += _nvidia_fabric.problems(fabric, driver, gpus)
        problems += _xid_problems(events or []) if events is not None else [problem("kernel_log_unreadable")]
        problems += _container_gpus.problems(specs, toolkit, driver)
    return {
        "gpus": gpus,
        "driver": driver,
        "kernel": kernel,
        "xid": events or [],
        "fabric": fabric,
        "toolkit": toolkit,
        "cdi": {"specs": specs},
        "pci_devices": devices,
        "host": host(root),
        "state": state,
        "problems": problems,
    }
