# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a host: workloads, each with the models it names or with wishes that models are chosen by."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _quantization, _text

# Tokens a slot. Where the catalog is chosen from, a larger model is not worth a context that a document and its answer
# do not fit into; where models are named, less will do.
DEFAULT_CONTEXT = {"min": 8192, "max": 32768}
NAMED_CONTEXT = {"min": 4096, "max": 32768}
DEFAULT_SLOTS = {"min": 1, "max": 4}
# llama.cpp rounds every context up to a multiple of 256 tokens (src/llama-context.cpp, b10488).
CONTEXTS = (256, 2**31)
SLOTS = (1, 1024)
# What a model may be wanted for, or have to be able to do.
USES = ("chat", "code", "embedding", "rag", "reasoning", "thinking", "tools", "vision")
# Below four bits a weight a model is chosen only where somebody asks for it.
DEFAULT_QUANTIZATION = "Q4_0"

_FIELDS = (
    "name",
    "use",
    "models",
    "preferred",
    "capabilities",
    "languages",
    "licences",
    "quantization",
    "quality",
    "context_length",
    "slots",
    "users",
    "tokens_per_second",
    "hybrid",
    "hosts",
    "replicas",
)


class PlanError(Exception):
    """No plan: the input is wrong or nothing fits. The text says what would be right, or fit, and what was missing."""


@dataclass(frozen=True)
class Range:
    low: int
    high: int


@dataclass(frozen=True)
class Workload:
    """One workload. ``context`` is tokens a slot, ``tokens_per_second`` a floor for one user, 0 where there is none.

    ``models`` pins the choice, in order; ``preferred`` goes first where the catalog is chosen from.
    """

    name: str
    use: str
    models: tuple[str, ...]
    context: Range
    slots: Range
    context_asked: bool = True
    preferred: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    quantization: str = DEFAULT_QUANTIZATION
    quality: str = ""
    tokens_per_second: float = 0.0
    hybrid: bool = False
    hosts: tuple[str, ...] = ()
    replicas: int = 0


def _range(value: t.Any, default: dict[str, int], limits: tuple[int, int], what: str) -> Range:
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
        or not limits[0] <= low <= high <= limits[1]
    ):
        raise PlanError(
            f"{what} is {value!r}; a whole number from {limits[0]} to {limits[1]}, or min and max with min <= max, "
            "is needed"
        )
    return Range(low, high)


def _slots(data: t.Mapping[str, t.Any], where: str) -> Range:
    """``slots``, or ``users`` who are served at once and each need a slot."""
    given, users = data.get("slots"), data.get("users")
    if users is None:
        return _range(given, DEFAULT_SLOTS, SLOTS, f"{where}: slots")
    if isinstance(users, bool) or not isinstance(users, int) or not SLOTS[0] <= users <= SLOTS[1]:
        raise PlanError(
            f"{where}: users is {users!r}; a whole number from {SLOTS[0]} to {SLOTS[1]} is needed, of those who are "
            "served at once"
        )
    slots = _range(given if given is not None else users, DEFAULT_SLOTS, SLOTS, f"{where}: slots")
    if slots.high < users:
        raise PlanError(f"{where}: users is {users} and slots at most {slots.high}; each user needs a slot")
    return Range(max(slots.low, users), slots.high)


def _names(data: t.Mapping[str, t.Any], field: str, where: str, example: str) -> tuple[str, ...]:
    value = data.get(field)
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise PlanError(f"{where}: {field} is {value!r}; a list such as {example} is needed")
    return tuple(value)


def _quantization_floor(value: t.Any, where: str) -> str:
    if value is None:
        return DEFAULT_QUANTIZATION
    found = _quantization.canonical(value) if isinstance(value, str) else None
    if not found:
        likely = _text.nearest(str(value).upper(), _quantization.BITS_A_WEIGHT)
        raise PlanError(
            f"{where}: quantization is {value!r}; the least that is good enough is needed, such as Q4_K_M"
            + (f", did you mean {likely}?" if likely else "")
        )
    return found


def _rate(value: t.Any, where: str) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100000:
        raise PlanError(
            f"{where}: tokens_per_second is {value!r}; a number above 0 is needed, the least that one user gets"
        )
    return float(value)


