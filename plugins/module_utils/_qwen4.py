# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of qwen4exp: gated delta nets, every fourth layer attention over blocks of tokens that an index
chooses, several residual streams, and in one layer embeddings of the last tokens together (n-grams).

Source: llama.cpp, src/models/qwen4exp.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, one_head, there
from ansible_collections.onprem.llm.plugins.module_utils._compressed import ratio
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, mixed_feed_forward
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._recurrent import conv_state, delta_net, gated_attention
from ansible_collections.onprem.llm.plugins.module_utils._streams import gathered, spread

# llama-memory-hybrid-idx.cpp, set_input_qsa.
LONGEST_BLOCK = 64


def qwen4exp(b: Builder) -> None:
    """Every block, of attention and of experts alike, reads the streams' gated mean and gives each its share."""
    hyper = b.hyper
    current = b.embedding()
    grams = _gram_embeddings(b) if hyper.gram_heads else None
    streams = spread(current, hyper.whole("hyper_connection.count"))
    for layer in b.numbers:
        if hyper.gram_state(layer):
            streams = _with_grams(b, layer, there(grams, "ple.ngram_size"), streams)
        source, normed = _joined(b, layer, "hc_attn", streams)
        shares = b.linear(layer, "hc_attn_inject", normed)
        b.graph.expand(source)
        made = delta_net(b, layer, source) if hyper.recurrent[layer] else _attention(b, layer, source)
        if layer == b.last:
            made, shares = b.gather(made, shares)
            streams = gathered(b, streams)
        streams = _parted(b, layer, made, streams, shares)
        source, normed = _joined(b, layer, "hc_ffn", streams)
        shares = b.linear(layer, "hc_ffn_inject", normed)
        streams = _parted(b, layer, mixed_feed_forward(b, Decoder(), layer, source), streams, shares)
        b.pin(streams, layer)
    hidden = _head_input(b, streams)
    b.finish(hidden, b.head(hidden))


# --- residual streams -------------------------------------------------------------------------------------------------


def _normed(streams: Tensor, weight: Tensor) -> Tensor:
    """Each stream normed; the file may hold all streams' weights in one row.

    :raises ValueError: there are not as many weights.
    """
    if weight.elements != streams.ne[0] * streams.ne[1]:
        raise ValueError(f"{weight.name} has {weight.elements} weights for {streams.ne[1]} streams of {streams.ne[0]}")
    weight.ne = (*streams.ne[:2], 1, 1)
    weight.nb = ggml.strides(weight.type, weight.ne)
    return ggml.like("MUL", ggml.like("RMS_NORM", streams), weight)


