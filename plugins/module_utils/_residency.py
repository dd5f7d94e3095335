# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Ollama's scheduler itself puts models, and whether it keeps them: by its own prediction, not by our account.

Ollama 0.30 and newer predict a model's memory as its file plus an f16 cache of every layer, put it on the one GPU that
has most free where that is at most 80 % of it, on all GPUs otherwise (or always, with OLLAMA_SCHED_SPREAD), and load
it beside others only where it is at most 80 % of what is free there; else everything else is unloaded first. Sources:
Ollama v0.32.15, server/sched.go (load, selectLlamaServerPlacement, automaticGenerationBatch) and llm/llama_server.go
(PredictServerVRAM). Before 0.30 it counted layer by layer, and took the fewest GPUs that hold them beside 457 MiB and
OLLAMA_GPU_OVERHEAD on each (v0.17.7, llm/server.go, buildLayout); nothing else of this holds for it.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.llm.plugins.module_utils import _llama_cpp, _measurements, _memory
from ansible_collections.onprem.llm.plugins.module_utils._candidates import Candidate
from ansible_collections.onprem.llm.plugins.module_utils._hardware import HOST, Device
from ansible_collections.onprem.llm.plugins.module_utils._memory import SCHEDULER_PERCENT
from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

MEASURED = _memory.Rule("measured", "what the same load took on this host beyond the account")


def _tokens(model: Candidate, context: int, slots: int) -> int:
    """Tokens of all slots, as the engine clamps them."""
    return min(context, model.shape.context_length) * (1 if model.shape.one_slot else slots)


def prediction(model: Candidate, context: int, slots: int) -> int:
    """Bytes that Ollama 0.30 and newer expect a model to take."""
    return _memory.predicted_bytes(model.shape, model.file_bytes, _tokens(model, context, slots))


def batch(model: Candidate, context: int, slots: int, free: int) -> tuple[int, int]:
    """Tokens computed at once by a model that generates, with ``free`` bytes on its GPUs, and the bytes that the
    scheduler adds to its prediction for that."""
    return _memory.generation_batch(_tokens(model, context, slots), prediction(model, context, slots), free)


def load_order(models: t.Sequence[Candidate], context: int, slots: int) -> list[str]:
    """The names of the models in the order in which none unloads another: the largest prediction first."""
    distinct = {model.name: model for model in models}
    return sorted(distinct, key=lambda name: (-prediction(distinct[name], context, slots), name))


@dataclass(frozen=True)
class Residence:
    """Models on the devices of one instance: bytes of each by device, all included, and the account behind them.
    ``short`` bytes were missing, or ``reason`` says why the engine would not keep them; then there are no bytes."""

    bytes_on: tuple[dict[str, int], ...] = ()
    placed: tuple[_memory.Placed, ...] = ()
    short: int = 0
    reason: str = ""
    # OLLAMA_SCHED_SPREAD is set: every model lies on all GPUs.
    spread: bool = False

    @property
    def fits(self) -> bool:
        return not self.short and not self.reason


@dataclass(frozen=True)
class Engine:
    """How an instance is set up."""

    version: tuple[int, ...]
    kv_cache_type: str
    flash_attention: bool

    @property
    def before_0_30(self) -> bool:
        return self.rules is _llama_cpp.BEFORE_0_30

    @property
    def rules(self) -> _llama_cpp.Rules:
        return _llama_cpp.of_ollama(self.version)

    def setting(self, context: int, slots: int) -> _memory.Setting:
        return _memory.Setting(context, slots, self.kv_cache_type, self.flash_attention, self.rules)

    def run(self, model: Candidate, context: int, slots: int, free: int) -> _memory.Run:
        """What the runner is started with where its GPUs have ``free`` bytes when it loads."""
        run = _memory.engine_run(model.shape, self.setting(context, slots))
        if self.before_0_30 or model.shape.embedding or not self.flash_attention:
            return run
        return replace(run, batch=min(run.batch, batch(model, context, slots, free)[0]))


