# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An upper bound of what a model of an unknown architecture takes: its weights are known, its graph is not.

Cache: every layer keeps K and V of every cell at the widest that its header or tensors admit, an index key, and a
recurrent state, whichever it may have. Compute: the results of all products of the widest layer live at once, each with
a copy in another order, beside the masks, the attention scores in every stage and the logits. Tests hold it against
llama.cpp's own figures for every architecture that is known, taken as unknown.
"""

from __future__ import annotations

import re

from ansible_collections.onprem.llm.plugins.module_utils import _ggml, _gguf
from ansible_collections.onprem.llm.plugins.module_utils._engine import Buffers, Load, cells, homes, pad, weight_bytes
from ansible_collections.onprem.llm.plugins.module_utils._ggml_plan import PIPELINE_COPIES
from ansible_collections.onprem.llm.plugins.module_utils._hyper import MOST_LOOPS, WITHOUT_CACHE, Hyper

# Kinds of tensors that tell of a state beside, or instead of, K and V.
_STATEFUL = re.compile(r"ssm|time_mix|shortconv|compress|conv")


def _layers(hyper: Hyper) -> list[list[_gguf.Tensor]]:
    parts: list[list[_gguf.Tensor]] = [[] for _number in range(max(1, hyper.all_layers))]
    for name, tensor in hyper.tensors.items():
        words = name.split(".")
        at = words.index("blk") + 1 if "blk" in words else 0
        if at and words[at].isdigit() and int(words[at]) < len(parts):
            parts[int(words[at])].append(tensor)
    return parts


def _row(hyper: Hyper, layer: int, tensors: list[_gguf.Tensor]) -> int:
    """The most elements that one token may leave as K, or as V, in a layer."""
    length = max(hyper.key_length, hyper.value_length, hyper.key_length_swa, hyper.value_length_swa)
    declared = hyper.kv_heads[layer] * length if layer < len(hyper.kv_heads) else 0
    latent = hyper.kv_rank + hyper.rotated
    made = [
        tensor.dimensions[1] if len(tensor.dimensions) > 1 else 0
        for tensor in tensors
        if re.search(r"attn_(k|v|kv|k_b|v_b|kv_b|kv_a_mqa)\.weight$", tensor.name)
    ]
    fused = [tensor.dimensions[1] for tensor in tensors if tensor.name.endswith("attn_qkv.weight")]
    unknown = max(fused, default=0) if not declared and not made else 0
    return max(declared, latent if hyper.kv_rank else 0, unknown, *made, 0)


def _state(hyper: Hyper, layer: int, tensors: list[_gguf.Tensor]) -> int:
    """The most elements of recurrent state that a sequence may have in a layer."""
    heads = max([*hyper.heads, 1])
    if not any(_STATEFUL.search(tensor.name) for tensor in tensors):
        return heads * hyper.key_length**2  # linear attention shows in no tensor's name
    widest = max((tensor.dimensions[1] for tensor in tensors if len(tensor.dimensions) > 1), default=hyper.width)
    kernel = max(hyper.whole("ssm.conv_kernel"), hyper.whole("shortconv.l_cache"), 4)
    inner = max(hyper.whole("ssm.inner_size"), hyper.width)
    square = max(hyper.whole("kda.head_dim"), hyper.key_length, hyper.whole("wkv.head_size"))
    state = max(hyper.whole("ssm.state_size") * inner, hyper.width * hyper.whole("wkv.head_size"), heads * square**2)
    return kernel * 3 * widest + state


def _activations(hyper: Hyper, tensors: list[_gguf.Tensor]) -> int:
    """Elements a token of the results of a layer's products, experts as often as they are used."""
    used = max([*hyper.experts_used, 1])
    total = 0
    for tensor in tensors:
        dimensions = tensor.dimensions
        if len(dimensions) < 2:
            continue
        times = used if len(dimensions) > 2 and dimensions[2] == hyper.experts else 1
        if len(dimensions) > 2 and dimensions[2] != hyper.experts:
            times = dimensions[2]
        total += (dimensions[0] + dimensions[1]) * times
    return total


