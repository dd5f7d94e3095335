# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is wanted and what the host has to what will run: the plan, with a reason for every model turned down.

The order of the candidates decides the model: the first combination, an earlier workload's preference before a later
one's, that fits with the least context and slots asked for. Then the context grows as far as it fits, then the slots,
on as few GPUs as hold that. Nothing here looks at the clock, the host or the network; a GGUF file's header is the only
thing read.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import (
    _advice,
    _benchmarks,
    _candidates,
    _catalog,
    _choice,
    _hardware,
    _memory,
    _plan,
    _residency,
    _search,
    _speed,
    _workload,
)
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate, candidate
from ansible_collections.onprem.llm.plugins.module_utils._hardware import Device
from ansible_collections.onprem.llm.plugins.module_utils._residency import Residence
from ansible_collections.onprem.llm.plugins.module_utils._search import Choice, Instance, Options, Search
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Workload

__all__ = ["Options", "Outcome", "PlanError", "candidate", "make_outcome", "make_plan", "plan_host"]


@dataclass
class Outcome:
    """The plan (docs/architecture.md has its schema), remarks for people, what a change of a setting would give, and
    every term of the accounts of the models planned and explained."""

    plan: dict[str, t.Any]
    remarks: list[str]
    tradeoffs: list[dict[str, t.Any]] = field(default_factory=list)
    explained: list[dict[str, t.Any]] = field(default_factory=list)


def plan_host(
    workloads: t.Sequence[Workload],
    entries: t.Mapping[str, _catalog.Entry],
    devices: list[Device],
    host: t.Mapping[str, t.Any],
    options: Options,
    known: _catalog.Library = _catalog.NO_LIBRARY,
    advise: bool = False,
    explain: str = "",
    made: dict[str, Candidate] | None = None,
    accounts: _residency.Accounts | None = None,
    table: _hardware.Table = _hardware.NO_TABLE,
) -> Outcome:
    """The plan of one host. The same input gives the same plan. ``made`` and ``accounts`` keep what hosts share.

    :raises PlanError: wrong input, or nothing fits; then with the nearest miss in bytes and what would fit.
    """
    search = Search(options, devices, accounts)
    made = {} if made is None else made
    choices, wrong = [], []
    for work in workloads:
        try:
            _hybrid_alone(work, workloads, search)
            choices.append(_choice.choice_of(work, _candidates.chosen(work, entries, known), search, made))
        except PlanError as error:
            wrong.append(str(error))
    if wrong:
        raise PlanError("; ".join(wrong))
    models = _search.first_combination(search, choices)
    instances = search.instances(workloads, models) if models else []
    if not models or any(choice.work.hybrid for choice in choices):
        partly = _hybrid(search, choices, host)
        if partly and (not models or choices[0].suitable.index(partly[0]) < choices[0].suitable.index(models[0])):
            models, instances = (partly[0],), [partly[1]]
    if not models:
        raise PlanError(_advice.nothing_fits(search, choices, entries, table))
    for choice, model in zip(choices, models):
        _choice.settle(choice, model)
    remarks = [remark for remark in dict.fromkeys(model.remark for model in models) if remark]
    remarks += _remarks(search, choices, models, host)
    plan = _plan.written(search, choices, models, instances, host)
    remarks += _slow(plan, choices)
    outcome = Outcome(plan, remarks)
    if advise:
        outcome.tradeoffs = _advice.tradeoffs(search, choices, models, instances, entries)
    if explain:
        outcome.explained = _plan.explained(search, choices, models, instances, explain, entries, known)
    return outcome


def make_plan(
    workloads: t.Sequence[t.Any],
    gpus: t.Sequence[t.Mapping[str, t.Any]],
    host: t.Mapping[str, t.Any],
    catalog: t.Sequence[t.Any],
    options: Options,
    current_plan: t.Any = None,
) -> tuple[dict[str, t.Any], list[str]]:
    """The plan of one host and remarks for people, from data as it comes.

    :raises PlanError: see :func:`plan_host`.
    """
    outcome = make_outcome(workloads, gpus, host, catalog, options, current_plan)
    return outcome.plan, outcome.remarks


def make_outcome(
    workloads: t.Sequence[t.Any],
    gpus: t.Sequence[t.Mapping[str, t.Any]],
    host: t.Mapping[str, t.Any],
    catalog: t.Sequence[t.Any],
    options: Options,
    current_plan: t.Any = None,
    gpu_table: t.Any = None,
    library: t.Any = None,
    advise: bool = False,
    explain: str = "",
    benchmarks: t.Any = None,
) -> Outcome:
    """All of :func:`plan_host`, from data as it comes.

    :raises PlanError: see :func:`plan_host`.
    """
    wanted, entries = read(workloads, catalog, options, benchmarks)
    # Hardware that is named is no host of the fleet, and none that hosts leaves out.
    here = [work for work in wanted if not work.hosts or not options.host_name or options.host_name in work.hosts]
    if not here:
        raise PlanError(
            f"every workload has hosts, and {options.host_name!r} is in none of them; give it one, or take it out of "
            "llm_nodes"
        )
    table = _hardware.table(gpu_table)
    found, remarks = _hardware.devices(gpus, host, _search.keep(options), current_plan, table)
    if not found:
        raise PlanError("no GPU of the host can be used: {}".format("; ".join(remarks)))
    outcome = plan_host(here, entries, found, host, options, _catalog.library(library), advise, explain, table=table)
    outcome.remarks = remarks + outcome.remarks
    return outcome


