# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which models can serve a workload on a host's devices, memory aside; why others cannot, and what wish prevents it."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.onprem.llm.plugins.module_utils import (
    _candidates,
    _catalog,
    _quantization,
    _speed,
    _text,
)
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate, candidate
from ansible_collections.onprem.llm.plugins.module_utils._search import Choice, Search
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError, Range, Workload


def choice_of(work: Workload, asked: list[_catalog.Entry], search: Search, made: dict[str, Candidate]) -> Choice:
    """Sort out what a wish or the engine itself rules out.

    :raises PlanError: nothing is left.
    """
    choice = Choice(work, asked)
    for entry in asked:
        reason = _ruled_out(work, entry, search, made)
        if reason is None:
            choice.suitable.append(made[entry.name])
            why = _unreadable(work, made[entry.name], search)
            if why:
                choice.slow[entry.name] = why
        else:
            choice.refused[entry.name] = reason
    if not choice.suitable:
        raise PlanError(f"no model of the workload {work.name} can serve it: {_why_none(choice, search, made)}")
    choice.suitable.sort(key=lambda model: model.name in choice.slow)
    return choice


def settle(choice: Choice, chosen: Candidate) -> None:
    """Turn down the slow ones where another serves."""
    if chosen.name not in choice.slow:
        choice.suitable = [model for model in choice.suitable if model.name not in choice.slow]
        choice.refused.update(choice.slow)


def _fastest(search: Search) -> float:
    return max((device.bandwidth for device in search.devices), default=0.0)


def _ruled_out(work: Workload, entry: _catalog.Entry, search: Search, made: dict[str, Candidate]) -> str | None:
    """Why a wish or the engine itself rules a model out, or None; then it is in ``made``."""
    reason = _candidates.misfit(work, entry)
    if reason is None and not _candidates.plannable(entry):
        lacking = "its hyper-parameters are" if entry.shape is None else "the size of its file is"
        reason = f"{lacking} not in the catalog, so its memory cannot be computed"
    if reason is not None:
        return reason
    if entry.name not in made:
        made[entry.name] = candidate(entry)
    model = made[entry.name]
    reason = _candidates.unsuitable(work, model, search.engine.setting(work.context.low, work.slots.low), search.on_gpu)
    rate = _speed.bound([(model.active_bytes, _fastest(search))])
    if reason is None and work.tokens_per_second and 0 < rate < work.tokens_per_second:
        reason = _too_slow(model, rate, _fastest(search), f"less than {work.tokens_per_second:g}")
    return reason


def _too_slow(model: Candidate, rate: float, bandwidth: float, than: str) -> str:
    return (
        f"it gives one user at most {rate:.1f} tokens a second, {than}: each reads "
        f"{human_bytes(model.active_bytes)} ({model.active_bytes} bytes) at {bandwidth / 1e9:g} GB/s"
    )


def _unreadable(work: Workload, model: Candidate, search: Search) -> str | None:
    """Why nobody would wait for this model, which nobody named, where no speed is asked for; or None. The bandwidth of
    a host's memory is seldom known; then it is taken for that of a desktop's, and the sentence says so."""
    if work.models or model.name in work.preferred or work.tokens_per_second or work.hybrid:
        return None
    known = _fastest(search)
    bandwidth = known or (0.0 if search.on_gpu else _speed.DESKTOP)
    rate = _speed.bound([(model.active_bytes, bandwidth)])
    if not 0 < rate < _speed.READING or model.shape.embedding:
        return None
    than = f"fewer than the {_speed.READING:.1f} words a second that people read"
    assumed = "" if known else ", taken for the bandwidth of the host's memory, which is not known"
    return _too_slow(model, rate, bandwidth, than) + assumed + "; name it under models or preferred if that will do"


# The wishes that can rule a model out, by the workload's field, each with what it is where nobody wishes.
_WISHES: tuple[tuple[str, t.Any], ...] = (
    ("languages", ()),
    ("licences", ()),
    ("capabilities", ()),
    ("quantization", Workload.quantization),
    ("tokens_per_second", 0.0),
    ("context", Range(1, 1)),
    ("slots", Range(1, 1)),
)


def _why_none(choice: Choice, search: Search, made: dict[str, Candidate]) -> str:
    """Why no model serves a workload: by model, then the words that no entry knows, and which one wish, if it were
    another, would let some serve it."""
    work = choice.work
    if not choice.asked:
        return f"no entry of the catalog is for {work.use}"
    named = bool(work.models)
    told = [entry.name for entry in choice.asked if named or not entry.variant_of] or list(choice.refused)
    reasons = "; ".join(f"{name}: {choice.refused[name]}" for name in told[:4])
    more = f"; and {len(told) - 4} more" if len(told) > 4 else ""
    text = "; ".join([reasons + more, *([] if named else _unknown_words(choice))])
    ways = []
    for wish, neutral in _WISHES:
        if getattr(work, wish) != neutral:
            without = replace(work, **{wish: neutral})
            freed = [entry for entry in choice.asked if _ruled_out(without, entry, search, made) is None]
            if freed:
                ways.append(_with_another(wish, [made[entry.name] for entry in freed], search))
    return f"{text}{'' if text.endswith('?') else '.'} It would be served {'; or '.join(ways)}" if ways else text


def _with_another(wish: str, models: t.Sequence[Candidate], search: Search) -> str:
    """How far a wish has to give way, and to which of the models."""
    best = models[0]
    if wish == "context":
        best = max(models, key=lambda model: model.shape.context_length)
        change = f"with a context_length of at most {best.shape.context_length}"
    elif wish == "tokens_per_second":
        best = min(models, key=lambda model: model.active_bytes or float("inf"))
        rate = _speed.bound([(best.active_bytes, _fastest(search))])
        change = f"with tokens_per_second of at most {int(rate * 10) / 10:g}"
    elif wish == "quantization":
        best = max(models, key=lambda model: _quantization.bits(model.quantization))
        change = f"with the quantization {best.quantization}"
    else:
        more = f" and {len(models) - 1} more" if len(models) > 1 else ""
        return f"{'with one slot' if wish == 'slots' else 'without ' + wish}, by {best.name}{more}"
    return f"{change}, by {best.name}"


def _unknown_words(choice: Choice) -> list[str]:
    """Languages and licences of a wish that stand in no entry."""
    told = []
    for name in ("languages", "licences"):
        if name == "languages":
            known = {word for entry in choice.asked for word in entry.languages}
        else:
            known = {entry.licence for entry in choice.asked if entry.licence}
        for word in getattr(choice.work, name):
            if word not in known:
                # Of codes of two letters, the nearest is another language.
                likely = _text.nearest(word, known) if name == "licences" else None
                told.append(
                    f"{name} has {word!r}, which no entry for {choice.work.use} has; "
                    + (f"did you mean {likely!r}?" if likely else f"known are {', '.join(sorted(known))}")
                )
    return told
