# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has to compute on: its NVIDIA GPUs as the driver tells, the PCI bus beneath, and its memory.

nvidia-smi is asked once, and where a GPU has MIG enabled twice more, for its instances. Its answer is text for people
as much as for programs: a value may be replaced by words in brackets, a lost GPU by a sentence, and a driver in trouble
may never answer at all. Each of those becomes a problem with a code and a sentence, never an exception.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _mig, _topology

MIB = 2**20

# `name` is the one value that may hold a comma; what stands after it is counted from the end.
FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.free",
    "memory.used",
    "compute_cap",
    "pci.bus_id",
    "mig.mode.current",
    "mig.mode.pending",
    "ecc.mode.current",
    "ecc.mode.pending",
    "display_active",
    "persistence_mode",
    "driver_version",
)

_NOTHING = re.compile(
    r"^(|n/?a|err!?|\[?(n/?a|not supported|unknown error|not found|no data|gpu requires reset|gpu is lost"
    r"|insufficient permissions)\]?)$",
    re.I,
)

# What nvidia-smi says when it fails (NVML's nvmlErrorString and its own sentences), most telling first.
_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        r"driver/library version mismatch",
        "version_mismatch",
        "the kernel module and the driver library differ in version: an update, and no restart of the host since",
    ),
    (
        r"unable to determine the device handle|gpu is lost|gpu has fallen off",
        "device_lost",
        "a GPU does not answer any more: see the kernel log for XID messages and restart the host",
    ),
    (r"requires? (a )?reset", "reset_required", "a GPU must be reset before it computes again"),
    (
        r"insufficient permissions|no permission|permission denied",
        "no_permission",
        "the user lacks the right to ask the driver",
    ),
    (r"access blocked by the operating system", "blocked", "the operating system blocks the access to the GPU"),
    (
        r"couldn'?t find libnvidia-ml|libnvidia-ml\.so.*(not found|no such file)",
        "library_missing",
        "the driver's library libnvidia-ml is not installed",
    ),
    (
        r"couldn'?t communicate with the nvidia driver|driver not loaded|driver is not loaded",
        "driver_not_loaded",
        "the NVIDIA kernel module is not loaded",
    ),
    (
        r"not a valid field to query",
        "driver_too_old",
        "nvidia-smi does not know a field that is asked for: the driver is too old",
    ),
    (r"no devices were found", "no_devices", "the driver runs and finds no GPU"),
    (r"failed to initialize nvml", "nvml_failed", "the driver's management library does not start"),
)

# In these words the query's own cells report a GPU in trouble.
_CELLS = {
    "gpu requires reset": "reset_required",
    "gpu is lost": "device_lost",
    "insufficient permissions": "no_permission",
    "unknown error": "unknown_value",
}
_SENTENCES = {code: sentence for _pattern, code, sentence in _FAILURES}
_SENTENCES["unknown_value"] = "the driver answers 'Unknown Error' for a value of a GPU"

# What leaves a GPU out of a plan, or is to be told, and does not keep the others from work.
_HARMLESS = {
    "ecc_mode_pending",
    "memory_unknown",
    "mig_mode_pending",
    "mig_no_instance",
    "mig_unknown",
    "mig_unreadable",
    "nouveau_loaded",
    "restart_due",
    "unknown_value",
}

_PENDING = {
    "mig_mode": (
        "GPU {index}: MIG is {now}, and {then} from the next reset on, so nothing is planned on it: reset it "
        "(nvidia-smi --gpu-reset -i {index}) or restart the host, or take the change back (nvidia-smi -i {index} "
        "-mig {flag})"
    ),
    "ecc_mode": (
        "GPU {index}: error correction is {now}, and {then} from the next restart on, with which the memory of some "
        "GPUs changes: restart the host before the plan is made, or take the change back (nvidia-smi -i {index} "
        "-e {flag})"
    ),
}

# PCI classes of graphics cards (VGA, 3D) and of NVSwitch bridges, vendor NVIDIA.
_VENDOR, _GPU_CLASSES = "0x10de", ("0x0300", "0x0302")

Run = t.Callable[[t.Sequence[str], float], "tuple[int, str, str]"]
Problem = dict[str, str]


class NotAnswering(Exception):
    """The command did not end in time."""


