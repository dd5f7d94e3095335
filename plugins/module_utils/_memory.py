# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model takes in memory: weights, KV cache, compute buffers and what lies outside of them, in bytes.

:func:`place` has the bytes on each device under llama.cpp's own parameters, and :func:`engine_run` makes those of an
instance's setting by Ollama's rules. They are those of the planner of the engine's llama.cpp (_llama_cpp.py), replayed
(_engine.py), where the architecture's graph is written down (_architectures.py); elsewhere weights are exact and the
rest is an upper bound (_bound.py). Two cases have closed forms still: Ollama's own engine, up to 0.29, and catalog
entries of architectures whose tensors are not known.
"""

from __future__ import annotations

import functools
import json
import math
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.onprem.llm.plugins.module_utils import _architectures, _bound, _engine, _ggml, _gguf, _typical
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Homes
from ansible_collections.onprem.llm.plugins.module_utils._hyper import Hyper
from ansible_collections.onprem.llm.plugins.module_utils._llama_cpp import B10488, BEFORE_0_30, V0_5_0, Rules

MIB = 2**20

# llama.cpp's own fit keeps this free on each device, else layers go to the CPU (LLAMA_ARG_FIT_TARGET, common/arg.cpp).
FIT_TARGET_BYTES = 1024 * MIB
# Ollama before 0.30 keeps so much free on each GPU, and OLLAMA_GPU_OVERHEAD besides (v0.17.7, ml/device.go,
# MinimumMemory; llm/server.go, buildLayout).
MINIMUM_BYTES = 457 * MIB
# A vision projector's graph is not replayed: what Ollama itself expects it to take at most beside its weights
# (v0.32.15, llm/llama_server.go, mmprojOffloadHeadroom).
PROJECTOR_COMPUTE_BYTES = 1024 * MIB
# Tensors of a projector within the model's own file (v0.32.15, llm/llama_server.go, mmprojMemoryRequirement;
# deepseekocr's first encoder besides).
_PROJECTOR_TENSORS = ("v.", "mm.", "a.", "s.")

# Bytes a cache element (ggml block sizes): f16, and blocks of 32 elements in 34 and 18 bytes.
KV_CACHE_TYPES = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}

# Window layers that no header states, as (period, which of its layers are windowed): llama.cpp, set_swa_pattern.
_WINDOW_PATTERNS: dict[str, tuple[int, t.Callable[[int], bool]]] = {
    "gemma2": (2, lambda place: place < 1),
    "gemma3": (6, lambda place: place < 5),
    "gemma-embedding": (6, lambda place: place < 5),
    "gpt-oss": (2, lambda place: place < 1),
    "llama4": (4, lambda place: place < 3),
    "cohere2": (4, lambda place: place < 3),
    "afmoe": (4, lambda place: place < 3),
    "smallthinker": (4, lambda place: place > 0),
}
_DEFAULT_WINDOWS = {"llama4": 8192, "smallthinker": 4096}

# Encoders without any output layer, and all that keep no cache between calls.
_BERTS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert"})
_ENCODERS = _BERTS | {"gemma-embedding"}
# Ollama, server/sched.go: the runner is started with one sequence whatever OLLAMA_NUM_PARALLEL says.
_ONE_SLOT = frozenset(
    {
        "mllama",
        "qwen3vl",
        "qwen3vlmoe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
    }
)
# Ollama 0.17.7, fs/ggml/ggml.go, OllamaEngineRequired: its own engine runs these (not from 0.30 on). It reserves one
# row of logits a slot (runner/ollamarunner/runner.go), and one mask for all slots together (kvcache/causal.go); what it
# keeps beside the largest phase was read off a CPU build: gemma3 270M at 4096, 8192 and 32768 tokens took 23.5, 27.5
# and 51.5 MiB.
_OWN_ENGINE = frozenset(
    [
        "bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "glm4moelite", "glmocr", "gpt-oss", "gptoss", "lfm2",
        "lfm2moe", "llama4", "mistral3", "mllama", "nemotron_h", "nemotron_h_moe", "nomic-bert", "olmo3", "qwen25vl",
        "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe",
    ]
)  # fmt: skip
# Architectures of which Ollama up to 0.29 says that they have flash attention whatever their heads, and the one that it
# denies it (fs/ggml/ggml.go, SupportsFlashAttention).
_FLASH_ALWAYS, _FLASH_NEVER = frozenset({"qwen35", "qwen35moe", "qwen3next"}), frozenset({"gemma2"})

# More layers no model has; a header that announces them is damaged or hostile.
MOST_LAYERS = 4096
# What a header that contradicts itself leads to while its graph is built.
_CONTRADICTIONS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)


class ShapeError(Exception):
    """A header or catalog entry lacks, or contradicts, what the account needs."""


@dataclass(frozen=True)
class Weights:
    """Bytes of the tensors. ``device`` is what a GPU holds, ``host`` what a CPU-only load holds; ``layers`` and
    ``output`` divide ``device``. ``exact`` is false where only the file's size is known. ``tied`` is the size of input
    embeddings that are the output layer as well."""

    device: int
    host: int
    layers: tuple[int, ...]
    output: int
    exact: bool
    tied: int = 0


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters that memory depends on, in GGUF's words. Lengths are elements, ``context_length`` tokens."""

    architecture: str
    layers: int
    embedding_length: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    feed_forward_length: int
    vocabulary: int
    context_length: int
    weights: Weights
    window: int = 0
    windowed: tuple[bool, ...] = ()
    experts_used: int = 0
    expert_feed_forward_length: int = 0
    kv_lora_rank: int = 0
    rope_dimensions: int = 0
    nope_length: int = 0
    attention_interval: int = 0
    state: tuple[int, int, int, int] = (0, 0, 0, 0)
    gated: bool = True
    embedding: bool = False
    patterns_known: bool = True
    # Bytes of its vision projector, compute buffer included; 0 where it has none.
    projector: int = 0
    # Of a model whose tensors are known: then its graph can be replayed.
    hyper: Hyper | None = field(default=None, compare=False, repr=False)

    @property
    def exact(self) -> bool:
        """Its tensors and its architecture's graph are known: the account replays what the engine does."""
        return self.hyper is not None and _architectures.known(self.architecture)

    @property
    def encoder(self) -> bool:
        return self.architecture in _ENCODERS

    @property
    def one_slot(self) -> bool:
        """Ollama gives such a model one sequence, whatever the instance's setting."""
        return self.embedding or self.architecture in _ONE_SLOT

    @property
    def confidence(self) -> str:
        """``medium`` where tensors are known and the architecture was compared with llama.cpp's planner, else ``low``.
        Nothing is ``high`` before it was measured on the host itself."""
        return "medium" if self.weights.exact and self.exact else "low"


