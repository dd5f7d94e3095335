# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is wanted and what the host has to what will run: the plan, with a reason for every model turned down.

The operator's order decides the model: the first combination, an earlier workload's preference before a later one's,
that fits with the least context and slots asked for. Then the context grows as far as it fits, then the slots.
Nothing here looks at the clock, the host or the network; a GGUF file's header is the only thing read.
"""

from __future__ import annotations

import itertools
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _gguf, _memory
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

HOST = "host"
DEFAULT_CONTEXT = {"min": 4096, "max": 32768}
DEFAULT_SLOTS = {"min": 1, "max": 4}
# More combinations than this are no choice any more; the message asks for shorter lists.
MAX_COMBINATIONS = 100000


class PlanError(Exception):
    """No plan: the input is wrong or nothing fits. The text says what would be right, or fit, and what was missing."""


@dataclass(frozen=True)
class Options:
    """What holds for the whole host. Bytes, and a fraction of the host's memory for hosts without a GPU."""

    engine_version: str
    host_name: str = ""
    kv_cache_type: str = "f16"
    flash_attention: bool = True
    headroom_bytes: int = 0
    cuda_context_bytes: int = _memory.CUDA_CONTEXT_BYTES
    host_memory_fraction: float = 0.75


@dataclass(frozen=True)
class Range:
    low: int
    high: int


@dataclass(frozen=True)
class Workload:
    name: str
    use: str
    models: tuple[str, ...]
    context: Range
    slots: Range


@dataclass(frozen=True)
class Device:
    """A GPU, or the host's memory. ``free`` is what was free before our engine held any of it."""

    id: str
    total: int
    free: int
    budget: int


@dataclass(frozen=True)
class Candidate:
    entry: _catalog.Entry
    shape: _memory.Shape
    quantization: str | None


@dataclass(frozen=True)
class Placement:
    """Bytes of each model on each device it uses, in the order of the models; ``short`` bytes were missing."""

    bytes_on: tuple[dict[str, int], ...]
    short: int


# --- reading the input ---------------------------------------------------------------------------------------------


def _range(value: t.Any, default: dict[str, int], what: str) -> Range:
    if value is None:
        value = default
    if isinstance(value, dict) and set(value) <= {"min", "max"} and value:
        low = value.get("min", default["min"])
        high = value.get("max", max(default["max"], low) if isinstance(low, int) else None)
        low = min(low, high) if "min" not in value and isinstance(high, int) else low
    else:
        low = high = value
    if (
        isinstance(low, bool)
        or isinstance(high, bool)
        or not isinstance(low, int)
        or not isinstance(high, int)
        or not 1 <= low <= high <= 2**31
    ):
        raise PlanError(f"{what} is {value!r}; a whole number, or min and max with min <= max, is needed")
    return Range(low, high)


def workload(data: t.Any) -> Workload:
    """Check one workload.

    :raises PlanError: naming the workload, the field and what would be right.
    """
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
        raise PlanError(f"workload {data!r}: a mapping with a name is needed")
    name = data["name"]
    unknown = sorted(set(data) - {"name", "use", "models", "context_length", "slots"})
    if unknown:
        raise PlanError(
            f"workload {name}: there is no field {unknown[0]!r}; name, use, models, context_length and slots are known"
        )
    models = data.get("models")
    if not isinstance(models, list) or not models or not all(isinstance(model, str) and model for model in models):
        raise PlanError(
            f"workload {name}: models is {models!r}; a list of model names in order of preference is needed"
        )
    return Workload(
        name=name,
        use=str(data.get("use") or "chat"),
        models=tuple(models),
        context=_range(data.get("context_length"), DEFAULT_CONTEXT, f"workload {name}: context_length"),
        slots=_range(data.get("slots"), DEFAULT_SLOTS, f"workload {name}: slots"),
    )


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not found:
        raise PlanError(f"engine_version is {text!r}; a full version such as '0.32.15' is needed")
    return tuple(int(part) for part in found.groups())


