# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVIDIA's management library (NVML) says of the GPUs, in the form of :mod:`_nvidia_smi`.

It is asked for what nvidia-smi's CSV cannot say (whose programs use a GPU, NVLink, at which temperature it slows down),
and for everything where there is no nvidia-smi. Structures and constants are those of nvml.h (NVML 13).
:func:`read` loads a native library that may hang or crash, so it is meant for a child process (:mod:`_bounded`).
"""

from __future__ import annotations

import ctypes
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gpu_architectures, _nvidia_smi

LIBRARY = "libnvidia-ml.so.1"
_CUDA = "libcuda.so.1"

_SUCCESS, _NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _INSUFFICIENT_SIZE = 0, 3, 13, 7
# nvmlReturn_t → our code.
_CODES = {
    4: "no_permission",
    9: "driver_not_loaded",
    12: "library_missing",
    15: "device_lost",
    16: "reset_required",
    17: "blocked",
    18: "version_mismatch",
}
_NOT_AVAILABLE = 2**64 - 1
_SLOWDOWN, _UNCORRECTED, _VOLATILE = 1, 1, 0
_MAX_LINKS = 36
_COMPUTE_MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")
_MODES = ("Disabled", "Enabled")
_MOST_PROCESSES = 256


class _Pci(ctypes.Structure):
    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pci_device_id", ctypes.c_uint),
        ("pci_subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


class _Memory(ctypes.Structure):
    """The second version; it tells apart what the driver keeps for itself, as nvidia-smi does."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_gpu_memory", ctypes.c_ulonglong),
        ("gpu_instance_id", ctypes.c_uint),
        ("compute_instance_id", ctypes.c_uint),
    )


class Library:
    """NVML's functions by name. A call gives its values, or None where the library says that it cannot."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def status(self, name: str, *arguments: t.Any) -> int:
        """What a function returns; that of a function that this library lacks is NVML's own code for it."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return _FUNCTION_NOT_FOUND
        return int(function(*arguments))

    def numbers(self, name: str, *arguments: t.Any, count: int = 1, kind: t.Any = ctypes.c_uint) -> list[t.Any] | None:
        """The ``count`` numbers that a function writes to its last arguments."""
        cells = [kind() for _number in range(count)]
        status = self.status(name, *arguments, *(ctypes.byref(cell) for cell in cells))
        return [cell.value for cell in cells] if status == _SUCCESS else None

    def number(self, name: str, *arguments: t.Any, kind: t.Any = ctypes.c_uint) -> int | None:
        found = self.numbers(name, *arguments, kind=kind)
        return found[0] if found else None

    def text(self, name: str, *arguments: t.Any, length: int = 96) -> str | None:
        """The text that a function writes to its last argument."""
        buffer = ctypes.create_string_buffer(length)
        if self.status(name, *arguments, buffer, ctypes.c_uint(length)) != _SUCCESS:
            return None
        return buffer.value.decode("utf-8", "replace") or None

    def device(self, name: str, *arguments: t.Any) -> tuple[t.Any, int]:
        handle = ctypes.c_void_p()
        return handle, self.status(name, *arguments, ctypes.byref(handle))


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _mode(number: int | None) -> str | None:
    return _MODES[number] if number in (0, 1) else None


def _memory(library: Library, device: t.Any) -> dict[str, int | None]:
    memory = _Memory()
    # NVML_STRUCT_VERSION: the size, and the version above it.
    memory.version = ctypes.sizeof(_Memory) | 2 << 24
    if library.status("nvmlDeviceGetMemoryInfo_v2", device, ctypes.byref(memory)) == _SUCCESS:
        total, free, used = memory.total, memory.free, memory.used
        return {"memory_total_bytes": total, "memory_free_bytes": free, "memory_used_bytes": used}
    return {"memory_total_bytes": None, "memory_free_bytes": None, "memory_used_bytes": None}


