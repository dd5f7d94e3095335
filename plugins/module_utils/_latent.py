# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs with latent attention (MLA): DeepSeek and those that follow it.

Sources: llama.cpp, src/models/deepseek2.cpp, minicpm3.cpp, plm.cpp and others named with their function.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, finish, mixed_feed_forward


def deepseek2(b: Builder) -> None:
    """DeepSeek V2 and V3: latent attention, experts after some dense layers."""
    traits = Decoder(gating="", normed_weights=None, kept_hidden="norm")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        attended = _latent(b, layer, normed)
        if layer == b.last:
            attended, residual = b.gather(attended, residual)
        middle = ggml.like("ADD", attended, residual)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


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
    query = b.rope(query)
    keys = ggml.concat(keys_plain, ggml.repeat(rotated, rope, heads, tokens, 1), 0)
    return b.attention(layer, query, keys, values)


def minicpm3(b: Builder) -> None:
    """MiniCPM 3 and PLM: a latent projection, but full keys and values in the cache (minicpm3.cpp, plm.cpp)."""
    scaled = b.hyper.architecture == "minicpm3"
    traits = Decoder(
        activation="SWIGLU" if scaled else "RELU_SQR", scaled_residual=scaled, scaled_hidden=scaled
    )
    current = b.embedding()
    if scaled:
        current = b.scale(current)
    for layer in b.numbers:
        residual = current
        attended = _expanded(b, layer, b.layer_norm(current, layer, "attn_norm"), scaled)
        if layer == b.last:
            attended, residual = b.gather(attended, residual)
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
    query = b.rope(ggml.reshape(query, key, heads, tokens), where)
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
