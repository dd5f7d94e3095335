"""gguf-parser-go: weights, cache and a computation graph from the header, by device.

Source: gpustack/gguf-parser-go v0.25.0, file_estimate__llamacpp.go (estimateLLaMACppRunInModel, SummarizeItem) and
file_architecture.go (transformerArchitecture). It is told the context of all sequences together, the batch of the row
and, of the cuda devices, the shares. The platform's footprint (150 MiB of RAM and 250 MiB of VRAM by default) is left
out, as no other estimator of the bench counts the CUDA context. Without a GPU it is the RAM without memory mapping.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from ansible_collections.onprem.llm.plugins.module_utils._gguf import Tensor

from tests.memory.data import Model, Row
from tests.memory.estimators import Answer, Estimator, Unanswered

MIB = 2**20
# Type: elements and bytes of a block.
CACHE_TYPES = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20),
    "q5_0": (32, 22), "q5_1": (32, 24), "iq4_nl": (32, 18),
}  # fmt: skip
INPUTS = ("position_", "token_")
OUTPUTS = ("cls.", "output.", "output_", "rope_factors_")
RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
HYBRID = {"jamba", "falcon-h1", "granitehybrid"}
# Every how many layers one has no window; all others have one. 1: no layer has.
PATTERNS = {"llama4": 4, "gemma2": 2, "gemma3": 6, "cohere2": 4}
TENSOR_OVERHEAD = 368 + 32


@dataclass
class Device:
    footprint: int = 0
    weights: int = 0
    output_weights: int = 0
    input_weights: int = 0
    cache: int = 0
    inputs: int = 0
    graph_footprint: int = 0
    graph: int = 0
    output_graph: int = 0
    layers: int = 0
    window_layers: int = 0

    @property
    def total(self) -> int:
        return (
            self.footprint + self.weights + self.input_weights + self.output_weights + self.cache
            + self.graph_footprint + self.inputs + max(self.graph, self.output_graph)
        )  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A header as gguf-parser-go sees it. ``blocks`` are the parts that are neither input nor output: each layer, and
    each tensor of no layer."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    blocks: tuple[tuple[Tensor, ...], ...]
    block_bytes: tuple[int, ...]
    last: dict[str, Tensor]


@cache
def _parts(model: Model) -> Parts:
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    blocks: dict[str, list[Tensor]] = {}
    for tensor in model.header.tensors:
        if tensor.name.startswith(INPUTS):
            inputs.append(tensor)
        elif tensor.name.startswith(OUTPUTS):
            outputs.append(tensor)
        else:
            names = tensor.name.split(".")
            layer = ".".join(names[:2]) if names[0] in ("blk", "block") and len(names) > 1 else tensor.name
            blocks.setdefault(layer, []).append(tensor)
    parts = tuple(map(tuple, blocks.values()))
    last = {tensor.name.split(".", 2)[-1]: tensor for tensor in parts[-1]}
    return Parts(
        tuple(inputs), tuple(outputs), parts, tuple(sum(tensor.bytes for tensor in part) for part in parts), last
    )


def _pad(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _row(cache_type: str, elements: int) -> int:
    block, size = CACHE_TYPES[cache_type]
    return size * elements // block


def _graph_overhead(nodes: int) -> int:
    """ggml_graph_overhead_custom without gradients. Its search for the next prime finds none below 65537 and the first
    of all above (ggml.go, GGMLHashSize, whose comparison has the signs reversed)."""
    hashes = 2 * nodes | 1 if 2 * nodes < 65537 else 2
    size = 80 + 3 * nodes * 8 + hashes * 8 + ((hashes + 31) >> 5) * 4
    return 32 + _pad(size, 16)


def _named(named: dict[str, Tensor], *names: str) -> list[Tensor]:
    return [named[name] for name in (f"{name}.weight" for name in names) if name in named]


def _wide(tensors: list[Tensor], tokens: int) -> int:
    """f32 of the tensors' last dimension for so many tokens."""
    return sum(4 * tensor.dimensions[-1] * tokens for tensor in tensors)


