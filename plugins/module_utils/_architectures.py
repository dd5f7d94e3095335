# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs by architecture: what llama.cpp's src/models/*.cpp build, in terms of the parts in :mod:`_blocks`.

Most decoders are one pattern with some traits (:class:`Decoder`); whether a projection has a bias, a gate or a norm
is read from the model's tensors, so traits say only what tensors do not.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._hyper import ENCODERS


@dataclass(frozen=True)
class Decoder:
    """What distinguishes one decoder from llama's. Names of norms are those of GGUF's tensors."""

    norm: str = "RMS_NORM"
    weightless_norms: bool = False  # norms without any weight (olmo)
    learned_positions: bool = False  # rows of a table are added to the input
    normed_input: bool = False
    scaled_input: bool = False
    rope: str = "all"  # all; none; window (only layers with a window); not_every_<n>
    factors: bool = False  # long-context factors as tensors
    norm_after_rope: bool = False  # Q and K are normed by head after the rotation, not before
    flat_norm: bool = False  # … over all heads at once, before they are parted
    reshaped_norm: bool = False  # … over all heads at once, out of a fused projection (mpt)
    qk_norm: str = ""  # another kind of norm for Q and K
    scaled_query: bool = False
    parallel: str = ""  # attention and feed-forward side by side, and the order in which they are summed
    activation: str = "SWIGLU"
    gating: str = "softmax"  # "": as the header says, with …
    gating_default: str = "softmax"
    normed_weights: bool | None = True  # None: as the header says
    soft_cap: bool = False
    scaled_logits: bool = False
    scaled_hidden: bool = False
    scaled_residual: bool = False
    ffn_norm: str = "ffn_norm"
    attention_out_norm: str = "post_attention_norm"
    gather_last: bool = False  # rows are picked after the last layer, not inside it
    residual_first: bool = False  # the last sum has the residual as its first operand
    kept_hidden: str = ""  # what is an output beside the logits: the sum of the last layer, or its norm


def start(b: Builder, traits: Decoder) -> Tensor:
    """The input: embeddings, scaled, with learned positions, normed."""
    current = b.embedding()
    if traits.scaled_input:
        current = b.scale(current)
    if traits.learned_positions:
        table = b.top("position_embd.weight")
        if table is not None:
            current = ggml.like("ADD", current, ggml.get_rows(table, b.positions()))
    if traits.normed_input:
        current = b.norm(current, b.top("token_embd_norm.weight"), b.top("token_embd_norm.bias"), traits.norm)
    return current


def decoder(b: Builder, traits: Decoder) -> None:
    """A decoder in llama's pattern."""
    current = start(b, traits)
    for layer in b.numbers:
        residual = current
        normed = _normed(b, traits, current, layer, "attn_norm")
        attended = _attention(b, traits, layer, normed)
        if layer == b.last and not traits.gather_last:
            attended, residual = b.gather(attended, residual)
        if b.weight(layer, traits.attention_out_norm) is not None and traits.ffn_norm != traits.attention_out_norm:
            attended = b.layer_norm(attended, layer, traits.attention_out_norm, traits.norm)
        if traits.scaled_residual:
            attended = b.scale(attended)
        middle = ggml.like("ADD", attended, residual)
        made = mixed_feed_forward(b, traits, layer, _normed(b, traits, middle, layer, traits.ffn_norm))
        if b.weight(layer, "post_ffw_norm") is not None:
            made = b.layer_norm(made, layer, "post_ffw_norm", traits.norm)
        if traits.scaled_residual:
            made = b.scale(made)
        current = ggml.like("ADD", middle, made) if traits.residual_first else ggml.like("ADD", made, middle)
        current = _deep_stack(b, layer, current)
    finish(b, traits, current)


def _deep_stack(b: Builder, layer: int, current: Tensor) -> Tensor:
    """Features of an image that the input carries beside its embeddings go to the first layers (qwen3vl)."""
    if layer >= b.hyper.whole("n_deepstack_layers"):
        return current
    width = b.hyper.width
    part = ggml.view(b.input_rows, (width, b.batch.tokens), b.input_rows.nb[1:2], 4 * (layer + 1) * width)
    return ggml.like("ADD", current, part)


