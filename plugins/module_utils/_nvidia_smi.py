# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi says of the GPUs.

It is asked once; twice more where it does not know a field, and twice more where a GPU has MIG enabled. Its answer is
text for people as much as for programs: a value may be replaced by words in brackets, a lost GPU by a sentence, and a
driver in trouble may never answer at all. Each of those becomes a problem with a code and a sentence.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gpu_architectures, _mig
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run, run_bounded
from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import KNOWN, Problem, problem

__all__ = ["FIELDS", "NotAnswering", "Run", "parse_failure", "parse_query", "query", "run_bounded"]

MIB = 2**20

# What every driver that the engine takes knows. `name` is the one value that may hold a comma; what stands after it is
# counted from the end.
BASE_FIELDS = (
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
# Some of these came late (temperature.gpu.tlimit, gpu_recovery_action, fabric.state), and a later driver may drop some.
FIELDS = (
    *BASE_FIELDS,
    "pci.device_id",
    "compute_mode",
    "temperature.gpu",
    "temperature.gpu.tlimit",
    "power.draw",
    "power.limit",
    "power.min_limit",
    "power.max_limit",
    "power.default_limit",
    "clocks_event_reasons.active",
    "ecc.errors.uncorrected.volatile.total",
    "remapped_rows.correctable",
    "remapped_rows.uncorrectable",
    "remapped_rows.pending",
    "remapped_rows.failure",
    "retired_pages.pending",
    "gpu_recovery_action",
    "fabric.state",
)
# The same field under another driver's name for it.
_OTHER_NAMES = {
    "clocks_event_reasons.active": "clocks_throttle_reasons.active",
    # Deprecated in 595 in favour of the other.
    "driver_version": "kmd_version",
}

# Bits of clocks_event_reasons.active. Source: nvml.h, nvmlClocksEventReason*.
EVENT_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}

_NOTHING = re.compile(
    r"^(|n/?a|err!?|\[?(n/?a|not supported|unknown error|not found|no data|gpu requires reset|gpu is lost"
    r"|insufficient permissions)\]?)$",
    re.I,
)

_UNKNOWN_FIELD = r"not a valid field to query"

# What nvidia-smi says when it fails (NVML's nvmlErrorString and its own sentences), most telling first.
_FAILURES: tuple[tuple[str, str], ...] = (
    (r"driver/library version mismatch", "version_mismatch"),
    (r"unable to determine the device handle|gpu is lost|gpu has fallen off", "device_lost"),
    (r"requires? (a )?reset", "reset_required"),
    (r"insufficient permissions|no permission|permission denied", "no_permission"),
    (r"access blocked by the operating system", "blocked"),
    (r"couldn'?t find libnvidia-ml|libnvidia-ml\.so.*(not found|no such file)", "library_missing"),
    (r"couldn'?t communicate with the nvidia driver|driver not loaded|driver is not loaded", "driver_not_loaded"),
    (_UNKNOWN_FIELD, "driver_too_old"),
    (r"no devices were found", "no_devices"),
    (r"failed to initialize nvml", "nvml_failed"),
)

# In these words the query's own cells report a GPU in trouble.
_CELLS = {
    "gpu requires reset": "reset_required",
    "gpu is lost": "device_lost",
    "insufficient permissions": "no_permission",
    "unknown error": "unknown_value",
}


