# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What llama.cpp allocates when it loads a model and makes a context: weights, cache and compute buffers by device.

Sources: llama-model.cpp (load_tensors: which layer lies where), llama-context.cpp (sched_reserve: the graph that sizes
the compute buffers), llama-kv-cache.cpp and llama-memory-recurrent.cpp (what is kept between calls).
"""

from __future__ import annotations

import functools
import struct
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.llm.plugins.module_utils import _architectures, _compressed, _ggml, _gguf
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Batch, Builder, Homes
from ansible_collections.onprem.llm.plugins.module_utils._ggml_plan import (
    CPU_ALIGNMENT,
    GPU_ALIGNMENT,
    PIPELINE_COPIES,
    ROW_PADDING,
    Planner,
)
from ansible_collections.onprem.llm.plugins.module_utils._hyper import ENCODERS, WITHOUT_CACHE, Hyper
from ansible_collections.onprem.llm.plugins.module_utils._llama_cpp import FILTERED, V0_5_0, Rules

# llama-context.cpp: contexts and caches come in steps of so many cells.
CELLS = 256
# Kept in host memory wherever the layers are: llama-model.cpp, dev_input.
INPUT_TENSORS = (
    "token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight",
    "hrm.z_l_init",
)  # fmt: skip

# With the first layer although outside of the layers (llama-arch.cpp, LLM_TENSOR_LAYER_REPEATING without a number).
FIRST_LAYER_TENSORS = ("token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm", "conv1d")
# What a tensor of a layer begins with, before the layer's number.
LAYER_PREFIXES = frozenset({"blk", "posnet", "convnext"})
# ggml-cpu/repack.cpp: types that a CPU with AVX2 keeps in another order, for weights of matrix products alone.
REPACKED = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4"})


@dataclass(frozen=True)
class Load:
    """One load as llama.cpp's parameters say it; ``context_length`` is tokens a sequence. ``layers_on_gpu`` counts the
    output layer as one. ``gpus`` are shares, ``batch`` tokens at once, ``logits_rows`` 0 means every token's."""

    context_length: int
    sequences: int
    key_type: str
    value_type: str
    flash_attention: bool | None
    batch: int
    logits_rows: int
    gpus: tuple[float, ...]
    layers_on_gpu: int
    expert_layers_on_host: int = 0
    rules: Rules = V0_5_0


@dataclass(frozen=True)
class Buffers:
    """Bytes by backend: the GPUs in order, the host last."""

    weights: tuple[int, ...]
    cache: tuple[int, ...]
    compute: tuple[int, ...]


# What is remembered of one model before all of it is forgotten.
MOST_REMEMBERED = 20000


