"""Rules of thumb from articles that people follow when they choose a model for a GPU.

Their parameters are those of the tensors (in thousand millions), their quantization is the file's;
"GB" is taken as 10^9 bytes. Where an article gives a range, its middle is taken; where it gives a
figure for one size, it is scaled in proportion as the article says it goes.

- A: "Ollama 0.17でオンプレLLM推論環境を構築する実践ガイド", on Zenn: parameters times bits over 8, a cache of 1.5,
  0.8 or 0.4 GB by type for 8192 tokens of an 8B model, "linear in the context", and 0.5 to 1.5 GB of
  overhead.
- B: "ローカル LLM — Ollama・llama.cpp・量子化", a chapter of a guide to LLMs and AI agents, has three that
  disagree: a factor by quantization (estimated_vram_gb); the same with 20 % on top (recommend_gpu);
  and the factor with a cache that assumes 32 layers of 32 heads of 128 for every 7B
  (estimate_requirements).
"""

from __future__ import annotations

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, Unanswered, spread

GB = 10**9
# Bits of the weights by the name of the quantization: "7B x 4 bit / 8 = 3.5 GB".
BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8, "Q6_K": 6, "Q5_K_M": 5, "Q3_K_M": 3, "Q2_K": 2}
CACHE_8B_8K = {"f16": 1.5, "q8_0": 0.8, "q4_0": 0.4}
FACTORS = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 1.1, "Q5_K_M": 0.75, "Q3_K_M": 0.5, "Q2_K": 0.4}
FACTOR = 0.65


def _factored(model: Model) -> float:
    return model.parameters / GB * FACTORS.get(model.quantization, FACTOR)


def sum_of_three(model: Model, row: Row) -> Answer:
    if row.key_type not in CACHE_8B_8K:
        raise Unanswered(f"a cache of {row.key_type}")
    billions = model.parameters / GB
    weights = billions * BITS.get(model.quantization, 4) / 8
    return spread(GB * (weights + CACHE_8B_8K[row.key_type] * row.cells / 8192 * billions / 8 + 1.0), model, row)


def factor(model: Model, row: Row) -> Answer:
    return spread(GB * _factored(model), model, row)


def factor_and_fifth(model: Model, row: Row) -> Answer:
    return spread(GB * _factored(model) * 1.2, model, row)


def factor_and_cache(model: Model, row: Row) -> Answer:
    cache = model.parameters / GB / 7 * 32 * 2 * 32 * 128 * row.cells * 2
    return spread(GB * _factored(model) + cache, model, row)


_B = "'ローカル LLM — Ollama・llama.cpp・量子化', "
ESTIMATORS = (
    Estimator("article A", "'Ollama 0.17でオンプレLLM推論環境を構築する実践ガイド', Zenn", sum_of_three),
    Estimator("article B, factor", _B + "estimated_vram_gb", factor),
    Estimator("article B, factor + 20 %", _B + "recommend_gpu", factor_and_fifth),
    Estimator("article B, factor + cache", _B + "estimate_requirements", factor_and_cache),
)
