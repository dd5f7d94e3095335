"""whichllm: the file's size, a cache in proportion to the parameters, activations and a fixed overhead.

Source: Andyyyy64/whichllm v0.5.14, src/whichllm/engine/vram.py and data/framework.py; active parameters of a mixture of
experts by name and windows by architecture as src/whichllm/models/fetcher.py has them. It knows neither sequences nor
cache types: it is told the tokens of all sequences together.
"""

from __future__ import annotations

import re

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, spread

FRAMEWORK_BYTES = 500_000_000
ACTIVATION_BYTES = 400_000_000
# Bytes a thousand million parameters and 1024 tokens.
CACHE_BYTES = 3.5 * 2**20
ATTENTION_OF_ACTIVE = 4.0
# Of the weights, the share that it takes to be experts' where a name says nothing of the active ones.
EXPERT_SHARE = 0.6
# Window in tokens and the share of layers without one.
WINDOWS = {"gemma2": (4096, 1 / 2), "gemma3": (1024, 1 / 6), "gpt-oss": (128, 1 / 2), "cohere2": (4096, 1 / 4)}
# Its table of active parameters, as far as models of the bench are in it.
ACTIVE = {
    "llama4-scout": 17e9, "deepseek-r1-671b": 37e9, "deepseek-v3-671b": 37e9, "gpt-oss-20b": 3.6e9,
    "gpt-oss-120b": 5.1e9,
}  # fmt: skip


def attention_parameters(model: Model) -> tuple[float, float]:
    """(parameters that the cache, and that the activations are in proportion to)."""
    total = float(model.parameters)
    experts = model.number("expert_count")
    named = re.search(r"-a(\d+(?:\.\d+)?)b\b", model.name.lower())
    active = ACTIVE.get(model.name) or (float(named[1]) * 1e9 if named else 0.0)
    if not active and experts:
        used = model.number("expert_used_count") or 2
        active = total * (1 - EXPERT_SHARE + EXPERT_SHARE * used / experts)
    return (active * ATTENTION_OF_ACTIVE, active) if active else (total, total)


def estimate(model: Model, row: Row) -> Answer:
    cache, activations = attention_parameters(model)
    context = float(row.cells)
    if model.header.architecture in WINDOWS:
        window, share = WINDOWS[model.header.architecture]
        window = model.number("attention.sliding_window", window)
        context = share * context + (1 - share) * min(context, window)
    total = (
        model.file_bytes
        + cache / 1e9 * context / 1024 * CACHE_BYTES
        + ACTIVATION_BYTES + activations * 0.08 + row.cells / 4096 * 150e6
        + FRAMEWORK_BYTES
    )  # fmt: skip
    return spread(total, model, row)


ESTIMATOR = Estimator("whichllm", "Andyyyy64/whichllm v0.5.14, src/whichllm/engine/vram.py", estimate)