def parse_failure(text: str) -> list[Problem]:
    """The problem that nvidia-smi's words tell of, with its first line as evidence."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no output")
    for pattern, code in _FAILURES:
        if re.search(pattern, text, re.I):
            known = KNOWN[code]
            return [problem(code, f"{known.meaning} (nvidia-smi: {line}); {known.remedy}")]
    return [problem("nvidia_smi_failed", f"nvidia-smi failed: {line}")]


def _text(cell: str) -> str | None:
    return None if _NOTHING.match(cell) else cell


def _mode(cell: str) -> str | None:
    # Recorded of another mode: [Requested functionality has been deprecated].
    return cell if cell in ("Enabled", "Disabled") else None


def _number(cell: str, unit: str = "") -> float | None:
    found = re.match(r"^(-?[0-9]{1,15}(?:\.[0-9]{1,6})?)(?: " + unit + ")?$", cell)
    return float(found.group(1)) if found else None


def _whole(cell: str, unit: str = "") -> int | None:
    number = _number(cell, unit)
    return int(number) if number is not None and number == int(number) else None


def _mebibytes(cell: str) -> int | None:
    number = _whole(cell, "MiB")
    return number * MIB if number is not None and number >= 0 else None


def _flag(cell: str) -> bool | None:
    return {"yes": True, "1": True, "no": False, "0": False}.get(cell.lower())


def event_reasons(mask: int) -> list[str]:
    """Why the clocks are lower than they could be, by nvml.h's bits; a bit that is not known here is a number."""
    known = [name for bit, name in EVENT_REASONS.items() if mask & bit]
    unknown = mask & ~sum(EVENT_REASONS)
    return known + ([f"0x{unknown:x}"] if unknown else [])


def _reasons(cell: str) -> list[str] | None:
    return event_reasons(int(cell, 16)) if re.match(r"^0x[0-9a-fA-F]{1,16}$", cell) else None


def _gpu(value: t.Mapping[str, str]) -> dict[str, t.Any]:
    """A GPU by the cells of its line. A field that was not asked for is as one that the driver does not tell."""

    def cell(field: str) -> str:
        return value.get(field, "[N/A]")

    temperature, margin = _whole(cell("temperature.gpu"), "C"), _whole(cell("temperature.gpu.tlimit"), "C")
    remapped: dict[str, t.Any] = {
        "correctable": _whole(cell("remapped_rows.correctable")),
        "uncorrectable": _whole(cell("remapped_rows.uncorrectable")),
        "pending": _flag(cell("remapped_rows.pending")),
        "failure": _flag(cell("remapped_rows.failure")),
    }
    gpu: dict[str, t.Any] = {
        "index": int(value["index"]),
        "uuid": _text(cell("uuid")),
        "name": _text(cell("name")),
        "memory_total_bytes": _mebibytes(cell("memory.total")),
        "memory_free_bytes": _mebibytes(cell("memory.free")),
        "memory_used_bytes": _mebibytes(cell("memory.used")),
        "compute_capability": _text(cell("compute_cap")),
        "pci_bus_id": _text(cell("pci.bus_id")),
        "pci_device_id": _text(cell("pci.device_id")),
        "mig_mode": _mode(cell("mig.mode.current")),
        "mig_mode_pending": _mode(cell("mig.mode.pending")),
        "mig_devices": [],
        "ecc_mode": _mode(cell("ecc.mode.current")),
        "ecc_mode_pending": _mode(cell("ecc.mode.pending")),
        "display_active": _mode(cell("display_active")),
        "persistence_mode": _mode(cell("persistence_mode")),
        "compute_mode": _text(cell("compute_mode")),
        "temperature_celsius": temperature,
        "temperature_margin_celsius": margin,
        # The margin is that of the hottest sensor, which is not always the one that gives the temperature: recorded of
        # one H200 were 28 + 59 degrees idle and 36 + 46 under load.
        "temperature_slowdown_celsius": None if temperature is None or margin is None else temperature + margin,
        "power_draw_watts": _number(cell("power.draw"), "W"),
        "power_limit_watts": _number(cell("power.limit"), "W"),
        "power_limit_min_watts": _number(cell("power.min_limit"), "W"),
        "power_limit_max_watts": _number(cell("power.max_limit"), "W"),
        "power_limit_default_watts": _number(cell("power.default_limit"), "W"),
        "clocks_event_reasons": _reasons(cell("clocks_event_reasons.active")),
        "ecc_errors_uncorrected": _whole(cell("ecc.errors.uncorrected.volatile.total")),
        "row_remap": None if all(part is None for part in remapped.values()) else remapped,
        "retired_pages_pending": _flag(cell("retired_pages.pending")),
        "recovery_action": _text(cell("gpu_recovery_action")),
        "fabric_state": _text(cell("fabric.state")),
        "processes": None,
        "nvlink_active": None,
    }
    gpu["architecture"] = _gpu_architectures.of_gpu(gpu)
    return gpu