def parallel_decoder(b: Builder, traits: Decoder) -> None:
    """Attention and feed-forward side by side."""
    current = start(b, traits)
    for layer in b.numbers:
        residual = current
        normed = _normed(b, traits, current, layer, "attn_norm")
        source = normed
        if b.weight(layer, "attn_norm_2") is not None:
            source = b.layer_norm(current, layer, "attn_norm_2", traits.norm)
        attended = _attention(b, traits, layer, source)
        if layer == b.last and not traits.gather_last:
            attended, residual, normed = b.gather(attended, residual, normed)
        if traits.parallel == "own_norm":
            normed = b.layer_norm(residual, layer, "ffn_norm", traits.norm)
        if traits.parallel == "middle":
            middle = ggml.like("ADD", attended, residual)
            current = ggml.like("ADD", b.feed_forward(layer, normed, traits.activation), middle)
            continue
        made = mixed_feed_forward(b, traits, layer, normed)
        order = {
            "attention_last": (made, residual, attended),
            "own_norm": (made, residual, attended),
            "residual_last": (made, attended, residual),
            "attention_first": (attended, made, residual),
        }[traits.parallel]
        current = ggml.like("ADD", ggml.like("ADD", order[0], order[1]), order[2])
    finish(b, traits, current)


def _normed(b: Builder, traits: Decoder, source: Tensor, layer: int, name: str) -> Tensor:
    if b.weight(layer, name) is None and not traits.weightless_norms:
        return source
    return b.layer_norm(source, layer, name, traits.norm)


def finish(b: Builder, traits: Decoder, current: Tensor) -> None:
    """The last norm and the output layer."""
    if traits.kept_hidden == "sum":
        current.is_output = True
    if traits.gather_last and traits.kept_hidden != "norm":
        (current,) = b.gather(current)
    hidden = b.norm(current, b.top("output_norm.weight"), b.top("output_norm.bias"), traits.norm)
    if traits.kept_hidden == "norm":
        hidden.is_output = True
        if traits.gather_last:
            (hidden,) = b.gather(hidden)
    if b.hyper.architecture in ENCODERS:
        b.finish(hidden, None)
        return
    source = b.scale(hidden) if traits.scaled_hidden else hidden
    b.finish(hidden, b.head(source, scaled=traits.scaled_logits, soft_cap=traits.soft_cap))


def _attention(b: Builder, traits: Decoder, layer: int, source: Tensor) -> Tensor:
    hyper = b.hyper
    parts = _qkv(b, traits, layer, source)
    sinks = b.weight(layer, "attn_sinks")
    if b.weight(layer, "attn_sub_norm") is None:
        made = b.attention(layer, *parts, sinks=sinks)
    else:
        made = b.layer_norm(b.attention(layer, *parts, output=None), layer, "attn_sub_norm")
        made = b.linear(layer, "attn_output", made)
    if hyper.real("attention.value_scale") not in (0.0, 1.0):
        made = b.scale(made)
    return made


