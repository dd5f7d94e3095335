# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of Granite Switch: each token picks one of several low-rank adapters, by attention over the tokens
that switch them. Source: llama.cpp, src/models/granite-switch.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, finish
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor


def granite_switch(b: Builder) -> None:
    """Granite's layers, the chosen adapter's share added to each of their projections."""
    hyper, tokens = b.hyper, b.batch.tokens
    scaled = bool(hyper.real("residual_scale"))
    table = there(b.top("token_embd.weight"), "token_embd.weight")
    current = ggml.get_rows(table, b.input("tokens", "i32", tokens))
    if hyper.real("embedding_scale"):
        current = b.scale(current)
    chosen = _chosen(b)
    for layer in b.numbers:
        residual = current
        made = _attention(b, layer, b.layer_norm(current, layer, "attn_norm"), chosen)
        if layer == b.last:
            made, residual, chosen = b.gather(made, residual, ggml.reshape(chosen, 1, tokens))
            chosen = ggml.reshape(chosen, made.ne[1])
        middle = ggml.like("ADD", b.scale(made) if scaled else made, residual)
        fed = _feed_forward(b, layer, b.layer_norm(middle, layer, "ffn_norm"), chosen)
        current = ggml.like("ADD", b.scale(fed) if scaled else fed, middle)
    finish(b, Decoder(scaled_logits=True), current)


def _chosen(b: Builder) -> Tensor:
    """Each token's adapter: one head of attention, with a cache of its own behind the layers', carries the number of
    the last token that switched."""
    tokens, length = b.batch.tokens, b.hyper.value_length
    query, key, value = (
        ggml.pad(ggml.reshape(b.input(name, "f32", tokens), 1, 1, tokens), length - 1)
        for name in ("switch_query", "switch_key", "switch_value")
    )
    made = b.attention(b.hyper.layers, query, key, value, output=None)
    number = ggml.cont(ggml.view(made, (1, tokens), made.nb[1:2]))
    return ggml.cast(ggml.like("ROUND", b.clamp(ggml.reshape(number, tokens))), "i32")


def _delta(b: Builder, layer: int, name: str, source: Tensor, chosen: Tensor) -> Tensor:
    """The chosen adapter's low-rank share of a projection."""
    tokens = source.ne[1]
    ids = ggml.reshape(chosen, 1, tokens)
    made = ggml.reshape(source, source.ne[0], 1, tokens)
    for part in ("lora_a", "lora_b"):
        made = ggml.mul_mat_id(b.needed(layer, name, part), made, ids)
    return ggml.reshape(made, made.ne[0], tokens)


def _linear(b: Builder, layer: int, name: str, source: Tensor, chosen: Tensor) -> Tensor:
    made = ggml.mul_mat(b.needed(layer, name), source)
    return ggml.like("ADD", made, _delta(b, layer, name, source, chosen))


def _attention(b: Builder, layer: int, source: Tensor, chosen: Tensor) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, kv_heads, length = hyper.heads[layer], hyper.kv_heads[layer], hyper.value_length
    fused = ggml.mul_mat(b.needed(layer, "attn_qkv"), source)
    parts, offset = [], 0
    for name, count in (("attn_q", heads), ("attn_k", kv_heads), ("attn_v", kv_heads)):
        part = ggml.cont(ggml.view(fused, (length * count, tokens), fused.nb[1:2], 4 * offset))
        part = ggml.like("ADD", part, _delta(b, layer, name, source, chosen))
        parts.append(ggml.reshape(part, length, count, tokens))
        offset += length * count
    query, key, value = parts
    if hyper.truth("rope.scaling.finetuned", True):
        query, key = b.rope(query, layer), b.rope(key, layer)
    made = b.attention(layer, query, key, value, output=None)
    return _linear(b, layer, "attn_output", made, chosen)


def _feed_forward(b: Builder, layer: int, source: Tensor, chosen: Tensor) -> Tensor:
    gate = ggml.like("SILU", _linear(b, layer, "ffn_gate", source, chosen))
    hidden = ggml.like("MUL", gate, _linear(b, layer, "ffn_up", source, chosen))
    return _linear(b, layer, "ffn_down", hidden, chosen)