def read(
    workloads: t.Sequence[t.Any], catalog: t.Sequence[t.Any], options: Options, benchmarks: t.Any = None
) -> tuple[list[Workload], dict[str, _catalog.Entry]]:
    """Check options, workloads, catalog and benchmarks.

    :raises PlanError: naming what is wrong and what would be right.
    """
    _search.check(options)
    wanted = _workload.workloads(workloads)
    try:
        return wanted, _catalog.merge(catalog, _benchmarks.read(benchmarks))
    except (_catalog.CatalogError, _benchmarks.BenchmarkError) as error:
        raise PlanError(str(error)) from error


def _hybrid_alone(work: Workload, workloads: t.Sequence[Workload], search: Search) -> None:
    """A model that lies partly in the host's memory needs a GPU for the other part, and no other model beside it.

    :raises PlanError: the workload wishes it where it cannot be.
    """
    others = ", ".join(other.name for other in workloads if other is not work)
    if work.hybrid and not search.on_gpu:
        raise PlanError(
            f"workload {work.name}: hybrid is true, and the host has no GPU that holds a part of the model; take "
            "hybrid away, all of it lies in the host's memory"
        )
    if work.hybrid and others:
        raise PlanError(
            f"workload {work.name}: hybrid is true, and a model that lies partly in the host's memory has the host to "
            f"itself; take hybrid away, or give {others} another host"
        )


def _hybrid(
    search: Search, choices: t.Sequence[Choice], host: t.Mapping[str, t.Any]
) -> tuple[Candidate, Instance] | None:
    """The first model that lies partly in host memory, with the most layers on the GPUs: only for a workload that
    wishes it and has the host to itself."""
    if not choices[0].work.hybrid:
        return None
    work, total = choices[0].work, host.get("memory_total_bytes")
    available = host.get("memory_available_bytes") or total
    if not isinstance(total, int) or not isinstance(available, int):
        raise PlanError(f"workload {work.name}: hybrid needs the memory of the host, which is not known")
    room = min(available, int(total * search.options.host_memory_fraction))
    devices = search.sets[-1]
    for model in choices[0].suitable:
        context, slots = search.bounds([work], [model])
        run = search.engine.run(model, context.low, slots.low, 0)
        for layers in range(model.shape.layers, 0, -1):
            placed = _memory.place(
                model.shape, run, _memory.Devices(tuple(float(device.free) for device in devices), layers)
            )
            share = search.accounts.bytes_on(placed, devices)
            if placed.host_bytes > room:
                break
            if all(share.get(device.id, 0) <= device.budget for device in devices):
                made = Instance(
                    (0,), devices, context.low, slots.low, Residence((share,), (placed,)), layers_on_gpu=layers
                )
                rate = _plan.hybrid_rate(search, model, placed, share, host)
                if work.tokens_per_second and 0 < rate < work.tokens_per_second:
                    break
                return model, made
    return None


def _slow(plan: t.Mapping[str, t.Any], choices: t.Sequence[Choice]) -> list[str]:
    """Which models answer slower than people read, where nobody said how fast they have to be."""
    asked = {choice.work.name for choice in choices if choice.work.tokens_per_second}
    return [
        f"workload {model['workload']}: {model['name']} gives one user at most {rate:g} tokens a second, fewer than "
        f"the {_speed.READING:.1f} words a second that people read; tokens_per_second keeps slower models out"
        for instance in plan["instances"]
        for model in instance["models"]
        for rate in [model["speed"]["tokens_per_second_bound"]]
        if rate and rate < _speed.READING and model["workload"] not in asked
    ]


def _remarks(
    search: Search, choices: t.Sequence[Choice], models: t.Sequence[Candidate], host: t.Mapping[str, t.Any]
) -> list[str]:
    told = []
    for choice in choices:
        if choice.work.tokens_per_second and not all(device.bandwidth for device in search.devices):
            told.append(
                f"workload {choice.work.name}: tokens_per_second could not be held against the memory's bandwidth, "
                "which is not known"
            )
        if choice.work.replicas:
            told.append(
                f"workload {choice.work.name}: replicas counts hosts of the fleet; this is the plan of one host"
            )
    if not search.on_gpu:
        context, slots = search.bounds([choice.work for choice in choices], models)
        remark = _hardware.numa_remark(host, search.least_of(models, context.low, slots.low))
        if remark:
            told.append(remark)
    return told