class Accounts:
    """The accounts of models, each made once."""

    def __init__(self, engine: Engine, measured: t.Mapping[_measurements.Load, int] | None = None) -> None:
        self.engine = engine
        self._measured = measured or {}
        self._placed: dict[tuple[t.Any, ...], _memory.Placed] = {}

    def placed(
        self, model: Candidate, context: int, slots: int, devices: t.Sequence[Device], empty: int | None = None
    ) -> _memory.Placed:
        """One model on devices that others leave ``free``. ``empty`` is what they have free with nothing loaded: the
        engine takes its batch by what is free when it loads, which after a restart may be all of it."""
        room = [device.budget if self.engine.before_0_30 else device.free for device in devices]
        gpus = () if devices[0].id == HOST else tuple(float(max(1, size)) for size in room)
        shares = gpus if len(gpus) != 1 else (1.0,)
        free = sum(device.free for device in devices) if empty is None else empty
        run = self.engine.run(model, context, slots, free if gpus else _memory.UNBOUNDED)
        key = (model.name, model.file_bytes, run, shares)
        if key not in self._placed:
            placed = _memory.place(model.shape, run, _memory.Devices(gpus=shares))
            self._placed[key] = self._raised(placed, model, run) if self._measured else placed
        return self._placed[key]

    def _raised(self, placed: _memory.Placed, model: Candidate, run: _memory.Run) -> _memory.Placed:
        """The account, with what it falls short of a measurement of the same load added to its compute buffers, the
        one part that is not a sum of tensors; on each GPU by its part of the whole."""
        parts = [part for part in placed.gpus if part.total] or [placed.host]
        total = sum(part.total for part in parts) if placed.gpus else placed.host_bytes
        load = _measurements.Load(
            _measurements.digest_of(model.entry.source),
            run.context_length,
            run.sequences,
            run.key_type,
            ".".join(map(str, self.engine.version)),
            sum(1 for part in placed.gpus if part.total),
        )
        short = _measurements.raised(total, self._measured.get(load)) - total
        share = sum(part.total for part in parts)
        if not short:
            return placed
        more = {id(part): -(-short * part.total // share) for part in parts}

        def raised(part: _memory.DeviceBytes) -> _memory.DeviceBytes:
            return replace(part, compute=part.compute + more.get(id(part), 0))

        names = [*(f"gpu{number}" for number in range(len(placed.gpus))), "host"]
        terms = tuple(
            _memory.Term(name, "measured", more[id(part)], MEASURED)
            for name, part in zip(names, [*placed.gpus, placed.host])
            if id(part) in more
        )
        return replace(
            placed,
            gpus=tuple(map(raised, placed.gpus)),
            host=raised(placed.host),
            terms=placed.terms + terms,
            confidence="high",
        )

    def bytes_on(self, placed: _memory.Placed, devices: t.Sequence[Device]) -> dict[str, int]:
        """What each device holds, projector and CUDA context included; of a GPU's model, what it holds on the GPUs."""
        if devices[0].id == HOST:
            return {HOST: placed.host_bytes + placed.projector}
        parts = [part.total for part in placed.gpus]
        parts[0] += placed.projector
        return {device.id: part + device.cuda_context for device, part in zip(devices, parts) if part > 0}

    def reside(
        self, models: t.Sequence[Candidate], context: int, slots: int, devices: t.Sequence[Device], spread: bool = False
    ) -> Residence:
        """Load the models on the devices of one instance as the engine would, the largest first, and see whether all of
        them are there at the end, on the GPU as a whole, and stay there whichever is asked for next.

        Each but the first must be let in beside all the others: then whatever order users ask in, what was unloaded
        for the largest comes back beside it, and nothing is unloaded again.
        """
        distinct = {model.name: model for model in models}
        order = [distinct[name] for name in load_order(models, context, slots)]
        left = {device.id: device for device in devices}
        empty = {device.id: device.free for device in devices}
        held: dict[str, tuple[dict[str, int], _memory.Placed]] = {}
        on_gpu = devices[0].id != HOST
        for model in order:
            refusal = _memory.refusal(model.shape, self.engine.setting(context, slots), on_gpu)
            if refusal:
                return Residence(reason=f"{model.name}: {refusal}")
        missing = 0
        for model in order:
            places = (
                self._choose(model, context, slots, list(left.values()))
                if on_gpu and not spread
                else list(left.values())
            )
            placed = self.placed(model, context, slots, places, sum(empty[device.id] for device in places))
            share = self.bytes_on(placed, places)
            for device, size in share.items():
                rest = left[device]
                missing += max(0, size - rest.budget)
                left[device] = replace(rest, free=max(0, rest.free - size), budget=max(0, rest.budget - size))
            held[model.name] = (share, placed)
        if missing:
            return Residence(short=missing)
        if on_gpu and not self.engine.before_0_30:
            for model in order[1:]:
                reason = self._put_out(model, context, slots, held[model.name][0], left)
                if reason:
                    return Residence(reason=reason)
        return Residence(
            tuple(held[model.name][0] for model in models),
            tuple(held[model.name][1] for model in models),
            spread=spread,
        )

    def _choose(self, model: Candidate, context: int, slots: int, devices: list[Device]) -> list[Device]:
        """The GPUs that the engine takes of an instance's."""
        if len(devices) == 1:
            return devices
        if self.engine.before_0_30:
            by_room = sorted(devices, key=lambda device: -device.free)
            for count in range(1, len(devices)):
                fewest = [device for device in devices if device in by_room[:count]]
                share = self.bytes_on(self.placed(model, context, slots, fewest), fewest)
                if all(share.get(device.id, 0) <= device.budget for device in fewest):
                    return fewest
            return devices
        expected = prediction(model, context, slots)
        emptiest = max(devices, key=lambda device: device.free)
        return [emptiest] if expected <= emptiest.free * SCHEDULER_PERCENT // 100 else devices

    def _put_out(
        self, model: Candidate, context: int, slots: int, share: t.Mapping[str, int], left: t.Mapping[str, Device]
    ) -> str:
        """Why the engine would unload the others before it loads this model, or nothing."""
        free = sum(left[device].free + size for device, size in share.items())
        expected = prediction(model, context, slots)
        if not model.shape.embedding and self.engine.flash_attention:
            expected += batch(model, context, slots, free)[1]
        if expected <= free * SCHEDULER_PERCENT // 100:
            return ""
        return (
            f"Ollama's scheduler would unload the others for {model.name}: it expects {human_bytes(expected)} "
            f"({expected} bytes), more than {SCHEDULER_PERCENT} % of the {human_bytes(free)} ({free} bytes) that they "
            "leave free"
        )