def _copies(value: t.Any, hosts: tuple[str, ...], where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100000:
        raise PlanError(f"{where}: replicas is {value!r}; the number of hosts that serve it is needed, 1 or more")
    if hosts and value > len(set(hosts)):
        raise PlanError(
            f"{where}: replicas is {value} and hosts names {len(set(hosts))}; name as many, or take replicas away"
        )
    return value


def workload(data: t.Any) -> Workload:
    """Check one workload.

    :raises PlanError: naming the workload, the field and what would be right.
    """
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name or not name.isprintable():
        raise PlanError(f"workload {data!r}: a mapping with a name is needed, such as {{name: chat}}")
    data = {field: value for field, value in data.items() if value is not None}
    where = f"workload {name}"
    unknown = sorted(set(data) - set(_FIELDS))
    if unknown:
        likely = _text.nearest(unknown[0], _FIELDS)
        raise PlanError(
            f"{where}: there is no field {unknown[0]!r}{f', did you mean {likely}?' if likely else ''}; "
            f"{', '.join(_FIELDS[:-1])} and {_FIELDS[-1]} are known"
        )
    models = data.get("models")
    if "models" in data and (
        not isinstance(models, list) or not models or not all(isinstance(model, str) and model for model in models)
    ):
        raise PlanError(f"{where}: models is {models!r}; a list of model names in order of preference is needed")
    use = str(data.get("use") or "chat")
    capabilities = _names(data, "capabilities", where, "[tools]")
    for field, word in [*(("capabilities", word) for word in capabilities), *([] if models else [("use", use)])]:
        if word not in USES:
            likely = _text.nearest(word, USES)
            raise PlanError(
                f"{where}: {field} has {word!r}{f', did you mean {likely}?' if likely else ''}; "
                f"{', '.join(USES[:-1])} and {USES[-1]} are known"
            )
    hosts = _names(data, "hosts", where, "[gpu1, gpu2]")
    hybrid = data.get("hybrid", False)
    usual = DEFAULT_CONTEXT if not models and use != "embedding" else NAMED_CONTEXT
    if not isinstance(hybrid, bool):
        raise PlanError(f"{where}: hybrid is {hybrid!r}; true or false is needed")
    made = Workload(
        name=name,
        use=use,
        models=tuple(models or ()),
        context=_range(data.get("context_length"), usual, CONTEXTS, f"{where}: context_length"),
        slots=_slots(data, where),
        context_asked="context_length" in data,
        preferred=_names(data, "preferred", where, "['qwen3:32b']"),
        capabilities=capabilities,
        languages=_names(data, "languages", where, "[ja, en]"),
        licences=_names(data, "licences", where, "[Apache-2.0, MIT]"),
        quantization=_quantization_floor(data.get("quantization"), where),
        quality=str(data.get("quality") or ""),
        tokens_per_second=_rate(data.get("tokens_per_second"), where),
        hybrid=hybrid,
        hosts=hosts,
        replicas=_copies(data.get("replicas"), hosts, where),
    )
    _contradictions(made, data, where)
    return made


def _contradictions(work: Workload, data: t.Mapping[str, t.Any], where: str) -> None:
    """Wishes of which each makes sense alone.

    :raises PlanError: naming both.
    """
    if work.models and work.preferred:
        raise PlanError(f"{where}: models pins the choice and preferred only orders it; give one of them")
    if work.models and work.quality:
        raise PlanError(f"{where}: models is an order already, and quality is another; give one of them")
    if work.use == "embedding" and set(work.capabilities) - {"embedding", "rag"}:
        raise PlanError(
            f"{where}: use is embedding and capabilities is {list(work.capabilities)}; "
            "an embedding model does not generate"
        )
    if work.use == "embedding" and "users" in data and work.slots.low > 1:
        raise PlanError(
            f"{where}: users is {data['users']}, and the engine gives an embedding model one slot; "
            "leave users away, requests wait for each other"
        )
    if work.use == "embedding" and work.tokens_per_second:
        raise PlanError(f"{where}: tokens_per_second is of models that generate, and use is embedding")


def workloads(data: t.Sequence[t.Any]) -> list[Workload]:
    """Check all workloads of a host.

    :raises PlanError: with all that is wrong; or two have one name, or there is none.
    """
    wanted, wrong = [], []
    for item in data:
        try:
            wanted.append(workload(item))
        except PlanError as error:
            wrong.append(str(error))
    if wrong:
        raise PlanError("; ".join(wrong))
    names = [work.name for work in wanted]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not wanted or doubled:
        raise PlanError(
            f"the workload name {doubled[0]} stands twice; each workload needs a name of its own"
            if doubled
            else "no workload is given, so there is nothing to plan; one is needed, such as {name: chat}"
        )
    return wanted
