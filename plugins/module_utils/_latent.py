# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs with latent attention (MLA): DeepSeek and those that follow it.

Sources: llama.cpp, src/models/deepseek2.cpp, minicpm3.cpp, plm.cpp and others named with their function.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, one_head, rotation_size
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, fed, finish, gated
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor


def deepseek2(b: Builder) -> None:
    """DeepSeek V2 and V3: latent attention, experts after some dense layers."""
    traits = Decoder(gating="", normed_weights=None, kept_hidden="norm")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        attended = _latent(b, layer, normed)
        current = fed(b, traits, layer, attended, residual)
    finish(b, traits, current)


def deepseek32(b: Builder) -> None:
    """DeepSeek 3.2 and GLM 5: latent attention over the cells that an index chooses (deepseek32.cpp, glm-dsa.cpp)."""
    hyper = b.hyper
    default = "sigmoid" if hyper.architecture == "glm-dsa" else "softmax"
    traits = Decoder(gating="", gating_default=default, normed_weights=None, kept_hidden="norm")
    current = b.embedding()
    chosen = None
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        narrow = ggml.mul_mat(b.needed(layer, "attn_q_a"), normed)
        narrow = b.layer_norm(narrow, layer, "attn_q_a_norm")
        if hyper.indexed(layer):
            chosen = chosen_cells(b, layer, normed, narrow)
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), narrow)
        attended = absorbed(b, layer, normed, query, True, chosen)
        current = fed(b, traits, layer, attended, residual)
    finish(b, traits, current)


def dots3note(b: Builder) -> None:
    """dots 3: latent attention by window with a rank of its own, in the full layers over chosen cells; a gate by head
    (dots3note.cpp)."""
    hyper = b.hyper
    traits = Decoder(gating="", normed_weights=None)
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        narrow = ggml.mul_mat(b.needed(layer, "attn_q_a"), normed)
        narrow = b.layer_norm(narrow, layer, "attn_q_a_norm")
        chosen = None if hyper.windowed[layer] else chosen_cells(b, layer, normed, narrow)
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), narrow)
        made = absorbed(b, layer, normed, query, True, chosen, output=None)
        made = gated(b, traits, layer, made, b.linear(layer, "attn_gate", normed))
        current = fed(b, traits, layer, b.linear(layer, "attn_output", made), residual)
    finish(b, traits, current)


def chosen_cells(b: Builder, layer: int, source: Tensor, narrow: Tensor) -> Tensor:
    """The best cells by an index key of their own (the lightning indexer)."""
    hyper, batch = b.hyper, b.batch
    heads, length = hyper.whole("attention.indexer.head_count"), hyper.whole("attention.indexer.key_length")
    query = ggml.mul_mat(b.needed(layer, "indexer.attn_q_b"), narrow)
    query = b.rope(ggml.reshape(query, length, heads, batch.tokens))
    key = b.layer_norm(ggml.mul_mat(b.needed(layer, "indexer.attn_k"), source), layer, "indexer.k_norm", "NORM")
    key = b.rope(ggml.reshape(key, length, 1, batch.tokens))
    if hyper.architecture != "hy_v4":
        size = rotation_size(length)
        rotation = b.input("rotation_index", "f32", size, size)
        query, key = ggml.mul_mat(rotation, query), ggml.mul_mat(rotation, key)
    cache = b.cache("index", layer, batch.key_type, length, batch.cells, batch.sequences)
    b.keep(cache, key, b.input("index_cells", "i64", batch.tokens))
    weights = ggml.mul_mat(b.needed(layer, "indexer.proj"), source)
    query, weights = by_sequence(query, weights, batch.sequences)
    kind = "f16" if b.fuses("LIGHTNING_INDEXER") else "f32"
    mask = b.input("mask_index", kind, batch.cells, batch.sequence_tokens, 1, batch.sequences)
    return best(b, layer, query, one_head(cache), b.scale(weights), mask)


