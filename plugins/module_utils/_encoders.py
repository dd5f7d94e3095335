# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs of encoders: BERT and its kin, T5."""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
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
        table = b.top("position_embd.weight")
        assert table is not None
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
        if layer == b.last:
            made, source = b.gather(made, source)
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
