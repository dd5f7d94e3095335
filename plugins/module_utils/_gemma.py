# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs of Gemma 3n and Gemma 4: inputs by layer, alternating updates, layers that share a cache.

Sources: llama.cpp, src/models/gemma3n.cpp and gemma4.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._decoder import SOFT_CAP, Decoder, finish
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor

# gemma3n.h: altup streams, the active one, width by layer, and layers whose activations are kept sparse.
ALTUP_STREAMS, ALTUP_ACTIVE, SPARSE_LAYERS = 4, 0, 10


def _slice(source: Tensor, index: int) -> Tensor:
    """One plane of a three-dimensional tensor."""
    ne = source.ne
    return ggml.view(source, ne[:2], (4 * ne[0],), 4 * index * ne[0] * ne[1])


def _inputs_by_layer(b: Builder, hidden: Tensor) -> Tensor:
    """A second embedding of every token for every layer, mixed with a projection of the first."""
    tokens, layers = b.batch.tokens, b.hyper.layers
    table = there(b.top("per_layer_token_embd.weight"), "per_layer_token_embd.weight")
    width = table.ne[0] // layers
    rows = ggml.get_rows(table, b.input("tokens_by_layer", "i32", tokens))
    rows = b.scale(ggml.reshape(rows, width, layers, tokens))
    b.graph.expand(rows)
    weight = there(b.top("per_layer_model_proj.weight"), "per_layer_model_proj.weight")
    mapped = b.scale(ggml.mul_mat(weight, hidden))
    mapped = b.norm(ggml.reshape(mapped, width, layers, tokens), b.top("per_layer_proj_norm.weight"))
    mixed = b.scale(ggml.like("ADD", mapped, rows))
    return ggml.cont(ggml.permute(mixed, 0, 2, 1, 3))


def _query(b: Builder, layer: int, source: Tensor, factors: bool) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    length, heads = hyper.head_key(layer), hyper.heads[layer]
    query = b.linear(layer, "attn_q", source)
    query = b.layer_norm(ggml.reshape(query, length, heads, tokens), layer, "attn_q_norm")
    return b.rope(query, layer if factors else None)


def _key_value(b: Builder, layer: int, source: Tensor, factors: bool) -> tuple[Tensor, Tensor]:
    hyper, tokens = b.hyper, b.batch.tokens
    length, heads = hyper.head_key(layer), hyper.kv_heads[layer]
    key = b.linear(layer, "attn_k", source)
    value = b.linear(layer, "attn_v", source) if b.weight(layer, "attn_v") is not None else key
    key = b.layer_norm(ggml.reshape(key, length, heads, tokens), layer, "attn_k_norm")
    value = ggml.like("RMS_NORM", ggml.reshape(value, length, heads, tokens))
    return b.rope(key, layer if factors else None), value


def gemma4(b: Builder) -> None:
    hyper = b.hyper
    current = b.scale(b.embedding())
    by_layer = None
    if b.top("per_layer_token_embd.weight") is not None:
        by_layer = _inputs_by_layer(b, current)
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        factors = not hyper.windowed[layer]
        query = _query(b, layer, normed, factors)
        key, value = _key_value(b, layer, normed, factors) if hyper.has_cache(layer) else (None, None)
        made = b.layer_norm(b.attention(layer, query, key, value), layer, "post_attention_norm")
        middle = ggml.like("ADD", made, residual)
        if b.weight(layer, "ffn_gate_inp") is not None:
            dense = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"), "GEGLU")
            dense = b.layer_norm(dense, layer, "post_ffw_norm_1")
            source = b.layer_norm(middle, layer, "pre_ffw_norm_2")
            routed = b.scale(ggml.like("RMS_NORM", middle))
            routed = ggml.like("MUL", routed, b.needed(layer, "ffn_gate_inp", "scale"))
            logits = ggml.mul_mat(b.needed(layer, "ffn_gate_inp"), routed)
            mixed = b.experts(layer, source, "GEGLU", normed=True, logits=logits)
            made = ggml.like("ADD", dense, b.layer_norm(mixed, layer, "post_ffw_norm_2"))
        else:
            made = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"), "GEGLU")
        current = ggml.like("ADD", b.layer_norm(made, layer, "post_ffw_norm"), middle)
        if by_layer is not None:
            gated = ggml.like("GELU", ggml.mul_mat(b.needed(layer, "inp_gate"), current))
            gated = ggml.like("MUL", gated, _slice(by_layer, layer))
            added = b.layer_norm(ggml.mul_mat(b.needed(layer, "proj"), gated), layer, "post_norm")
            current = ggml.like("ADD", current, added)
        scale = b.weight(layer, "layer_output_scale")
        if scale is not None:
            current = ggml.like("MUL", current, scale)
    traits = Decoder(gather_last=True, kept_hidden="norm", soft_cap=None, soft_cap_default=SOFT_CAP)
    finish(b, traits, current)


def _magnitude(source: Tensor) -> Tensor:
    return ggml.like("SQRT", ggml.sum_rows(ggml.like("SQR", source)))


def _rest(source: Tensor, count: int) -> Tensor:
    """All planes but the first."""
    width, tokens = source.ne[0], source.ne[1]
    return ggml.view(source, (width, tokens, count), (4 * width, 4 * width * tokens), 4 * width * tokens)


