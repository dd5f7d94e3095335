# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as data (docs/architecture.md has its schema), and every term behind it."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _candidates, _catalog, _memory, _residency, _speed
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate, candidate
from ansible_collections.onprem.llm.plugins.module_utils._hardware import HOST, Device
from ansible_collections.onprem.llm.plugins.module_utils._search import Choice, Instance, Search, shortage
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError


def written(
    search: Search,
    choices: t.Sequence[Choice],
    models: t.Sequence[Candidate],
    instances: t.Sequence[Instance],
    host: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    options = search.options
    planned = {device.id: 0 for device in search.devices}
    for instance in instances:
        shares = {models[number].name: share for number, share in zip(instance.members, instance.residence.bytes_on)}
        for share in shares.values():
            for device, size in share.items():
                planned[device] += size
    made = []
    for order, instance in enumerate(sorted(instances, key=lambda one: one.members)):
        used = [
            device.id
            for device in search.devices
            if device.id != HOST and any(device.id in share for share in instance.residence.bytes_on)
        ]
        environment = {
            "OLLAMA_CONTEXT_LENGTH": str(instance.context),
            "OLLAMA_FLASH_ATTENTION": "1" if options.flash_attention else "0",
            "OLLAMA_KV_CACHE_TYPE": options.kv_cache_type,
            "OLLAMA_MAX_LOADED_MODELS": str(len({models[number].name for number in instance.members})),
            "OLLAMA_NUM_PARALLEL": str(instance.slots),
        }
        if instance.residence.spread:
            environment["OLLAMA_SCHED_SPREAD"] = "1"
        if search.engine.before_0_30 and used:
            # What the operator wants free beyond the engine's own minimum.
            environment["OLLAMA_GPU_OVERHEAD"] = str(max(0, options.fit_target_bytes - _memory.MINIMUM_BYTES))
        elif not search.engine.before_0_30 and (
            options.fit_target_bytes != _memory.FIT_TARGET_BYTES
            or (used and any(models[number].shape.projector for number in instance.members))
        ):
            # Where it is not set, Ollama adds a projector to it, which llama-server adds by itself, too (v0.32.15,
            # llm/llama_server.go, extraEnvsForStart; b10488, server-context.cpp): layers would go to the CPU.
            environment["LLAMA_ARG_FIT_TARGET"] = str(options.fit_target_bytes // _memory.MIB)
        made.append(
            {
                "name": "ollama" if not order else f"ollama-{order + 1}",
                "gpus": used,
                "environment": environment,
                "models": [
                    _model(search, choices, models, instance, place, host) for place in range(len(instance.members))
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
        "instances": made,
    }


def _model(
    search: Search,
    choices: t.Sequence[Choice],
    models: t.Sequence[Candidate],
    instance: Instance,
    place: int,
    host: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """What the plan says of one workload's model."""
    index = instance.members[place]
    choice, model = choices[index], models[index]
    placed, share = instance.residence.placed[place], instance.residence.bytes_on[place]
    budgets = {device.id: device.budget for device in search.devices}
    on_gpu = [device.id for device in search.devices if device.id in share and device.id != HOST]
    parts = placed.gpus if search.on_gpu else (placed.host,)
    overhead = placed.projector + sum(device.cuda_context for device in search.devices if device.id in share)
    total = sum(share.values())
    rate = (
        search.rate(model, placed, share)
        if instance.layers_on_gpu is None
        else hybrid_rate(search, model, placed, share, host)
    )
    told: dict[str, t.Any] = {
        "name": model.name,
        "workload": choice.work.name,
        "use": choice.work.use,
        "quantization": model.quantization,
        "context_length": min(instance.context, model.shape.context_length),
        "slots": 1 if model.shape.one_slot else instance.slots,
        "kv_cache_type": search.options.kv_cache_type,
        "gpus": on_gpu,
        "layers": model.shape.layers,
        # The largest by the engine's own prediction first: it would unload the others.
        "load_order": _residency.load_order(
            [models[number] for number in instance.members], instance.context, instance.slots
        ).index(model.name),
        "source": model.entry.source,
        "account": {
            "weights_bytes": sum(part.weights for part in parts),
            "kv_cache_bytes": sum(part.kv_cache for part in parts),
            # What several GPUs hold twice (graph, pipeline copies) is compute, too.
            "compute_bytes": sum(part.compute for part in parts) + (0 if search.on_gpu else placed.output_buffer),
            "overhead_bytes": overhead,
            "total_bytes": total,
            "budget_bytes": sum(budgets[device] for device in share),
            "confidence": placed.confidence if len(share) == 1 and instance.layers_on_gpu is None else "low",
        },
        "speed": {
            "active_bytes": model.active_bytes,
            # An embedding model reads its weights once a request, not once a token.
            "tokens_per_second_bound": round(rate, 1) if rate and not model.shape.embedding else None,
        },
        "order": _candidates.order_stated(choice.work, choice.asked),
        "runner_up": _runner_up(search, choices, models, index),
        "rejected": _rejected(search, choices, models, index),
    }
    if placed.projector:
        told["account"]["projector_bytes"] = placed.projector
    if instance.layers_on_gpu is not None:
        told["hybrid"] = {"layers_on_gpu": instance.layers_on_gpu, "host_bytes": placed.host_bytes}
    return told


def _runner_up(
    search: Search, choices: t.Sequence[Choice], models: t.Sequence[Candidate], index: int
) -> dict[str, str] | None:
    """The next model in the order that would fit, too, and why it lost; another quantization of the same is none."""
    works = [choice.work for choice in choices]
    chosen = models[index]
    family = chosen.entry.variant_of or chosen.name
    for other in choices[index].suitable[choices[index].suitable.index(chosen) + 1 :]:
        if (other.entry.variant_of or other.name) == family:
            continue
        if search.fits(works, [*models[:index], other, *models[index + 1 :]]):
            why = _candidates.compared(choices[index].work, chosen.entry, other.entry, choices[index].asked)
            return {"model": other.name, "reason": why}
    return None


def _rejected(
    search: Search, choices: t.Sequence[Choice], models: t.Sequence[Candidate], index: int
) -> list[dict[str, str]]:
    """Every model of the list that comes before the chosen one, or that a wish rules out, with its reason. It is held
    against what earlier workloads have and the least that later ones need, for they take what is left.

    Where the catalog is chosen from, a model stands for its other quantizations, but for a smaller one that is still
    too large.
    """
    choice = choices[index]
    works = [other.work for other in choices]
    least = [
        min(later.suitable, key=lambda model: (search.least(model, 1, 1), model.name)) for later in choices[index + 1 :]
    ]
    reasons = dict(choice.refused)
    smallest: dict[str, int] = {}
    for other in choice.suitable:
        if other is models[index]:
            break
        family = other.entry.variant_of or other.name
        if choice.work.models or other.file_bytes < smallest.get(family, other.file_bytes + 1):
            smallest[family] = other.file_bytes
            reasons[other.name] = shortage(search, works, [*models[:index], other, *least], index)[1]
    named = bool(choice.work.models)
    return [
        {"model": entry.name, "reason": reasons[entry.name]}
        for entry in choice.asked
        if entry.name in reasons and (named or not entry.variant_of or entry.name not in choice.refused)
    ]


def hybrid_rate(
    search: Search,
    model: Candidate,
    placed: _memory.Placed,
    share: t.Mapping[str, int],
    host: t.Mapping[str, t.Any],
) -> float:
    bandwidth = {device.id: device.bandwidth for device in search.devices}
    weights = dict(zip(share, [part.weights for part in placed.gpus if part.total > 0]))
    return _speed.of_model(
        model.active_bytes,
        {**weights, HOST: placed.host.weights},
        {**bandwidth, HOST: float(host.get("memory_bandwidth") or 0)},
    )


def explained(
    search: Search,
    choices: t.Sequence[Choice],
    models: t.Sequence[Candidate],
    instances: t.Sequence[Instance],
    name: str,
    entries: t.Mapping[str, _catalog.Entry],
    known: _catalog.Library,
) -> list[dict[str, t.Any]]:
    """Every term of a model's account and its rule: as planned, or as it would be alone on the roomiest devices.

    :raises PlanError: there is no such model.
    """
    wanted = _catalog.canonical_name(name)
    for instance in instances:
        for place, number in enumerate(instance.members):
            if _catalog.canonical_name(models[number].name) == wanted:
                residence = instance.residence
                return _terms(
                    search,
                    models[number],
                    instance.devices,
                    residence.placed[place],
                    residence.bytes_on[place],
                    instance,
                )
    try:
        model = candidate(_catalog.find(entries, name, known))
    except _catalog.CatalogError as error:
        raise PlanError(f"explain: {error}") from error
    instance = instances[0]
    context = min(instance.context, model.shape.context_length)
    for devices in search.sets:
        placed = search.accounts.placed(model, context, instance.slots, devices)
        share = search.accounts.bytes_on(placed, devices)
        if all(share.get(device.id, 0) <= device.budget for device in devices) or devices is search.sets[-1]:
            return _terms(search, model, devices, placed, share, instance)
    return []


def _terms(
    search: Search,
    model: Candidate,
    devices: t.Sequence[Device],
    placed: _memory.Placed,
    share: t.Mapping[str, int],
    instance: Instance,
) -> list[dict[str, t.Any]]:
    names = {f"gpu{number}": device.id for number, device in enumerate(devices)} if search.on_gpu else {}
    terms = [(names.get(term.device, term.device), term.name, term.bytes, term.rule) for term in placed.terms]
    if search.on_gpu:
        terms += [
            (device.id, "cuda_context", device.cuda_context, CUDA_CONTEXT) for device in devices if device.id in share
        ]
        predicted = _residency.prediction(model, instance.context, instance.slots)
        terms.append(("scheduler", "prediction", predicted, PREDICTION))
    terms.append(("token", "active_bytes", model.active_bytes, ACTIVE))
    return [
        {
            "model": model.name,
            "device": device,
            "term": term,
            "bytes": size,
            "rule": rule.text,
            "rule_name": rule.name,
        }
        for device, term, size, rule in terms
        if size
    ]


CUDA_CONTEXT = _memory.Rule(
    "context",
    "what the driver takes for each model on each GPU, by the GPU's name (gpus.yml); the most measured on any where "
    "its own is not known",
)
PREDICTION = _memory.Rule(
    "scheduler", "Ollama's own prediction, file and f16 cache of every layer, by which it places and unloads"
)
ACTIVE = _memory.Rule("active", "weights that one token reads at least: the experts that are used, no input embeddings")