def run_bounded(argv: t.Sequence[str], timeout: float) -> tuple[int, str, str]:
    """Run ``argv``; give its exit status, stdout and stderr.

    A process stuck in the driver cannot be killed, so after the time is up nothing waits for it any more.

    :raises NotAnswering: it did not end within ``timeout`` seconds.
    :raises OSError: it cannot be started.
    """
    # AnsibleModule.run_command has no time limit, and waits for a process that cannot be killed.
    process = subprocess.Popen(  # pylint: disable=ansible-bad-function
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=dict(os.environ, LC_ALL="C", LANGUAGE="C"),
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=1)
        except (OSError, subprocess.TimeoutExpired):
            pass
        raise NotAnswering(f"no answer within {timeout:g} seconds") from None
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


def problem(code: str, message: str) -> Problem:
    return {"code": code, "message": message}


def parse_failure(text: str) -> list[Problem]:
    """The problems that nvidia-smi's words tell of, with its first line as evidence; at least one."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no output")
    found = [
        problem(code, f"{sentence} (nvidia-smi: {line})")
        for pattern, code, sentence in _FAILURES
        if re.search(pattern, text, re.I)
    ]
    return found[:1] or [problem("nvidia_smi_failed", f"nvidia-smi failed: {line}")]


def _text(cell: str) -> str | None:
    return None if _NOTHING.match(cell) else cell


def _mode(cell: str) -> str | None:
    # Recorded of another mode: [Requested functionality has been deprecated].
    return cell if cell in ("Enabled", "Disabled") else None


def _mebibytes(cell: str) -> int | None:
    found = re.match(r"^(\d+)( MiB)?$", cell)
    return int(found.group(1)) * MIB if found else None


def parse_query(text: str) -> tuple[list[dict[str, t.Any]], str | None, list[Problem]]:
    """GPUs, driver version and problems from the CSV answer to :data:`FIELDS`, with or without header line and units.

    Memory is in bytes. What the driver does not tell (``[N/A]`` and the like) is None.
    """
    gpus: list[dict[str, t.Any]] = []
    problems: list[Problem] = []
    version: str | None = None
    after = len(FIELDS) - 3
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < len(FIELDS) or not cells[0].isdigit():
            if line.strip() and cells[0] != "index":
                problems.extend(parse_failure(line))
            continue
        cells = [cells[0], cells[1], ", ".join(cells[2 : len(cells) - after]), *cells[-after:]]
        value = dict(zip(FIELDS, cells))
        for cell in cells:
            code = _CELLS.get(cell.strip("[]").lower())
            if code:
                problems.append(problem(code, f"GPU {cells[0]}: {_SENTENCES[code]}"))
                break
        version = version or _text(value["driver_version"])
        gpu: dict[str, t.Any] = {
            "index": int(value["index"]),
            "uuid": _text(value["uuid"]),
            "name": _text(value["name"]),
            "memory_total_bytes": _mebibytes(value["memory.total"]),
            "memory_free_bytes": _mebibytes(value["memory.free"]),
            "memory_used_bytes": _mebibytes(value["memory.used"]),
            "compute_capability": _text(value["compute_cap"]),
            "pci_bus_id": _text(value["pci.bus_id"]),
            "mig_mode": _mode(value["mig.mode.current"]),
            "mig_mode_pending": _mode(value["mig.mode.pending"]),
            "mig_devices": [],
            "ecc_mode": _mode(value["ecc.mode.current"]),
            "ecc_mode_pending": _mode(value["ecc.mode.pending"]),
            "display_active": _mode(value["display_active"]),
            "persistence_mode": _mode(value["persistence_mode"]),
        }
        gpus.append(gpu)
        told = any(item["message"].startswith("GPU {}:".format(gpu["index"])) for item in problems)
        memory = (gpu["memory_total_bytes"], gpu["memory_free_bytes"])
        if not told and None in memory and gpu["mig_mode"] != "Enabled":
            problems.append(
                problem(
                    "memory_unknown",
                    "GPU {}: the driver does not tell its memory, so nothing can be planned on it".format(gpu["index"]),
                )
            )
        problems.extend(_pending(gpu))
    return sorted(gpus, key=lambda gpu: t.cast(int, gpu["index"])), version, problems


def _pending(gpu: t.Mapping[str, t.Any]) -> list[Problem]:
    """The modes of a GPU that its next reset changes, and what that means."""
    found = []
    for key, template in _PENDING.items():
        now, then = gpu[key] or "Disabled", gpu[f"{key}_pending"]
        if then not in (None, now):
            values = {"index": gpu["index"], "now": now.lower(), "then": then.lower(), "flag": int(now == "Enabled")}
            found.append(problem(f"{key}_pending", template.format(**values)))
    return found


def add_mig_devices(gpus: list[dict[str, t.Any]], nvidia_smi: str, timeout: float, run: Run) -> list[Problem]:
    """Give each GPU whose MIG is enabled its instances, as ``mig_devices``; return what is wrong with them.

    :raises NotAnswering: nvidia-smi hangs.
    :raises OSError: it cannot be started.
    """
    divided = [gpu for gpu in gpus if gpu["mig_mode"] == "Enabled"]
    if not divided:
        return []
    problems: list[Problem] = []
    answers: list[str | None] = []
    for arguments in (["-L"], ["-q", "-x"]):
        status, out, err = run([nvidia_smi, *arguments], timeout)
        if status != 0:
            reason = parse_failure(out + "\n" + err)[0]["message"]
            command = " ".join(["nvidia-smi", *arguments])
            problems.append(problem("mig_unreadable", f"{command} does not tell the MIG instances: {reason}"))
        answers.append(out if status == 0 else None)
    listing = _mig.parse_listing(answers[0] or "")
    document: dict[_mig.Key, _mig.Instance] = {}
    try:
        document = {} if answers[1] is None else _mig.parse_document(answers[1])
    except ValueError as error:
        problems.append(problem("mig_unreadable", f"nvidia-smi -q -x answers with no XML document: {error}"))
    readable = not problems
    for gpu in divided:
        index = gpu["index"]
        gpu["mig_devices"] = _mig.instances(gpu["uuid"] or "", gpu["name"] or "GPU", listing, document)
        if readable and not gpu["mig_devices"]:
            problems.append(
                problem(
                    "mig_no_instance",
                    f"GPU {index}: MIG is enabled, and there is no instance to compute on: make one (nvidia-smi mig "
                    f"-i {index} -cgi PROFILE -C; -lgip lists the profiles, -cci completes a GPU instance that has no "
                    f"compute instance), or turn MIG off (nvidia-smi -i {index} -mig 0)",
                )
            )
        for device in gpu["mig_devices"] if readable else []:
            what = "UUID" if device["uuid"] is None else "memory"
            if None in (device["uuid"], device["memory_total_bytes"], device["memory_free_bytes"]):
                problems.append(
                    problem(
                        "mig_unknown",
                        f"GPU {index}: nvidia-smi does not tell the {what} of its MIG device {device['index']}, so "
                        "nothing can be planned on that",
                    )
                )
    return problems


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def pci_devices(root: str = "/") -> list[dict[str, t.Any]]:
    """NVIDIA's devices on the PCI bus: address, vendor, device, class as sysfs writes them, and the bound driver."""
    base = os.path.join(root, "sys/bus/pci/devices")
    found = []
    for address in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        values = [(_read(os.path.join(base, address, name)) or "").strip() for name in ("vendor", "device", "class")]
        if values[0] == _VENDOR:
            link = os.path.join(base, address, "driver")
            driver = os.path.basename(os.path.realpath(link)) if os.path.islink(link) else None
            found.append(
                {
                    "address": address,
                    "vendor_id": values[0],
                    "device_id": values[1],
                    "class": values[2],
                    "driver": driver,
                }
            )
    return found


