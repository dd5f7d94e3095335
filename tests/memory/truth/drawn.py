"""Models that nobody made: those of models.yml with other sizes, and settings, all drawn by chance.

A draw keeps what makes an architecture and changes what may be of any size: layers, widths, heads, experts, vocabulary,
window, quantization, tied embeddings. What the loader cannot make a model of is no draw; the planner says so.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from tests.memory.truth.models import QUANTIZATIONS, Model
from tests.memory.truth.settings import NO_GPU, ONE_GPU, Placement, Setting

CACHE_TYPES = ("f16", "f16", "q8_0", "q4_0", "bf16", "q5_1", "f32")
QUANTIZED = ("q8_0", "q4_0", "q5_1")
CONTEXTS = (512, 1000, 2048, 4096, 5000, 8192, 16384, 40000)
MOST_LAYERS = 40
# Several slots of a longer context would take the planner's machine minutes.
LONGEST_OF_SEVERAL = 8192


def _number(values: dict[str, Any], key: str) -> int:
    """A hyper-parameter that is one number above 0, else 0: those by layer stay as they are."""
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _width(chance: random.Random, most: int) -> int:
    """Of whole blocks of the K quantizations, or only of the small ones, which changes the tensors' types."""
    return chance.choice((256 * chance.randint(2, most // 256), 32 * chance.randint(8, most // 32)))


def _heads(values: dict[str, Any], chance: random.Random) -> None:
    heads, pairs = _number(values, "attention.head_count"), _number(values, "attention.head_count_kv")
    length = _number(values, "attention.key_length")
    if not heads or "attention.kv_lora_rank" in values or isinstance(values.get("attention.head_count_kv"), list):
        return
    if not length:
        # As wide as the model's width says; a model whose every head has K and V of its own keeps that.
        each = values["embedding_length"] // heads
        new = chance.choice((4, 8, 12, 16, 20, 24, 32))
        values["attention.head_count"], values["embedding_length"] = new, new * each
        if pairs:
            divisors = [count for count in (1, 2, 4, 8) if new % count == 0]
            values["attention.head_count_kv"] = new if pairs == heads else chance.choice(divisors)
        return
    if pairs:
        values["attention.head_count_kv"] = chance.choice((1, 2, 4, 5, 8))
        values["attention.head_count"] = values["attention.head_count_kv"] * chance.choice((1, 2, 3, 4, 6, 8))
    if length == values.get("attention.value_length", length) and chance.random() < 0.5:
        values["attention.key_length"] = values["attention.value_length"] = chance.choice((64, 96, 128, 160, 192, 256))
        if "rope.dimension_count" in values:
            values["rope.dimension_count"] = min(values["rope.dimension_count"], values["attention.key_length"])
    if chance.random() < 0.5:
        values["embedding_length"] = chance.choice((64 * chance.randint(8, 100), 256 * chance.randint(2, 32)))


def model(base: Model, chance: random.Random) -> Model:
    """A model of ``base``'s architecture that differs in some sizes."""
    values = dict(base.metadata)
    by_layer = any(isinstance(value, list) for value in values.values())
    if not by_layer and not any("[" in pattern for pattern in base.optional_tensors):
        least = max(2, _number(values, "leading_dense_block_count") + 1)
        values["block_count"] = chance.randint(least, max(least, min(base.layers, MOST_LAYERS)))
    experts = chance.choice((4, 8, 16, 60, 64, 128, 160))
    for key, drawn in {
        "vocab_size": chance.randint(1000, 300000),
        "feed_forward_length": _width(chance, 24576),
        "expert_feed_forward_length": _width(chance, 3072),
        "attention.sliding_window": chance.choice((128, 500, 512, 1024, 4096, 8192)),
    }.items():
        if _number(values, key) and chance.random() < 0.6:
            values[key] = drawn
    if base.experts > 1 and chance.random() < 0.6:
        values["expert_count"] = experts
        values["expert_used_count"] = chance.choice((1, 2, 4, 8) if experts >= 8 else (1, 2))
    if chance.random() < 0.6:
        _heads(values, chance)
    if "ple.layers" in values:  # the embeddings of a token's n-grams are as wide as the model together
        heads = (values["ple.ngram_size"] - 1) * values["ple.heads_per_ngram"]
        if values["embedding_length"] % heads:
            values["embedding_length"] = base.metadata["embedding_length"]
        values["embedding_length_per_layer_input"] = values["embedding_length"] // heads
    optional = [name for name in base.optional_tensors if name != "output.weight"]
    untied = ("output.weight" in base.optional_tensors) != (chance.random() < 0.3)
    return dataclasses.replace(
        base,
        metadata=values,
        quantization=chance.choice(QUANTIZATIONS),
        optional_tensors=(*optional, *(["output.weight"] if untied else [])),
    )


def placements(drawn: Model, chance: random.Random, count: int) -> list[Placement]:
    """Some of: one GPU, several by even and uneven shares, parts of the model on them, none."""
    shares = tuple(chance.randint(1, 24) for _gpu in range(chance.randint(2, 4)))
    every = [
        ONE_GPU, ONE_GPU, NO_GPU, Placement(2), Placement(len(shares), shares=shares),
        Placement(layers=chance.randint(0, drawn.layers + 1)), Placement(2, layers=chance.randint(1, drawn.layers)),
    ]  # fmt: skip
    if drawn.experts > 1:
        every.append(Placement(experts_on_host=chance.randint(1, drawn.layers)))
    return chance.sample(every, count)


def setting(drawn: Model, chance: random.Random) -> Setting:
    context, batch = chance.choice(CONTEXTS), chance.choice((512, 512, 1024, 2048))
    if drawn.runs_for_embeddings:
        return Setting(min(context, 8192), fa=chance.choice((1, 0, -1)), ub=batch, every_row=True)
    cache = chance.choice(CACHE_TYPES)
    return Setting(
        context,
        chance.choice((1, 1, 2, 3, 4, 8)) if context <= LONGEST_OF_SEVERAL else 1,
        cache,
        1 if cache in QUANTIZED else chance.choice((1, 1, -1, 0)),
        batch,
        chance.random() < 0.15,
    )