def _processes(library: Library, device: t.Any) -> list[dict[str, t.Any]] | None:
    count = ctypes.c_uint(_MOST_PROCESSES)
    rows = (_Process * _MOST_PROCESSES)()
    for name in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"):
        status = library.status(name, device, ctypes.byref(count), rows)
        if status != _FUNCTION_NOT_FOUND:
            break
    if status not in (_SUCCESS, _INSUFFICIENT_SIZE):
        return None
    found = []
    for row in rows[: min(count.value, _MOST_PROCESSES) if status == _SUCCESS else _MOST_PROCESSES]:
        used = None if row.used_gpu_memory == _NOT_AVAILABLE else int(row.used_gpu_memory)
        program = library.text("nvmlSystemGetProcessName", ctypes.c_uint(row.pid), length=256)
        found.append({"pid": int(row.pid), "name": program, "memory_bytes": used})
    return found


def _links(library: Library, device: t.Any) -> int | None:
    """How many NVLinks are up; None where the GPU has none, or does not tell (MIG)."""
    states = [library.number("nvmlDeviceGetNvLinkState", device, ctypes.c_uint(link)) for link in range(_MAX_LINKS)]
    known = [state for state in states if state is not None]
    return sum(known) if known else None


def _instances(library: Library, device: t.Any, name: str | None) -> list[dict[str, t.Any]]:
    found = []
    for index in range(library.number("nvmlDeviceGetMaxMigDeviceCount", device) or 0):
        part, status = library.device("nvmlDeviceGetMigDeviceHandleByIndex", device, ctypes.c_uint(index))
        if status != _SUCCESS:
            continue
        title = library.text("nvmlDeviceGetName", part)
        memory = _memory(library, part)
        found.append(
            {
                "index": index,
                "uuid": library.text("nvmlDeviceGetUUID", part),
                "profile": (title or "").rpartition("MIG ")[2] or None,
                "name": title or f"{name or 'GPU'} MIG",
                "gpu_instance_id": library.number("nvmlDeviceGetGpuInstanceId", part),
                "compute_instance_id": library.number("nvmlDeviceGetComputeInstanceId", part),
                "memory_total_bytes": memory["memory_total_bytes"],
                "memory_free_bytes": memory["memory_free_bytes"],
            }
        )
    return found


def _gpu(library: Library, device: t.Any, index: int) -> dict[str, t.Any]:
    name = library.text("nvmlDeviceGetName", device)
    capability = library.numbers("nvmlDeviceGetCudaComputeCapability", device, count=2, kind=ctypes.c_int)
    mig = library.numbers("nvmlDeviceGetMigMode", device, count=2) or [None, None]
    ecc = library.numbers("nvmlDeviceGetEccMode", device, count=2, kind=ctypes.c_int) or [None, None]
    limits = library.numbers("nvmlDeviceGetPowerManagementLimitConstraints", device, count=2) or [None, None]
    rows = library.numbers("nvmlDeviceGetRemappedRows", device, count=4)
    pci = _Pci()
    told = library.status("nvmlDeviceGetPciInfo_v3", device, ctypes.byref(pci)) == _SUCCESS
    compute = library.number("nvmlDeviceGetComputeMode", device)
    reasons = None
    for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        mask = library.number(function, device, kind=ctypes.c_ulonglong) if reasons is None else None
        reasons = _nvidia_smi.event_reasons(mask) if mask is not None else reasons
    retired = library.number("nvmlDeviceGetRetiredPagesPendingStatus", device)
    gpu: dict[str, t.Any] = {
        "index": index,
        "uuid": library.text("nvmlDeviceGetUUID", device),
        "name": name,
        **_memory(library, device),
        "compute_capability": "{}.{}".format(*capability) if capability else None,
        "pci_bus_id": pci.bus_id.decode("ascii", "replace") or None if told else None,
        "pci_device_id": f"0x{pci.pci_device_id:08X}" if told else None,
        "mig_mode": _mode(mig[0]),
        "mig_mode_pending": _mode(mig[1]),
        "mig_devices": _instances(library, device, name) if mig[0] == 1 else [],
        "ecc_mode": _mode(ecc[0]),
        "ecc_mode_pending": _mode(ecc[1]),
        "display_active": _mode(library.number("nvmlDeviceGetDisplayActive", device)),
        "persistence_mode": _mode(library.number("nvmlDeviceGetPersistenceMode", device)),
        "compute_mode": _COMPUTE_MODES[compute] if compute is not None and compute < len(_COMPUTE_MODES) else None,
        "temperature_celsius": library.number("nvmlDeviceGetTemperature", device, ctypes.c_int(0)),
        "temperature_margin_celsius": None,
        "temperature_slowdown_celsius": library.number(
            "nvmlDeviceGetTemperatureThreshold", device, ctypes.c_int(_SLOWDOWN)
        ),
        "power_draw_watts": _watts(library.number("nvmlDeviceGetPowerUsage", device)),
        "power_limit_watts": _watts(library.number("nvmlDeviceGetPowerManagementLimit", device)),
        "power_limit_min_watts": _watts(limits[0]),
        "power_limit_max_watts": _watts(limits[1]),
        "power_limit_default_watts": _watts(library.number("nvmlDeviceGetPowerManagementDefaultLimit", device)),
        "clocks_event_reasons": reasons,
        "ecc_errors_uncorrected": library.number(
            "nvmlDeviceGetTotalEccErrors",
            device,
            ctypes.c_int(_UNCORRECTED),
            ctypes.c_int(_VOLATILE),
            kind=ctypes.c_ulonglong,
        ),
        "row_remap": {
            "correctable": rows[0], "uncorrectable": rows[1], "pending": bool(rows[2]), "failure": bool(rows[3])
        } if rows else None,
        "retired_pages_pending": None if retired is None else bool(retired),
        "recovery_action": None,
        "fabric_state": None,
        "processes": _processes(library, device),
        "nvlink_active": _links(library, device),
    }  # fmt: skip
    gpu["architecture"] = _gpu_architectures.of_gpu(gpu)
    return gpu