def gemma3n(b: Builder) -> None:
    hyper, tokens, width = b.hyper, b.batch.tokens, b.hyper.width
    current = b.scale(b.embedding())
    by_layer = _inputs_by_layer(b, current)
    target = _magnitude(current)
    repeated = ggml.repeat(current, width, tokens, ALTUP_STREAMS - 1, 1)
    weight = there(b.top("altup_proj.weight"), "altup_proj.weight")
    added = ggml.mul_mat(weight, repeated)
    added = ggml.like("DIV", ggml.like("MUL", added, target), _magnitude(added))
    current = ggml.concat(current, added, 2)
    for layer in b.numbers:
        predictions = _predict(b, layer, current)
        active = _slice(predictions, ALTUP_ACTIVE)
        normed = b.layer_norm(active, layer, "attn_norm")
        laurel = ggml.mul_mat(b.needed(layer, "laurel_r"), ggml.mul_mat(b.needed(layer, "laurel_l"), normed))
        laurel = ggml.like("ADD", b.layer_norm(laurel, layer, "laurel_post_norm"), normed)
        query = _query(b, layer, normed, False)
        key, value = _key_value(b, layer, normed, False) if hyper.has_cache(layer) else (None, None)
        made = b.layer_norm(b.attention(layer, query, key, value), layer, "post_attention_norm")
        made = ggml.like("ADD", made, active)
        joined = b.scale(ggml.like("ADD", made, laurel))
        normed = b.layer_norm(joined, layer, "ffn_norm")
        up = ggml.mul_mat(b.needed(layer, "ffn_up"), normed)
        gate = ggml.mul_mat(b.needed(layer, "ffn_gate"), normed)
        if layer < SPARSE_LAYERS:
            gate = _sparse(b, gate)
        made = ggml.like("MUL", up, ggml.like("GELU", gate))
        made = b.layer_norm(ggml.mul_mat(b.needed(layer, "ffn_down"), made), layer, "post_ffw_norm")
        corrected = _correct(b, layer, predictions, ggml.like("ADD", made, joined))
        first = ggml.like("MUL", _slice(corrected, ALTUP_ACTIVE), b.needed(layer, "altup_correct_scale"))
        first = ggml.like("GELU", ggml.mul_mat(b.needed(layer, "inp_gate"), first))
        first = ggml.like("MUL", first, _slice(by_layer, layer))
        first = b.layer_norm(ggml.mul_mat(b.needed(layer, "proj"), first), layer, "post_norm")
        rest = ggml.like("ADD", _rest(corrected, ALTUP_STREAMS - 1), first)
        current = ggml.concat(_slice(corrected, 0), rest, 2)
    target = _magnitude(_slice(current, ALTUP_ACTIVE))
    weight = there(b.top("altup_unembd_proj.weight"), "altup_unembd_proj.weight")
    others = ggml.mul_mat(weight, _rest(current, ALTUP_STREAMS - 1))
    others = ggml.like("DIV", ggml.like("MUL", others, target), _magnitude(others))
    total = _slice(current, 0)
    for index in range(ALTUP_STREAMS - 1):
        total = ggml.like("ADD", total, _slice(others, index))
    (rows,) = b.gather(b.scale(total))
    finish(b, Decoder(soft_cap=True), rows)


def _sparse(b: Builder, source: Tensor) -> Tensor:
    """Only what stands out of a normal distribution passes (gaussian_topk)."""
    mean = ggml.result("MEAN", "f32", (1, *source.ne[1:]), source)
    spread = ggml.sum_rows(ggml.like("SQR", ggml.like("SUB", source, mean)))
    spread = ggml.like("SQRT", b.scale(spread))
    cut = ggml.like("ADD", mean, b.scale(spread))
    return ggml.like("RELU", ggml.like("SUB", source, cut))


def _modalities(b: Builder, layer: int, source: Tensor) -> Tensor:
    routed = b.scale(b.layer_norm(source, layer, "altup_router_norm"))
    return ggml.like("TANH", ggml.mul_mat(b.needed(layer, "altup_router"), routed))


def _predict(b: Builder, layer: int, current: Tensor) -> Tensor:
    tokens = b.batch.tokens
    modalities = _modalities(b, layer, _slice(current, ALTUP_ACTIVE))
    parts = ggml.mul_mat(b.needed(layer, "altup_predict_coef"), modalities)
    parts = ggml.reshape(parts, ALTUP_STREAMS, ALTUP_STREAMS, tokens)
    permuted = ggml.cont(ggml.permute(current, 1, 2, 0, 3))
    made = ggml.cont(ggml.permute(ggml.mul_mat(permuted, parts), 0, 2, 1, 3))
    return ggml.like("ADD", made, current)


def _correct(b: Builder, layer: int, predictions: Tensor, active: Tensor) -> Tensor:
    tokens, width = b.batch.tokens, b.hyper.width
    modalities = _modalities(b, layer, active)
    innovation = ggml.like("SUB", active, _slice(predictions, ALTUP_ACTIVE))
    parts = b.scale(ggml.mul_mat(b.needed(layer, "altup_correct_coef"), modalities))
    parts = ggml.cont(ggml.transpose(parts), 1, tokens, ALTUP_STREAMS)
    repeated = ggml.repeat(innovation, width, tokens, ALTUP_STREAMS, 1)
    return ggml.like("ADD", ggml.like("MUL", repeated, parts), predictions)