@dataclass(frozen=True)
class Setting:
    """How an instance runs its models: tokens a sequence, sequences, cache type, and what the engine does by itself."""

    context_length: int
    slots: int
    kv_cache_type: str = "f16"
    flash_attention: bool = True
    # Those of the llama.cpp in it.
    rules: Rules = B10488

    @property
    def before_0_30(self) -> bool:
        """Before Ollama 0.30: batches of 512, its own engine for some architectures, and for the others a llama.cpp
        that reserves logits for every row of the batch (before its #23861)."""
        return self.rules is BEFORE_0_30


@dataclass(frozen=True)
class Run:
    """What the engine is started with, as llama.cpp's own context parameters say it. :func:`engine_run` makes one from
    an instance's :class:`Setting` by Ollama's rules; the bench makes one from a row of truth."""

    context_length: int  # tokens a sequence; n_ctx is this times ``sequences``
    sequences: int = 1
    key_type: str = "f16"
    value_type: str = "f16"
    # None: the engine's choice (on where every device has a kernel for it).
    flash_attention: bool | None = True
    batch: int = 512  # tokens computed at once (ubatch)
    # Rows of logits reserved: None is one a sequence, or all of an embedding model; 0 one for every token of the batch
    # (llama.cpp before #23861).
    logits_rows: int | None = None
    rules: Rules = V0_5_0

    @property
    def before_0_30(self) -> bool:
        """Before 0.30, Ollama divides layers among several GPUs itself, and its own engine runs some architectures."""
        return self.rules is BEFORE_0_30


@dataclass(frozen=True)
class Devices:
    """Where the engine puts a model. ``gpus`` are the shares of the GPUs in order (free bytes, or any tensor_split;
    for Ollama before 0.30 the bytes that it would fill); none means the CPU alone. ``layers_on_gpu`` counts from the
    last layer down, the output layer first (None: all). ``expert_layers_on_host``: the experts of the first so many
    layers stay in host memory."""

    gpus: tuple[float, ...] = (1.0,)
    layers_on_gpu: int | None = None
    expert_layers_on_host: int = 0

    @property
    def most_layers(self) -> int:
        """No model has as many layers as stand for all."""
        return 1 << 30 if self.layers_on_gpu is None else self.layers_on_gpu


class Rule(t.NamedTuple):
    """What a term follows: a short name, and what it says with its source."""

    name: str
    text: str


@dataclass(frozen=True)
class Term:
    """One named part of the account: bytes on a device (``gpu0`` …, ``host``), and their rule."""

    device: str
    name: str  # weights, kv_cache, recurrent_state, compute, …
    bytes: int
    rule: Rule


@dataclass(frozen=True)
class DeviceBytes:
    """Bytes of the engine's buffers on one device."""

    weights: int
    kv_cache: int  # recurrent state included
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True)
class Placed:
    """A model on its devices: ``gpus`` in the order given, ``host`` is main memory (pinned buffers, repacked weights
    and the CPU's part included). ``exact``: the graph of the architecture is known; else ``compute`` and ``kv_cache``
    are upper bounds and ``confidence`` is ``low``."""

    gpus: tuple[DeviceBytes, ...]
    host: DeviceBytes
    terms: tuple[Term, ...]
    confidence: str
    exact: bool
    # The rows of logits and embeddings that the caller reads, in host memory beside the buffers above.
    output_buffer: int = 0
    # The vision projector's bytes beside all of them, on the first GPU, or in host memory where there is none.
    projector: int = 0

    @property
    def host_bytes(self) -> int:
        """All buffers in host memory."""
        return self.host.total + self.output_buffer