def _cuda(library: Library) -> str | None:
    number = library.number("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def cuda_version(path: str = _CUDA) -> str | None:
    """The newest CUDA version that the driver supports, by libcuda itself, which needs no GPU; None without it."""
    try:
        function = ctypes.CDLL(path).cuDriverGetVersion
    except (OSError, AttributeError):
        return None
    cell = ctypes.c_int()
    number = cell.value if function(ctypes.byref(cell)) == 0 else 0
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def read(path: str = LIBRARY) -> dict[str, t.Any]:
    """What NVML tells, as JSON's types: ``driver_version``, ``cuda_version``, ``gpus``, ``lost`` and ``code``.

    ``lost`` has, of each GPU that cannot be asked, its index and our code for why; ``code`` says why NVML as a whole
    cannot be asked, or is None.
    """
    nothing: dict[str, t.Any] = {"driver_version": None, "cuda_version": None, "gpus": [], "lost": [], "code": None}
    try:
        library = Library(path)
    except OSError:
        return {**nothing, "cuda_version": cuda_version(), "code": "library_missing"}
    status = library.status("nvmlInit_v2")
    if status != _SUCCESS:
        return {**nothing, "cuda_version": cuda_version(), "code": _CODES.get(status, "nvml_failed")}
    gpus, lost = [], []
    for index in range(library.number("nvmlDeviceGetCount_v2") or 0):
        device, status = library.device("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index))
        if status == _SUCCESS:
            gpus.append(_gpu(library, device, index))
        else:
            lost.append([index, _CODES.get(status, "device_lost")])
    found = {
        "driver_version": library.text("nvmlSystemGetDriverVersion", length=80),
        "cuda_version": _cuda(library) or cuda_version(),
        "gpus": gpus,
        "lost": lost,
        "code": None,
    }
    library.status("nvmlShutdown")
    return found


def complete(gpus: t.Iterable[dict[str, t.Any]], told: t.Iterable[t.Mapping[str, t.Any]]) -> None:
    """Give GPUs that nvidia-smi told of what it left out, by their UUID."""
    by_uuid = {gpu["uuid"]: gpu for gpu in told if gpu["uuid"]}
    for gpu in gpus:
        for key, value in (by_uuid.get(gpu["uuid"]) or {}).items():
            if gpu.get(key) is None:
                gpu[key] = value