def estimate(model: Model, row: Row) -> Answer:
    architecture = model.header.architecture
    if row.expert_layers_on_host:
        raise Unanswered("experts on the host by layer")
    if not {row.key_type, row.value_type} <= CACHE_TYPES.keys():
        raise Unanswered(f"a cache of {row.key_type} and {row.value_type}")
    parts = _parts(model)
    layers = model.layers or len(parts.blocks)
    values = model.values
    flash = bool(row.flash_attention) and architecture != "grok"
    key_type = row.key_type
    value_type = row.value_type if flash or row.value_type in ("f16", "bf16", "f32") else "f16"
    recurrent, hybrid = architecture in RECURRENT | HYBRID, architecture in HYBRID

    def first(key: str, default: int = 0) -> int:
        value = values.get(key, default)
        return int(value[0] if isinstance(value, list) else value)

    embedding, heads = first("embedding_length"), first("attention.head_count")
    kv_heads = first("attention.head_count_kv", heads)
    head = embedding // heads if heads else 0
    key, value = first("attention.key_length", head), first("attention.value_length", head)
    pattern = PATTERNS.get(architecture, 1)
    window = 0 if architecture == "phi3" else first("attention.sliding_window", {"llama4": 8192, "gemma2": 4096}.get(
        architecture, 0))  # fmt: skip
    causal = bool(values.get("attention.causal", True)) and int(values.get("pooling_type", 0)) <= 2
    context, logical, physical = row.cells, max(32, row.ubatch), row.ubatch
    if not causal:
        context = min(first("context_length"), context)
        logical = physical = context
    padding = 256 if flash else 32
    context = _pad(context, padding)
    tokens = min(context, physical)

    # Where each part goes: the host is device 0.
    offloaded = min(row.gpu_layers, layers) if row.gpus else 0
    output_too = row.gpus > 0 and row.gpu_layers > layers
    loaded = layers - offloaded
    full, none = loaded == 0 and output_too, offloaded == 0
    devices = [Device() for _index in range(row.gpus + 1)]
    bounds = list(accumulate(row.shares))

    def place(index: int, start: int) -> int:
        if index < start:
            return 0
        return min(bisect_right(bounds, (index - start) / (offloaded + output_too)), row.gpus - 1) + 1

    output_device = 0
    for layer in range(layers):
        index = place(layer, loaded) if row.gpus else 0
        devices[index].layers += 1
        devices[index].window_layers += pattern != 1 and layer % pattern != 0
        if full and layer == layers - 1:
            output_device = index
    host = devices[0]

    # Weights. The input layer again, where there is no output layer of its own.
    start = len(parts.blocks) - offloaded
    for number, size in enumerate(parts.block_bytes):
        devices[place(number, start) if row.gpus else 0].weights += size
    host.input_weights = sum(tensor.bytes for tensor in parts.inputs)
    output = sum(tensor.bytes for tensor in parts.outputs)
    if not any(tensor.name == "output.weight" for tensor in parts.outputs):
        output += host.input_weights
    host.output_weights = output
    devices[output_device].output_weights = output

    # Footprint: loading, metadata, vocabulary, and the output buffer of a whole batch.
    vocabulary = model.number("vocab_size") or model.vocabulary
    counted = model.header.lengths.get("tokenizer.ggml.tokens", 0)
    host.footprint += 5 * MIB + model.header_bytes + counted * (8 + 32 + 24 + 32)
    if model.header.metadata.get("tokenizer.ggml.model") == "gpt2":
        host.footprint += model.header.lengths.get("tokenizer.ggml.merges", 0) * (48 + 56)
    devices[output_device].footprint += 4 * tokens * (embedding + (vocabulary if causal else 0))

    # Cache.
    conv, inner, state, groups = (
        first(f"ssm.{name}") for name in ("conv_kernel", "inner_size", "state_size", "group_count")
    )
    if causal and recurrent:
        wkv = first("wkv.head_size")
        if wkv:
            states = (first("token_shift_count", 2) + wkv) * embedding
        else:
            states = (conv - 1) * (inner + 2 * groups * state) + state * inner
        for device in devices:
            device.cache += 4 * states * row.sequences * device.layers
    if causal and (not recurrent or hybrid):
        wide_key, wide_value = key, value
        if first("attention.key_length_mla") and first("attention.value_length_mla"):
            wide_key, wide_value = first("attention.key_length_mla"), first("attention.value_length_mla")

        def cells(count: int) -> int:
            return _row(key_type, wide_key * kv_heads * count) + _row(value_type, wide_value * kv_heads * count)

        windowed = min(context, _pad(window * row.sequences + logical, padding))
        for device in devices:
            device.cache += cells(windowed) * device.window_layers
            device.cache += cells(context) * (device.layers - device.window_layers)

    # Graph.
    nodes = max(1024, 8 * len(model.header.tensors))
    host.graph_footprint = (
        TENSOR_OVERHEAD * nodes + _graph_overhead(nodes) + 4 * MIB
        + 2 * TENSOR_OVERHEAD * (len(model.header.tensors) + 1 + 3 * layers)
    )  # fmt: skip
    embedded, mask, positions = 4 * embedding * tokens, 4 * context * tokens, 4 * tokens
    states_in = 4 * row.sequences + 4 * row.sequences * tokens
    if recurrent:
        host.inputs = 2 * positions + embedded + 4 * row.sequences + states_in
    else:
        host.inputs = 3 * positions + embedded + mask
    for device in devices[1:]:
        device.inputs = embedded + (states_in if recurrent else positions + mask)
        if row.gpus > 1:
            device.inputs *= 2 if first("expert_count") > 0 else 4
    if recurrent and not hybrid:
        graph = _recurrent_graph(parts.last, embedding, tokens, row.sequences, conv, inner, state, groups, first)
        for device in devices[1:]:
            device.graph = graph
    else:
        copied = _row(key_type, key) * context * kv_heads + _row(value_type, value) * context * kv_heads
        attention = 0
        if flash:
            attention = 2 * context * tokens + _wide(_named(parts.last, "attn_norm"), tokens) + copied
            attention += sum(tensor.bytes for tensor in _named(parts.last, "attn_q", "attn_qkv", "attn_q_b"))
        else:
            scores = 4 * context * tokens * heads
            attention = _wide(_named(parts.last, "attn_norm"), tokens)
            for tensor in _named(parts.last, "attn_q", "attn_qkv"):
                attention += 2 * 4 * tensor.dimensions[0] * tokens + scores
                attention += copied if not none and not full else 0
            if "attn_qkv.weight" in parts.last:
                attention += 4 * embedding * embedding * 3
            for tensor in _named(parts.last, "attn_q_b"):
                attention += 2 * 4 * tensor.dimensions[-1] * tokens + scores
        forward = _wide(_named(parts.last, "attn_norm", "ffn_norm", "ffn_gate", "ffn_up"), tokens)
        experts, used = first("expert_count"), first("expert_used_count")
        if experts or used:
            forward += 4 * experts * embedding + 4 * experts * tokens + 4 * embedding * used * tokens
        host.graph = copied + (0 if none else forward)
        for device in devices[1:]:
            device.graph = max(attention, forward)
        if loaded > 1 and row.gpus:
            devices[1].graph += copied
    if causal:
        named = {tensor.name: tensor for tensor in (*parts.outputs, *parts.inputs)}
        last = named.get("output.weight") or named.get("token_embd.weight")
        ends = [tensor for tensor in (named.get("output_norm.weight"), last) if tensor]
        devices[output_device].output_graph += (states_in if recurrent else 0) + _wide(ends, tokens)
    if not row.gpus:
        return Answer([host.total])
    # A further GPU that handles no layer holds neither weights nor a graph.
    return Answer(
        [
            device.total if index == 0 or device.layers else device.footprint + device.cache
            for index, device in enumerate(devices[1:])
        ]
    )