def candidate(entry: _catalog.Entry) -> Candidate:
    """What is known about an entry's model; a GGUF file's header is read.

    :raises PlanError: the file cannot be read or is no model, or the catalog says too little for an account.
    """
    embedding = "embedding" in entry.uses
    try:
        if entry.path is not None:
            header = _gguf.read_file(entry.path)
            shape = _memory.shape_from_header(header)
            if embedding and not shape.embedding:
                raise PlanError(
                    f"{entry.name}: the catalog calls it an embedding model, the file {entry.path} has no pooling type"
                )
            return Candidate(entry, shape, entry.quantization or header.quantization)
        if entry.shape is None or not entry.size_bytes:
            raise PlanError(
                f"{entry.name}: its hyper-parameters are not in the catalog, so its memory cannot be computed; "
                "give its shape and size_bytes, or a GGUF file"
            )
        return Candidate(entry, _memory.shape_from_entry(entry.shape, entry.size_bytes, embedding), entry.quantization)
    except OSError as error:
        raise PlanError(
            f"{entry.name}: cannot read the model file {entry.path} on the machine that plans: {error.strerror}"
        ) from error
    except (_gguf.GgufError, _memory.ShapeError) as error:
        raise PlanError(f"{entry.name}{f' ({entry.path})' if entry.path else ''}: {error}") from error


