"""Ollama 0.17's account for what llama.cpp runs: the tensors' sizes and a graph's size by architecture.

Source: ollama/ollama v0.17.7, fs/ggml/ggml.go (GraphSize, GroupLayers) and llm/server.go (llamaServer.Load,
greedyFit). The architectures that its own engine runs are measured by allocation there; for these GraphSize has
formulas all the same, and it is GraphSize that is followed here. Layers go to several GPUs so that the fullest of
them is as empty as can be, as with OLLAMA_SCHED_SPREAD and free memory in the row's shares. Without a GPU it counts
no graph, and never the input embeddings beside an output layer. What it keeps free for the CUDA context is the same
for all estimators of the bench.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, Unanswered

MIB = 2**20
CACHE_WIDTHS = {"q8_0": 1.0, "q4_0": 0.5}
GPT_OSS_WINDOW = 4096


def _cache_and_graph(model: Model, row: Row) -> tuple[list[int], int, int]:
    """(cache of each layer, graph where part is offloaded, graph where all is)."""
    values, layers = model.values, model.layers
    architecture = model.header.architecture
    trained = model.number("context_length")
    own_context = min(row.context, trained or row.context)
    batch = min(row.ubatch, own_context)
    if model.embeds:
        batch = max(batch, own_context)
    context, parallel = own_context * row.sequences, row.sequences
    embedding, vocab = model.number("embedding_length"), model.vocabulary
    heads, kv_heads = model.number("attention.head_count", 1), model.number("attention.head_count_kv", 1)
    heads_by_layer = model.by_layer("attention.head_count", 1)
    kv_by_layer = model.by_layer("attention.head_count_kv", 1)
    fewest = values.get("attention.head_count", 1)
    fewest = min(fewest) if isinstance(fewest, list) else fewest
    head = embedding // fewest if fewest > 0 else 0
    key, value = model.number("attention.key_length", head), model.number("attention.value_length", head)
    # A quantized cache without flash attention is silently f16.
    width = CACHE_WIDTHS.get(row.key_type, 2.0) if row.flash_attention else 2.0
    least = values.get("attention.head_count_kv", 1)
    least = max(1, min(least) if isinstance(least, list) else least)

    conv, state, inner, groups = (
        model.number(f"ssm.{name}") for name in ("conv_kernel", "state_size", "inner_size", "group_count")
    )
    recurrent = 4 * ((conv - 1) * (inner + 2 * groups * state) if conv else 0) + 4 * state * inner
    cache = [
        int(context * (key + value) * kv_by_layer[layer] * width)
        if heads_by_layer[layer] > 0 and kv_by_layer[layer] > 0
        else recurrent
        for layer in range(layers)
    ]
    total = sum(cache)
    first = {tensor.name: tensor for tensor in model.header.tensors if tensor.name.startswith("blk.0.")}
    lookup = embedding * vocab * 105 // 128
    partial = full = 0
    if architecture in ("llama", "llama4"):
        full = max(4 * batch * (1 + 4 * embedding + context * (1 + heads)), 4 * batch * (embedding + vocab))
        partial = 4 * batch * embedding + max(
            4 * batch * (1 + embedding + max(context, embedding))
            + embedding * embedding * 9 // 16
            + 4 * context * (batch * heads + head * kv_heads),
            4 * batch * (embedding + vocab) + lookup,
        )
        if "blk.0.ffn_gate_exps.weight" in first:
            partial = max(
                3 * first["blk.0.ffn_gate_exps.weight"].bytes
                + 4 * batch * (2 * model.number("feed_forward_length") + kv_heads + embedding + context
                               + head * kv_heads),
                4 * (context * batch * heads + context * head * kv_heads + batch * 1024 + head * kv_heads * batch),
            )  # fmt: skip
        elif "blk.0.ffn_gate.0.weight" in first:
            gate = first["blk.0.ffn_gate.0.weight"].dimensions[1]
            full = 4 * batch * (2 + 3 * embedding + context * (1 + heads) + 2 * kv_heads + gate)
            partial = max(
                4 * batch * (3 + head * kv_heads + embedding + context * (1 + heads) + gate)
                + (embedding * embedding + 3 * embedding * kv_heads * gate) * 9 // 16,
                4 * batch * (1 + 2 * embedding + context * (1 + heads))
                + embedding * (6 * context * kv_heads // heads + embedding * 9 // 16),
            )
    elif architecture in ("gemma", "gemma2", "gemma3", "gemma3n"):
        full = max(
            4 * batch * (embedding + vocab),
            4 * batch * (2 + context + context * heads + 2 * embedding + 2 * key * heads),
        )
        partial = max(
            4 * embedding * batch + lookup + 4 * vocab * batch,
            4 * batch * (2 * embedding + 1 + 2 * key * heads + context + context * heads)
            + 4 * key * context * 8
            + embedding * key * heads * 9 // 16,
        )
        if architecture == "gemma3n":
            full, partial = 4 * full, 4 * partial
        if architecture == "gemma3":
            window = parallel * model.number("attention.sliding_window") + batch
            for layer in range(layers):
                if (layer + 1) % 6:
                    cache[layer] = int(window * (key + value) * kv_heads * width)
    elif architecture == "command-r":
        full = max(4 * batch * (embedding + vocab), 4 * batch * (2 + 4 * embedding + context * (1 + heads)))
        partial = max(
            4 * batch * (embedding + vocab) + lookup,
            4 * batch * (1 + 2 * embedding + context * (1 + heads))
            + 4 * embedding * context
            + embedding * embedding * 9 // 16,
        )
    elif architecture == "qwen2":
        full = max(4 * batch * (embedding + vocab), 4 * batch * (1 + 2 * embedding + context + context * heads))
        partial = max(
            4 * batch * (embedding + vocab) + lookup,
            4 * (batch * (1 + 2 * embedding + context * (1 + heads)) + embedding * (1 + context)),
        )
    elif architecture == "phi2":
        full = max(4 * batch * (embedding + vocab), 4 * batch * (1 + 4 * embedding + context + context * heads))
        partial = max(
            4 * batch * (2 * embedding + vocab) + lookup,
            4 * batch * (2 + 3 * embedding + context + context * heads),
        )
    elif architecture == "stablelm":
        full = 4 * batch * (context * (1 + heads) + 3 * embedding + 2)
        partial = max(4 * batch * (vocab + 2 * embedding), full)
    elif architecture == "deepseek2":
        full = max(
            4 * batch * (3 * embedding + vocab),
            4 * batch * (3 * embedding + 2 + context * (1 + kv_heads) + 2 * key * kv_heads),
        )
        partial = max(
            4 * batch * (3 * embedding + vocab) + lookup,
            4 * batch * (2 * embedding + 1 + 2 * key * kv_heads + context + context * kv_heads)
            + 4 * key * context * kv_heads
            + embedding * key * kv_heads * 9 // 16,
        )
    elif architecture == "chatglm":
        full = 4 * batch * (embedding + vocab)
        partial = full + lookup
        if "blk.0.attn_qkv.bias" in first:
            bias = first["blk.0.attn_qkv.bias"].dimensions[0]
            full = max(full, 4 * batch * (2 + 2 * embedding + context + context * heads + key * heads + bias))
            partial = max(
                partial,
                4 * batch * (1 + 2 * embedding + key * heads + context + context * heads)
                + 8 * key * context
                + 4 * bias,
            )
    elif architecture in ("gptoss", "gpt-oss"):
        cell = int((key + value) * kv_heads * width)
        cache = [cell * (context if layer % 2 else parallel * GPT_OSS_WINDOW + batch) for layer in range(layers)]
        partial = 2 * heads // least * total // 6
        if row.flash_attention:
            partial = (4 * parallel + (context >> 10) + 110) * MIB
    partial = partial or heads // least * sum(cache) // 6
    return cache, partial, full or partial


def _spread(layers: Sequence[int], shares: Sequence[float]) -> list[list[int]]:
    """Layers of each GPU, the last ones to the last GPU, at the least share of each GPU's room that holds them all."""
    if len(shares) == 1:
        return [list(range(len(layers)))]
    order = sorted(range(len(shares)), key=lambda index: -shares[index])

    def fit(room: float) -> list[list[int]] | None:
        placed: list[list[int]] = [[] for _share in shares]
        device = len(order) - 1
        free = room * shares[order[device]]
        for layer in range(len(layers) - 1, -1, -1):
            while layers[layer] > free:
                device -= 1
                if device < 0:
                    return None
                free = room * shares[order[device]]
            placed[order[device]].append(layer)
            free -= layers[layer]
        return placed

    low, high = 0.0, 2.0 * sum(layers) / min(share for share in shares if share) + 1
    best = fit(high)
    assert best is not None
    while high - low > 1e-6 * sum(layers):
        middle = (low + high) / 2
        found = fit(middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return best


def _weights(model: Model) -> list[int]:
    """Of each layer, and of the output as one more."""
    sizes = [0] * (model.layers + 1)
    named: dict[str, int] = {}
    for tensor in model.header.tensors:
        part, *rest = tensor.name.split(".")
        if part == "blk" and rest[0].isdigit() and int(rest[0]) < model.layers:
            sizes[int(rest[0])] += tensor.bytes
        named[part] = named.get(part, 0) + tensor.bytes
    sizes[-1] = named.get("output_norm", 0) + (named.get("output") or named.get("token_embd", 0))
    return sizes


def estimate(model: Model, row: Row) -> Answer:
    if row.expert_layers_on_host:
        raise Unanswered("experts on the host")
    if row.key_type != row.value_type:
        raise Unanswered("K and V of different types")
    cache, partial, full = _cache_and_graph(model, row)
    layers = [weights + kv for weights, kv in zip(_weights(model), [*cache, 0])]
    if not row.gpus:
        return Answer([sum(layers)])
    if row.gpu_layers == 0:
        return Answer([0] * row.gpus)
    everything = row.gpu_layers >= len(layers)
    # A part is of the layers before the output, which is left to the host first.
    taken = layers if everything else layers[:-1][-row.gpu_layers :]
    placed = _spread(taken, row.shares)
    graph = full if everything else partial
    return Answer([sum(taken[layer] for layer in part) + graph * bool(part) for part in placed])


ESTIMATOR = Estimator("Ollama 0.17", "ollama/ollama v0.17.7, fs/ggml/ggml.go: GraphSize", estimate)