def _recurrent_graph(
    last: dict[str, Tensor], embedding: int, tokens: int, sequences: int, conv: int, inner: int, state: int,
    groups: int,
    first: Callable[..., int],
) -> int:  # fmt: skip
    """The largest layer's graph of a model without attention."""
    head = first("wkv.head_size")
    if head:
        graph = _wide(_named(last, "attn_norm", "attn_norm_2"), tokens)
        mixing = ("lerp_x", "receptance", "decay_w2", "key", "value", "gate")
        graph += _wide(_named(last, *(f"time_mix_{name}" for name in mixing)), tokens)
        for tensor in _named(last, "time_mix_w2"):
            graph += 4 * embedding * tokens * tensor.dimensions[-1]
        for _tensor in _named(last, "time_mix_output"):
            graph += 4 * embedding * (tokens + head * sequences)
        return int(graph)
    graph = 4 * (conv - 1) * (inner + 2 * groups * state) * sequences
    graph += _wide(_named(last, "attn_norm", "ssm_in", "ssm_dt"), tokens)
    graph += 4 * (inner * tokens + conv * inner * sequences) * len(_named(last, "ssm_conv1d"))
    return graph + 4 * (inner * tokens + state * inner * sequences) * ("ssm_a" in last)


ESTIMATOR = Estimator(
    "gguf-parser-go", "gpustack/gguf-parser-go v0.25.0, file_estimate__llamacpp.go", estimate
)  # fmt: skip