def _qkv(b: Builder, traits: Decoder, layer: int, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, kv_heads = hyper.heads[layer], hyper.kv_heads[layer]
    key, value = hyper.head_key(layer), hyper.head_value(layer)
    query, keys, values = b.qkv(layer, source, heads, kv_heads, key, value, shaped=not traits.flat_norm)
    kind = traits.qk_norm or traits.norm

    def normed(part: Tensor, name: str) -> Tensor:
        return part if b.weight(layer, name) is None else b.layer_norm(part, layer, name, kind)

    if traits.reshaped_norm and b.weight(layer, "attn_q_norm") is not None:
        query = ggml.reshape(query, key * heads, tokens)
        keys = ggml.reshape(keys, key * kv_heads, tokens)
    if not traits.norm_after_rope:
        query, keys = normed(query, "attn_q_norm"), normed(keys, "attn_k_norm")
    if traits.flat_norm or traits.reshaped_norm:
        query = ggml.reshape(query, key, heads, tokens)
        keys = ggml.reshape(keys, key, kv_heads, tokens)
        if traits.flat_norm:
            values = ggml.reshape(values, value, kv_heads, tokens)
    if _rotates(b, traits, layer):
        where = layer if traits.factors else None
        query, keys = b.rope(query, where), b.rope(keys, where)
    if traits.norm_after_rope:
        query, keys = normed(query, "attn_q_norm"), normed(keys, "attn_k_norm")
    if hyper.real("attention.temperature_scale"):
        query = ggml.like("MUL", query, b.input("attention_scale", "f32", 1, 1, tokens))
    if traits.scaled_query:
        query = b.scale(query)
    return query, keys, values


def _rotates(b: Builder, traits: Decoder, layer: int) -> bool:
    rule = traits.rope
    if rule == "window":
        return b.hyper.windowed[layer] or layer < b.hyper.whole("leading_dense_block_count")
    if rule == "window_or_none":
        return b.hyper.windowed[layer] or not any(b.hyper.windowed)
    if rule.startswith("not_every_"):
        return (layer + 1) % int(rule[10:]) != 0
    return rule == "all"


def gating(b: Builder, traits: Decoder) -> str:
    return traits.gating or GATING.get(b.hyper.whole("expert_gating_func"), traits.gating_default)


def mixed_feed_forward(b: Builder, traits: Decoder, layer: int, source: Tensor, logits: Tensor | None = None) -> Tensor:
    """The layer's experts with a shared one beside them, or its dense network."""
    hyper = b.hyper
    if b.weight(layer, "ffn_gate_inp") is None:
        return b.feed_forward(layer, source, traits.activation)
    normed = hyper.truth("expert_weights_norm") if traits.normed_weights is None else traits.normed_weights
    made = b.experts(
        layer, source, traits.activation, gating(b, traits), normed,
        hyper.real("expert_weights_scale") not in (0.0, 1.0), logits,
    )  # fmt: skip
    if b.weight(layer, "ffn_down_shexp") is not None:
        shared = b.shared_expert(layer, source, traits.activation)
        gate = b.weight(layer, "ffn_gate_inp_shexp")
        if gate is not None:
            value = ggml.mul_mat(gate, source)
            if hyper.architecture == "qwen2moe":
                value = ggml.like("DIV", ggml.like("SILU", value), value)
            else:
                value = ggml.like("SIGMOID", value)
            shared = ggml.like("MUL", shared, value)
        made = ggml.like("ADD", made, shared)
        if hyper.architecture == "cohere2moe":
            made = b.scale(made)
    return made


# --- encoders ---------------------------------------------------------------------------------------------------------


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


# --- latent attention -------------------------------------------------------------------------------------------------


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


# --- llama 4 ----------------------------------------------------------------------------------------------------------


def llama4(b: Builder) -> None:
    """Chunked attention with positions, every fourth layer full without them; one expert a token."""
    hyper = b.hyper
    traits = Decoder(gating="sigmoid", normed_weights=False)
    tokens = b.batch.tokens
    current = b.embedding()
    step = 4
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        query, keys, values = b.qkv(
            layer, normed, hyper.heads[layer], hyper.kv_heads[layer], hyper.key_length, hyper.value_length
        )
        if (layer + 1) % step:
            query, keys = b.rope(query, layer), b.rope(keys, layer)
            if hyper.truth("use_qk_norm", hyper.experts != 128):
                query, keys = ggml.like("RMS_NORM", query), ggml.like("RMS_NORM", keys)
        else:
            query = ggml.like("MUL", query, b.input("attention_scale", "f32", 1, 1, tokens))
        attended = b.attention(layer, query, keys, values)
        if layer == b.last:
            attended, residual = b.gather(attended, residual)
        middle = ggml.like("ADD", attended, residual)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


# --- delta nets -------------------------------------------------------------------------------------------------------


def qwen35(b: Builder) -> None:
    """Qwen 3.5 and 3-Next: gated delta nets, every fourth layer gated attention."""
    hyper = b.hyper
    traits = Decoder(gather_last=True, kept_hidden="norm")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        b.graph.expand(normed)
        made = _delta_net(b, layer, normed) if hyper.recurrent[layer] else _gated_attention(b, layer, normed)
        middle = ggml.like("ADD", made, residual)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "post_attention_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


def _gated_attention(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, kv_heads, length = hyper.heads[layer], hyper.kv_heads[layer], hyper.value_length
    full = b.linear(layer, "attn_q", source)
    keys, values = b.linear(layer, "attn_k", source), b.linear(layer, "attn_v", source)
    step = 8 * length
    query = ggml.view(full, (length, heads, tokens), (step, step * heads))
    query = b.layer_norm(query, layer, "attn_q_norm")
    keys = b.layer_norm(ggml.reshape(keys, length, kv_heads, tokens), layer, "attn_k_norm")
    gate = ggml.cont(ggml.view(full, (length, heads, tokens), (step, step * heads), 4 * length), length * heads, tokens)
    values = ggml.reshape(values, length, kv_heads, tokens)
    made = b.attention(layer, b.rope(query), b.rope(keys), values, output=None)
    made = ggml.like("MUL", made, ggml.like("SIGMOID", gate))
    return b.linear(layer, "attn_output", made)


def _delta_net(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    inner, state = hyper.whole("ssm.inner_size"), hyper.whole("ssm.state_size")
    groups, heads = hyper.whole("ssm.group_count"), hyper.whole("ssm.time_step_rank")
    length = inner // heads
    mixed = b.linear(layer, "attn_qkv", source)
    mixed = ggml.reshape(mixed, mixed.ne[0], steps, sequences)
    gate_z = b.linear(layer, "attn_gate", source)
    beta = ggml.mul_mat(b.needed(layer, "ssm_beta"), source)
    beta = ggml.like("SIGMOID", ggml.reshape(beta, 1, heads, steps, sequences))
    alpha = ggml.reshape(ggml.mul_mat(b.needed(layer, "ssm_alpha"), source), heads, steps, sequences)
    alpha = ggml.like("SOFTPLUS", ggml.like("ADD", alpha, b.needed(layer, "ssm_dt", "bias")))
    a = b.weight(layer, "ssm_a") or b._weight(f"blk.{layer}.ssm_a", b.homes.layers[layer])
    assert a is not None
    gate = ggml.reshape(ggml.like("MUL", alpha, a), 1, heads, steps, sequences)
    kernel = b.needed(layer, "ssm_conv1d")
    channels = inner + 2 * groups * state
    conv = conv_state(b, layer, mixed, kernel.ne[0], channels)
    size = state * inner
    recurrent = ggml.reshape(b.state(layer, "s", size), length, length, heads, sequences)
    mixed = ggml.like("SILU", ssm_conv(conv, kernel))
    total = state * groups * 2 + length * heads
    nb = (4 * total, 4 * total * steps)
    query = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, *nb))
    keys = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, *nb), 4 * state * groups)
    values = ggml.view(mixed, (length, heads, steps, sequences), (4 * length, *nb), 8 * state * groups)
    query, keys = (b.scale(ggml.like("RMS_NORM", part)) for part in (query, keys))
    made = gated_delta_net(b, layer, query, keys, values, gate, beta, recurrent, size)
    z = ggml.reshape(gate_z, length, heads, steps, sequences)
    normed = b.layer_norm(made, layer, "ssm_norm")
    made = ggml.like("MUL", normed, ggml.like("SILU", z))
    made = ggml.reshape(made, length * heads, steps, sequences)
    made = b.linear(layer, "ssm_out", made)
    return ggml.reshape(made, hyper.width, steps * sequences)


