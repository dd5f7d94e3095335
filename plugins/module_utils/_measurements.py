# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What loads really took, kept by all that decides it, and held against the account.

A measurement is the sum of the buffers that a runner said it allocated. /api/ps is none, and nvidia-smi counts the CUDA
context and what libraries take besides. It raises an account that is below it, and lowers none: what a load took once
is no promise that the next, with another batch, takes as little.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# From here on a difference is told, and raises an account. Below are the rounding of the log's figures to hundredths of
# a MiB and small models' alignment; a plan that followed these would change from run to run.
TOLERANCE = 0.02
# The buffer for the logits is on the device in one build and beside it in another; of a small model that is more than
# the share.
TOLERANCE_BYTES = 8 * 2**20
# Measurements kept on a host; the oldest go.
MOST = 200

_WORDS = ("digest", "kv_cache_type", "engine_version")
_NUMBERS = ("context_length", "slots", "gpus", "bytes")


@dataclass(frozen=True)
class Load:
    """All that decides what a load takes: the weights' SHA-256, tokens and sequences, cache type, the engine's version,
    and how many GPUs share it (0: none)."""

    digest: str
    context_length: int
    slots: int
    kv_cache_type: str
    engine_version: str
    gpus: int


def digest_of(source: t.Mapping[str, t.Any]) -> str:
    """The SHA-256 of a model's weights, as 64 hexadecimal digits; nothing where its source names none."""
    return str(source.get("sha256") or source.get("digest") or "")[-64:]


def load_of(model: t.Mapping[str, t.Any], engine_version: str, digest: str = "") -> Load:
    """The load of a model of a plan. ``digest`` is that of the weights where the plan names none."""
    return Load(
        digest_of(model["source"]) or digest,
        model["context_length"],
        model["slots"],
        model["kv_cache_type"],
        engine_version,
        len(model["gpus"]),
    )


def taken(measurements: t.Any) -> dict[Load, int]:
    """Bytes by load, from data as it was kept; what is not of that form is passed over."""
    return (
        {_load(item): item["bytes"] for item in measurements if _sound(item)} if isinstance(measurements, list) else {}
    )


def kept(
    before: t.Any, findings: t.Iterable[t.Mapping[str, t.Any]], plan: t.Mapping[str, t.Any]
) -> list[dict[str, t.Any]]:
    """The measurements to keep: those from before, and what the findings of this run add, the newest last.

    :arg before: what was kept so far, None where nothing was.
    :arg findings: of :func:`_gpu_proof.judge`.
    :arg plan: the plan in force.
    """
    made = {_load(item): dict(item) for item in before if _sound(item)} if isinstance(before, list) else {}
    models = {model["name"]: model for instance in plan["instances"] for model in instance["models"]}
    for finding in findings:
        model, size = models.get(finding["model"]), finding["measured_bytes"]
        if model is None or size is None:
            continue
        load = load_of(model, plan["engine"]["version"], finding["digest"])
        if load.digest and made.get(load, {}).get("bytes") != size:
            made.pop(load, None)
            made[load] = {"model": model["name"], **vars(load), "bytes": size}
    return list(made.values())[-MOST:]


def differences(findings: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """Sentences about loads whose buffers differ from the plan by more than the tolerance."""
    told = []
    for finding in findings:
        size, planned = finding["measured_bytes"], finding["planned_bytes"]
        if size is None or not planned or not _apart(size, planned):
            continue
        share = abs(size - planned) / planned
        more = size > planned
        told.append(
            f"{finding['model']} took {human_bytes(size)} ({size} bytes) where the plan says {human_bytes(planned)} "
            f"({planned} bytes), {100 * share:.1f} % {'more' if more else 'less'}; "
            + ("the next plan counts with what it took" if more else "the plan stays as it is: no estimate is lowered")
        )
    return told


def raised(planned: int, measured: int | None) -> int:
    """What to count with: the plan's bytes, or the measured ones where they are more by more than the tolerance."""
    return measured if measured is not None and measured > planned and _apart(measured, planned) else planned


def _apart(measured: int, planned: int) -> bool:
    return abs(measured - planned) > max(TOLERANCE * planned, TOLERANCE_BYTES)


def _sound(item: t.Any) -> bool:
    return (
        isinstance(item, dict)
        and all(isinstance(item.get(name), str) for name in _WORDS)
        and all(isinstance(item.get(name), int) and 0 <= item[name] < 2**60 for name in _NUMBERS)
    )


def _load(item: t.Mapping[str, t.Any]) -> Load:
    return Load(
        item["digest"],
        item["context_length"],
        item["slots"],
        item["kv_cache_type"],
        item["engine_version"],
        item["gpus"],
    )
