# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models go on a host's devices, and which combination of candidates is the first that fits.

The search is exact: every choice of devices that differs in kind is tried, and a combination of models is passed over
only where the least bytes that it can take are more than all devices have.
"""

from __future__ import annotations

import itertools
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.onprem.llm.plugins.module_utils import (
    _catalog,
    _hardware,
    _llama_cpp,
    _measurements,
    _memory,
    _residency,
    _speed,
)
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate
from ansible_collections.onprem.llm.plugins.module_utils._hardware import HOST, Device
from ansible_collections.onprem.llm.plugins.module_utils._residency import Residence
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Range, Workload

# Combinations of models looked at, and ways to share GPUs among instances; beyond it is no choice any more.
MAX_COMBINATIONS = 20000
MAX_SHARINGS = 4000


@dataclass(frozen=True)
class Options:
    """What holds for the whole host. Bytes, and a fraction of the host's memory for hosts without a GPU."""

    engine_version: str
    host_name: str = ""
    kv_cache_type: str = "f16"
    flash_attention: bool = True
    headroom_bytes: int = 0
    # None: what is known of each GPU.
    cuda_context_bytes: int | None = None
    host_memory_fraction: float = 0.75
    fit_target_bytes: int = _memory.FIT_TARGET_BYTES
    display_bytes: int = 0
    max_instances: int = 1
    # Bytes that loads took on this host.
    measured: t.Mapping[_measurements.Load, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """An engine of its own: which workloads (by number) run in it, on which devices, with which common setting.
    ``layers_on_gpu`` by workload, of a model that lies partly in host memory."""

    members: tuple[int, ...]
    devices: tuple[Device, ...]
    context: int
    slots: int
    residence: Residence
    layers_on_gpu: int | None = None


def version(text: str) -> tuple[int, ...]:
    """The parts of a full version.

    :raises PlanError: it is none.
    """
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not found:
        raise PlanError(f"engine_version is {text!r}; a full version such as '0.32.15' is needed")
    return tuple(int(part) for part in found.groups())


def check(options: Options) -> None:
    if options.kv_cache_type not in _memory.KV_CACHE_TYPES:
        raise PlanError(f"kv_cache_type is {options.kv_cache_type!r}; f16, q8_0 or q4_0 is needed")
    if options.kv_cache_type != "f16" and not options.flash_attention:
        raise PlanError(
            f"kv_cache_type is {options.kv_cache_type!r} while flash_attention is off: "
            "a quantized KV cache needs flash attention"
        )
    if not 0 < options.host_memory_fraction <= 1:
        raise PlanError(
            f"host_memory_fraction is {options.host_memory_fraction!r}; a number above 0 and up to 1 is needed"
        )
    for name in ("headroom_bytes", "cuda_context_bytes", "fit_target_bytes", "display_bytes"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < 2**50:
            raise PlanError(f"{name} is {value}; a number of bytes from 0 up is needed")
    if not 1 <= options.max_instances <= 16:
        raise PlanError(f"max_instances is {options.max_instances}; a number from 1 to 16 is needed")


def keep(options: Options) -> _hardware.Budgeting:
    """What the options keep free of models."""
    fit_target = options.fit_target_bytes
    if _llama_cpp.of_ollama(version(options.engine_version)) is _llama_cpp.BEFORE_0_30:
        fit_target = max(fit_target, _memory.MINIMUM_BYTES)
    return _hardware.Budgeting(
        options.headroom_bytes, fit_target, options.display_bytes, options.host_memory_fraction,
        options.cuda_context_bytes,
    )  # fmt: skip


# --- devices ---------------------------------------------------------------------------------------------------------


def _device_sets(devices: t.Sequence[Device]) -> list[tuple[Device, ...]]:
    """Every choice of devices that differs in kind, the fewest first, then the roomiest. A MIG instance stands alone:
    a process computes on one only (NVIDIA's MIG user guide, CUDA device enumeration)."""
    kinds: dict[tuple[t.Any, ...], list[Device]] = {}
    for device in devices:
        kinds.setdefault(device.kind, []).append(device)
    counts = itertools.product(*(range(2 if group[0].alone else len(group) + 1) for group in kinds.values()))
    place = {device.id: number for number, device in enumerate(devices)}
    sets = []
    for count in counts:
        chosen = [device for group, taken in zip(kinds.values(), count) for device in group[:taken]]
        if chosen and (len(chosen) == 1 or not any(device.alone for device in chosen)):
            sets.append(tuple(sorted(chosen, key=lambda device: place[device.id])))
    return sorted(
        sets,
        key=lambda chosen: (
            len(chosen),
            -sum(device.budget for device in chosen),
            [place[device.id] for device in chosen],
        ),
    )


def _partitions(numbers: list[int], most: int) -> t.Iterator[list[list[int]]]:
    """Every way to put numbers into at most ``most`` groups."""
    if not numbers:
        yield []
        return
    first, rest = numbers[0], numbers[1:]
    for groups in _partitions(rest, most):
        for index, group in enumerate(groups):
            yield [*groups[:index], [first, *group], *groups[index + 1 :]]
        if len(groups) < most:
            yield [[first], *groups]


def _together(groups: t.Sequence[t.Sequence[int]], models: t.Sequence[Candidate]) -> bool:
    """Whether a model of two workloads stands in one group: it is loaded once."""
    owner: dict[str, int] = {}
    return all(
        owner.setdefault(models[number].name, index) == index for index, group in enumerate(groups) for number in group
    )


def _sharings(devices: t.Sequence[Device], groups: int) -> t.Iterator[list[tuple[Device, ...]]]:
    """Every way to give each of so many groups devices of its own that differs in kind; some may stay idle."""
    kinds: dict[tuple[t.Any, ...], list[Device]] = {}
    for device in devices:
        kinds.setdefault(device.kind, []).append(device)
    splits = [list(_splits(len(group), groups)) for group in kinds.values()]
    for choice in itertools.product(*splits):
        given: list[list[Device]] = [[] for _group in range(groups)]
        for group, counts in zip(kinds.values(), choice):
            start = 0
            for number, count in enumerate(counts):
                given[number] += group[start : start + count]
                start += count
        if all(given) and not any(len(part) > 1 and any(device.alone for device in part) for part in given):
            yield [tuple(part) for part in given]


def _splits(count: int, groups: int) -> t.Iterator[tuple[int, ...]]:
    """How many of ``count`` like devices each group gets, the rest staying idle."""
    if not groups:
        yield ()
        return
    for taken in range(count + 1):
        for rest in _splits(count - taken, groups - 1):
            yield (taken, *rest)


# --- placing ---------------------------------------------------------------------------------------------------------


class Search:
    """Where models go on these devices."""

    def __init__(self, options: Options, devices: list[Device], accounts: _residency.Accounts | None = None) -> None:
        self.options = options
        self.devices = devices
        self.on_gpu = bool(devices) and devices[0].id != HOST
        self.engine = _residency.Engine(
            version(options.engine_version),
            options.kv_cache_type,
            options.flash_attention,
        )
        self.least_context = min((device.cuda_context for device in devices), default=0) if self.on_gpu else 0
        self.accounts = accounts or _residency.Accounts(self.engine, options.measured)
        self.sets = _device_sets(devices)
        self.room = sum(device.budget for device in devices)
        self._least: dict[tuple[str, int, int], int] = {}

    def least(self, model: Candidate, context: int, slots: int) -> int:
        """Bytes that the model takes at the very least, wherever it lies: with the smallest batch, nothing twice."""
        key = (model.name, context, slots)
        if key not in self._least:
            run = _memory.engine_run(model.shape, self.engine.setting(context, slots))
            if not model.shape.embedding:
                run = replace(run, batch=min(run.batch, 512))
            placed = _memory.place(model.shape, run, _memory.Devices(gpus=(1.0,) if self.on_gpu else ()))
            part = placed.gpus[0].total + self.least_context if self.on_gpu else placed.host_bytes
            self._least[key] = part + placed.projector
        return self._least[key]

    def bounds(self, workloads: t.Sequence[Workload], models: t.Sequence[Candidate]) -> tuple[Range, Range]:
        """Context and slots that an instance of these models may have: each workload gets at least what it asks for,
        and no more than the smallest of the upper limits, unless another's lower limit is above that."""
        pairs = list(zip(workloads, models))
        deciding = [pair for pair in pairs if not pair[1].shape.embedding] or pairs
        low = max(min(work.context.low, model.shape.context_length) for work, model in pairs)
        high = max(low, min(min(work.context.high, model.shape.context_length) for work, model in deciding))
        several = [work for work, model in pairs if not model.shape.one_slot]
        least = max((work.slots.low for work in several), default=1)
        most = max(least, min((work.slots.high for work in several), default=1))
        return Range(low, high), Range(least, most if self.on_gpu else least)

    def too_slow(self, work: Workload, model: Candidate, residence: Residence, index: int) -> bool:
        rate = self.rate(model, residence.placed[index], residence.bytes_on[index])
        return bool(work.tokens_per_second and rate and rate < work.tokens_per_second)

    def rate(self, model: Candidate, placed: _memory.Placed, share: t.Mapping[str, int]) -> float:
        """Tokens a second of one user at most, 0 where a bandwidth is not known."""
        bandwidth = {device.id: device.bandwidth for device in self.devices}
        if not self.on_gpu:
            return _speed.of_model(model.active_bytes, {HOST: 1}, bandwidth)
        weights = [part.weights for part in placed.gpus if part.total > 0]
        return _speed.of_model(model.active_bytes, dict(zip(share, weights)), bandwidth)

    def first_fit(
        self,
        workloads: t.Sequence[Workload],
        models: t.Sequence[Candidate],
        context: int,
        slots: int,
        sets: t.Sequence[tuple[Device, ...]],
    ) -> tuple[tuple[Device, ...], Residence] | None:
        """The fewest devices that these models reside on with this setting."""
        for devices in sets:
            for spread in (False, True) if len(devices) > 1 else (False,):
                residence = self.accounts.reside(models, context, slots, devices, spread)
                if residence.fits and not any(
                    self.too_slow(work, model, residence, index)
                    for index, (work, model) in enumerate(zip(workloads, models))
                ):
                    return devices, residence
        return None

    def fits(self, workloads: t.Sequence[Workload], models: t.Sequence[Candidate]) -> bool:
        """Whether there is any way to run these models with the least that is asked for."""
        context, slots = self.bounds(workloads, models)
        if self.first_fit(workloads, models, context.low, slots.low, self.sets):
            return True
        return self.options.max_instances > 1 and bool(self._shared(workloads, models, least=True))

    def grow(
        self,
        workloads: t.Sequence[Workload],
        models: t.Sequence[Candidate],
        sets: t.Sequence[tuple[Device, ...]] | None = None,
        members: tuple[int, ...] | None = None,
    ) -> Instance | None:
        """One instance with the largest context, then the most slots, then the fewest devices, that fits."""
        sets = self.sets if sets is None else sets
        context, slots = self.bounds(workloads, models)
        if not self.first_fit(workloads, models, context.low, slots.low, sets):
            return None
        for tokens in steps(context):
            for count in range(self._most(models, tokens, slots), slots.low - 1, -1):
                found = self.first_fit(workloads, models, tokens, count, sets)
                if found:
                    return Instance(members or tuple(range(len(models))), found[0], tokens, count, found[1])
        return None

    def _most(self, models: t.Sequence[Candidate], context: int, slots: Range) -> int:
        """The most slots whose least bytes all devices together have, or fewer than the lowest. The least bytes grow
        with the slots, so halving finds it."""
        low, high = slots.low - 1, slots.high
        while low < high:
            middle = (low + high + 1) // 2
            if self.least_of(models, context, middle) <= self.room:
                low = middle
            else:
                high = middle - 1
        return low

    def least_of(self, models: t.Sequence[Candidate], context: int, slots: int) -> int:
        return sum({model.name: self.least(model, context, slots) for model in models}.values())

    def instances(self, workloads: t.Sequence[Workload], models: t.Sequence[Candidate]) -> list[Instance]:
        """How these models run: in one instance, or in several where that is allowed and gives more."""
        one = self.grow(workloads, models)
        if self.options.max_instances == 1 or not self.on_gpu:
            return [one] if one else []
        several = self._shared(workloads, models, least=False)
        if not one or not several:
            return several or ([one] if one else [])
        return min([one], several, key=lambda made: _merit(made, len(workloads)))

    def _shared(self, workloads: t.Sequence[Workload], models: t.Sequence[Candidate], least: bool) -> list[Instance]:
        """The best way to share the GPUs among two or more instances; with ``least``, any that fits at all."""
        best: list[Instance] = []
        looked = 0
        for groups in _partitions(list(range(len(workloads))), self.options.max_instances):
            if len(groups) < 2 or not _together(groups, models):
                continue
            for sharing in _sharings(self.devices, len(groups)):
                looked += 1
                if looked > MAX_SHARINGS:
                    raise PlanError(
                        f"{len(self.devices)} GPUs of different kinds can be shared in too many ways among "
                        f"{self.options.max_instances} instances; lower max_instances"
                    )
                made: list[Instance] = []
                for group, devices in zip(groups, sharing):
                    works = [workloads[number] for number in group]
                    chosen = [models[number] for number in group]
                    if least:
                        context, slots = self.bounds(works, chosen)
                        found = self.first_fit(works, chosen, context.low, slots.low, [devices])
                        grown = Instance(tuple(group), devices, 0, 0, found[1]) if found else None
                    else:
                        grown = self.grow(works, chosen, [devices], tuple(group))
                    if not grown:
                        break
                    made.append(grown)
                if len(made) == len(groups):
                    if least:
                        return made
                    if not best or _merit(made, len(workloads)) < _merit(best, len(workloads)):
                        best = made
        return best


def _merit(made: t.Sequence[Instance], workloads: int) -> tuple[t.Any, ...]:
    """Smaller is better: the contexts of the workloads in order, then their slots, then few instances and GPUs."""
    owner = {number: instance for instance in made for number in instance.members}
    return (
        [-owner[number].context for number in range(workloads)],
        [-owner[number].slots for number in range(workloads)],
        len(made),
        sum(len(instance.devices) for instance in made),
    )


def steps(context: Range) -> list[int]:
    """Both ends and the powers of two between them, the largest first."""
    powers = (1 << bit for bit in range(context.low.bit_length(), context.high.bit_length()))
    return sorted(
        {context.low, context.high, *(power for power in powers if context.low < power < context.high)}, reverse=True
    )


# --- choosing --------------------------------------------------------------------------------------------------------


@dataclass
class Choice:
    """The candidates of one workload in order, and why others of the list are none. ``slow`` says of which nobody would
    wait for the answers; they come last."""

    work: Workload
    asked: list[_catalog.Entry]
    suitable: list[Candidate] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    slow: dict[str, str] = field(default_factory=dict)


def first_combination(search: Search, choices: t.Sequence[Choice]) -> tuple[Candidate, ...] | None:
    """The first combination that fits, an earlier workload's order before a later one's."""
    works = [choice.work for choice in choices]
    looked = 0

    def descend(taken: tuple[Candidate, ...]) -> tuple[Candidate, ...] | None:
        nonlocal looked
        if taken:
            context, slots = search.bounds(works[: len(taken)], taken)
            low = context.low if search.options.max_instances == 1 else 1
            if search.least_of(taken, low, slots.low if low > 1 else 1) > search.room:
                return None
        if len(taken) == len(choices):
            looked += 1
            if looked > MAX_COMBINATIONS:
                raise PlanError(
                    f"more than {MAX_COMBINATIONS} combinations of models are too many to choose from; "
                    "give shorter lists of models"
                )
            return taken if search.fits(works, taken) else None
        for model in choices[len(taken)].suitable:
            found = descend((*taken, model))
            if found:
                return found
        return None

    return descend(())


def shortage(
    search: Search, workloads: t.Sequence[Workload], models: t.Sequence[Candidate], index: int
) -> tuple[int, str]:
    """By how many bytes these models miss at the least they are asked for, told for the one at ``index``. 0 bytes
    where there is room, and the engine would not use it."""
    context, slots = search.bounds(workloads, models)
    short, reason = miss(search, models, context.low, slots.low)
    model = models[index]
    need = search.least(model, context.low, slots.low)
    count = 1 if model.shape.one_slot else slots.low
    tokens = min(context.low, model.shape.context_length)
    owner = "the host has" if not search.on_gpu else "one GPU has"
    if len(search.devices) > 1:
        owner = f"its {len(search.devices)} GPUs together have"
    others = " and ".join(
        dict.fromkeys(other.name for number, other in enumerate(models) if number != index and other.name != model.name)
    )
    beside = f" beside the other workloads of the host ({others})" if others else ""
    slot = "slot" if count == 1 else "slots"
    what = f"needs {human_bytes(need)} ({need} bytes) at {tokens} tokens x {count} {slot}{beside};"
    if reason:
        return 0, f"{what} {reason}"
    return short, (
        f"{what} that misses by {human_bytes(short)} ({short} bytes) the {human_bytes(search.room)} ({search.room} "
        f"bytes) that {owner} for models"
    )


def miss(search: Search, models: t.Sequence[Candidate], context: int, slots: int) -> tuple[int, str]:
    """The fewest bytes that are missing, on whichever devices; or why the engine would not keep the models."""
    short, reason = 0, ""
    for devices in search.sets:
        residence = search.accounts.reside(models, context, slots, devices)
        if residence.reason:
            return 0, residence.reason
        if residence.short and (not short or residence.short < short):
            short = residence.short
    return short, reason