def ssm_conv(source: Tensor, kernel: Tensor) -> Tensor:
    ne = (kernel.ne[1], source.ne[0] - kernel.ne[0] + 1, source.ne[2], 1)
    return ggml.result("SSM_CONV", "f32", ne, source, kernel)


def conv_state(b: Builder, layer: int, source: Tensor, kernel: int, channels: int) -> Tensor:
    """The last columns of the sequence so far in front of the batch, and the new last ones back into the cache."""
    sequences = b.batch.sequences
    size = (kernel - 1) * channels
    states = ggml.reshape(b.state(layer, "r", size), kernel - 1, channels, sequences)
    joined = ggml.concat(states, ggml.transpose(source), 0)
    last = ggml.view(joined, (kernel - 1, channels, sequences), joined.nb[1:3], 4 * (joined.ne[0] - kernel + 1))
    b.graph.expand(ggml.cpy(last, b.state_rows(layer, "r", size)))
    return joined


def gated_delta_net(
    b: Builder, layer: int, query: Tensor, keys: Tensor, values: Tensor, gate: Tensor, beta: Tensor, state: Tensor,
    size: int,
) -> Tensor:  # fmt: skip
    """One operation gives the outputs and, behind them, the new states (ggml_gated_delta_net)."""
    length, heads, steps, sequences = values.ne
    made = ggml.result(
        "GATED_DELTA_NET", "f32", (length * heads, steps * sequences + length * sequences, 1, 1),
        query, keys, values, gate, beta, state,
    )  # fmt: skip
    output = ggml.view(made, values.ne, (4 * length, 4 * length * heads, 4 * length * heads * steps))
    new = ggml.view(
        made, (length, length, heads, sequences), (4 * length, 4 * length**2, 4 * length**2 * heads),
        4 * length * heads * steps * sequences,
    )  # fmt: skip
    b.graph.expand(ggml.cpy(new, b.state_rows(layer, "s", size)))
    return output


