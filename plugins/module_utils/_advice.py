# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to change: the ways out where nothing fits, and what a plan would be with one thing different."""

from __future__ import annotations

import itertools
import typing as t
from dataclasses import replace

from ansible_collections.onprem.llm.plugins.module_utils import (
    _candidates,
    _catalog,
    _hardware,
    _memory,
    _quantization,
    _workload,
)
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate, candidate
from ansible_collections.onprem.llm.plugins.module_utils._search import (
    Choice,
    Instance,
    Search,
    first_combination,
    keep,
    miss,
    shortage,
    steps,
)
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes
from ansible_collections.onprem.llm.plugins.module_utils._workload import Workload

# What a host without a GPU is sold with (GiB).
MEMORY_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


def nothing_fits(
    search: Search,
    choices: t.Sequence[Choice],
    entries: t.Mapping[str, _catalog.Entry],
    table: _hardware.Table,
) -> str:
    """The nearest miss in bytes, and the three cheapest ways out."""
    works = [choice.work for choice in choices]
    lists = [choice.suitable for choice in choices]
    count = 1
    for models in lists:
        count *= len(models)
    if count > 2000:
        # The nearest miss is among the smallest.
        lists = [sorted(models, key=lambda model: (model.file_bytes, model.name))[:3] for models in lists]
    misses = []
    for combination in itertools.product(*lists):
        context, slots = search.bounds(works, combination)
        misses.append((miss(search, combination, context.low, slots.low)[0], combination))
    short, nearest = min(misses, key=lambda missed: missed[0])
    lines = [
        f"{model.name} for {work.name} {shortage(search, works, nearest, index)[1]}"
        for index, (work, model) in enumerate(zip(works, nearest))
    ]
    ways = _ways_out(search, choices, nearest, entries, table)
    return "nothing fits{}. The nearest miss is {} ({} bytes): {}. {}.".format(
        " on " + search.options.host_name if search.options.host_name else "",
        human_bytes(short),
        short,
        "; ".join(lines),
        "; or ".join(ways[:3]) if ways else f"no model of the catalog would fit for the workload {works[0].name}",
    )


def _ways_out(
    search: Search,
    choices: t.Sequence[Choice],
    models: tuple[Candidate, ...],
    entries: t.Mapping[str, _catalog.Entry],
    table: _hardware.Table,
) -> list[str]:
    """What could be changed so that it fits, the cheapest first: a setting, a smaller file, another model, hardware."""
    works = [choice.work for choice in choices]
    names = " and ".join(dict.fromkeys(model.name for model in models))
    context, slots = search.bounds(works, models)
    ways: list[str] = []
    for power in range(context.low.bit_length(), 8, -1):
        tokens = 1 << power
        less = tokens < context.low or (tokens == context.low and slots.low > 1)
        if less and search.first_fit(works, models, tokens, 1, search.sets):
            ways.append(f"{names} would fit with {tokens} tokens of context and 1 slot")
            break
    if search.options.kv_cache_type == "f16" and search.options.flash_attention:
        eighth = Search(replace(search.options, kv_cache_type="q8_0"), search.devices)
        refused = any(
            _memory.refusal(model.shape, eighth.engine.setting(context.low, slots.low), search.on_gpu)
            for model in models
        )
        if not refused and eighth.fits(works, models):
            ways.append(f"{names} would fit with a KV cache of type q8_0")
    index = max(range(len(models)), key=lambda number: search.least(models[number], context.low, slots.low))
    smaller, other = _smaller(search, works, models, index, entries)
    if smaller:
        ways.append(
            f"{smaller.name}, {smaller.quantization} instead of {models[index].quantization}, would fit for the "
            f"workload {works[index].name}"
        )
    if other:
        ways.append(f"{other.name} of the catalog would fit for the workload {works[index].name}")
    if len(works) > 1:
        for gone in range(len(works) - 1, -1, -1):
            rest = [number for number in range(len(works)) if number != gone]
            if search.fits([works[number] for number in rest], [models[number] for number in rest]):
                ways.append(f"the others would fit without the workload {works[gone].name}, on another host")
                break
    hardware = _hardware_for(search, works, models, table)
    if hardware:
        ways.append(f"{names} would fit {hardware}")
    return ways


def _hardware_for(
    search: Search, works: t.Sequence[Workload], models: tuple[Candidate, ...], table: _hardware.Table
) -> str:
    """The smallest card of the table that alone would hold these models, else the smallest of several like ones; of a
    host without a GPU, how much memory would. Nothing where none would."""
    context, slots = search.bounds(works, models)
    least = search.least_of(models, context.low, slots.low)
    if not search.on_gpu:
        for gib in MEMORY_SIZES:
            devices, _remarks = _hardware.devices([], {"memory_total_bytes": gib << 30}, keep(search.options))
            if Search(search.options, devices).fits(works, models):
                return f"on a host with {gib} GiB of memory"
        return ""
    rows = sorted((row for row in table.gpus if not row.alias), key=lambda row: (row.memory, row.name))
    for count, gpu in itertools.product(_hardware.COUNTS, rows):
        if gpu.memory * count < least:
            continue
        named = _hardware.named([f"{count}x {gpu.name}"], table)
        devices, _remarks = _hardware.devices(named, {}, keep(search.options), None, table)
        if Search(search.options, devices).fits(works, models):
            return f"on {'one' if count == 1 else count} {gpu.name} ({human_bytes(gpu.memory)}{' each' * (count > 1)})"
    return ""


