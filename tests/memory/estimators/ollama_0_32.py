"""What Ollama's scheduler predicts from 0.30 on, before it starts llama-server.

Source: ollama/ollama v0.32.15, llm/llama_server.go, PredictServerVRAM; the context of all sequences as
server/sched.go, effectiveLlamaServerContext, gives it. It decides what is evicted and placed; llama-server then
fits for itself. The file counts whole, input embeddings included; every layer has the cache of its least KV heads
at f16, whatever its type.
"""

from __future__ import annotations

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, spread


def estimate(model: Model, row: Row) -> Answer:
    trained = model.number("context_length")
    context = min(row.context, trained or row.context) * row.sequences
    heads = model.number("attention.head_count", 1)
    head_length = model.number("embedding_length") // heads if heads else 0
    kv_heads = model.values.get("attention.head_count_kv", 1)
    least = max(1, min(kv_heads) if isinstance(kv_heads, list) else kv_heads)
    return spread(model.file_bytes + 4 * model.layers * least * head_length * context, model, row)


ESTIMATOR = Estimator("Ollama 0.32", "ollama/ollama v0.32.15, llm/llama_server.go: PredictServerVRAM", estimate)