GATING = {1: "softmax", 2: "sigmoid", 3: "softmax_weight", 4: "sqrt_softplus"}
_LAYER = Decoder(norm="NORM")  # layer norms with biases, as GPT-2 has them

DECODERS: dict[str, Decoder] = {
    "llama": Decoder(factors=True, norm_after_rope=True),
    "llama-embed": Decoder(factors=True),
    "qwen": Decoder(),
    "qwen2": Decoder(),
    "qwen2moe": Decoder(normed_weights=False),
    "qwen2vl": Decoder(),
    "qwen3": Decoder(),
    "qwen3moe": Decoder(),
    "qwen3vl": Decoder(),
    "qwen3vlmoe": Decoder(),
    "dream": Decoder(),
    "llada": Decoder(),
    "llada-moe": Decoder(normed_weights=False),
    "rnd1": Decoder(),
    "mistral3": Decoder(factors=True),
    "gemma": Decoder(scaled_input=True, scaled_query=True, activation="GEGLU"),
    "gemma2": Decoder(scaled_input=True, scaled_query=True, activation="GEGLU", soft_cap=True),
    "gemma3": Decoder(scaled_input=True, scaled_query=True, activation="GEGLU"),
    "gemma-embedding": Decoder(scaled_input=True, scaled_query=True, activation="GEGLU"),
    "phi3": Decoder(factors=True, scaled_query=True, residual_first=True),
    "phimoe": Decoder(factors=True, scaled_query=True, residual_first=True),
    "gpt-oss": Decoder(
        ffn_norm="post_attention_norm", activation="SWIGLU_OAI", gating="softmax_weight", normed_weights=False,
        gather_last=True, kept_hidden="sum",
    ),
    "olmo": Decoder(norm="NORM", weightless_norms=True),
    "olmo2": Decoder(flat_norm=True),
    "olmoe": Decoder(flat_norm=True, normed_weights=False),
    "exaone": Decoder(factors=True),
    "exaone4": Decoder(factors=True, rope="window_or_none"),
    "exaone-moe": Decoder(factors=True, rope="window_or_none", gating="", normed_weights=None),
    "granite": Decoder(factors=True, scaled_residual=True, scaled_logits=True),
    "granitemoe": Decoder(factors=True, scaled_residual=True, scaled_logits=True),
    "granite_swa": Decoder(factors=True, scaled_residual=True, scaled_logits=True),
    "minicpm": Decoder(factors=True, scaled_residual=True, scaled_logits=True, scaled_input=True),
    "internlm2": Decoder(),
    "baichuan": Decoder(),
    "orion": _LAYER,
    "xverse": Decoder(),
    "seed_oss": Decoder(ffn_norm="post_attention_norm"),
    "smollm3": Decoder(rope="not_every_4"),
    "arcee": Decoder(factors=True, activation="RELU_SQR"),
    "nemotron": Decoder(norm="NORM", activation="RELU_SQR"),
    "openelm": Decoder(),
    "plamo3": Decoder(),
    "pangu-embedded": Decoder(),
    "maincoder": Decoder(norm_after_rope=True),
    "dbrx": Decoder(norm="NORM", ffn_norm="attn_output_norm", attention_out_norm=""),
    "apertus": Decoder(factors=True, activation="XIELU"),
    "chatglm": Decoder(),
    "ernie4_5": Decoder(),
    "ernie4_5-moe": Decoder(),
    "paddleocr": Decoder(),
    "deepseek": Decoder(factors=True, normed_weights=False),
    "dots1": Decoder(gating="", normed_weights=None),
    "bailingmoe": Decoder(factors=True, normed_weights=None),
    "bailingmoe2": Decoder(gating="", normed_weights=None),
    "hunyuan-moe": Decoder(factors=True, norm_after_rope=True),
    "hunyuan-dense": Decoder(factors=True, norm_after_rope=True),
    "hunyuan_vl": Decoder(factors=True, norm_after_rope=True),
    "glm4": Decoder(),
    "glm4moe": Decoder(
        ffn_norm="post_attention_norm", gating="", gating_default="sigmoid", normed_weights=None, kept_hidden="norm"
    ),
    "minimax-m2": Decoder(flat_norm=True, gating=""),
    "mimo2": Decoder(gating="sigmoid"),
    "bitnet": Decoder(),
    "codeshell": Decoder(norm="NORM", activation="GELU"),
    "starcoder": Decoder(norm="NORM", activation="GELU", learned_positions=True, rope="none"),
    "starcoder2": Decoder(norm="NORM", activation="GELU"),
    "gpt2": Decoder(norm="NORM", activation="GELU", learned_positions=True, rope="none"),
    "bloom": Decoder(norm="NORM", activation="GELU", normed_input=True, rope="none"),
    "mpt": Decoder(norm="NORM", activation="GELU", learned_positions=True, rope="none", reshaped_norm=True),
    "refact": Decoder(rope="none"),
    "jais": Decoder(norm="NORM", rope="none"),
    "jais2": Decoder(norm="NORM", activation="RELU_SQR"),
    "chameleon": Decoder(qk_norm="NORM"),
    "command-r": Decoder(norm="NORM", parallel="attention_last", scaled_logits=True),
    "cohere2": Decoder(norm="NORM", parallel="attention_last", scaled_logits=True, rope="window", factors=True),
    "cohere2moe": Decoder(
        norm="NORM", parallel="attention_last", scaled_logits=True, rope="window", factors=True, gating="",
        gating_default="sigmoid", normed_weights=None, gather_last=True, kept_hidden="norm",
    ),
    "falcon": Decoder(norm="NORM", activation="GELU", parallel="residual_last"),
    "plamo": Decoder(parallel="residual_last"),
    "phi2": Decoder(norm="NORM", activation="GELU", parallel="attention_first", scaled_query=True),
}  # fmt: skip