def _smaller(
    search: Search,
    works: t.Sequence[Workload],
    models: tuple[Candidate, ...],
    index: int,
    entries: t.Mapping[str, _catalog.Entry],
) -> tuple[Candidate | None, Candidate | None]:
    """The largest smaller quantization of the model at ``index`` that would fit, and the largest other model."""
    work, model = works[index], models[index]
    family = model.entry.variant_of or model.name
    found: list[Candidate | None] = [None, None]
    for entry in sorted(entries.values(), key=lambda item: (-item.size_bytes, item.name)):
        same = family in (entry.name, entry.variant_of)
        if found[0 if same else 1] or entry.path is not None or not _candidates.plannable(entry):
            continue
        if not same and (entry.variant_of or not _likely(work, entry)):
            continue
        other = candidate(entry)
        setting = search.engine.setting(work.context.low, work.slots.low)
        if other.file_bytes >= model.file_bytes or _candidates.unsuitable(work, other, setting, search.on_gpu):
            continue
        if search.fits(works, [*models[:index], other, *models[index + 1 :]]):
            found[0 if same else 1] = other
        if all(found):
            break
    return found[0], found[1]


def _likely(work: Workload, entry: _catalog.Entry) -> bool:
    """Whether another model meets the wishes, the list of models aside."""
    return _candidates.misfit(replace(work, models=(), quantization="Q2_K"), entry) is None and (
        not work.models or work.use in entry.uses or work.use not in _workload.USES
    )


def tradeoffs(
    search: Search,
    choices: t.Sequence[Choice],
    models: tuple[Candidate, ...],
    instances: t.Sequence[Instance],
    entries: t.Mapping[str, _catalog.Entry],
) -> list[dict[str, t.Any]]:
    """What the same host would run with one thing changed: cache type, slots, quantization, number of GPUs."""
    works = [choice.work for choice in choices]
    now = instances[0]
    told: list[dict[str, t.Any]] = []

    def tell(change: str, found: Instance | None, names: t.Sequence[Candidate] = models) -> None:
        if found and (found.context, found.slots, [model.name for model in names]) != (
            now.context,
            now.slots,
            [model.name for model in models],
        ):
            told.append(
                {
                    "change": change,
                    "models": list(dict.fromkeys(model.name for model in names)),
                    "context_length": found.context,
                    "slots": found.slots,
                    "gpus": len(found.devices) if search.on_gpu else 0,
                }
            )

    if now.layers_on_gpu is not None or len(instances) > 1:
        return told
    if search.options.flash_attention:
        other_type = "q8_0" if search.options.kv_cache_type == "f16" else "f16"
        other = Search(replace(search.options, kv_cache_type=other_type), search.devices)
        setting = other.engine.setting(now.context, now.slots)
        if not any(_memory.refusal(model.shape, setting, search.on_gpu) for model in models):
            tell(f"KV cache {other_type} instead of {search.options.kv_cache_type}", other.grow(works, models))
    if any(choice.work.slots.high > now.slots for choice in choices) and search.on_gpu:
        context, slots = search.bounds(works, models)
        for count in range(slots.high, now.slots, -1):
            found = next(
                (
                    (tokens, fit)
                    for tokens in steps(context)
                    for fit in [search.first_fit(works, models, tokens, count, search.sets)]
                    if fit
                ),
                None,
            )
            if found:
                tell("more slots for less context", Instance(now.members, found[1][0], found[0], count, found[1][1]))
                break
    index = next((number for number, model in enumerate(models) if not model.shape.embedding), 0)
    model = models[index]
    family = model.entry.variant_of or model.name
    relatives = sorted(
        (entry for entry in entries.values() if family in (entry.name, entry.variant_of) and entry.name != model.name),
        key=lambda entry: -_quantization.bits(entry.quantization),
    )
    own = _quantization.bits(model.quantization)
    more = [entry for entry in relatives if _quantization.bits(entry.quantization) > own]
    fewer = [entry for entry in relatives if _quantization.bits(entry.quantization) < own]
    for word, group in (("more bits a weight", more), ("fewer bits a weight", fewer)):
        for entry in group:
            if not _candidates.plannable(entry):
                continue
            trial = [*models[:index], candidate(entry), *models[index + 1 :]]
            grown = search.grow(works, trial)
            if grown:
                tell(f"{word}: {entry.quantization} instead of {model.quantization}", grown, trial)
                break
    if search.on_gpu and len(now.devices) > 1:
        fewer_gpus = Search(search.options, list(now.devices)[:-1])
        found_models = first_combination(fewer_gpus, choices)
        if found_models:
            tell(
                f"{len(now.devices) - 1} instead of {len(now.devices)} GPUs",
                fewer_gpus.grow(works, found_models),
                found_models,
            )
    return told