def by_sequence(query: Tensor, weights: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
    """The index's queries and its heads' weights, the batch's tokens parted by sequence."""
    query = ggml.view(
        query, (*query.ne[:2], query.ne[2] // sequences, sequences), (*query.nb[1:3], query.nb[3] // sequences)
    )
    weights = ggml.view(
        weights, (weights.ne[0], weights.ne[1] // sequences, weights.ne[2], sequences),
        (weights.nb[1], weights.nb[2] // sequences, weights.nb[3] // sequences),
    )  # fmt: skip
    return query, weights


def best(b: Builder, layer: int, query: Tensor, keys: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """The cells with the best index scores, for each token."""
    score = _scores(b, layer, query, keys, weights, mask)
    count = min(score.ne[0], b.hyper.whole("attention.indexer.top_k"))
    return ggml.cont(ggml.result("TOP_K", "i32", (count, *score.ne[1:]), score))


def _scores(b: Builder, layer: int, query: Tensor, keys: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """What the index makes of every cell, for each token: the weighted sum of its heads' positive products."""
    if b.fuses("LIGHTNING_INDEXER"):
        shape = (mask.ne[0], query.ne[2], 1, query.ne[3])
        return b.fused(layer, ggml.result("LIGHTNING_INDEXER", "f32", shape, query, keys, weights, mask))
    products = ggml.mul_mat(ggml.permute(keys, 0, 2, 1, 3), ggml.permute(query, 0, 2, 1, 3))
    products = ggml.like("RELU", ggml.cont(ggml.permute(products, 2, 1, 0, 3)))
    total = ggml.sum_rows(ggml.like("MUL", products, weights))
    return ggml.like("ADD", ggml.cont(ggml.permute(total, 2, 1, 0, 3)), mask)


def absorbed(
    b: Builder, layer: int, source: Tensor, query: Tensor, rotates: bool, chosen: Tensor | None = None,
    output: str | None = "attn_output", sinks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Latent attention, the keys' expansion moved into the query."""
    hyper, tokens = b.hyper, b.batch.tokens
    heads, rope, rank, key = hyper.heads[layer], hyper.rotated, hyper.latent_rank(layer), hyper.latent_key(layer)
    plain = key - rope
    nb = (4 * key, 4 * key * heads)
    query_plain = ggml.view(query, (plain, heads, tokens), nb)
    query_rope = ggml.view(query, (rope, heads, tokens), nb, 4 * plain)
    both = ggml.mul_mat(b.needed(layer, "attn_kv_a_mqa"), source)
    row = both.nb[1]
    latent = b.layer_norm(ggml.view(both, (rank, tokens), (row,)), layer, "attn_kv_a_norm")
    rotated = ggml.view(both, (rope, 1, tokens), (row, row), 4 * rank)
    if b.weight(layer, "attn_k_norm") is not None:
        rotated = b.layer_norm(rotated, layer, "attn_k_norm")
    if rotates:
        query_rope, rotated = b.rope(query_rope), b.rope(rotated)
    inner = ggml.mul_mat(b.needed(layer, "attn_k_b"), ggml.permute(query_plain, 0, 2, 1, 3))
    query = ggml.concat(ggml.permute(inner, 0, 2, 1, 3), query_rope, 0)
    latent = ggml.reshape(latent, rank, 1, tokens)
    keys = ggml.concat(latent, rotated, 0)
    return b.latent_attention(layer, query, keys, latent, b.needed(layer, "attn_v_b"), output, chosen, sinks)


def _latent(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, rope, rank = hyper.heads[layer], hyper.rotated, hyper.kv_rank
    key = hyper.key_length_mla if hyper.mla else hyper.key_length
    wide = hyper.value_length_mla if hyper.mla else hyper.value_length
    plain = key - rope
    if b.weight(layer, "attn_q") is not None:
        query = ggml.mul_mat(b.needed(layer, "attn_q"), source)
    else:
        query = ggml.mul_mat(b.needed(layer, "attn_q_a"), source)
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), b.layer_norm(query, layer, "attn_q_a_norm"))
    query = ggml.reshape(query, key, heads, tokens)
    both = ggml.mul_mat(b.needed(layer, "attn_kv_a_mqa"), source)
    row = both.nb[1]
    latent = ggml.view(both, (rank, tokens), (row,))
    rotated = b.rope(ggml.view(both, (rope, 1, tokens), (row, row), 4 * rank))
    latent = b.layer_norm(latent, layer, "attn_kv_a_norm")
    if hyper.mla:
        query_plain = ggml.view(query, (plain, heads, tokens), query.nb[1:3])
        query_rope = b.rope(ggml.view(query, (rope, heads, tokens), query.nb[1:3], 4 * plain))
        absorbed = ggml.mul_mat(b.needed(layer, "attn_k_b"), ggml.permute(query_plain, 0, 2, 1, 3))
        query = ggml.concat(ggml.permute(absorbed, 0, 2, 1, 3), query_rope, 0)
        latent = ggml.reshape(latent, rank, 1, tokens)
        keys = ggml.concat(latent, rotated, 0)
        if hyper.real("attention.temperature_scale"):
            query = ggml.like("MUL", query, b.input("attention_scale", "f32", 1, 1, tokens))
        return b.latent_attention(layer, query, keys, latent, b.needed(layer, "attn_v_b"))
    expanded = ggml.mul_mat(b.needed(layer, "attn_kv_b"), latent)
    step = 4 * (plain + wide)
    keys_plain = ggml.view(expanded, (plain, heads, tokens), (step, step * heads))
    values = ggml.cont(ggml.view(expanded, (wide, heads, tokens), (step, step * heads), 4 * plain))
    query = b.rope_end(query, rope)
    keys = ggml.concat(keys_plain, ggml.repeat(rotated, rope, heads, tokens, 1), 0)
    return b.attention(layer, query, keys, values)


def minicpm3(b: Builder) -> None:
    """MiniCPM 3 and PLM: a latent projection, but full keys and values in the cache (minicpm3.cpp, plm.cpp)."""
    scaled = b.hyper.architecture == "minicpm3"
    traits = Decoder(activation="SWIGLU" if scaled else "RELU_SQR", scaled_residual=scaled, scaled_hidden=scaled)
    current = b.embedding()
    if scaled:
        current = b.scale(current)
    for layer in b.numbers:
        residual = current
        attended = _expanded(b, layer, b.layer_norm(current, layer, "attn_norm"), scaled)
        attended, residual = b.wanted(layer, attended, residual)
        middle = ggml.like("ADD", b.scale(attended) if scaled else attended, residual)
        made = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"), traits.activation)
        current = ggml.like("ADD", b.scale(made) if scaled else made, middle)
    finish(b, traits, current)


def _expanded(b: Builder, layer: int, source: Tensor, factors: bool) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, rope, rank = hyper.heads[layer], hyper.rotated, hyper.kv_rank
    key, wide = hyper.key_length, hyper.value_length
    plain = key - rope
    where = layer if factors else None
    if b.weight(layer, "attn_q") is not None:
        query = ggml.mul_mat(b.needed(layer, "attn_q"), source)
    else:
        query = ggml.mul_mat(b.needed(layer, "attn_q_a"), source)
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), b.layer_norm(query, layer, "attn_q_a_norm"))
    query = b.rope_end(ggml.reshape(query, key, heads, tokens), rope, where)
    both = ggml.mul_mat(b.needed(layer, "attn_kv_a_mqa"), source)
    row = both.nb[1]
    latent = b.layer_norm(ggml.view(both, (rank, tokens), (row,)), layer, "attn_kv_a_norm")
    expanded = ggml.mul_mat(b.needed(layer, "attn_kv_b"), latent)
    step = 4 * (plain + wide)
    keys_plain = ggml.view(expanded, (plain, heads, tokens), (step, step * heads))
    values = ggml.cont(ggml.view(expanded, (wide, heads, tokens), (step, step * heads), 4 * plain))
    rotated = b.rope(ggml.view(both, (rope, 1, tokens), (row, row), 4 * rank), where)
    keys = ggml.concat(keys_plain, ggml.repeat(rotated, rope, heads, tokens, 1), 0)
    return b.attention(layer, query, keys, values)
