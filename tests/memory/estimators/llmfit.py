"""llmfit: parameters times a mean width by quantization, the cache by layers, and half a gigabyte.

Source: AlexsJones/llmfit v1.1.10, llmfit-core/src/models.rs: quant_bpp, kv_cache_gb, KvQuant::bytes_per_element and
estimate_memory_gb_with_kv; what it calls GB is held against the card's memory in units of 2^30 bytes
(llmfit-core/src/hardware.rs), so that is what a GB is here. It knows a context, not sequences: it is told the tokens of
all of them together. Its catalog has hyper-parameters as Hugging Face gives them; here they come from the header.
"""

from __future__ import annotations

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, Unanswered, spread

GB = 2**30
OVERHEAD_GB = 0.5
# Bytes a parameter; what is not named counts as Q4_K_M.
WIDTHS = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 1.05, "Q6_K": 0.80, "Q5_K_M": 0.68, "Q3_K_M": 0.48, "Q2_K": 0.37}
WIDTH = 0.58
CACHE_WIDTHS = {"f16": 2.0, "bf16": 2.0, "q8_0": 1.0, "q4_0": 0.5}


def estimate(model: Model, row: Row) -> Answer:
    if row.key_type != row.value_type or row.key_type not in CACHE_WIDTHS:
        raise Unanswered(f"a cache of {row.key_type} and {row.value_type}")
    heads = model.number("attention.head_count")
    head_length = model.number("attention.key_length", model.number("embedding_length") // heads if heads else 0)
    kv_heads = model.number("attention.head_count_kv", heads or 8)
    weights = model.parameters / 1e9 * WIDTHS.get(model.quantization, WIDTH)
    cache = 2 * model.layers * kv_heads * head_length * row.cells * CACHE_WIDTHS[row.key_type]
    return spread(GB * (weights + cache / 2**30 + OVERHEAD_GB), model, row)


ESTIMATOR = Estimator("llmfit", "AlexsJones/llmfit v1.1.10, llmfit-core/src/models.rs", estimate)