def loaded_version(root: str = "/") -> str | None:
    """The version of the loaded NVIDIA kernel module, or None where none is loaded."""
    text = _read(os.path.join(root, "proc/driver/nvidia/version"))
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text or "")
    return found.group(1) if found else (_read(os.path.join(root, "sys/module/nvidia/version")) or "").strip() or None


def installed_version(run: Run) -> str | None:
    """The version of the NVIDIA kernel module on disk, which the next start loads, or None."""
    for modinfo in ("modinfo", "/sbin/modinfo", "/usr/sbin/modinfo"):
        try:
            status, out, _err = run([modinfo, "-F", "version", "nvidia"], 10)
        except NotAnswering:
            return None
        except OSError:
            continue
        return out.strip() or None if status == 0 else None
    return None


def cuda_version() -> str | None:
    """The newest CUDA version that the driver supports, from libcuda's cuDriverGetVersion (needs no GPU), or None."""
    # A child asks: a native library in trouble must not take the module with it.
    script = (
        "import ctypes; v = ctypes.c_int(); "
        "ctypes.CDLL('libcuda.so.1').cuDriverGetVersion(ctypes.byref(v)); print(v.value)"
    )
    try:
        status, out, _err = run_bounded([sys.executable or "python3", "-c", script], 10)
    except (NotAnswering, OSError):
        return None
    number = int(out) if status == 0 and out.strip().isdigit() else 0
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def host(root: str = "/") -> dict[str, t.Any]:
    """The host's memory in bytes, its processors, those that this process may run on, and its NUMA nodes."""
    values = {
        line.split(":")[0]: line.split(":")[1].split()[0]
        for line in (_read(os.path.join(root, "proc/meminfo")) or "").splitlines()
        if re.match(r"^\w+:\s+\d+", line)
    }
    total, available = (int(values[key]) * 1024 if key in values else None for key in ("MemTotal", "MemAvailable"))
    return {
        "memory_total_bytes": total,
        "memory_available_bytes": available,
        "cpu_count": len(os.sched_getaffinity(0)),
        "numa_nodes": _topology.numa_nodes(root),
    }