def pad(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _single(value: float) -> float:
    """The nearest 32-bit float, in which llama.cpp computes shares."""
    return t.cast(float, struct.unpack("f", struct.pack("f", value))[0])


def homes(hyper: Hyper, load: Load) -> Homes:
    """Layers go to the GPUs by cumulated shares, the output as one layer more; those that do not fit stay in front,
    with the CPU."""
    return layer_homes(hyper.all_layers + 1, load.gpus, load.layers_on_gpu, load.expert_layers_on_host)


@functools.lru_cache(maxsize=4096)
def layer_homes(count: int, gpus: tuple[float, ...], layers_on_gpu: int, expert_layers: int) -> Homes:
    """Where ``count`` layers lie, the output counted as the last; see :func:`homes`."""
    cpu = len(gpus)
    on_gpu = min(layers_on_gpu, count) if cpu else 0
    start = count - on_gpu
    bounds: list[float] = []
    total = 0.0
    for share in gpus:
        total = _single(total + _single(share))
        bounds.append(total)
    bounds = [_single(bound / total) for bound in bounds] if total else []
    placed = []
    for layer in range(count):
        if layer < start:
            placed.append(cpu)
        else:
            at = _single(_single(float(layer - start)) / on_gpu)
            placed.append(next((gpu for gpu, bound in enumerate(bounds) if bound > at), cpu - 1))
    return Homes(tuple(placed[:-1]), placed[-1], cpu, expert_layers)


def tensor_bytes(kind: str, ne: t.Sequence[int], on_gpu: bool) -> int:
    """What a weight or cache takes in a buffer: its bytes, on a GPU a quantized row's padding, and the alignment."""
    block, size = _ggml.TYPES[kind]
    elements = 1
    for extent in ne:
        elements *= extent
    total = elements // block * size
    if not on_gpu:
        return pad(total, CPU_ALIGNMENT)
    if block > 1 and ne[0] % ROW_PADDING:
        total += (ROW_PADDING - ne[0] % ROW_PADDING) // block * size
    return pad(total, GPU_ALIGNMENT)


def weight_bytes(hyper: Hyper, where: Homes, rules: Rules = V0_5_0, every_layer: bool = False) -> list[int]:
    """The tensors of the file where their layers lie; once more what several devices need for themselves. The layers
    that only predict further tokens are not loaded, but for ``every_layer`` and LOADED_ANYWAY."""
    key = ("weights", where, rules.release, every_layer)
    if key in hyper.memory:
        return list(hyper.memory[key])
    total = [0] * (where.cpu + 1)
    experts = ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_up_exps")
    devices = set(where.layers)
    if hyper.architecture == "gemma4":  # for its layers without a window alone
        devices = {home for home, windowed in zip(where.layers, hyper.windowed) if not windowed}

    def put(tensor: _gguf.Tensor, home: int) -> None:
        total[home] += tensor_bytes(_gguf.TENSOR_TYPES[tensor.type_id][0].lower(), tensor.dimensions, home != where.cpu)

    for name, tensor in hyper.tensors.items():
        parts = name.split(".")
        if parts[0] in ("enc", "dec"):
            parts = parts[1:]
        if parts[0] in LAYER_PREFIXES and len(parts) > 2 and parts[1].isdigit() and int(parts[1]) < hyper.all_layers:
            layer = int(parts[1])
            if layer >= hyper.layers and not every_layer and not _loaded_anyway(hyper.architecture, parts[2:]):
                continue  # prediction layers are not loaded
            home = where.layers[layer]
            if parts[2] in experts and layer < where.expert_layers_on_cpu:
                home = where.cpu
            put(tensor, where.cpu if hyper.kept_on_host(name, rules) else home)
        elif name in INPUT_TENSORS:
            put(tensor, where.cpu)
            if (
                name == "token_embd.weight"
                and tied(hyper)
                and (where.output != where.cpu or _copied(tensor, where, hyper.architecture in ("gemma3n", "gemma4")))
            ):
                put(tensor, where.output)
        elif name.startswith("rope_"):
            for home in sorted(devices):
                put(tensor, home)
        elif name.startswith(FIRST_LAYER_TENSORS) and hyper.architecture not in ("lfm2", "lfm2moe"):
            put(tensor, where.layers[0])
        else:
            put(tensor, where.output)
    hyper.memory[key] = tuple(total)
    return total


_HEAD = frozenset({"nextn.embed_tokens", "nextn.shared_head_head", "nextn.shared_head_norm"})
_NETWORK = frozenset(
    f"ffn_{name}{kind}" for name in ("gate", "up", "down") for kind in ("", "_exps", "_shexp")
) | {"ffn_gate_inp", "ffn_gate_up_exps", "exp_probs_b"}  # fmt: skip
# What of prediction layers is loaded all the same: their files in src/models read it as optional, whatever is to be
# skipped.
LOADED_ANYWAY = {
    "step35": _HEAD | _NETWORK | {"attn_q_norm", "attn_k_norm", "attn_gate"},
    "hy_v3": _HEAD | _NETWORK,
    "cohere2moe": _HEAD,
    "glm-dsa": frozenset({"indexer.k_norm"}),
    "deepseek32": frozenset({"indexer.k_norm"}),
}


def _loaded_anyway(architecture: str, words: list[str]) -> bool:
    return ".".join(words[:-1] if words[-1] in ("weight", "bias") else words) in LOADED_ANYWAY.get(architecture, ())


def _copied(tensor: _gguf.Tensor, where: Homes, twice: bool) -> bool:
    """The output layer has a copy of its own in host memory, too: without a GPU it may be kept in another order than
    the input embeddings need; two architectures load it before them (gemma3n.cpp, gemma4.cpp)."""
    if twice:
        return True
    kind = _gguf.TENSOR_TYPES[tensor.type_id][0].lower()
    return where.cpu == 0 and kind in REPACKED and tensor.dimensions[1] % 8 == 0


def tied(hyper: Hyper) -> bool:
    """The input embeddings are the output layer as well."""
    return not hyper.has("output.weight") and hyper.architecture not in HEADLESS


# No output layer is loaded, or the input embeddings are read where they are.
HEADLESS = (ENCODERS - {"gemma-embedding"}) | {"bitnet"}


def cells(hyper: Hyper, load: Load) -> tuple[int, int]:
    """(cells a sequence, cells of a window's cache)."""
    context = pad(load.context_length * load.sequences, CELLS)
    each = pad(context // load.sequences, CELLS)
    return each, pad(min(each, hyper.window + batch_limit(hyper, load)), CELLS)


def batch_limit(hyper: Hyper, load: Load) -> int:
    """Tokens computed at once: no more than the context has before it is padded, but for models that need all of a
    text at once (llama_context's constructor, n_batch)."""
    return min(load.context_length * load.sequences, load.batch) if hyper.causal else load.batch


def cache_bytes(hyper: Hyper, load: Load, where: Homes) -> list[int]:
    """K and V of every layer that keeps them, and recurrent states (:func:`state_bytes`)."""
    total = state_bytes(hyper, load, where)
    if hyper.architecture in WITHOUT_CACHE:
        return total
    each, window = cells(hyper, load)
    behind = hyper.router_layer >= 0 or hyper.architecture == "deepseek4"
    behind = behind or (load.rules.prediction_cache and hyper.architecture not in FILTERED)
    for layer in range(hyper.all_layers if behind else hyper.layers):
        home = where.layers[layer]
        on_gpu = home != where.cpu
        if hyper.recurrent[layer] and hyper.architecture != "falcon-h1":
            continue
        if not hyper.has_cache(layer) or (hyper.architecture.startswith("nemotron_h") and hyper.feeds(layer)):
            continue
        if hyper.architecture == "deepseek4":
            for kind, *ne in _compressed.caches(hyper, layer, load.key_type, each, window, load.sequences).values():
                total[home] += tensor_bytes(kind, ne, on_gpu)
            continue
        count = window if hyper.windowed[layer] else each
        total[home] += tensor_bytes(load.key_type, (hyper.key_row(layer), count, load.sequences), on_gpu)
        if hyper.indexed(layer):
            row = hyper.whole("attention.indexer.key_length")
            total[home] += tensor_bytes(load.key_type, (row, count, load.sequences), on_gpu)
            if hyper.architecture == "minimax-m3":  # its index has a cache of its own kind, values and all
                row = hyper.value_length
                total[home] += tensor_bytes(load.value_type, (row, count, load.sequences), on_gpu)
        if not hyper.mla:
            wide = hyper.widest_value_row if transposed(hyper, load) else hyper.value_row(layer)
            total[home] += tensor_bytes(load.value_type, (wide, count, load.sequences), on_gpu)
    return total


def state_bytes(hyper: Hyper, load: Load, where: Homes) -> list[int]:
    """What recurrent layers keep of each sequence, in float32 whatever the cache's type."""
    total = [0] * (where.cpu + 1)
    if hyper.architecture in WITHOUT_CACHE:
        return total
    for layer in range(hyper.layers):
        if hyper.recurrent[layer]:
            home = where.layers[layer]
            for size in (*state_sizes(hyper), hyper.gram_state(layer)):
                total[home] += tensor_bytes("f32", (size, load.sequences), home != where.cpu)
    return total


def state_sizes(hyper: Hyper) -> tuple[int, int]:
    """Elements a sequence of a recurrent layer's convolution and state (llama-hparams.cpp, n_embd_r, n_embd_s)."""
    head = hyper.whole("wkv.head_size")
    if head:
        return hyper.whole("token_shift_count", 2) * hyper.width, hyper.width * head
    delta = hyper.whole("kda.head_dim")
    if delta:
        conv = hyper.whole("ssm.conv_kernel", 4)
        return 3 * (conv - 1) * hyper.heads[0] * delta, delta * delta * hyper.heads[0]
    if hyper.architecture == "minimax-01":
        return 0, hyper.key_length**2 * hyper.heads[0]
    short = hyper.whole("shortconv.l_cache")
    if short:
        return hyper.width * (short - 1), 0
    conv, inner = hyper.whole("ssm.conv_kernel"), hyper.whole("ssm.inner_size")
    groups, state = hyper.whole("ssm.group_count"), hyper.whole("ssm.state_size")
    return (conv - 1 if conv else 0) * (inner + 2 * groups * state), state * inner


def batch_of(hyper: Hyper, load: Load, flash: bool, tokens: int | None = None) -> Batch:
    """The graph that sizes the buffers: a full batch over full caches (graph_reserve)."""
    each, window = cells(hyper, load)
    limit = batch_limit(hyper, load)
    wanted = min(each * load.sequences, limit) if tokens is None else tokens
    every = not load.logits_rows or hyper.architecture in ("t5", "t5encoder")
    rows = min(wanted, limit if every else load.logits_rows)
    count = -(-wanted // load.sequences) * load.sequences
    original = hyper.whole("rope.scaling.original_context_length", hyper.context)
    embeddings = hyper.architecture in ENCODERS or hyper.get("pooling_type") is not None
    return Batch(
        count, load.sequences, rows, each, window, flash, load.key_type, load.value_type, embeddings,
        hyper.whole("pooling_type"), transposed(hyper, load), each > original, rules=load.rules,
    )  # fmt: skip


def graph_of(hyper: Hyper, batch: Batch, where: Homes, only: t.Sequence[int] | None = None) -> Builder:
    builder = Builder(hyper, batch, where, only)
    _architectures.build(builder)
    return builder


def transposed(hyper: Hyper, load: Load) -> bool:
    """Whether V lies transposed in the cache: where flash attention is off from the start, and not where the engine
    turns it off as it finds no kernel."""
    return load.flash_attention is False or hyper.architecture == "grok"


def flash_attention(hyper: Hyper, load: Load, where: Homes) -> bool:
    """What the engine makes of its setting: left to itself, flash attention is on where every layer's device has it."""
    if hyper.architecture == "grok":
        return False
    if load.flash_attention is not None:
        return load.flash_attention
    if _ggml.TYPES[load.value_type][0] > 1:
        return True  # a quantized V cache needs it
    builder = graph_of(hyper, replace(batch_of(hyper, load, True, load.sequences), trial=True), where)
    Planner(builder.graph, where.cpu).assign()
    return all(node.backend == where.layers[layer] for node, layer in builder.attention_nodes)


def settled(hyper: Hyper, load: Load, where: Homes, batch: Batch) -> Batch:
    """The batch with what the engine takes apart: operations that in a small graph some layer's device would not
    compute (llama-context.cpp, resolve_fused_ops)."""
    tried = [(operation, tokens) for operation, tokens in load.rules.probed if _may_have(hyper, operation)]
    if not tried or not where.cpu:
        return batch
    # The length of the context decides nothing of where a few tokens are computed.
    key = ("unfused", where, replace(batch, tokens=0, outputs=0, cells=0, window_cells=0))
    if key not in hyper.memory:
        unfused: frozenset[str] = frozenset()
        builder: Builder | None = None
        for operation, tokens in tried:
            probe = batch_of(hyper, load, batch.flash, tokens * load.sequences)
            probe = replace(probe, trial=True, unfused=unfused)
            if builder is None or builder.batch != probe:
                builder = graph_of(hyper, probe, where)
                if builder.fused_nodes:
                    Planner(builder.graph, where.cpu).assign()
            if any(node.op == operation and node.backend != where.layers[layer] for node, layer in builder.fused_nodes):
                unfused |= {operation}
        hyper.memory[key] = unfused
    return replace(batch, unfused=hyper.memory[key])


def _may_have(hyper: Hyper, operation: str) -> bool:
    """Whether it is worth a graph to find out where the operation is computed."""
    if operation == "GATED_DELTA_NET":
        return any(hyper.recurrent)
    if operation == "LIGHTNING_INDEXER":
        return hyper.whole("attention.indexer.key_length") > 0
    return hyper.architecture in ("deepseek4", "qwen4exp")


# Architectures whose layers differ by their number, and after how many layers they are alike again.
_STEPS = {"llama4": 4, "smollm3": 4, "afmoe": 4, "smallthinker": 4, "rwkv6": 6}
# Every layer has its own part in the graph.
_UNALIKE = frozenset(
    {
        "gemma3n", "nanbeige", "glm-dsa", "rwkv7", "arwkv7", "t5", "t5encoder", "kimi-k3", "hrm_text",
        "wavtokenizer-dec",
    }
)  # fmt: skip


def _tensors_by_layer(hyper: Hyper) -> list[int]:
    """Names and shapes of each layer's tensors as one number."""
    if "tensors" not in hyper.memory:
        parts: list[list[str]] = [[] for _number in range(hyper.layers)]
        for name, tensor in hyper.tensors.items():
            words = name.split(".")
            at = words.index("blk") + 1 if "blk" in words else 0
            if at and int(words[at]) < hyper.layers:
                parts[int(words[at])].append(f"{words[at + 1 :]}{tensor.dimensions}")
        hyper.memory["tensors"] = [hash(tuple(sorted(part))) for part in parts]
    return t.cast("list[int]", hyper.memory["tensors"])


def _kinds(hyper: Hyper, where: Homes) -> list[int]:
    """What a layer's part of the graph depends on, as one number: equal numbers, equal parts. The last layer's is its
    own, as rows are picked in it."""
    step = _STEPS.get(hyper.architecture, 1)
    parts = _tensors_by_layer(hyper)
    return [
        hash(
            (
                parts[layer], where.layers[layer], layer % step, hyper.windowed[layer],
                hyper.recurrent[layer], hyper.has_cache(layer), hyper.heads[layer], hyper.kv_heads[layer],
                hyper.experts_used[layer], layer < hyper.whole("n_deepstack_layers"), layer == hyper.layers - 1,
                hyper.limited("swiglu_clamp_exp", layer), hyper.limited("swiglu_clamp_shexp", layer),
                _compressed.ratio(hyper, layer),
            )
        )
        for layer in range(hyper.layers)
    ]  # fmt: skip


def _groups(kinds: list[int]) -> list[tuple[int, int, int]]:
    """Layers as groups that repeat: (first layer, layers in the group, how often it stands in a row)."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(kinds):
        best, period, times = 0, 1, 1
        for size in range(1, 13):
            group = kinds[at : at + size]
            count = 1
            while len(group) == size and kinds[at + count * size : at + (count + 1) * size] == group:
                count += 1
            if (count - FEW_ROUNDS) * size > best:
                best, period, times = (count - FEW_ROUNDS) * size, size, count
        found.append((at, period, times))
        at += period * times
    return found


# A group that repeats is built so often at first, then so often, before all layers are.
FEW_ROUNDS, MORE_ROUNDS = 3, 8


def _short_plan(hyper: Hyper, batch: Batch, where: Homes, copies: int) -> list[int] | None:
    """The compute buffers out of some rounds of each group, or None where that proves nothing.

    The planner's state at the end of a round, if it was seen at the end of an earlier one, comes again after as many
    rounds more: whole cycles may be left out, every state of theirs was visited, and what follows begins in the state
    in which it would begin after all rounds.
    """
    groups = _groups(_kinds(hyper, where))
    # What was enough for another batch is tried first; where nothing was, nothing is tried again.
    key = ("rounds", where, copies, batch.flash, batch.key_type, batch.sequences > 1, batch.rules.release)
    rounds = hyper.memory.get(key) or [min(times, FEW_ROUNDS) for _at, _period, times in groups]
    if rounds == "all":
        return None
    hyper.memory[key] = "all"
    rounds = list(rounds)
    for _attempt in range(4):
        kept: list[int] = []
        starts: list[int] = []
        for (at, period, _times), count in zip(groups, rounds):
            starts.append(len(kept))
            kept.extend(range(at, at + period * count))
        if len(kept) > hyper.layers * 2 // 3:
            return None
        builder = graph_of(hyper, batch, where, kept)
        planner = Planner(builder.graph, where.cpu, copies, batch.rules.split_inputs)
        planner.marks = builder.marks
        sizes = planner.run()
        states = planner.states
        if copies > 1 and (planner.splits > len(set(where.layers)) + 1 or planner.handed > 2):
            return None  # what is copied between devices grows with the layers
        if len(states) != len(kept):
            return None
        proved, tried = True, tuple(rounds)
        for number, (_at, period, times) in enumerate(groups):
            count = rounds[number]
            if count == times:
                continue
            ends = [states[starts[number] + period * index] for index in range(count)]
            cycle = next((size for size in range(1, count) if ends[-1 - size] == ends[-1]), 0)
            if cycle and (times - count) % cycle == 0:
                continue
            proved = False
            rounds[number] = min(times, count + (times - count) % cycle if cycle else max(MORE_ROUNDS, count + 1))
        if proved:
            hyper.memory[key] = tried
            return sizes
    return None


def compute_bytes(hyper: Hyper, load: Load, where: Homes, flash: bool, whole: bool = False) -> list[int]:
    """The compute buffers. Of equal layers in a row only some are built, as long as the memory is found in the same
    state after each of the last rounds: then every further round would leave it so, and the peak is that of all layers
    (``whole``: no such short cut). Layers on the CPU are all built, as their weights are copied."""
    batch = settled(hyper, load, where, batch_of(hyper, load, flash))
    copies = 1
    if len(load.gpus) > 1 and load.layers_on_gpu > hyper.all_layers and not load.expert_layers_on_host:
        copies = PIPELINE_COPIES
    short = not (whole or hyper.architecture in _UNALIKE or where.expert_layers_on_cpu)
    if short and where.cpu not in (*where.layers, where.output):
        sizes = _short_plan(hyper, batch, where, copies)
        if sizes is not None:
            return sizes
    return Planner(graph_of(hyper, batch, where).graph, where.cpu, copies, batch.rules.split_inputs).run()


# Architectures with more room for their graph (llama-context.cpp, graph_max_nodes).
_ROOMY = frozenset(
    {
        "qwen3next",
        "kimi-linear",
        "bailingmoe3",
        "qwen35",
        "qwen35moe",
        "qwen4exp",
        "deepseek4",
        "nanbeige",
        "minimax-01",
        "minimax-m3",
        "hy_v4",
        "hrm_text",
    }
)
# Of these, with still more: tensors by token of the batch, and by tensor of the model.
_ROOM = {"hrm_text": (80, 64)}
# ggml.c, ggml_hash_size.
_PRIMES = (1031, 2053, 4099, 8209, 16411, 32771, 65537, 131101)


# Graphs of these take equal tokens of every sequence (ggml_can_repeat fails).
_EQUAL_SEQUENCES = frozenset({"kimi-linear", "minimax-01"})


def unloadable(architecture: str, hyper: Hyper | None, rules: Rules) -> str | None:
    """Why this release would not load the model at all, or None. Of a model whose tensors are not known only the
    architecture counts (src/models/*.cpp, load_arch_hparams and load_arch_tensors)."""
    if architecture in rules.unknown:
        return f"the engine's llama.cpp ({rules.release}) does not know the architecture {architecture}"
    if hyper is None:
        return None
    pattern = "attention.sliding_window_pattern"
    if architecture in rules.stated_windows and hyper.window and hyper.get(pattern) is None:
        return f"the engine's llama.cpp ({rules.release}) needs {pattern}, which it lacks"
    if architecture in rules.needed_biases and not hyper.has("blk.0.attn_q.bias"):
        return f"the engine's llama.cpp ({rules.release}) needs biases of its attention, which it lacks"
    return None


def abort(hyper: Hyper, load: Load) -> str | None:
    """Why the engine would abort while it plans, or None. The graph may have as many tensors as eight times the
    model's, and the scheduler's table must hold them and the leaves (llama-context.cpp, graph_max_nodes; ggml.c)."""
    if hyper.architecture == "t5" and load.sequences > 1:
        return "llama.cpp aborts: the position bias of its decoder is made for one sequence"
    flash = load.flash_attention is not False
    if hyper.architecture == "plm" and flash:
        return "llama.cpp aborts: its values are of another width than its cache's rows with flash attention"
    if hyper.architecture == "wavtokenizer-dec" and not load.gpus and hyper.kind("conv1d.weight") == "bf16":
        return "llama.cpp aborts: without a GPU it has no product for convolutions in bf16"
    tokens = min(load.context_length * load.sequences, load.batch)
    if hyper.architecture in _EQUAL_SEQUENCES and tokens % load.sequences:
        return f"llama.cpp aborts: batches of {tokens} tokens are no equal parts for {load.sequences} sequences"
    if load.sequences == 1 and load.key_type == load.value_type == "f16":
        return None  # the smallest graph
    where = homes(hyper, load)
    sequences: int = load.sequences > 1
    if hyper.architecture == "minimax-m3":  # each sequence has nodes of its own, but only with flash attention
        sequences, flash = load.sequences, flash_attention(hyper, load, where)
    key = ("abort", sequences, load.key_type, load.value_type, flash, load.rules.release)
    if key not in hyper.memory:
        graph = graph_of(hyper, batch_of(hyper, load, flash), where).graph
        made = len(graph.nodes) + sum(leaf.is_input for leaf in graph.leaves)
        hyper.memory[key] = (made, len(graph.nodes) + len(graph.leaves))
    made, total = hyper.memory[key]
    # A tied output layer on a GPU is a tensor more.
    tensors = len(hyper.tensors) + (tied(hyper) and where.output != where.cpu)
    room = max(1024, 8 * tensors)
    if hyper.architecture in _ROOMY:
        by_token, by_tensor = _ROOM.get(hyper.architecture, (40, 32))
        room = max(load.batch * by_token, by_tensor * tensors)
    table = next((prime for prime in _PRIMES if prime >= room), 1 << 30)
    if made > room or total > table:
        count, fits = (made, room) if made > room else (total, table)
        return f"llama.cpp aborts: its graph has {count} tensors with this cache, {fits} fit"
    return None


def buffers(hyper: Hyper, load: Load) -> Buffers:
    """Everything that one load allocates.

    :raises KeyError: the architecture's graph is not known.
    """
    where = homes(hyper, load)
    # Shares matter only by where they put the layers.
    key = (replace(load, gpus=(1.0,) * len(load.gpus)), where)
    found = hyper.memory.get(key)
    if found is None:
        flash = flash_attention(hyper, load, where)
        found = Buffers(
            tuple(weight_bytes(hyper, where, load.rules)),
            tuple(cache_bytes(hyper, load, where)),
            tuple(compute_bytes(hyper, load, where, flash)),
        )
        if len(hyper.memory) > MOST_REMEMBERED:
            hyper.memory.clear()
        hyper.memory[key] = found
    return t.cast(Buffers, found)
