# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs of encoders: BERT and its kin, T5."""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor


def bert(b: Builder) -> None:
    """BERT and its kin: norms after the residual sums, nothing kept between calls."""
    hyper = b.hyper
    architecture = hyper.architecture
    tokens = b.batch.tokens
    current = b.embedding()
    types = b.top("token_types.weight")
    if types is not None:
        current = ggml.like("ADD", current, ggml.view(types, (hyper.width,)))
    if architecture == "bert":
        table = there(b.top("position_embd.weight"), "position_embd.weight")
        current = ggml.like("ADD", ggml.get_rows(table, b.positions()), current)
    current = b.norm(current, b.top("token_embd_norm.weight", 0), b.top("token_embd_norm.bias", 0), "NORM")
    for layer in b.numbers:
        heads, kv_heads, key = hyper.heads[layer], hyper.kv_heads[layer], hyper.key_length
        query, keys, values = b.qkv(layer, current, heads, kv_heads, key, hyper.value_length)
        if b.weight(layer, "attn_q_norm") is not None:
            query = ggml.reshape(query, key * heads, tokens)
            query = ggml.reshape(b.layer_norm(query, layer, "attn_q_norm", "NORM"), key, heads, tokens)
        if b.weight(layer, "attn_k_norm") is not None:
            keys = ggml.reshape(keys, key * kv_heads, tokens)
            keys = ggml.reshape(b.layer_norm(keys, layer, "attn_k_norm", "NORM"), key, kv_heads, tokens)
        if architecture in ("nomic-bert", "nomic-bert-moe", "jina-bert-v3"):
            query, keys = b.rope(query), b.rope(keys)
        made = b.attention(layer, query, keys, values)
        source = current
        made, source = b.wanted(layer, made, source)
        made = b.layer_norm(ggml.like("ADD", made, source), layer, "attn_output_norm", "NORM")
        if b.weight(layer, "attn_norm_2") is not None:
            made = b.layer_norm(ggml.like("ADD", made, source), layer, "attn_norm_2", "NORM")
        every = hyper.whole("moe_every_n_layers")
        if every and layer % every == 1:
            fed = b.experts(layer, made, "GEGLU", "softmax", False, False)
        elif architecture in ("bert", "nomic-bert-moe", "jina-bert-v3"):
            fed = b.feed_forward(layer, made, "GELU")
        else:
            fed = b.feed_forward(layer, made, "GEGLU" if architecture == "jina-bert-v2" else "SWIGLU")
        current = b.layer_norm(ggml.like("ADD", fed, made), layer, "layer_output_norm", "NORM")
    b.finish(current, None)


# --- T5 ---------------------------------------------------------------------------------------------------------------


def _bias(b: Builder, prefix: str, layer: int, buckets: Tensor) -> Tensor:
    """A bias of the scores by relative position (t5.cpp)."""
    table = b.weight(layer, "attn_rel_b", prefix=prefix)
    if table is None:
        table = there(b.weight(0, "attn_rel_b", prefix=prefix), "attn_rel_b")
    flat = ggml.reshape(buckets, buckets.ne[0] * buckets.ne[1])
    rows = ggml.get_rows(table, flat)
    rows = ggml.reshape(rows, rows.ne[0], buckets.ne[0], buckets.ne[1])
    return ggml.cont(ggml.permute(rows, 2, 0, 1, 3))


def _t5_parts(b: Builder, prefix: str, layer: int, source: Tensor, other: Tensor, cross: str = "") -> list[Tensor]:
    hyper = b.hyper
    names = zip(("attn_q", "attn_k", "attn_v"), (source, other, other))
    counts = (hyper.heads[layer], hyper.kv_heads[layer], hyper.kv_heads[layer])
    return [
        ggml.reshape(
            ggml.mul_mat(_t5_weight(b, prefix, layer, cross + name), part), hyper.key_length, count, part.ne[1]
        )
        for (name, part), count in zip(names, counts)
    ]


def _t5_weight(b: Builder, prefix: str, layer: int, name: str) -> Tensor:
    found = b.weight(layer, name, prefix=prefix)
    if found is None:
        raise KeyError(f"{prefix}blk.{layer}.{name}")
    return found


def _t5_feed(b: Builder, prefix: str, layer: int, source: Tensor) -> Tensor:
    up = ggml.mul_mat(_t5_weight(b, prefix, layer, "ffn_up"), source)
    gate = b.weight(layer, "ffn_gate", prefix=prefix)
    made = ggml.like("RELU", up) if gate is None else ggml.glu("GEGLU", ggml.mul_mat(gate, source), up)
    return ggml.mul_mat(_t5_weight(b, prefix, layer, "ffn_down"), made)


def t5_encoder(b: Builder) -> None:
    tokens = b.batch.tokens
    current = b.embedding()
    buckets = b.input("buckets", "i32", tokens, tokens)
    for layer in b.numbers:
        residual = current
        normed = b.norm(current, _t5_weight(b, "enc.", layer, "attn_norm"))
        query, key, value = _t5_parts(b, "enc.", layer, normed, normed)
        bias = _bias(b, "enc.", layer, buckets)
        made = b.attention(layer, query, key, value, output=None, bias=bias)
        made = ggml.mul_mat(_t5_weight(b, "enc.", layer, "attn_o"), made)
        made, residual = b.wanted(layer, made, residual)
        middle = ggml.like("ADD", made, residual)
        fed = _t5_feed(b, "enc.", layer, b.norm(middle, _t5_weight(b, "enc.", layer, "ffn_norm")))
        current = ggml.like("ADD", fed, middle)
    b.finish(b.norm(current, b.top("enc.output_norm.weight")), None)


def t5(b: Builder) -> None:
    """The decoder, whose attention also reads what the encoder left."""
    hyper, batch = b.hyper, b.batch
    current = b.embedding()
    encoded = b.input("encoded", "f32", hyper.width, hyper.context)
    buckets = b.input("buckets", "i32", batch.cells, batch.tokens)
    mask = b.input("mask_cross", "f16" if batch.flash else "f32", hyper.context, batch.tokens)
    for layer in b.numbers:
        normed = b.norm(current, _t5_weight(b, "dec.", layer, "attn_norm"))
        query, key, value = _t5_parts(b, "dec.", layer, normed, normed)
        bias = _bias(b, "dec.", layer, buckets)
        made = b.attention(layer, query, key, value, output=None, bias=bias)
        made = ggml.mul_mat(_t5_weight(b, "dec.", layer, "attn_o"), made)
        middle = ggml.like("ADD", made, current)
        normed = b.norm(middle, _t5_weight(b, "dec.", layer, "cross_attn_norm"))
        query, key, value = _t5_parts(b, "dec.", layer, normed, encoded, "cross_")
        for part in (query, key, value):
            b.graph.expand(part)
        made = b.attend(layer, query, key, value, mask)
        made = ggml.mul_mat(_t5_weight(b, "dec.", layer, "cross_attn_o"), made)
        made, middle = b.wanted(layer, made, middle)
        middle = ggml.like("ADD", made, middle)
        fed = _t5_feed(b, "dec.", layer, b.norm(middle, _t5_weight(b, "dec.", layer, "ffn_norm")))
        current = ggml.like("ADD", fed, middle)
    hidden = b.norm(current, b.top("dec.output_norm.weight"))
    b.finish(hidden, b.head(hidden))