def _pad(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _whole(value: t.Any, name: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**40:
        raise ShapeError(f"{name} is {value!r}; a whole number of {least} or more is needed")
    return value


def _layer_count(value: t.Any) -> int:
    layers = _whole(value, "block_count", 1)
    if layers > MOST_LAYERS:
        raise ShapeError(f"block_count is {layers}; at most {MOST_LAYERS} layers are possible")
    return layers


def _by_layer(value: t.Any, layers: int, name: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value] * layers
    if len(values) < layers:
        raise ShapeError(f"{name} has {len(values)} values for {layers} layers")
    return tuple(_whole(item, name) for item in values[:layers])


def _widest(value: t.Any, name: str, layers: int) -> int:
    return max(_by_layer(value, layers, name))


def _windows(architecture: str, layers: int, window: int, stated: t.Any) -> tuple[tuple[bool, ...], bool]:
    """Which layers have a sliding window, and whether that is known rather than assumed."""
    if not window or architecture == "phi3":
        return (False,) * layers, True
    if isinstance(stated, list) and len(stated) >= layers:
        return tuple(bool(item) for item in stated[:layers]), True
    if architecture in _WINDOW_PATTERNS:
        period, rule = _WINDOW_PATTERNS[architecture]
        return tuple(rule(layer % period) for layer in range(layers)), True
    # Full attention on every layer is the larger figure of the two.
    return (False,) * layers, False


def _weights_from_tensors(tensors: t.Sequence[_gguf.Tensor], layers: int, has_output: bool) -> Weights:
    """Every tensor padded to 128 bytes, as the CUDA backend lays them out; input embeddings stay with the host, and an
    output layer tied to them (``has_output`` without a tensor of its own) is held on both sides."""
    by_layer = [0] * layers
    output = host = twice = 0
    tied = has_output and not any(tensor.name == "output.weight" for tensor in tensors)
    for tensor in tensors:
        size = _pad(tensor.bytes + tensor.row_padding_bytes, 128)
        host += _pad(tensor.bytes, 32)
        name = tensor.name.split(".")
        if name[0] == "blk" and len(name) > 1 and name[1].isdigit() and int(name[1]) < layers:
            by_layer[int(name[1])] += size
        elif name[0] == "token_embd" and len(name) == 2 and tied:
            output += size
            twice = size
        elif name[0] in ("token_embd", "per_layer_token_embd", "position_embd", "token_types"):
            continue
        else:
            output += size
    return Weights(sum(by_layer) + output, host, tuple(by_layer), output, True, twice)


# Quantizations in which every matrix has the one type, the input embeddings too (llama.cpp, src/llama-quant.cpp).
_OF_ONE_TYPE = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}


def _weights_from_size(size: int, layers: int, inputs: int = 0) -> Weights:
    """Only the file's size is known: all of it but the input embeddings' bytes, where those are known to stay with the
    host, counts on the device, evenly by layer, the output as one layer more."""
    device = max(0, size - inputs)
    part = device // (layers + 1)
    return Weights(device, size, (part,) * layers, device - part * layers, False)


def _input_bytes(architecture: str, values: t.Mapping[str, t.Any], quantization: str | None) -> int:
    """Bytes of input embeddings that are no output layer; 0 where that, or their type, is not known."""
    kind = _OF_ONE_TYPE.get(quantization or "")
    if architecture not in _engine.HEADLESS or kind is None:
        return 0
    width = _whole(values.get("embedding_length"), "embedding_length", 1)
    return _ggml.row_bytes(kind, width) * _whole(values.get("vocabulary", 0), "vocabulary")


def of_projector(name: str) -> bool:
    """Whether a tensor of this name belongs to a vision projector that lies in the model's own file."""
    return name.startswith(_PROJECTOR_TENSORS)


def shape_from_header(header: _gguf.Header, projector_bytes: int | None = None) -> Shape:
    """The shape of the model in a GGUF file, its weights exact. ``projector_bytes`` is the size of its vision projector
    in a file of its own; that in the model's own file is known from the header.

    :raises ShapeError: a value that every model has is missing or impossible.
    """
    if not header.architecture:
        raise ShapeError("the header names no architecture (general.architecture)")
    layers = _layer_count(header.get("block_count"))
    within = sum(
        _pad(tensor.bytes + tensor.row_padding_bytes, 128) for tensor in header.tensors if of_projector(tensor.name)
    )
    if within:
        # Another graph than the model's loads them.
        header = replace(header, tensors=tuple(one for one in header.tensors if not of_projector(one.name)))
    tensors = header.tensors
    names = {tensor.name: tensor for tensor in tensors}
    values = {
        key.split(".", 1)[1]: value
        for key, value in header.metadata.items()
        if key.startswith(header.architecture + ".")
    }
    vocabulary = header.lengths.get("tokenizer.ggml.tokens") or values.get("vocab_size") or 0
    # The metadata's value is that of the widest layer or of dense layers alone in some models; the tensors cannot err.
    down = [tensor.dimensions[0] for tensor in tensors if tensor.name.endswith(".ffn_down.weight")]
    shape = _shape(
        header.architecture,
        values,
        vocabulary,
        _weights_from_tensors(tensors, layers, header.architecture not in _BERTS),
    )
    try:
        hyper = Hyper(header)
    except _CONTRADICTIONS as error:
        raise ShapeError(f"the header contradicts itself: {error!r}") from error
    return replace(
        shape,
        feed_forward_length=max(down) if down else (0 if shape.experts_used else shape.feed_forward_length),
        gated=any(".ffn_gate" in name for name in names) or _fused_gate(names),
        embedding=shape.embedding or f"{header.architecture}.pooling_type" in header.metadata,
        projector=_projector(projector_bytes or within or None),
        hyper=hyper,
    )


def _fused_gate(names: t.Mapping[str, _gguf.Tensor]) -> bool:
    """Whether ffn_up holds gate and up at once (phi3): twice as wide as ffn_down reads."""
    up, down = names.get("blk.0.ffn_up.weight"), names.get("blk.0.ffn_down.weight")
    return bool(up and down and up.dimensions[-1] == 2 * down.dimensions[0])


def _projector(weights: int | None) -> int:
    """Bytes of a projector with so many in its tensors; None where there is none."""
    return 0 if weights is None else weights + PROJECTOR_COMPUTE_BYTES


def shape_from_entry(
    values: t.Mapping[str, t.Any],
    size_bytes: int,
    embedding: bool,
    projector_bytes: int | None = None,
    quantization: str | None = None,
) -> Shape:
    """The shape of a catalog entry: ``values`` are its hyper-parameters under GGUF's names without the architecture's
    prefix, ``architecture`` and ``vocabulary`` beside them; the weights are the file's size, without the input
    embeddings of an encoder whose ``quantization`` tells their size. ``projector_bytes`` are those of a vision
    projector's file, 0 where the size has them already, None where it has no projector.

    :raises ShapeError: see :func:`shape_from_header`.
    """
    text = json.dumps(values, sort_keys=True, default=str)
    return _entry(text, size_bytes, embedding, projector_bytes, quantization)


@functools.lru_cache(maxsize=256)
def _entry(text: str, size_bytes: int, embedding: bool, projector_bytes: int | None, quantization: str | None) -> Shape:
    """One object for equal entries, so that what was worked out of one serves the others."""
    values = json.loads(text)
    layers = _layer_count(values.get("block_count"))
    architecture = str(values.get("architecture", ""))
    weights = _weights_from_size(size_bytes, layers, _input_bytes(architecture, values, quantization))
    shape = _shape(architecture, values, values.get("vocabulary", 0), weights)
    header = _typical.header(architecture, values, shape.vocabulary)
    return replace(
        shape,
        embedding=shape.embedding or embedding,
        projector=_projector(projector_bytes),
        hyper=None if header is None else Hyper(header),
    )


def _shape(architecture: str, values: t.Mapping[str, t.Any], vocabulary: t.Any, weights: Weights) -> Shape:
    layers = _layer_count(values.get("block_count"))
    width = _whole(values.get("embedding_length"), "embedding_length", 1)
    heads = _widest(values.get("attention.head_count", 0), "attention.head_count", layers)
    head_length = width // heads if heads else 0
    window = _widest(
        values.get("attention.sliding_window") or _DEFAULT_WINDOWS.get(architecture, 0),
        "attention.sliding_window",
        layers,
    )
    windowed, known = _windows(architecture, layers, window, values.get("attention.sliding_window_pattern"))
    experts_used = _whole(values.get("expert_used_count", 0), "expert_used_count")
    feed_forward = _widest(values.get("feed_forward_length", 0), "feed_forward_length", layers)
    key_mla = _whole(values.get("attention.key_length_mla", 0), "attention.key_length_mla")
    rope = _whole(values.get("rope.dimension_count", 0), "rope.dimension_count")
    return Shape(
        architecture=architecture,
        layers=layers,
        embedding_length=width,
        heads=heads,
        kv_heads=_by_layer(values.get("attention.head_count_kv", heads), layers, "attention.head_count_kv"),
        key_length=_widest(values.get("attention.key_length", head_length), "attention.key_length", layers),
        value_length=_widest(values.get("attention.value_length", head_length), "attention.value_length", layers),
        feed_forward_length=feed_forward,
        vocabulary=_whole(vocabulary, "vocabulary"),
        context_length=_whole(values.get("context_length"), "context_length", 1),
        weights=weights,
        window=window,
        windowed=windowed,
        experts_used=experts_used,
        expert_feed_forward_length=_whole(
            values.get("expert_feed_forward_length", feed_forward if experts_used else 0), "expert_feed_forward_length"
        ),
        # minicpm3 states a rank and yet keeps full K and V.
        kv_lora_rank=0
        if architecture == "minicpm3"
        else _whole(values.get("attention.kv_lora_rank", 0), "attention.kv_lora_rank"),
        rope_dimensions=rope,
        nope_length=max(0, key_mla - rope),
        attention_interval=_whole(values.get("full_attention_interval", 0), "full_attention_interval"),
        state=tuple(
            _whole(values.get("ssm." + key, 0), "ssm." + key)
            for key in ("conv_kernel", "inner_size", "group_count", "state_size")
        ),  # type: ignore[arg-type]
        embedding=architecture in _ENCODERS,
        patterns_known=known,
    )


# Batch of the prompt (Ollama, server/sched.go, automaticGenerationBatch): above how many tokens of all slots it is
# taken, what it adds to the prediction, and how many per cent of the free memory the prediction may be. With what it
# adds, the prediction must be within what the scheduler uses of the free memory at all.
_BATCHES = ((2048, 32768, 2048 * MIB, 60), (1024, 4096, 768 * MIB, 75))
_SMALLEST_BATCH = 512
SCHEDULER_PERCENT = 80
# Free bytes of a device that holds everything.
UNBOUNDED = 2**62


def predicted_bytes(shape: Shape, file_bytes: int, tokens: int) -> int:
    """What Ollama 0.30 and newer expect a model to take with ``tokens`` in all its slots: the file, and an f16 cache of
    every layer with as many heads as the layer with the fewest (llm/llama_server.go, PredictServerVRAM)."""
    kv_heads = min(shape.kv_heads, default=0) or 1
    head = shape.embedding_length // shape.heads if shape.heads else 0
    return file_bytes + 2 * shape.layers * kv_heads * head * tokens * 2


def generation_batch(tokens: int, predicted: int, free: int) -> tuple[int, int]:
    """Tokens computed at once by a model that generates, of which Ollama 0.30 and newer expect ``predicted`` bytes,
    with ``free`` bytes on its GPUs; and the bytes that the scheduler adds to its prediction for that."""
    for size, above, surcharge, percent in _BATCHES:
        limit = free * SCHEDULER_PERCENT // 100
        if tokens > above and predicted <= free * percent // 100 and surcharge + predicted <= limit:
            return size, surcharge
    return _SMALLEST_BATCH, 0


def ubatch(shape: Shape, setting: Setting, free: int = 0, file_bytes: int = 0) -> int:
    """Tokens computed at once. Before Ollama 0.30, and without flash attention: 512; embedding models take up to 2048,
    before 0.30 the whole context (llm/server.go; runner/ollamarunner/runner.go); else :func:`generation_batch`. With
    ``free`` or ``file_bytes`` unknown (0) the larger, safe figure."""
    context = min(setting.context_length, shape.context_length)
    if shape.embedding:
        return context if setting.before_0_30 else min(2048, context)
    if setting.before_0_30 or not setting.flash_attention:
        return _SMALLEST_BATCH
    tokens = context * (1 if shape.one_slot else setting.slots)
    if not free or not file_bytes:
        return generation_batch(tokens, 0, UNBOUNDED)[0]
    return generation_batch(tokens, predicted_bytes(shape, file_bytes, tokens), free)[0]


def _own_engine(shape: Shape, before_0_30: bool) -> bool:
    """Whether Ollama's own engine runs the model, not llama.cpp."""
    return before_0_30 and shape.architecture in _OWN_ENGINE


def _flash_before_0_30(shape: Shape) -> bool:
    """Whether Ollama up to 0.29 lets the model have flash attention (fs/ggml/ggml.go, SupportsFlashAttention)."""
    if shape.embedding or shape.architecture in _FLASH_NEVER:
        return False
    return shape.architecture in _FLASH_ALWAYS or 0 < shape.key_length == shape.value_length


def engine_run(shape: Shape, setting: Setting, free: int = 0, file_bytes: int = 0) -> Run:
    """What Ollama starts its runner with for this model under this setting.

    Sources: Ollama server/sched.go (one sequence for some architectures, the context clamped to the model's, the batch
    by context and ``free`` bytes); its 0.17 runner silently keeps f16 where a quantized cache lacks flash attention.
    """
    old = setting.before_0_30
    flash = setting.flash_attention and (not old or _flash_before_0_30(shape))
    cache = setting.kv_cache_type if flash or not old else "f16"
    return Run(
        context_length=min(setting.context_length, shape.context_length),
        sequences=1 if shape.one_slot else setting.slots,
        key_type=cache,
        value_type=cache,
        flash_attention=flash,
        batch=ubatch(shape, setting, free, file_bytes),
        logits_rows=0 if old and not _own_engine(shape, old) else None,
        rules=setting.rules,
    )


def place(shape: Shape, run: Run, devices: Devices = Devices()) -> Placed:
    """The bytes of a model on each device, before what lies outside of the engine's buffers (CUDA context).

    :raises ShapeError: the devices are impossible (no share above 0, a negative count).
    """
    shares = devices.gpus
    if any(not math.isfinite(share) or share < 0 for share in shares) or (shares and not math.fsum(shares)):
        raise ShapeError(f"the shares of the GPUs are {shares!r}; numbers above 0 are needed")
    if run.before_0_30 and len(shares) > 1 and devices.layers_on_gpu is None:
        placed = _laid_out(shape, run, shares)
    else:
        placed = _by_shares(shape, run, devices)
    if not shape.projector:
        return placed
    term = Term("gpu0" if shares else "host", "projector", shape.projector, RULES["projector"])
    return replace(placed, projector=shape.projector, terms=(*placed.terms, term))


def _by_shares(shape: Shape, run: Run, devices: Devices) -> Placed:
    if shape.hyper is not None and not _own_engine(shape, run.before_0_30):
        placed = _replayed(shape, run, devices)
        if placed.exact or shape.weights.exact:
            return placed
    return _closed_form(shape, run, devices)


def _closed_form(shape: Shape, run: Run, devices: Devices) -> Placed:
    """The account out of the hyper-parameters alone: the largest phase of the graph stands for the compute buffer."""
    own = _own_engine(shape, run.before_0_30)
    shares = devices.gpus
    cache = _cache_by_layer(shape, run)
    mask, hidden, compute = _compute(shape, run)
    where = _engine.layer_homes(shape.layers + 1, shares, devices.most_layers, 0)
    weights, kv = [0] * (where.cpu + 1), [0] * (where.cpu + 1)
    for home, size, part in zip(
        [*where.layers, where.output], [*shape.weights.layers, shape.weights.output], [*cache, 0]
    ):
        weights[home] += size
        kv[home] += part
    if shares:
        weights[where.cpu] += max(0, shape.weights.host - shape.weights.device)
    else:
        # Ollama's own engine holds tied embeddings twice on the CPU, too.
        weights[where.cpu] = shape.weights.host + (shape.weights.tied if own else 0)
    used = {*where.layers, where.output}
    # Ollama's own engine has no pipeline (ml/backend/ggml/ggml.go).
    copies = len(shares) > 1 and not own
    buffers = [
        (compute + (3 * mask + (4 if number == 0 else 8) * hidden) * copies) if number in used else 0
        for number in range(where.cpu)
    ]
    buffers.append(mask + 20 * run.batch if shares else compute)
    parts = [DeviceBytes(*numbers) for numbers in zip(weights, kv, buffers)]
    rules = CLOSED_RULES
    terms = [
        Term(name, term, getattr(part, term), rules[term])
        for name, part in zip([*(f"gpu{number}" for number in range(where.cpu)), "host"], parts)
        for term in ("weights", "kv_cache", "compute")
        if getattr(part, term)
    ]
    # It has them among its compute buffers.
    output = 0 if own else _output_buffer(shape, run)
    if output:
        terms.append(Term("host", "output_buffer", output, RULES["output_buffer"]))
    confidence = "low" if own else shape.confidence
    return Placed(tuple(parts[:-1]), parts[-1], tuple(terms), confidence, confidence != "low", output)


def _laid_out(shape: Shape, run: Run, room: tuple[float, ...]) -> Placed:
    """On GPUs with ``room`` bytes each as Ollama before 0.30 lays a model out: from the last layer on, the emptiest GPU
    last, each filled to the same, smallest part of its room (llm/server.go, assignLayers, findBestFit, greedyFit)."""
    sizes = [
        size + part
        for size, part in zip([*shape.weights.layers, shape.weights.output], [*_cache_by_layer(shape, run), 0])
    ]
    graph = _compute(shape, run)[2]
    order = sorted(range(len(room)), key=lambda number: -room[number])
    left = [max(0.0, room[number] - graph) for number in order]
    if not sum(left):
        left = [room[number] for number in order]
    low, high = 0.0, 1.0
    while _filled(sizes, left, high) is None:
        high *= 2  # more than there is: the caller sees by how much
    for _step in range(24):
        middle = (low + high) / 2
        if _filled(sizes, left, middle) is None:
            low = middle
        else:
            high = middle
    counts = t.cast("list[int]", _filled(sizes, left, high))
    placed = _by_shares(shape, run, Devices(tuple(map(float, counts))))
    gpus = [placed.gpus[order.index(number)] for number in range(len(room))]
    names = {f"gpu{place_}": f"gpu{number}" for place_, number in enumerate(order)}
    terms = tuple(replace(term, device=names.get(term.device, term.device)) for term in placed.terms)
    return replace(placed, gpus=tuple(gpus), terms=terms)


def _filled(sizes: t.Sequence[int], room: t.Sequence[float], part: float) -> list[int] | None:
    """How many layers each GPU gets where each takes ``part`` of its room, or None where they do not all fit."""
    counts = [0] * len(room)
    gpu = len(room) - 1
    left = room[gpu] * part
    for size in reversed(sizes):
        while size > left:
            gpu -= 1
            if gpu < 0:
                return None
            left = room[gpu] * part
        counts[gpu] += 1
        left -= size
    return counts


def _load(shape: Shape, run: Run, devices: Devices) -> _engine.Load:
    return _engine.Load(
        run.context_length, run.sequences, run.key_type, run.value_type, run.flash_attention, run.batch,
        (0 if shape.embedding else run.sequences) if run.logits_rows is None else run.logits_rows, tuple(devices.gpus),
        devices.most_layers, devices.expert_layers_on_host, run.rules,
    )  # fmt: skip


def _replayed(shape: Shape, run: Run, devices: Devices) -> Placed:
    """The account out of the engine's own steps, replayed, or their upper bound for an unknown architecture."""
    hyper = t.cast(Hyper, shape.hyper)
    load = _load(shape, run, devices)
    where = _engine.homes(hyper, load)
    key = ("placed", run, where)
    known = hyper.memory.get(key)
    if known is None or known[0] is not shape:
        known = (shape, _made(shape, hyper, run, load, where))
        hyper.memory[key] = known
    return t.cast(Placed, known[1])


def _made(shape: Shape, hyper: Hyper, run: Run, load: _engine.Load, where: Homes) -> Placed:
    exact = _architectures.known(shape.architecture)
    rules = RULES
    if exact:
        try:
            made = _engine.buffers(hyper, load)
        except _CONTRADICTIONS:
            exact = False  # tensors that the architecture needs are missing or of other shapes
    if not exact:
        try:
            made, rules = _bound.buffers(hyper, load), BOUND_RULES
        except _CONTRADICTIONS as error:
            raise ShapeError(f"the header contradicts itself: {error!r}") from error
    weights = made.weights if shape.weights.exact else _shared_out(shape, where)
    parts = [DeviceBytes(*numbers) for numbers in zip(weights, made.cache, made.compute)]
    names = [*(f"gpu{number}" for number in range(where.cpu)), "host"]
    output = _output_buffer(shape, run)
    states = _engine.state_bytes(hyper, load, where) if exact else [0] * len(parts)
    terms = [
        Term(name, term, size, rules[term])
        for name, part, state in zip(names, parts, states)
        for term, size in (
            ("weights", part.weights), ("kv_cache", part.kv_cache - state), ("recurrent_state", state),
            ("compute", part.compute),
        )
        if size
    ]  # fmt: skip
    terms.append(Term("host", "output_buffer", output, RULES["output_buffer"]))
    return Placed(tuple(parts[:-1]), parts[-1], tuple(terms), shape.confidence if exact else "low", exact, output)


def _output_buffer(shape: Shape, run: Run) -> int:
    """Rows of logits, and of embeddings where they are asked for, that the caller reads."""
    return 4 * run.sequences * (shape.vocabulary + (shape.embedding_length if shape.embedding else 0))


def _shared_out(shape: Shape, where: Homes) -> list[int]:
    """Weights of which only the sum is known, by device."""
    total = [0] * (where.cpu + 1)
    for layer, size in enumerate(shape.weights.layers):
        total[where.layers[layer]] += size
    total[where.output] += shape.weights.output
    total[where.cpu] += shape.weights.host - shape.weights.device
    return total


RULES = {
    "weights": Rule(
        "tensors",
        "each tensor's bytes, on a GPU padded to 128 (ggml-cuda.cu, get_alloc_size); input embeddings stay with the "
        "host (llama-model.cpp, dev_input), tied ones are held on both sides",
    ),
    "kv_cache": Rule(
        "cells",
        "K and V rows of every cell of every layer that keeps them, of a layer with a window no more than the window "
        "and a batch, padded to 256 cells (llama-kv-cache.cpp, llama-kv-cache-iswa.cpp)",
    ),
    "recurrent_state": Rule(
        "states",
        "convolution and state of every recurrent layer for each sequence, in float32 (llama-memory-recurrent.cpp)",
    ),
    "compute": Rule(
        "planner",
        "the graph of a full batch over full caches, its tensors placed as ggml-alloc.c and ggml-backend.cpp do "
        "(llama-context.cpp, sched_reserve)",
    ),
    "output_buffer": Rule(
        "rows",
        "a row of logits for each sequence, and of an embedding model one of embeddings, in host memory, pinned where "
        "the output layer is on a GPU (llama-context.cpp, output_reserve)",
    ),
    "projector": Rule(
        "projector",
        "the vision projector's tensors, on the first GPU (tools/mtmd/clip.cpp), and the most that Ollama expects its "
        "compute buffer to take (mmprojOffloadHeadroom), for its graph is not replayed",
    ),
}
CLOSED_RULES = {
    "weights": RULES["weights"],
    "kv_cache": RULES["kv_cache"],
    "compute": Rule(
        "phase", "the largest phase of the graph, out of the hyper-parameters: the graph itself is not replayed"
    ),
}
BOUND_RULES = {
    "weights": RULES["weights"],
    "kv_cache": Rule(
        "every layer",
        "upper bound: the architecture is not known, so every layer counts with K and V of every cell, an index key "
        "and a recurrent state",
    ),
    "compute": Rule(
        "all at once",
        "upper bound: the architecture is not known, so all results of the widest layer count at once, with the "
        "attention scores in every stage",
    ),
}


def _row_bytes(elements: int, cache_type: str) -> int:
    block, size = KV_CACHE_TYPES[cache_type]
    return -(-elements // block) * size


def _window_cells(shape: Shape, run: Run) -> int:
    """Cells of all sequences that a layer with a window keeps."""
    context = _pad(run.context_length, 256)
    if not _own_engine(shape, run.before_0_30):
        return _pad(min(context, shape.window + run.batch), 256) * run.sequences
    if shape.window >= context:
        return context * run.sequences
    return _pad(run.sequences * (shape.window + (run.sequences > 1)) + run.batch, 256)


def _cache_by_layer(shape: Shape, run: Run) -> list[int]:
    """K and V of every layer, or its recurrent state (float32). Encoders keep nothing between calls."""
    if shape.encoder:
        return [0] * shape.layers
    conv, inner, groups, state = shape.state
    full, windowed = _pad(run.context_length, 256) * run.sequences, _window_cells(shape, run)
    cache = []
    for layer in range(shape.layers):
        if shape.attention_interval and (layer + 1) % shape.attention_interval:
            cache.append(run.sequences * 4 * ((conv - 1) * (inner + 2 * groups * state) + state * inner))
            continue
        cells = windowed if shape.windowed[layer] else full
        if shape.kv_lora_rank:
            cache.append(_pad(_row_bytes(shape.kv_lora_rank + shape.rope_dimensions, run.key_type) * cells, 128))
            continue
        rows = ((run.key_type, shape.key_length), (run.value_type, shape.value_length))
        cache.append(sum(_pad(_row_bytes(shape.kv_heads[layer] * length, kind) * cells, 128) for kind, length in rows))
    return cache


def _compute(shape: Shape, run: Run) -> tuple[int, int, int]:
    """(attention mask, one activation of the batch, largest phase of the graph), bytes. float32 activations; the mask
    is f16 with flash attention."""
    flash, batch, own = bool(run.flash_attention), run.batch, _own_engine(shape, run.before_0_30)
    # Each sequence sees its own cells; in Ollama's own engine all lie in one cache.
    together = run.sequences if own else 1
    cells = batch if shape.encoder else _pad(run.context_length, 256) * together
    swa = min(cells, _window_cells(shape, run) * together // run.sequences) if any(shape.windowed) else 0
    mask = (cells + swa) * batch * (2 if flash else 4)
    kv_heads, width = max(shape.kv_heads, default=0), max(shape.key_length, shape.value_length)
    e = 4 * shape.embedding_length * batch
    f = 4 * shape.feed_forward_length * batch
    q = 4 * shape.heads * width * batch
    k = 4 * kv_heads * width * batch
    phases = [(3 * f if shape.gated else f) + 3 * e + mask]
    if shape.experts_used:
        fe = 4 * shape.expert_feed_forward_length * batch
        used = shape.experts_used
        phases.append(mask + max(3 * used * fe + 3 * e, used * fe + 2 * used * e + 2 * e))
    if shape.kv_lora_rank:
        rank, rope = shape.kv_lora_rank, shape.rope_dimensions
        phases.append(
            mask + 4 * shape.heads * (2 * rank + rope) * batch + 8 * shape.heads * shape.nope_length * batch + 3 * e
        )
    if flash:
        phases.append(mask + 2 * e + 2 * q + 2 * k)
        if run.value_type != "f16":
            # One layer's K and V are turned into f16 for the kernel.
            phases.append(mask + 2 * e + 2 * q + 2 * kv_heads * width * cells * (run.sequences // together) * 2)
    elif shape.heads:
        phases.append(mask + 4 * shape.heads * cells * batch + 2 * e + 2 * q + (4 if swa else 2) * k)
    kept = 0
    if own:
        kept = shape.vocabulary * run.sequences * 4 + 2 * e
    elif run.logits_rows == 0 and not shape.embedding:
        phases.append(shape.vocabulary * batch * 4 + e)
    # Inputs of the graph: positions, token ids and the like, about five 32-bit numbers a token.
    return mask, e, max(phases) + kept + 20 * batch + 128


def refusal(shape: Shape, setting: Setting, on_gpu: bool) -> str | None:
    """Why the engine would not run this model under this setting at all, or None. See :func:`refused`."""
    return refused(shape, engine_run(shape, setting), on_gpu)


def refused(shape: Shape, run: Run, on_gpu: bool = True) -> str | None:
    """Why llama.cpp would not run this, or None.

    Sources: llama-context.cpp, llama_init_from_model (a quantized V cache needs flash attention, which grok has none
    of; heads must be whole blocks of the cache's type); ggml-cuda's fattn.cu (no kernel for head sizes 160 and 96/64);
    :func:`_engine.unloadable`; :func:`_engine.abort`.
    """
    unloadable = _engine.unloadable(shape.architecture, shape.hyper, run.rules)
    if unloadable:
        return unloadable
    quantized = run.value_type != "f16"
    if quantized and (run.flash_attention is False or shape.architecture == "grok"):
        return "a quantized KV cache needs flash attention, which is off"
    lengths = (shape.key_length, shape.value_length)
    for kind, length in ((run.key_type, shape.key_length), (run.value_type, shape.value_length)):
        if kind != "f16" and not shape.encoder and length % KV_CACHE_TYPES[kind][0]:
            return f"its heads of {length} elements are no whole blocks of {kind}: it has no quantized KV cache"
    shared = shape.architecture == "deepseek4" or (shape.hyper is not None and shape.hyper.mla)
    if shared and run.key_type != run.value_type:
        return "its K and V cache cannot be of different types"
    if on_gpu and run.flash_attention and (160 in lengths or lengths == (96, 64)) and not shape.kv_lora_rank:
        return "its head size {}/{} has no CUDA flash-attention kernel, so its attention would run on the CPU".format(
            *lengths
        )
    if shape.exact and shape.hyper is not None and not _own_engine(shape, run.before_0_30):
        try:
            return _engine.abort(shape.hyper, _load(shape, run, Devices((1.0,) if on_gpu else ())))
        except _CONTRADICTIONS:
            return None
    return None