def gptneox(b: Builder) -> None:
    if b.hyper.truth("use_parallel_residual"):
        parallel_decoder(b, Decoder(norm="NORM", activation="GELU", parallel="own_norm"))
    else:
        decoder(b, Decoder(norm="NORM", activation="GELU"))


def stablelm(b: Builder) -> None:
    """Without a norm of its own the feed-forward network reads what attention reads."""
    traits = Decoder(norm="NORM", parallel="" if b.weight(b.last, "ffn_norm") is not None else "middle")
    (parallel_decoder if traits.parallel else decoder)(b, traits)


OTHERS: dict[str, t.Callable[[Builder], None]] = {
    "bert": bert,
    "nomic-bert": bert,
    "nomic-bert-moe": bert,
    "jina-bert-v2": bert,
    "jina-bert-v3": bert,
    "deepseek2": deepseek2,
    "llama4": llama4,
    "gptneox": gptneox,
    "stablelm": stablelm,
    "qwen3next": qwen35,
    "qwen35": qwen35,
    "qwen35moe": qwen35,
}


def known(architecture: str) -> bool:
    return architecture in DECODERS or architecture in OTHERS


def build(b: Builder) -> None:
    """The whole graph of the model's architecture.

    :raises KeyError: the architecture is not known, or a tensor that it needs is missing.
    """
    architecture = b.hyper.architecture
    if architecture in DECODERS:
        traits = DECODERS[architecture]
        (parallel_decoder if traits.parallel else decoder)(b, traits)
    else:
        OTHERS[architecture](b)