def parse_query(
    text: str, fields: t.Sequence[str] = FIELDS
) -> tuple[list[dict[str, t.Any]], str | None, list[Problem]]:
    """GPUs, driver version and problems from the CSV answer to ``fields``, with or without header line and units.

    Memory is in bytes, power in watts, temperature in degrees Celsius. What the driver does not tell (``[N/A]`` and the
    like) is None.
    """
    gpus: list[dict[str, t.Any]] = []
    problems: list[Problem] = []
    version: str | None = None
    after = len(fields) - 3
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < len(fields) or not re.match(r"^[0-9]{1,4}$", cells[0]):
            if line.strip() and cells[0] != "index":
                problems.extend(parse_failure(line))
            continue
        cells = [cells[0], cells[1], ", ".join(cells[2 : len(cells) - after]), *cells[-after:]]
        value = dict(zip(fields, cells))
        for cell in cells:
            code = _CELLS.get(cell.strip("[]").lower())
            if code:
                problems.append(problem(code, f"GPU {cells[0]}: {KNOWN[code].meaning}; {KNOWN[code].remedy}"))
                break
        version = version or _text(value.get("driver_version", ""))
        gpu = _gpu(value)
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
    return sorted(gpus, key=lambda gpu: t.cast(int, gpu["index"])), version, problems


def parse_help(text: str) -> set[str]:
    """The fields that this nvidia-smi knows, each under all its names, from ``nvidia-smi --help-query-gpu``."""
    found: set[str] = set()
    for line in text.splitlines():
        if re.match(r'^"[^"]+"( or "[^"]+")*:?\s*$', line.strip()):
            found.update(re.findall(r'"([^"]+)"', line))
    return found


def _ask(nvidia_smi: str, asked: t.Sequence[str], timeout: float, run: Run) -> tuple[int, str, str]:
    return run([nvidia_smi, "--query-gpu={}".format(",".join(asked)), "--format=csv,noheader,nounits"], timeout)


def _known_fields(nvidia_smi: str, timeout: float, run: Run) -> tuple[list[str], list[str]]:
    """The fields as this nvidia-smi knows them: under our names, and under its own."""
    status, out, _err = run([nvidia_smi, "--help-query-gpu"], timeout)
    known = parse_help(out) if status == 0 else set()
    if not known.issuperset(("index", "uuid", "name")):
        return list(BASE_FIELDS), list(BASE_FIELDS)
    fields, asked = [], []
    for field in FIELDS:
        name = next((name for name in (field, _OTHER_NAMES.get(field)) if name in known), None)
        if name:
            fields.append(field)
            asked.append(name)
    return fields, asked


def query(nvidia_smi: str, timeout: float, run: Run) -> tuple[list[dict[str, t.Any]], str | None, list[Problem]]:
    """GPUs, the driver's version and problems, by one query; by a second where this nvidia-smi lacks a field.

    :raises NotAnswering: nvidia-smi hangs.
    :raises OSError: it cannot be started.
    """
    fields: list[str] = list(FIELDS)
    noted: list[Problem] = []
    status, out, err = _ask(nvidia_smi, fields, timeout, run)
    if re.search(_UNKNOWN_FIELD, out + err, re.I):
        fields, asked = _known_fields(nvidia_smi, timeout, run)
        missing = [field for field in FIELDS if field not in fields]
        if set(BASE_FIELDS) - set(fields):
            noted += parse_failure(out + "\n" + err)
        elif missing:
            noted.append(problem("fields_unknown", "this nvidia-smi does not know {}".format(", ".join(missing))))
        if fields:
            status, out, err = _ask(nvidia_smi, asked, timeout, run)
    gpus, version, problems = parse_query(out, fields)
    if status != 0 and not problems:
        problems = parse_failure(out + "\n" + err)
    return gpus, version, noted + problems if gpus else problems


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