def _gates(b: Builder, streams: Tensor, norm: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The normed streams of a token as one row, and a gate for each of its elements."""
    normed = _normed(streams, norm)
    normed = ggml.reshape(normed, streams.ne[0] * streams.ne[1], streams.ne[2])
    narrow = ggml.like("SILU", b.scale(ggml.mul_mat(down, normed)))
    return normed, ggml.mul_mat(up, narrow)


def _mean(b: Builder, normed: Tensor, gate: Tensor, width: int) -> Tensor:
    """The mean of the streams, gated."""
    count, tokens = normed.ne[0] // width, normed.ne[1]
    opened = ggml.like("MUL", normed, ggml.like("SIGMOID", gate))
    opened = ggml.reshape(opened, width, count, tokens)
    total = ggml.cont(ggml.view(opened, (width, tokens), opened.nb[2:3]))
    for number in range(1, count):
        one = ggml.view(opened, (width, tokens), opened.nb[2:3], number * opened.nb[1])
        total = ggml.like("ADD", total, one)
    return b.scale(total)


def _joined(b: Builder, layer: int, name: str, streams: Tensor) -> tuple[Tensor, Tensor]:
    """What the block reads, and the normed streams that it comes from."""
    width, count, tokens = streams.ne[:3]
    weights = (b.needed(layer, f"{name}_{part}") for part in ("norm", "down", "up"))
    normed, gate = _gates(b, streams, *weights)
    if not b.fuses("DSV4_HC_PRE"):
        return _mean(b, normed, gate, width), normed
    parts = (ggml.reshape(part, width, count, tokens) for part in (normed, gate))
    return b.fused(layer, ggml.result("DSV4_HC_PRE", "f32", (width, tokens, 1, 1), *parts)), normed


def _parted(b: Builder, layer: int, made: Tensor, streams: Tensor, shares: Tensor) -> Tensor:
    """Every stream and its share of the block's result."""
    count, tokens = streams.ne[1:3]
    shares = b.scale(ggml.like("SIGMOID", b.scale(shares)))
    if b.fuses("DSV4_HC_POST"):
        return b.fused(layer, ggml.result("DSV4_HC_POST", "f32", streams.ne, made, streams, shares))
    shares = ggml.reshape(shares, 1, count, tokens)
    return ggml.like("ADD", streams, ggml.like("MUL", spread(made, count), shares))


def _head_input(b: Builder, streams: Tensor) -> Tensor:
    """All streams as one; the last norm is part of it."""
    norm, down, up = (there(b.top(f"output_hc_{part}.weight"), f"output_hc_{part}") for part in ("norm", "down", "up"))
    normed, gate = _gates(b, streams, norm, down, up)
    return _mean(b, normed, gate, streams.ne[0])


# --- embeddings of n-grams --------------------------------------------------------------------------------------------


def _gram_embeddings(b: Builder) -> Tensor:
    """Rows of one table for each token, by hashes of the tokens before it."""
    heads, tokens = b.hyper.gram_heads, b.batch.tokens
    table = there(b.top("per_layer_token_embd.weight"), "per_layer_token_embd.weight")
    rows = ggml.get_rows(table, b.input("grams", "i32", heads * tokens))
    rows = ggml.reshape(rows, table.ne[0] * heads, tokens)
    b.graph.expand(rows)
    return rows


def _with_grams(b: Builder, layer: int, grams: Tensor, streams: Tensor) -> Tensor:
    """The streams and the n-grams' embeddings in each, gated, with a convolution over the tokens before (build_ple).

    :raises ValueError: the convolution's tensor contradicts the header.
    """
    hyper, batch = b.hyper, b.batch
    width, count, tokens = streams.ne[:3]
    wide, steps, sequences = width * count, batch.sequence_tokens, batch.sequences
    key, value = b.linear(layer, "ple_key", grams), b.linear(layer, "ple_value", grams)
    key = _normed(ggml.reshape(key, width, count, tokens), b.needed(layer, "ple_norm_key"))
    query = _normed(ggml.reshape(streams, width, count, tokens), b.needed(layer, "ple_norm_query"))
    score = b.scale(ggml.sum_rows(ggml.like("MUL", key, query)))
    size = ggml.like("SQRT", b.clamp(ggml.like("ABS", score)))
    gate = ggml.like("SIGMOID", ggml.like("MUL", ggml.like("SGN", score), size))
    opened = ggml.like("MUL", spread(value, count), gate)
    normed = ggml.reshape(ggml.reshape(opened, wide, tokens), width, count, tokens)
    normed = ggml.reshape(_normed(normed, b.needed(layer, "ple_norm_conv")), wide, tokens)
    kernel, step = hyper.whole("ple.conv_kernel"), hyper.whole("ple.ngram_size")
    source = ggml.reshape(normed, wide, steps, sequences)
    weights = b.needed(layer, "ple_conv1d")
    if weights.ne[0] != kernel:
        raise ValueError(f"ple.conv_kernel is {kernel}, its tensor has {weights.ne[0]} columns")
    joined = conv_state(b, layer, source, (kernel - 1) * step + 1, wide, "p", copied=True)
    total: Tensor | None = None
    for tap in range(kernel):
        shifted = ggml.view(joined, (steps, wide, sequences), joined.nb[1:3], 4 * tap * step)
        shifted = ggml.cont(ggml.transpose(shifted))
        column = ggml.cont(ggml.view(weights, (1, wide), weights.nb[1:2], tap * weights.nb[0]))
        column = ggml.reshape(column, wide)
        if column.type != "f32":
            column = ggml.cast(column, "f32")
        term = ggml.like("MUL", shifted, column)
        total = term if total is None else ggml.like("ADD", total, term)
    made = ggml.cont(ggml.like("SILU", there(total, "ple.conv_kernel")))
    made = ggml.reshape(made, width, count, tokens)
    return ggml.like("ADD", streams, ggml.like("ADD", opened, made))


# --- attention over chosen blocks -------------------------------------------------------------------------------------


def _attention(b: Builder, layer: int, source: Tensor) -> Tensor:
    """Attention over the layer's chosen blocks, or over every cell where it has none.

    :raises ValueError: the header's blocks are longer than the engine takes.
    """
    each = ratio(b.hyper, layer)
    if each > LONGEST_BLOCK:
        raise ValueError(f"attention.compress_ratios has {each}; blocks have at most {LONGEST_BLOCK} cells")
    return gated_attention(b, layer, source, _chosen(b, layer, source, each) if each > 0 else None)


def _chosen(b: Builder, layer: int, source: Tensor, each: int) -> Tensor:
    """The cells of the blocks with the best index scores; a block's key is the mean of its cells' (build_qsa_top_k)."""
    hyper, batch = b.hyper, b.batch
    heads, length = hyper.whole("attention.indexer.head_count"), hyper.whole("attention.indexer.key_length")
    cells, streams, tokens, steps = batch.cells, batch.sequences, batch.tokens, batch.sequence_tokens
    blocks = -(-cells // each)
    key = ggml.reshape(b.linear(layer, "indexer.k_proj", source), length, 1, tokens)
    cache = b.cache("index", layer, batch.key_type, length, cells, streams)
    b.keep(cache, key, b.input(f"index_cells_{each}", "i64", tokens))
    keys = one_head(cache)
    keys = ggml.view(keys, (length, cells, streams), keys.nb[2:4])
    members = ggml.get_rows(keys, b.input(f"block_cells_{each}", "i32", each * blocks, streams))
    members = ggml.reshape(members, length, each, blocks, streams)
    pooled: Tensor | None = None
    for number in range(each):
        one = ggml.cont(ggml.view(members, (length, blocks, streams), members.nb[2:4], number * members.nb[1]))
        pooled = one if pooled is None else ggml.like("ADD", pooled, one)
    pooled = b.scale(there(pooled, "attention.compress_ratios"))
    pooled = b.layer_norm(ggml.reshape(pooled, length, blocks * streams), layer, "indexer.k_norm")
    positions = b.input(f"block_positions_{each}", "i32", 4 * blocks * streams)
    pooled = ggml.like("ROPE", ggml.reshape(pooled, length, 1, blocks * streams), positions)
    pooled = ggml.reshape(pooled, length, blocks, streams)
    query = ggml.reshape(b.linear(layer, "indexer.q_proj", source), length, heads, tokens)
    query = b.rope(b.layer_norm(query, layer, "indexer.q_norm"))
    score = ggml.mul_mat(pooled, ggml.reshape(query, length, heads * steps, streams))
    score = ggml.like("RELU", ggml.reshape(score, blocks, heads, steps, streams))
    total: Tensor | None = None
    for head in range(heads):
        one = ggml.view(score, (blocks, steps, streams), score.nb[2:4], head * score.nb[1])
        total = ggml.cont(one) if total is None else ggml.like("ADD", total, one)
    total = there(total, "attention.indexer.head_count")
    total = ggml.like("ADD", total, b.input(f"block_bias_{each}", "f32", blocks, steps, streams))
    turned = ggml.cont(ggml.permute(total, 1, 0, 2, 3))
    spread = ggml.get_rows(turned, b.input(f"cell_blocks_{each}", "i32", cells, streams))
    spread = ggml.cont(ggml.permute(spread, 1, 0, 2, 3))
    mask = b.mask(False)
    mask = mask if mask.type == "f32" else ggml.cast(mask, "f32")
    spread = ggml.like("ADD", spread, ggml.reshape(mask, cells, steps, streams))
    wanted = min(cells, hyper.whole("attention.indexer.top_k") + each - 1)
    best = ggml.cont(ggml.result("TOP_K", "i32", (wanted, *spread.ne[1:]), spread))
    return ggml.reshape(best, wanted, steps, 1, streams)
