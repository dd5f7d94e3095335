# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a GPU's own values say of its health, whoever told them: nvidia-smi or NVML."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import KNOWN, Problem, problem

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


def _pending(gpu: t.Mapping[str, t.Any]) -> t.Iterator[Problem]:
    """The modes of a GPU that its next reset changes, and what that means."""
    for key, template in _PENDING.items():
        now, then = gpu[key] or "Disabled", gpu[f"{key}_pending"]
        if then not in (None, now):
            values = {"index": gpu["index"], "now": now.lower(), "then": then.lower(), "flag": int(now == "Enabled")}
            yield problem(f"{key}_pending", template.format(**values))


def _slowed(gpu: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str]]:
    reasons = gpu["clocks_event_reasons"] or []
    if {"hw_thermal_slowdown", "sw_thermal_slowdown"} & set(reasons):
        degrees, limit = gpu["temperature_celsius"], gpu["temperature_slowdown_celsius"]
        yield (
            "thermal_slowdown",
            "it runs slower because it is too hot"
            + (f" ({degrees} °C" + (f", slowed down from {limit} °C on)" if limit else ")") if degrees else ""),
        )
    if "hw_power_brake_slowdown" in reasons:
        yield "power_brake", "it runs slower because the power supply asked for it"


def _memory(gpu: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str]]:
    if gpu["ecc_errors_uncorrected"]:
        yield (
            "ecc_uncorrected",
            f"{gpu['ecc_errors_uncorrected']} errors of its memory could not be corrected since the driver was loaded",
        )
    remapped = gpu["row_remap"] or {}
    if remapped.get("failure"):
        yield "row_remap_failure", "a row of its memory could not be replaced by a spare one"
    if remapped.get("pending"):
        yield "row_remap_pending", "a row of its memory is replaced by a spare one with the next reset"
    if gpu["retired_pages_pending"]:
        yield "retired_pages_pending", "pages of its memory are retired with the next restart"


def _use(gpu: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, str]]:
    # Prohibited: no program at all; Exclusive_Process: one, and the engine starts one for each model.
    if gpu["compute_mode"] in ("Prohibited", "Exclusive_Process", "Exclusive_Thread"):
        yield (
            "compute_mode",
            f"its compute mode is {gpu['compute_mode']}, which lets "
            + ("no program" if gpu["compute_mode"] == "Prohibited" else "one model at a time")
            + f" compute on it (nvidia-smi -i {gpu['index']} -c DEFAULT)",
        )
    if gpu["recovery_action"] not in (None, "None"):
        yield "recovery_due", f"the driver asks for: {gpu['recovery_action']}"
    if gpu["architecture"] == "older":
        yield "gpu_too_old", "it is older than Maxwell"


def problems(gpu: t.Mapping[str, t.Any]) -> list[Problem]:
    """What a GPU's own values say is wrong with it or worth knowing."""
    found = list(_pending(gpu))
    for reader in (_slowed, _memory, _use):
        for code, words in reader(gpu):
            way_out = "" if "nvidia-smi -i" in words else f"; {KNOWN[code].remedy}"
            found.append(problem(code, f"GPU {gpu['index']}: {words}{way_out}"))
    return found
