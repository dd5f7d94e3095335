# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host of a fleet serves which workload, what each runs, and what is idle.

A workload runs on the hosts that it names; on as many as ``replicas`` says; otherwise on every host. Workloads are
dealt with in their order, those that name hosts first. Replicas go to the hosts that serve best: that have the
candidate that stands first, then more context and slots, then fewer workloads already, then by name. That is greedy
by workload: exact for one, and no promise of the best for several. The same input gives the same fleet.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import (
    _candidates,
    _catalog,
    _hardware,
    _residency,
    _search,
    _select,
)
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Workload


@dataclass(frozen=True)
class Host:
    """A host as :mod:`_hardware` sees it; ``data`` is gpu_info's about the host itself."""

    name: str
    devices: tuple[_hardware.Device, ...]
    data: t.Mapping[str, t.Any]
    remarks: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[t.Any, ...]:
        """Hosts of one kind get the same plan but for the names of their devices."""
        return (tuple(device.kind for device in self.devices), self.data.get("memory_total_bytes"))


@dataclass
class Fleet:
    """Plans by host, faults by host, and workloads by host."""

    plans: dict[str, dict[str, t.Any]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    assigned: dict[str, list[Workload]] = field(default_factory=dict)


def host(data: t.Mapping[str, t.Any], options: _search.Options, table: _hardware.Table) -> Host:
    """One host from its name, ``gpus``, ``host`` and, where there is one, ``current_plan``.

    :raises PlanError: its name or all of its memory is missing.
    """
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise PlanError(f"the fleet has the host {name!r}; a name is needed")
    details = data.get("host") or {}
    devices, remarks = _hardware.devices(
        data.get("gpus") or [], details, _search.keep(options), data.get("current_plan"), table
    )
    return Host(name, tuple(devices), details, tuple(remarks))


class _Planner:
    """Plans for hosts; a host of a kind that was planned before gets that plan with its own devices' names."""

    def __init__(
        self, entries: t.Mapping[str, _catalog.Entry], options: _search.Options, known: _catalog.Library
    ) -> None:
        self.entries = entries
        self.options = options
        self.known = known
        self._made: dict[str, Candidate] = {}
        self._accounts: dict[bool, _residency.Accounts] = {}
        self._plans: dict[t.Any, tuple[Host, dict[str, t.Any] | str]] = {}

    def plan(self, host_: Host, workloads: t.Sequence[Workload]) -> dict[str, t.Any] | str:
        """The plan, or why there is none."""
        key = (host_.kind, tuple(workloads))
        if key not in self._plans:
            on_gpu = bool(host_.devices) and host_.devices[0].id != _hardware.HOST
            try:
                if not host_.devices:
                    raise PlanError("no GPU of the host can be used: {}".format("; ".join(host_.remarks)))
                if on_gpu not in self._accounts:
                    self._accounts[on_gpu] = _search.Search(self.options, list(host_.devices)).accounts
                made: dict[str, t.Any] | str = _select.plan_host(
                    workloads,
                    self.entries,
                    list(host_.devices),
                    host_.data,
                    self.options,
                    self.known,
                    made=self._made,
                    accounts=self._accounts[on_gpu],
                ).plan
            except PlanError as error:
                made = str(error)
            self._plans[key] = (host_, made)
        model, made = self._plans[key]
        return made if isinstance(made, str) else _renamed(made, model, host_)


def _renamed(plan: dict[str, t.Any], made_for: Host, host_: Host) -> dict[str, t.Any]:
    """A plan with the names of another host of the same kind."""
    names = {old.id: new.id for old, new in zip(made_for.devices, host_.devices)}

    def gpus(owner: dict[str, t.Any]) -> dict[str, t.Any]:
        return {**owner, "gpus": [names[gpu] for gpu in owner["gpus"]]}

    return {
        **plan,
        "host": host_.name,
        "devices": [{**device, "id": names[device["id"]]} for device in plan["devices"]],
        "instances": [
            {**gpus(instance), "models": [gpus(model) for model in instance["models"]]}
            for instance in plan["instances"]
        ],
    }


def plan_fleet(
    hosts: t.Sequence[Host],
    workloads: t.Sequence[Workload],
    entries: t.Mapping[str, _catalog.Entry],
    options: _search.Options,
    known: _catalog.Library = _catalog.NO_LIBRARY,
) -> Fleet:
    """Assign the workloads and plan every host.

    :raises PlanError: a workload names a host that there is none of, or more replicas are wanted than hosts can serve.
    """
    planner = _Planner(entries, options, known)
    by_name = {one.name: one for one in sorted(hosts, key=lambda one: one.name)}
    fleet = Fleet(assigned={name: [] for name in by_name})
    for work in workloads:
        absent = sorted(set(work.hosts) - set(by_name))
        if absent:
            raise PlanError(f"workload {work.name}: hosts has {absent[0]!r}, which is no host of the fleet")
    for work in sorted(workloads, key=lambda one: (not one.hosts, bool(one.replicas))):
        if not work.replicas or (work.hosts and work.replicas == len(work.hosts)):
            chosen = list(work.hosts or by_name)
        else:
            chosen = _best(planner, fleet, work, [by_name[name] for name in work.hosts or by_name], entries, known)
        for name in chosen:
            fleet.assigned[name].append(work)
    order = {work.name: number for number, work in enumerate(workloads)}
    for name, assigned in fleet.assigned.items():
        assigned.sort(key=lambda work: order[work.name])
        if assigned:
            made = planner.plan(by_name[name], assigned)
            if isinstance(made, str):
                fleet.faults[name] = made
            else:
                fleet.plans[name] = made
    return fleet


def _best(
    planner: _Planner,
    fleet: Fleet,
    work: Workload,
    hosts: t.Sequence[Host],
    entries: t.Mapping[str, _catalog.Entry],
    known: _catalog.Library,
) -> list[str]:
    """The hosts that serve a workload best beside what they have.

    :raises PlanError: fewer can serve it than replicas are wanted.
    """
    rank = {entry.name: number for number, entry in enumerate(_candidates.chosen(work, entries, known))}
    ranked = []
    why = ""
    for one in hosts:
        made = planner.plan(one, [*fleet.assigned[one.name], work])
        if isinstance(made, str):
            why = why or f"{one.name}: {made}"
            continue
        model = next(
            model for instance in made["instances"] for model in instance["models"] if model["workload"] == work.name
        )
        ranked.append(
            (
                (
                    rank[model["name"]],
                    -model["context_length"],
                    -model["slots"],
                    len(fleet.assigned[one.name]),
                    one.name,
                ),
                one.name,
            )
        )
    if len(ranked) < work.replicas:
        raise PlanError(
            f"workload {work.name}: replicas is {work.replicas}, and {len(ranked)} of {len(hosts)} hosts can serve it"
            + (f"; {why}" if why else "")
        )
    return [name for _key, name in sorted(ranked)[: work.replicas]]


def summary(plans: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """What serves what, and which GPUs run nothing: ``serves`` by workload, ``idle`` by host."""
    serves: dict[str, list[dict[str, t.Any]]] = {}
    idle: dict[str, list[str]] = {}
    for name in sorted(plans):
        plan = plans[name]
        for instance in plan["instances"]:
            for model in instance["models"]:
                serves.setdefault(model["workload"], []).append(
                    {
                        "host": name,
                        "model": model["name"],
                        "context_length": model["context_length"],
                        "slots": model["slots"],
                        "gpus": len(model["gpus"]),
                    }
                )
        unused = [device["id"] for device in plan["devices"] if not device["planned_bytes"]]
        if unused:
            idle[name] = unused
    return {"serves": serves, "idle": idle}
