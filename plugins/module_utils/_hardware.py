# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What models can use of a host: its GPUs, their MIG instances, or its memory; measured, or known by the GPU's name."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.llm.plugins.module_utils import _memory, _text
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError

HOST = "host"
# How many GPUs hosts are sold with.
COUNTS = (1, 2, 4, 8)

# What a CUDA context takes where the table of GPUs says nothing: the most that was measured on any GPU.
CUDA_CONTEXT_BYTES = 555 * _memory.MIB


@dataclass(frozen=True)
class Budgeting:
    """What is kept free of models. Bytes; ``fit_target`` is what the engine itself keeps free on a GPU, ``display``
    what is kept on one that a screen hangs on, ``host_fraction`` the part of the host's memory that models may take.
    ``cuda_context`` stands for what a CUDA context takes on each GPU; None: what is known of it by name."""

    headroom: int = 0
    fit_target: int = _memory.FIT_TARGET_BYTES
    display: int = 0
    host_fraction: float = 0.75
    cuda_context: int | None = None


@dataclass(frozen=True)
class Device:
    """A GPU, a MIG instance, or the host's memory. ``free`` is what was free before our engine held any of it;
    ``bandwidth`` bytes a second, 0 where it is not known. ``alone``: it computes with no other device together.
    ``cuda_context`` is what each model takes of it besides; nvidia-smi's free memory is from before there was any."""

    id: str
    total: int
    free: int
    budget: int
    name: str = ""
    bandwidth: float = 0.0
    alone: bool = False
    cuda_context: int = CUDA_CONTEXT_BYTES

    @property
    def kind(self) -> tuple[int, int, int, float, bool, int]:
        """Devices of one kind are as good as each other."""
        return (self.total, self.free, self.budget, self.bandwidth, self.alone, self.cuda_context)


@dataclass(frozen=True)
class Gpu:
    """A row of the table of GPUs. Bytes, and bytes a second (0: not established)."""

    name: str
    kind: str
    memory: int
    bandwidth: float
    memory_ecc: int
    memory_no_ecc: int
    mig: t.Mapping[str, int]
    # Another name of the row before, which nobody buys apart.
    alias: bool = False
    cuda_context: int | None = None


@dataclass(frozen=True)
class Table:
    """The GPUs that are known by name, what the driver keeps of each for itself, and what a CUDA context takes on one
    of which that was not measured."""

    gpus: tuple[Gpu, ...] = ()
    reserved: int = 640 * _memory.MIB
    cuda_context: int = CUDA_CONTEXT_BYTES


NO_TABLE = Table()


