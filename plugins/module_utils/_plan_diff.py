# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new plan would change of what runs: its models, their settings and GPUs, the engine and its environment.

Bytes, reasons and bounds are no part of it: they may differ where nothing that runs does.
"""

from __future__ import annotations

import typing as t

Plan = t.Mapping[str, t.Any]


def in_force(plan: t.Any) -> Plan | None:
    """The plan, or None where it is none of this schema."""
    return plan if isinstance(plan, dict) and plan.get("schema") == 1 and plan.get("instances") else None


def stated(plan: t.Any) -> list[str]:
    """What runs by a plan, in lines that can be held against those of another; none where there is no plan."""
    plan = in_force(plan)
    if plan is None:
        return []
    lines = [f"engine {_version(plan)}"]
    for name, instance in _instances(plan).items():
        lines.append(f"{name} on {_places(instance)}")
        lines += [
            f"  {workload}: {_told(model)}, {_weights(model)}"
            for workload, model in sorted(_models([instance]).items())
        ]
        lines += [f"  {key}={value}" for key, value in sorted(_environment(instance).items())]
    return lines


def changes(before: t.Any, after: t.Any) -> list[str]:
    """What ``after`` changes of what runs by ``before``, a sentence each; none where there was no plan."""
    before, after = in_force(before), in_force(after)
    if before is None or after is None:
        return []
    told = []
    if _version(before) != _version(after):
        told.append(f"engine {_version(before)} -> {_version(after)}")
    old, new = _models(before["instances"]), _models(after["instances"])
    for workload in [*old, *(name for name in new if name not in old)]:
        told += _model_changes(workload, old.get(workload), new.get(workload))
    instances = (_instances(before), _instances(after))
    for name in [*instances[0], *(name for name in instances[1] if name not in instances[0])]:
        told += _instance_changes(name, *(found.get(name) for found in instances))
    return told


def _model_changes(workload: str, old: Plan | None, new: Plan | None) -> list[str]:
    if old is None or new is None or _name(old) != _name(new):
        parts = [f"-{_told(old)}"] if old else []
        parts += [f"+{_told(new)}"] if new else []
        return [f"{workload}: {'; '.join(parts)}"]
    parts = [
        text.format(was, now)
        for text, was, now in (
            ("{} -> {} tokens a slot", old.get("context_length"), new.get("context_length")),
            ("{} -> {} slots", old.get("slots"), new.get("slots")),
            ("KV cache {} -> {}", old.get("kv_cache_type"), new.get("kv_cache_type")),
            ("from {} to {}", _places(old), _places(new)),
            ("{} -> {}", _weights(old), _weights(new)),
        )
        if was != now
    ]
    return [f"{workload}: {_name(new)}: {', '.join(parts)}"] if parts else []


def _instance_changes(name: str, old: Plan | None, new: Plan | None) -> list[str]:
    if old is None or new is None:
        return [f"+{name} on {_places(new)}"] if new is not None else [f"-{name} on {_places(old or {})}"]
    told = []
    if _places(old) != _places(new):
        told.append(f"{name}: from {_places(old)} to {_places(new)}")
    was, now = _environment(old), _environment(new)
    parts = []
    for key in sorted({*was, *now}):
        if key not in now:
            parts.append(f"-{key}={was[key]}")
        elif key not in was:
            parts.append(f"+{key}={now[key]}")
        elif was[key] != now[key]:
            parts.append(f"{key} {was[key]} -> {now[key]}")
    return told + ([f"{name}: {', '.join(parts)}"] if parts else [])


def _version(plan: Plan) -> str:
    return str((plan.get("engine") or {}).get("version") or "not known")


def _instances(plan: Plan) -> dict[str, Plan]:
    return {str(instance.get("name")): instance for instance in plan["instances"]}


def _models(instances: t.Iterable[Plan]) -> dict[str, Plan]:
    """The models by workload, which a plan has once each."""
    return {str(model.get("workload")): model for instance in instances for model in instance.get("models") or []}


def _environment(instance: Plan) -> dict[str, str]:
    return {str(key): str(value) for key, value in (instance.get("environment") or {}).items()}


def _name(model: Plan) -> str:
    return " ".join(str(part) for part in (model.get("name"), model.get("quantization")) if part)


def _places(owner: Plan) -> str:
    return " + ".join(map(str, owner.get("gpus") or [])) or "the CPU"


def _weights(model: Plan) -> str:
    source = model.get("source") or {}
    digest = str(source.get("sha256") or source.get("digest") or "")[-64:]
    return f"weights {digest[:12]}" if digest else "weights not pinned"


def _told(model: Plan) -> str:
    return "{}, {} tokens x {} slots, KV cache {}, on {}".format(
        _name(model), model.get("context_length"), model.get("slots"), model.get("kv_cache_type"), _places(model)
    )