def buffers(hyper: Hyper, load: Load) -> Buffers:
    """Weights as they are, and upper bounds of the cache and of the compute buffers on each backend."""
    where = homes(hyper, load)
    layers = _layers(hyper)
    each, _window = cells(hyper, load)
    sequences, cpu = load.sequences, where.cpu
    tokens = -(-min(each * sequences, load.batch) // sequences) * sequences
    rows = [_row(hyper, layer, tensors) for layer, tensors in enumerate(layers)]
    widest = max(rows)
    if any("index" in name or ".idx" in name for name in hyper.tensors):
        index = hyper.whole("attention.indexer.key_length", widest)
    else:
        index = 0
    compressed = 2 if any("compress" in name for name in hyper.tensors) else 1
    rounds = min(max(1, hyper.whole("num_loops", 1)), MOST_LOOPS)

    def row_bytes(kind: str, elements: int) -> int:
        block, size = _ggml.TYPES[kind]
        return (pad(elements, block) + 512) // block * size if block > 1 else elements * size

    cache = [0] * (cpu + 1)
    kept = 0
    for layer, tensors in enumerate(layers):
        # Without flash attention every V is as wide as the widest.
        key, value = rows[layer], widest
        size = (row_bytes(load.key_type, key) * compressed + row_bytes(load.value_type, value)) * each * sequences
        if index:
            size += 4 * index * each * sequences * compressed  # in f32 at the most
        size = size * rounds + 4 * _state(hyper, layer, tensors) * sequences + 1024
        kept = max(kept, size)
        cache[where.layers[layer]] += size
    # A layer that the header does not count may keep a cache, too.
    cache = [0 if hyper.architecture in WITHOUT_CACHE else size + kept for size in cache]
    heads = max([*hyper.heads, 1])
    mask = 2 * each * tokens * 4
    work = 4 * tokens * (2 * max(_activations(hyper, tensors) for tensors in layers) + 16 * hyper.width)
    # Q, K and V in f32 and in the cache's type, twice; f16 copies of a quantized layer's K and V.
    work += 4 * tokens * heads * max(hyper.key_length, hyper.value_length, 1) * 6
    work += 2 * (2 * widest + index) * each * sequences * 2
    used = max([*hyper.experts_used, 1])
    result = 2 * max(
        (
            (max(tensor.dimensions[:2]) if len(tensor.dimensions) > 1 else 0)
            * (used if len(tensor.dimensions) > 2 else 1)
            for tensors in layers
            for tensor in tensors
        ),
        default=hyper.width,
    )
    state = 4 * max(_state(hyper, layer, tensors) for layer, tensors in enumerate(layers)) * sequences * 3
    scores = 3 * 4 * heads * each * tokens
    if any("attn_rel_b" in name for name in hyper.tensors):
        scores *= 2 + (PIPELINE_COPIES if len(load.gpus) > 1 else 1) * len(layers)  # a bias of every layer's scores
    every = load.logits_rows or tokens
    vocabulary = max(hyper.rows("output.weight"), hyper.rows("token_embd.weight"), 1)
    logits = 3 * 4 * vocabulary * min(tokens, max(every, sequences))
    total = mask + work + scores + logits + state + 4 * 2**20
    compute = []
    split = len(load.gpus) > 1
    for backend in range(cpu + 1):
        size = total
        if split or backend == cpu:
            size += PIPELINE_COPIES * (2 * mask + 8 * 4 * tokens * hyper.width)
        if split:
            # An operation that no GPU takes hands its input and result over in every layer.
            size += PIPELINE_COPIES * len(layers) * 4 * tokens * result
        if cpu in where.layers or load.expert_layers_on_host:
            # A layer's weights and cache that lie with the CPU are brought over for large batches.
            size += max(sum(tensor.bytes for tensor in tensors) for tensors in layers) + kept
            size += max((tensor.bytes for tensor in hyper.tensors.values()), default=0)
        compute.append(size)
    return Buffers(tuple(_weights(hyper, load, layers)), tuple(cache), tuple(compute))


def _weights(hyper: Hyper, load: Load, layers: list[list[_gguf.Tensor]]) -> list[int]:
    """Exact on one device. On several, what lies outside of the layers may be with any of them, and the layers may be
    counted otherwise, so that one more falls to each."""
    where = homes(hyper, load)
    total = weight_bytes(hyper, where, load.rules, every_layer=True)
    if len(load.gpus) < 2 and where.cpu not in where.layers:
        return total
    inside = sum(tensor.bytes for tensors in layers for tensor in tensors)
    outside = max(0, sum(tensor.bytes for tensor in hyper.tensors.values()) - inside)
    layer = max(sum(tensor.bytes + tensor.row_padding_bytes + 128 for tensor in tensors) for tensors in layers)
    return [size + outside + layer for size in total]