def collect(nvidia_smi: str, timeout: float, run: Run = run_bounded, root: str = "/") -> dict[str, t.Any]:
    """Everything, with the state: ``ready``, ``no_gpu``, ``no_driver`` or ``broken``. Times are seconds."""
    devices = pci_devices(root)
    cards = [
        device
        for device in devices
        if device["class"][:6] in _GPU_CLASSES and device["driver"] not in ("vfio-pci", "pci-stub")
    ]
    gpus: list[dict[str, t.Any]] = []
    problems: list[Problem] = []
    loaded = loaded_version(root)
    answered = False
    try:
        status, out, err = run(
            [nvidia_smi, "--query-gpu={}".format(",".join(FIELDS)), "--format=csv,noheader,nounits"], timeout
        )
        answered = True
        gpus, version, problems = parse_query(out)
        loaded = version or loaded
        if status != 0 and not problems:
            problems = parse_failure(out + "\n" + err)
        problems += add_mig_devices(gpus, nvidia_smi, timeout, run)
    except NotAnswering:
        problems = [
            problem(
                "hangs",
                f"nvidia-smi gave no answer within {timeout:g} seconds: "
                "the driver hangs, see the kernel log and restart the host",
            )
        ]
        answered = True
    except FileNotFoundError:
        problems = (
            [problem("nvidia_smi_missing", f"there is no {nvidia_smi}: the NVIDIA driver is not installed")]
            if cards
            else []
        )
    except OSError as error:
        problems = [problem("no_permission", f"{nvidia_smi} cannot be run: {error.strerror}")]

    if os.path.isdir(os.path.join(root, "sys/module/nouveau")) or any(card["driver"] == "nouveau" for card in cards):
        problems.append(
            problem("nouveau_loaded", "the kernel module nouveau is loaded and keeps the NVIDIA driver from the GPU")
        )
    codes = {item["code"] for item in problems}
    if gpus and len(cards) > len(gpus):
        problems.append(
            problem("gpu_missing", f"{len(cards)} NVIDIA GPUs are on the PCI bus, the driver shows {len(gpus)}")
        )
    installed = installed_version(run) if answered or loaded else None
    if loaded and installed and loaded != installed:
        problems.append(
            problem(
                "restart_due",
                f"the driver {loaded} is loaded and {installed} is installed: a restart of the host is due",
            )
        )

    if gpus and {item["code"] for item in problems} <= _HARMLESS:
        state = "ready"
    elif (
        not gpus and not cards and codes <= {"no_devices", "driver_not_loaded", "nouveau_loaded", "nvidia_smi_missing"}
    ):
        state = "no_gpu"
    elif not gpus and codes <= {"nvidia_smi_missing", "driver_not_loaded", "library_missing", "nouveau_loaded"}:
        state = "no_driver"
    else:
        state = "broken"
    if state == "no_gpu":
        problems = []
    return {
        "gpus": gpus,
        "driver": {
            "loaded_version": loaded,
            "installed_version": installed,
            "cuda_version": cuda_version() if gpus else None,
        },
        "pci_devices": devices,
        "host": host(root),
        "state": state,
        "problems": problems,
    }
