# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inverse question: which GPUs a workload needs. Prices are not known here; the order is by memory."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _hardware, _search, _select
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Workload


def gpus_for(
    workloads: t.Sequence[Workload],
    entries: t.Mapping[str, _catalog.Entry],
    table: _hardware.Table,
    host: t.Mapping[str, t.Any],
    options: _search.Options,
    known: _catalog.Library = _catalog.NO_LIBRARY,
) -> list[dict[str, t.Any]]:
    """For each GPU of the table the first of 1, 2, 4 or 8 that serve the workloads, or as many of them as
    are used, and what they run; by memory.

    :raises PlanError: no GPU of the table serves them.
    """
    made: dict[str, Candidate] = {}
    found: list[tuple[tuple[t.Any, ...], dict[str, t.Any]]] = []
    last = ""
    for gpu in table.gpus:
        for count in () if gpu.alias else _hardware.COUNTS:
            devices, _remarks = _hardware.devices(
                _hardware.named([f"{count}x {gpu.name}"], table), host, _search.keep(options), None, table
            )
            try:
                plan = _select.plan_host(workloads, entries, devices, host, options, known, made=made).plan
            except PlanError as error:
                last = str(error)
                continue
            models = [model for instance in plan["instances"] for model in instance["models"]]
            # Four may be the first that serve, and three of them enough.
            count = len({used for instance in plan["instances"] for used in instance["gpus"]})
            key = (gpu.memory * count, count, gpu.name)
            found.append(
                (
                    key,
                    {
                        "gpu": gpu.name,
                        "count": count,
                        "kind": gpu.kind,
                        "memory_bytes": gpu.memory * count,
                        "models": [
                            {
                                "workload": model["workload"],
                                "model": model["name"],
                                "context_length": model["context_length"],
                                "slots": model["slots"],
                                "tokens_per_second_bound": model["speed"]["tokens_per_second_bound"],
                            }
                            for model in models
                        ],
                    },
                )
            )
            break
    if not found:
        raise PlanError(f"no GPU of the table serves this, not even {_hardware.COUNTS[-1]} of one kind: {last}")
    return [row for _key, row in sorted(found, key=lambda item: item[0])]
