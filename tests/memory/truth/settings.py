"""Which settings and placements of a model are asked for: a core that every model has, and some drawn by its name."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from tests.memory.truth.models import Model

ALL_LAYERS = 9999
CACHE_TYPES = ("f16", "q8_0", "q4_0")
CONTEXTS = (2048, 8192, 32768)
DRAWN = 12


@dataclass(frozen=True)
class Placement:
    """Where a model goes: ``layers`` of it on ``gpus`` GPUs, by shares; experts of the first layers on the host."""

    gpus: int = 1
    layers: int = ALL_LAYERS
    shares: tuple[int, ...] = ()
    experts_on_host: int = 0

    def row(self) -> dict[str, object]:
        """Its fields in a row of truth."""
        row: dict[str, object] = {"ng": self.gpus, "ngl": self.layers if self.gpus else 0}
        if self.shares:
            row["split"] = list(self.shares)
        if self.experts_on_host:
            row["cmoe"] = self.experts_on_host
        return row


@dataclass(frozen=True)
class Setting:
    """How a model runs; names as in a row of truth."""

    ctx: int
    np: int = 1
    cache: str = "f16"
    fa: int = 1
    ub: int = 512
    every_row: bool = False

    def row(self) -> dict[str, object]:
        return {
            "ctx": self.ctx, "np": self.np, "tk": self.cache, "tv": self.cache, "fa": self.fa, "ub": self.ub,
            "un": 0, "swa_full": 0, "nout": 0 if self.every_row else self.np,
        }  # fmt: skip


Plan = dict[Placement, list[Setting]]
ONE_GPU = Placement()
NO_GPU = Placement(gpus=0, layers=0)


def plan(model: Model) -> Plan:
    """Settings by placement, so that a model is opened once for each placement."""
    chosen: Plan = {}
    core = _embedding(model) if model.runs_for_embeddings else _generation(model)
    for placement, settings in core:
        chosen.setdefault(placement, []).extend(settings)
    if not model.runs_for_embeddings:
        _draw(model, chosen)
    return chosen


def _embedding(model: Model) -> list[tuple[Placement, list[Setting]]]:
    def both(*sizes: tuple[int, int]) -> list[Setting]:
        return [Setting(ctx, ub=ub, fa=fa, every_row=True) for ctx, ub in sizes for fa in (1, 0, -1)]

    placements = (Placement(2), Placement(2, shares=(3, 1)), Placement(4), NO_GPU, Placement(layers=model.layers // 2))
    return [
        (ONE_GPU, both((512, 512), (2048, 512), (2048, 2048), (8192, 2048), (8192, 512))),
        *((placement, both((2048, 2048), (8192, 512))) for placement in (*placements, Placement(layers=0))),
    ]


def _generation(model: Model) -> list[tuple[Placement, list[Setting]]]:
    half = model.layers // 2
    sizes = ((2048, 1, 512), (8192, 1, 512), (32768, 1, 512), (8192, 4, 512), (8192, 1, 2048))
    without_flash = ((2048, 1, 512), (32768, 1, 512), (8192, 4, 512), (8192, 1, 2048))
    on_two = [Setting(8192), Setting(32768, cache="q8_0"), Setting(8192, fa=0)]
    chosen = [
        (ONE_GPU, [
            *(Setting(ctx, np, cache, ub=ub) for cache in CACHE_TYPES for ctx, np, ub in sizes),
            Setting(2048, 4, "q8_0", ub=2048),
            Setting(32768, 4, ub=2048),
            *(Setting(ctx, np, fa=0, ub=ub) for ctx, np, ub in without_flash),
            Setting(8192, fa=-1),
            Setting(8192, 4, "q8_0", fa=-1),
            Setting(32768, cache="q4_0", fa=-1, ub=2048),
            Setting(8192, every_row=True),
            Setting(2048, 4, fa=0, every_row=True),
            Setting(8192, cache="q8_0", ub=2048, every_row=True),
        ]),
        (Placement(2), [*on_two, Setting(2048, 4, ub=2048)]),
        (Placement(2, shares=(3, 1)), on_two),
        (Placement(4), [Setting(8192, 4), Setting(32768, cache="q8_0", ub=2048), Setting(2048, fa=0)]),
        (NO_GPU, [Setting(2048), Setting(32768, 4), Setting(8192, cache="q8_0", ub=2048), Setting(8192, fa=0)]),
        (Placement(layers=half), [Setting(8192), Setting(8192, fa=0), Setting(8192, 4, "q8_0")]),
        (Placement(layers=0), [Setting(8192)]),
        (Placement(layers=model.layers), [Setting(32768, cache="q8_0", ub=2048)]),
        (Placement(2, layers=model.layers * 3 // 4), [Setting(8192, 4)]),
    ]  # fmt: skip
    if model.experts > 1:
        experts = [Setting(8192), Setting(8192, 4, "q8_0", ub=2048)]
        chosen += [(Placement(experts_on_host=count), experts) for count in (half, model.layers)]
        chosen.append((Placement(2, experts_on_host=half), [Setting(8192)]))
    return chosen


def _draw(model: Model, chosen: Plan) -> None:
    chance = random.Random(zlib.crc32(model.name.encode()))
    placements = [*chosen, *[ONE_GPU] * 6]
    for _ in range(DRAWN):
        cache, np = chance.choice(CACHE_TYPES), chance.choice((1, 4))
        # A quantized cache needs flash attention.
        fa = chance.choice((1, 1, 1, -1, 0) if cache == "f16" else (1, 1, -1))
        setting = Setting(
            chance.choice(CONTEXTS), np, cache, fa, chance.choice((512, 512, 1024, 2048)), chance.random() < 0.25
        )
        settings = chosen[chance.choice(placements)]
        if setting not in settings:
            settings.append(setting)