def devices(
    gpus: t.Sequence[t.Mapping[str, t.Any]], host: t.Mapping[str, t.Any], options: Options, current: t.Any
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
    measured = []
    for gpu in gpus:
        total, free = gpu.get("memory_total_bytes"), gpu.get("memory_free_bytes")
        if gpu.get("mig_mode") == "Enabled":
            remarks.append(
                "{} is left out: MIG is enabled, and the memory of its instances is not the card's".format(
                    gpu.get("uuid")
                )
            )
        elif not isinstance(total, int) or not isinstance(free, int) or not gpu.get("uuid"):
            remarks.append("{} is left out: its memory is not known".format(gpu.get("uuid") or gpu.get("name")))
        else:
            measured.append((str(gpu["uuid"]), total, free))
    if not gpus:
        total, available = host.get("memory_total_bytes"), host.get("memory_available_bytes")
        if not isinstance(total, int):
            raise PlanError("neither a GPU nor the memory of the host is known")
        measured.append((HOST, total, available if isinstance(available, int) else total))
    for name, total, free_now in measured:
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
        if name == HOST:
            budget = min(free, int(total * options.host_memory_fraction)) - options.headroom_bytes
        else:
            budget = free - _memory.FIT_TARGET_BYTES - options.headroom_bytes
        found.append(Device(name, total, free, max(0, budget)))
    return found, remarks


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


# --- placing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Search:
    """Accounts by model and setting, and where they go on these devices."""

    options: Options
    devices: list[Device]

    def __post_init__(self) -> None:
        self.on_gpu = self.devices[0].id != HOST if self.devices else False
        self.overhead = self.options.cuda_context_bytes if self.on_gpu else 0
        self.before_0_30 = _version(self.options.engine_version) < (0, 30, 0)
        self._accounts: dict[tuple[str, int, int], _memory.Account] = {}

    def setting(self, context: int, slots: int) -> _memory.Setting:
        return _memory.Setting(
            context, slots, self.options.kv_cache_type, self.options.flash_attention, self.before_0_30
        )

    def account(self, model: Candidate, context: int, slots: int) -> _memory.Account:
        key = (model.entry.name, context, slots)
        if key not in self._accounts:
            self._accounts[key] = _memory.account(model.shape, self.setting(context, slots), self.on_gpu)
        return self._accounts[key]

    def need(self, model: Candidate, context: int, slots: int) -> int:
        """Bytes on one device, all included."""
        account = self.account(model, context, slots)
        return account.weights + account.kv_cache + account.compute + self.overhead

    def place(self, models: t.Sequence[Candidate], context: int, slots: int) -> Placement:
        """All on one device if that holds them, else each on the emptiest one, else split over all; largest first."""
        distinct = {model.entry.name: model for model in models}
        needs = {name: self.need(model, context, slots) for name, model in distinct.items()}
        roomiest = max(self.devices, key=lambda device: device.budget)
        short = sum(needs.values()) - roomiest.budget
        if short <= 0:
            return Placement(tuple({roomiest.id: needs[model.entry.name]} for model in models), 0)
        if len(self.devices) == 1:
            return Placement((), short)
        left = {device.id: device.budget for device in self.devices}
        placed: dict[str, dict[str, int]] = {}
        for name in sorted(distinct, key=lambda item: (-needs[item], item)):
            emptiest = max(left, key=lambda device: left[device])
            if needs[name] <= left[emptiest]:
                share = {emptiest: needs[name]}
            else:
                usable = [device for device in left if left[device] > 0]
                parts = (
                    _memory.split_over(
                        self.account(distinct[name], context, slots), [left[device] for device in usable]
                    )
                    if usable
                    else []
                )
                share = {device: size + self.overhead for device, size in zip(usable, parts)}
                missing = sum(max(0, size - left[device]) for device, size in share.items()) if usable else needs[name]
                if missing:
                    return Placement((), missing)
            placed[name] = share
            for device, size in share.items():
                left[device] -= size
        return Placement(tuple(placed[model.entry.name] for model in models), 0)

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

    def grow(self, workloads: t.Sequence[Workload], models: t.Sequence[Candidate]) -> tuple[int, int, Placement] | None:
        """The largest context, then the most slots, that fits; None where not even the least does."""
        context, slots = self.bounds(workloads, models)
        if self.place(models, context.low, slots.low).short:
            return None
        for tokens in _steps(context):
            for count in range(slots.high, slots.low - 1, -1):
                placement = self.place(models, tokens, count)
                if not placement.short:
                    return tokens, count, placement
        return None


def _steps(context: Range) -> list[int]:
    """Both ends and the powers of two between them, the largest first."""
    powers = (1 << bit for bit in range(context.low.bit_length(), context.high.bit_length()))
    return sorted(
        {context.low, context.high, *(power for power in powers if context.low < power < context.high)}, reverse=True
    )


# --- choosing --------------------------------------------------------------------------------------------------------


def _unsuitable(work: Workload, model: Candidate, search: _Search) -> str | None:
    """Why this model cannot serve this workload on any amount of memory, or None."""
    shape = model.shape
    if work.use == "embedding" and not shape.embedding:
        return "it is no embedding model"
    if work.use != "embedding" and shape.embedding:
        return f"it is an embedding model and cannot serve {work.use}"
    if not shape.embedding and shape.context_length < work.context.low:
        return f"it was trained for {shape.context_length} tokens, fewer than the {work.context.low} asked for"
    if shape.one_slot and not shape.embedding and work.slots.low > 1:
        return f"Ollama gives the architecture {shape.architecture} one slot, {work.slots.low} are asked for"
    return _memory.refusal(shape, search.setting(work.context.low, work.slots.low), search.on_gpu)


def _shortage(
    search: _Search, workloads: t.Sequence[Workload], models: t.Sequence[Candidate], index: int
) -> tuple[int, str]:
    """By how many bytes these models miss at the least they are asked for, told for the one at ``index``."""
    context, slots = search.bounds(workloads, models)
    short = search.place(models, context.low, slots.low).short
    need = search.need(models[index], context.low, slots.low)
    room = sum(device.budget for device in search.devices)
    count = 1 if models[index].shape.one_slot else slots.low
    tokens = min(context.low, models[index].shape.context_length)
    owner = "the host has" if not search.on_gpu else "one GPU has"
    if len(search.devices) > 1:
        owner = f"its {len(search.devices)} GPUs together have"
    return short, (
        f"needs {human_bytes(need)} ({need} bytes) at {tokens} tokens x {count} {'slot' if count == 1 else 'slots'}"
        f"{' beside the other workloads of the host' if len(models) > 1 else ''};"
        f" that misses by {human_bytes(short)} ({short} bytes) the {human_bytes(room)} ({room} bytes) that {owner}"
        " for models"
    )


def _would_fit(
    search: _Search,
    workloads: t.Sequence[Workload],
    models: t.Sequence[Candidate],
    catalog: t.Mapping[str, _catalog.Entry],
) -> str:
    """What the operator could ask for instead, for the last workload's model or with less context."""
    context, slots = search.bounds(workloads, models)
    for power in range(context.low.bit_length() - 1, 8, -1):
        if 1 << power < context.low and not search.place(models, 1 << power, 1).short:
            return "{} would fit with {} tokens of context and 1 slot".format(
                " and ".join(model.entry.name for model in models), 1 << power
            )
    index = max(range(len(models)), key=lambda number: search.need(models[number], context.low, slots.low))
    for entry in sorted(catalog.values(), key=lambda item: (-item.size_bytes, item.name)):
        try:
            other = candidate(entry) if entry.path is None else None
        except PlanError:
            continue
        if other and not _unsuitable(workloads[index], other, search):
            trial = list(models)
            trial[index] = other
            if search.grow(workloads, trial):
                return f"{entry.name} of the catalog would fit for the workload {workloads[index].name}"
    return f"no model of the catalog would fit for the workload {workloads[index].name}"


def _chosen(entries: t.Mapping[str, _catalog.Entry], wanted: t.Sequence[Workload]) -> list[list[_catalog.Entry]]:
    """The catalog's entries for what each workload names.

    :raises PlanError: naming every model that is not in it.
    """
    found: list[list[_catalog.Entry]] = []
    absent: list[str] = []
    for work in wanted:
        found.append([])
        for name in work.models:
            try:
                found[-1].append(_catalog.find(entries, name))
            except _catalog.CatalogError as error:
                absent.append(str(error))
    if absent:
        raise PlanError("; ".join(absent))
    return found


def make_plan(
    workloads: t.Sequence[t.Any],
    gpus: t.Sequence[t.Mapping[str, t.Any]],
    host: t.Mapping[str, t.Any],
    catalog: t.Sequence[t.Any],
    options: Options,
    current_plan: t.Any = None,
) -> tuple[dict[str, t.Any], list[str]]:
    """The plan (docs/architecture.md has its schema) and remarks for people. The same input gives the same plan.

    :raises PlanError: wrong input, or nothing fits; then with the nearest miss in bytes and what would fit.
    """
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
    wanted = [workload(item) for item in workloads]
    names = [work.name for work in wanted]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not wanted or doubled:
        raise PlanError(
            f"the workload name {doubled[0]} stands twice"
            if doubled
            else "no workload is given, so there is nothing to plan"
        )
    try:
        entries = _catalog.merge(catalog)
    except _catalog.CatalogError as error:
        raise PlanError(str(error)) from error
    chosen_entries = _chosen(entries, wanted)
    found, remarks = devices(gpus, host, options, current_plan)
    if not found:
        raise PlanError("no GPU of the host can be used: {}".format("; ".join(remarks)))
    search = _Search(options, found)

    suitable: list[list[Candidate]] = []
    refused: list[dict[str, str]] = []
    for work, choices in zip(wanted, chosen_entries):
        kept: list[Candidate] = []
        reasons: dict[str, str] = {}
        for entry in choices:
            if entry.path is None and (entry.shape is None or not entry.size_bytes):
                reasons[entry.name] = "its hyper-parameters are not in the catalog, so its memory cannot be computed"
                continue
            model = candidate(entry)
            reason = _unsuitable(work, model, search)
            if reason:
                reasons[entry.name] = reason
            else:
                kept.append(model)
        if not kept:
            raise PlanError(
                "no model of the workload {} can serve it: {}".format(
                    work.name, "; ".join("{}: {}".format(*item) for item in reasons.items())
                )
            )
        suitable.append(kept)
        refused.append(reasons)

    count = 1
    for kept in suitable:
        count *= len(kept)
    if count > MAX_COMBINATIONS:
        raise PlanError(f"{count} combinations of models are too many to choose from; give shorter lists of models")
    missed: list[tuple[int, tuple[Candidate, ...]]] = []
    for models in itertools.product(*suitable):
        grown = search.grow(wanted, models)
        if grown:
            return _write(search, wanted, models, grown, chosen_entries, suitable, refused), remarks
        context, slots = search.bounds(wanted, models)
        missed.append((search.place(models, context.low, slots.low).short, models))
    short, models = min(missed, key=lambda miss: miss[0])
    lines = [
        f"{model.entry.name} for {work.name} {_shortage(search, wanted, models, index)[1]}"
        for index, (work, model) in enumerate(zip(wanted, models))
    ]
    raise PlanError(
        "nothing fits{}. The nearest miss is {} ({} bytes): {}. {}.".format(
            " on " + options.host_name if options.host_name else "",
            human_bytes(short),
            short,
            "; ".join(lines),
            _would_fit(search, wanted, models, entries),
        )
    )


def _write(
    search: _Search,
    workloads: t.Sequence[Workload],
    models: t.Sequence[Candidate],
    grown: tuple[int, int, Placement],
    asked: t.Sequence[t.Sequence[_catalog.Entry]],
    suitable: t.Sequence[t.Sequence[Candidate]],
    refused: t.Sequence[t.Mapping[str, str]],
) -> dict[str, t.Any]:
    context, slots, placement = grown
    options = search.options
    budgets = {device.id: device.budget for device in search.devices}
    order = [device.id for device in search.devices]
    used = [device for device in order if any(device in share for share in placement.bytes_on)]
    planned = dict.fromkeys(order, 0)
    for share in {model.entry.name: share for model, share in zip(models, placement.bytes_on)}.values():
        for device, size in share.items():
            planned[device] += size

    written = []
    for index, (work, model, share) in enumerate(zip(workloads, models, placement.bytes_on)):
        account = search.account(model, context, slots)
        total = sum(share.values())
        overhead = search.overhead * len(share)
        rejected = dict(refused[index])
        for other in suitable[index]:
            if other is model:
                break
            trial = list(models)
            trial[index] = other
            rejected[other.entry.name] = _shortage(search, workloads, trial, index)[1]
        written.append(
            {
                "name": model.entry.name,
                "workload": work.name,
                "use": work.use,
                "quantization": model.quantization,
                "context_length": min(context, model.shape.context_length),
                "slots": 1 if model.shape.one_slot else slots,
                "kv_cache_type": options.kv_cache_type,
                "gpus": [device for device in order if device in share and device != HOST],
                "layers": model.shape.layers,
                "source": model.entry.source,
                "account": {
                    "weights_bytes": account.weights,
                    "kv_cache_bytes": account.kv_cache,
                    # What several GPUs hold twice (graph, pipeline copies) is compute, too.
                    "compute_bytes": total - account.weights - account.kv_cache - overhead,
                    "overhead_bytes": overhead,
                    "total_bytes": total,
                    "budget_bytes": sum(budgets[device] for device in share),
                    "confidence": account.confidence if len(share) == 1 else "low",
                },
                "rejected": [
                    {"model": entry.name, "reason": rejected[entry.name]}
                    for entry in asked[index]
                    if entry.name in rejected
                ],
            }
        )
    return {
        "schema": 1,
        "host": options.host_name,
        "engine": {"name": "ollama", "version": options.engine_version},
        "devices": [
            {
                "id": device.id,
                "total_bytes": device.total,
                "free_bytes": device.free,
                "budget_bytes": device.budget,
                "planned_bytes": planned[device.id],
            }
            for device in search.devices
        ],
        "instances": [
            {
                "name": "ollama",
                "gpus": [device for device in used if device != HOST],
                "environment": {
                    "OLLAMA_CONTEXT_LENGTH": str(context),
                    "OLLAMA_FLASH_ATTENTION": "1" if options.flash_attention else "0",
                    "OLLAMA_KV_CACHE_TYPE": options.kv_cache_type,
                    "OLLAMA_MAX_LOADED_MODELS": str(len({model.entry.name for model in models})),
                    "OLLAMA_NUM_PARALLEL": str(slots),
                },
                "models": written,
            }
        ],
    }