def table(data: t.Any) -> Table:
    """Read ``gpus.yml``.

    :raises PlanError: a row has no name or no memory.
    """
    if not data:
        return Table()
    rows = []
    for row in data.get("gpus") or []:
        if not isinstance(row, dict) or not row.get("name") or not isinstance(row.get("memory_mib"), int):
            raise PlanError(f"the table of GPUs has the row {row!r}; a name and memory_mib are needed")
        rows.append(
            Gpu(
                name=str(row["name"]),
                kind=str(row.get("kind") or ""),
                memory=row["memory_mib"] * _memory.MIB,
                bandwidth=float(row.get("bandwidth_gb_s") or 0) * 1e9,
                memory_ecc=(row.get("memory_mib_ecc") or row["memory_mib"]) * _memory.MIB,
                memory_no_ecc=(row.get("memory_mib_no_ecc") or row["memory_mib"]) * _memory.MIB,
                mig={str(name): size * _memory.MIB for name, size in (row.get("mig") or {}).items()},
                alias=bool(row.get("alias")),
                cuda_context=row["cuda_context_mib"] * _memory.MIB if row.get("cuda_context_mib") else None,
            )
        )
    return Table(
        tuple(rows),
        int(data.get("driver_reserved_mib", 640)) * _memory.MIB,
        int(data.get("cuda_context_mib", CUDA_CONTEXT_BYTES // _memory.MIB)) * _memory.MIB,
    )


def _plain(name: str) -> str:
    """A GPU's name without what makers, guides and people put around it: ``NVIDIA GeForce RTX 4090`` is ``rtx4090``."""
    return re.sub(r"nvidia|geforce|generation|edition|graphics|tesla|[^a-z0-9.]", "", name.lower())


def known_gpu(name: str, gpus: Table) -> Gpu | None:
    """The row of the table that a name means, or None."""
    wanted = _plain(name)
    # People leave RTX away, and add what tells no cards apart. What does (Laptop, Max-Q, Server) means another card.
    wanted = re.sub(r"(gpu|workstation)$", "", wanted)
    for name in (wanted, "rtx" + wanted):
        for gpu in gpus.gpus:
            if _plain(gpu.name) == name:
                return gpu
    return None


def bandwidth_of(name: str, gpus: Table) -> float:
    """Peak bytes a second of the memory of a GPU with this name, 0 where it is not known."""
    found = known_gpu(name, gpus)
    return found.bandwidth if found else 0.0


def cuda_context_bytes(name: str, gpus: Table) -> int:
    """What a CUDA context takes on a GPU with this name, or on a MIG instance of it; the upper value where that was not
    measured."""
    found = known_gpu(re.split(r"\s+mig\s", name, maxsplit=1, flags=re.IGNORECASE)[0], gpus)
    return gpus.cuda_context if found is None or found.cuda_context is None else found.cuda_context


def named(names: t.Sequence[t.Any], gpus: Table) -> list[dict[str, t.Any]]:
    """GPUs by name, as if they were there and idle: ``RTX 4090``, ``2x L40S``, ``A10 without ECC``, ``RTX A6000 with
    ECC``, ``H200 MIG 3g.71gb``, or ``24564 MiB`` for one that no table has.

    :raises PlanError: a name that the table does not have; with the nearest.
    """
    found: list[dict[str, t.Any]] = []
    for item in names:
        text = str(item).strip()
        parts = re.match(r"^(?:(\d+)\s*x\s*)?(.+?)(?:\s+(with|without)\s+ecc|\s+mig\s+(\S+))?$", text, re.IGNORECASE)
        count = int(parts.group(1) or 1) if parts else 0
        if not parts or not 1 <= count <= 64:
            raise PlanError(f"the GPU {text!r}: a name such as 'RTX 4090' or '2x L40S' is needed, 1 to 64 of it")
        size = re.match(r"^(\d+(?:\.\d+)?)\s*(MiB|GiB)$", parts.group(2))
        gpu = None if size else known_gpu(parts.group(2), gpus)
        if size:
            memory = int(float(size.group(1)) * (_memory.MIB if size.group(2) == "MiB" else 1024 * _memory.MIB))
            if not 1 << 30 <= memory <= 1 << 40:
                raise PlanError(f"the GPU {text!r}: a size from '1 GiB' to '1024 GiB' is needed")
            gpu = Gpu(parts.group(2), "", memory, 0.0, memory, memory, {})
        if gpu is None:
            plain = {_plain(other.name): other.name for other in gpus.gpus}
            likely = _text.nearest(_plain(parts.group(2)), plain)
            raise PlanError(
                f"the GPU {text!r} is not in the table of GPUs"
                + (
                    f"; did you mean {plain[likely]!r}?"
                    if likely
                    else "; give its memory as nvidia-smi shows it, '24564 MiB'"
                )
            )
        memory = {"with": gpu.memory_ecc, "without": gpu.memory_no_ecc}.get((parts.group(3) or "").lower(), gpu.memory)
        reserved, name, alone = gpus.reserved, gpu.name, False
        if parts.group(4):
            if parts.group(4) not in gpu.mig:
                known = ", ".join(gpu.mig) or "none"
                raise PlanError(
                    f"the GPU {text!r}: the MIG instances of {gpu.name} that are in the table of GPUs are {known}"
                )
            memory, reserved, alone = gpu.mig[parts.group(4)], 0, True
            name = f"{gpu.name} MIG {parts.group(4)}"
        for _number in range(count):
            found.append(
                {
                    "uuid": f"gpu{len(found)}",
                    "name": name,
                    "memory_total_bytes": memory,
                    "memory_free_bytes": max(0, memory - reserved),
                    "mig_instance": alone,
                    # An instance has a part of the card's bandwidth that the table does not know.
                    "memory_bandwidth": 0.0 if alone else gpu.bandwidth,
                }
            )
    return found


def _apart(instances: t.Sequence[t.Mapping[str, t.Any]]) -> tuple[list[t.Mapping[str, t.Any]], list[str]]:
    """The MIG devices that have memory of their own, and remarks.

    The compute instances of one GPU instance share its memory (NVIDIA's MIG user guide, Concepts), and each of them is
    shown with all of it. The one with the most compute slices is taken: ``2c.3g.71gb`` before ``1c.3g.71gb``.
    """
    taken: dict[t.Any, t.Mapping[str, t.Any]] = {}
    left: list[tuple[t.Any, t.Mapping[str, t.Any]]] = []
    for number, instance in enumerate(instances):
        memory = instance.get("gpu_instance_id")
        key = ("alone", number) if memory is None else memory
        other = taken.setdefault(key, instance)
        if other is not instance:
            better = _compute_slices(instance) > _compute_slices(other)
            taken[key] = instance if better else other
            left.append((key, other if better else instance))
    remarks = [
        f"{instance.get('uuid')} is left out: it shares the memory of GPU instance {key} with "
        f"{taken[key].get('uuid')}, which is planned on"
        for key, instance in left
    ]
    return list(taken.values()), remarks


def _compute_slices(instance: t.Mapping[str, t.Any]) -> int:
    found = re.match(r"(\d+)c\.", str(instance.get("profile") or ""))
    return int(found.group(1)) if found else 0


def _measured(gpu: t.Mapping[str, t.Any], gpus: Table, keep: Budgeting) -> tuple[list[tuple[Device, int]], list[str]]:
    """The devices that one GPU of gpu_info is (itself, its MIG instances, or none), each with the bytes to keep free of
    it, and remarks."""
    who = str(gpu.get("uuid") or gpu.get("name") or "a GPU without a name")
    total, free = gpu.get("memory_total_bytes"), gpu.get("memory_free_bytes")
    name = str(gpu.get("name") or "")
    bandwidth = float(gpu.get("memory_bandwidth") or bandwidth_of(name, gpus))
    context = cuda_context_bytes(name, gpus) if keep.cuda_context is None else keep.cuda_context
    now, then = gpu.get("mig_mode"), gpu.get("mig_mode_pending")
    if then in ("Enabled", "Disabled") and then != (now or "Disabled"):
        remark = (
            f"{who} is left out: MIG is {str(now or 'Disabled').lower()}, and {then.lower()} from the GPU's next reset "
            "on, which ends what runs there; reset it, or take the change back"
        )
        return [], [remark]
    if now == "Enabled":
        instances = gpu.get("mig_devices")
        if not isinstance(instances, list) or not instances:
            remark = (
                f"{who} is left out: MIG is enabled, and the memory of its instances is not the card's; "
                "no instance of it is known, so make one, or turn MIG off"
            )
            return [], [remark]
        instances, remarks = _apart(instances)
        found: list[tuple[Device, int]] = []
        for instance in instances:
            usable, told = _measured({**instance, "mig_mode": None, "mig_instance": True}, gpus, keep)
            # Its context is counted as on the whole card: an instance has fewer multiprocessors, not more.
            found += [(replace(device, bandwidth=0.0, cuda_context=context), kept) for device, kept in usable]
            remarks += told
        return found, remarks
    if not gpu.get("uuid"):
        return [], [f"{who} is left out: its UUID is not known, by which containers are given it"]
    if not isinstance(total, int) or not isinstance(free, int) or total <= 0 or free < 0:
        return [], [f"{who} is left out: its memory is not known"]
    if free > total:
        return [], [f"{who} is left out: it tells of {free} bytes free of {total}, which cannot be"]
    alone = bool(gpu.get("mig_instance"))
    display = keep.display if gpu.get("display_active") in (True, "Enabled") else 0
    kept = keep.fit_target + keep.headroom + display
    remarks = []
    if display:
        remarks.append(f"{who} has a display: {human_bytes(display)} are kept free for it")
    return [(Device(str(gpu["uuid"]), total, free, 0, name, bandwidth, alone, context), kept)], remarks


def devices(
    gpus: t.Sequence[t.Mapping[str, t.Any]],
    host: t.Mapping[str, t.Any],
    keep: Budgeting,
    current: t.Any = None,
    known: Table = NO_TABLE,
) -> tuple[list[Device], list[str]]:
    """What the models can use, and remarks for people.

    Free memory is what the device had before our own engine took any. The plan in force recorded it, and that record
    is kept as long as the device is the same (same id, same total): once the models are loaded, nothing measured would
    say it any more, and a plan that followed the loaded engine's own use would shrink from run to run.

    :raises PlanError: neither a GPU nor the host's memory is known.
    """
    recorded, planned = _recorded(current)
    found: list[Device] = []
    remarks: list[str] = []
    measured: list[tuple[Device, int]] = []
    for gpu in gpus:
        usable, told = _measured(gpu, known, keep)
        measured += usable
        remarks += told
    if not gpus:
        measured.append((_host_device(host), keep.headroom))
    for device, kept in measured:
        name, total, free_now = device.id, device.total, device.free
        record = recorded.get(name)
        free = record[1] if record and record[0] == total else free_now
        if (
            record
            and record[0] == total
            and free_now + planned.get(name, 0) < free - max(512 * _memory.MIB, planned.get(name, 0) // 10)
        ):
            remarks.append(
                f"{name}: {human_bytes(free_now)} are free now and {human_bytes(planned.get(name, 0))} are planned "
                f"for our models, yet {human_bytes(free)} were free when the plan was made: something else takes "
                "memory. Plan without the current plan if that is meant to stay"
            )
        budget = (min(free, int(total * keep.host_fraction)) if name == HOST else free) - kept
        found.append(replace(device, free=free, budget=max(0, budget)))
    return found, remarks


def _host_device(host: t.Mapping[str, t.Any]) -> Device:
    total, available = host.get("memory_total_bytes"), host.get("memory_available_bytes")
    if not isinstance(total, int):
        raise PlanError("neither a GPU nor the memory of the host is known")
    bandwidth = host.get("memory_bandwidth") or 0.0
    free = available if isinstance(available, int) else total
    return Device(HOST, total, free, 0, HOST, float(bandwidth), cuda_context=0)


def host_by_size(data: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """A host without a GPU as gpu_info would tell of it, from ``memory_gib``, and ``channels`` and
    ``mega_transfers`` of its memory for the bandwidth (8 bytes a transfer and channel, JEDEC DDR4 and DDR5).

    :raises PlanError: a number is missing or absurd.
    """
    unknown = sorted(set(data) - {"memory_gib", "cores", "channels", "mega_transfers", "numa_nodes"})
    if unknown:
        raise PlanError(
            f"the host has the field {unknown[0]!r}; memory_gib, cores, channels, mega_transfers and numa_nodes "
            "are known"
        )
    numbers: dict[str, float] = {}
    limits = {"memory_gib": 65536, "cores": 4096, "channels": 64, "mega_transfers": 100000, "numa_nodes": 64}
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= limits[key]:
            raise PlanError(f"the host's {key} is {value!r}; a number above 0 and up to {limits[key]} is needed")
        numbers[key] = float(value)
    if "memory_gib" not in numbers:
        raise PlanError("the host's memory_gib is not given; a number such as 64 is needed")
    total = int(numbers["memory_gib"] * 1024 * _memory.MIB)
    nodes = int(numbers.get("numa_nodes", 1))
    cores = int(numbers.get("cores", 0))
    return {
        "memory_total_bytes": total,
        "memory_available_bytes": total,
        "cpu_count": cores or None,
        "memory_bandwidth": numbers.get("channels", 0) * numbers.get("mega_transfers", 0) * 8e6,
        "numa_nodes": [
            {
                "id": node,
                "memory_total_bytes": total // nodes,
                "cores": [[core] for core in range(node * cores // nodes, (node + 1) * cores // nodes)],
            }
            for node in range(nodes)
        ]
        if nodes > 1
        else [],
    }


def _recorded(current: t.Any) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """(total, free) and planned bytes by device from the plan in force; nothing where there is none of this schema."""
    entries = current.get("devices") if isinstance(current, dict) and current.get("schema") == 1 else None
    recorded: dict[str, tuple[int, int]] = {}
    planned: dict[str, int] = {}
    for item in entries if isinstance(entries, list) else []:
        name, total, free, ours = (
            (item.get(key) for key in ("id", "total_bytes", "free_bytes", "planned_bytes"))
            if isinstance(item, dict)
            else (None,) * 4
        )
        if isinstance(name, str) and isinstance(total, int) and isinstance(free, int) and isinstance(ours, int):
            recorded[name] = (total, free)
            planned[name] = ours
    return recorded, planned


def numa_remark(host: t.Mapping[str, t.Any], needed: int) -> str:
    """What several NUMA nodes mean for a model of ``needed`` bytes, or nothing."""
    nodes = [node for node in host.get("numa_nodes") or [] if isinstance(node, dict)]
    if len(nodes) < 2:
        return ""
    sizes = [node.get("memory_total_bytes") or 0 for node in nodes]
    if needed <= max(sizes):
        return (
            f"the host has {len(nodes)} NUMA nodes, and one of them holds the {human_bytes(needed)} of the models: "
            "ollama_cpuset_cpus: auto binds the engine to it, so that no weight is read across the nodes"
        )
    return (
        f"the models' {human_bytes(needed)} are more than one NUMA node has ({human_bytes(max(sizes))}): weights are "
        "read across nodes, slower than the bandwidth of one"
    )
