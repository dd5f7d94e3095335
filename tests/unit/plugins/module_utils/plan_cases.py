# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts, workloads and the shipped data that the tests of planning share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.onprem.llm.plugins.module_utils import (
    _benchmarks,
    _catalog,
    _hardware,
    _search,
    _select,
    _workload,
)

FILES = Path(__file__).resolve().parents[4] / "roles/models/files"
CATALOG = yaml.safe_load((FILES / "catalog.yml").read_text(encoding="utf-8"))
LIBRARY = yaml.safe_load((FILES / "library_tags.yml").read_text(encoding="utf-8"))
GPUS = yaml.safe_load((FILES / "gpus.yml").read_text(encoding="utf-8"))
BENCHMARKS = yaml.safe_load((FILES / "benchmarks.yml").read_text(encoding="utf-8"))
ENTRIES = _catalog.merge(CATALOG, _benchmarks.read(BENCHMARKS))
TABLE = _hardware.table(GPUS)
GIB = 2**30
HOST = {"memory_total_bytes": 128 * GIB, "memory_available_bytes": 120 * GIB}


def gpu(number: int, size: float, used: int = 0, **more: Any) -> dict[str, Any]:
    """A GPU of so many GiB as gpu_info tells of it."""
    total = int(size * GIB)
    return {
        "uuid": f"GPU-{number}",
        "index": number,
        "memory_total_bytes": total,
        "memory_free_bytes": total - used,
        **more,
    }


def chat(**wishes: Any) -> dict[str, Any]:
    return {"name": "chat", **wishes}


JAPANESE = [
    chat(languages=["ja"], context_length={"min": 8192, "max": 32768}, slots={"min": 2, "max": 8}),
    {"name": "search", "use": "embedding", "languages": ["ja"]},
]


def outcome(
    workloads: list[dict[str, Any]],
    gpus: list[dict[str, Any]] | list[str],
    host: dict[str, Any] = HOST,
    catalog: list[dict[str, Any]] | None = None,
    advise: bool = False,
    explain: str = "",
    benchmarks: list[dict[str, Any]] | None = None,
    **options: Any,
) -> _select.Outcome:
    """The plan for GPUs as data or by name, and what belongs to it."""
    found = _hardware.named(gpus, TABLE) if gpus and isinstance(gpus[0], str) else gpus
    return _select.make_outcome(
        workloads,
        found,  # type: ignore[arg-type]
        host,
        CATALOG if catalog is None else catalog,
        _search.Options(**{"engine_version": "0.32.15", "host_name": "node1", **options}),
        None,
        GPUS,
        LIBRARY,
        advise,
        explain,
        BENCHMARKS if benchmarks is None else benchmarks,
    )


def models(made: _select.Outcome | dict[str, Any]) -> list[dict[str, Any]]:
    plan = made if isinstance(made, dict) else made.plan
    return [model for instance in plan["instances"] for model in instance["models"]]


def work(**data: Any) -> _workload.Workload:
    return _workload.workload({"name": "chat", **data})
