# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pattern of nearly every decoder, attention and a feed-forward network with residual sums, and its traits.

Whether a projection has a bias, a gate or a norm is read from the model's tensors, so a :class:`Decoder`'s traits say
only what tensors do not. Source: llama.cpp, src/models/*.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._hyper import ENCODERS

GATING = {1: "softmax", 2: "sigmoid", 3: "softmax_weight", 4: "sqrt_softplus"}


# llama-hparams.h, f_final_logit_softcapping: of models that do not set another default before they read the header.
SOFT_CAP = 30.0


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
    attention_gate: str = "SIGMOID"
    residual_before: bool = False  # the first sum has the residual as its first operand
    router_first: bool = False  # the router reads the layer's input
    soft_cap: bool | None = False  # None: as the header says, with …
    soft_cap_default: float = 0.0
    scaled_logits: bool = False
    scaled_hidden: bool = False
    scaled_residual: bool = False
    ffn_norm: str = "ffn_norm"
    attention_out_norm: str = "post_attention_norm"
    normed_rows: bool = False  # what attention gives is normed before rows are picked in the last layer, not after
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
        current = b.norm(current, b.top("token_embd_norm.weight", 0), b.top("token_embd_norm.bias", 0), traits.norm)
    return current


def decoder(b: Builder, traits: Decoder, masked_logits: int = 0) -> None:
    """A decoder in llama's pattern. ``masked_logits``: so many are overwritten (chameleon)."""
    current = start(b, traits)
    for layer in b.numbers:
        residual = current
        normed = normed_by(b, traits, current, layer, "attn_norm")
        logits = ggml.mul_mat(b.needed(layer, "ffn_gate_inp"), current) if traits.router_first else None
        attended = attention(b, traits, layer, normed)
        if traits.normed_rows:
            attended = b.layer_norm(attended, layer, traits.attention_out_norm, traits.norm)
        if layer == b.last and not traits.gather_last:
            if logits is not None:
                attended, residual, logits = b.gather(attended, residual, logits)
            else:
                attended, residual = b.gather(attended, residual)
        norm_after = not traits.normed_rows and traits.ffn_norm != traits.attention_out_norm
        if norm_after and b.weight(layer, traits.attention_out_norm) is not None:
            attended = b.layer_norm(attended, layer, traits.attention_out_norm, traits.norm)
        if traits.scaled_residual:
            attended = b.scale(attended)
        middle = (
            ggml.like("ADD", residual, attended) if traits.residual_before else ggml.like("ADD", attended, residual)
        )
        made = mixed_feed_forward(b, traits, layer, normed_by(b, traits, middle, layer, traits.ffn_norm), logits)
        if b.weight(layer, "post_ffw_norm") is not None:
            made = b.layer_norm(made, layer, "post_ffw_norm", traits.norm)
        if traits.scaled_residual:
            made = b.scale(made)
        current = ggml.like("ADD", middle, made) if traits.residual_first else ggml.like("ADD", made, middle)
        current = _deep_stack(b, layer, current)
    if masked_logits:
        hidden = b.norm(current, b.top("output_norm.weight"))
        masked = b.clamp(ggml.tensor("f32", masked_logits))
        b.finish(hidden, ggml.like("SET", b.head(hidden), masked))
        return
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
        normed = normed_by(b, traits, current, layer, "attn_norm")
        source = normed
        if b.weight(layer, "attn_norm_2") is not None:
            source = b.layer_norm(current, layer, "attn_norm_2", traits.norm)
        attended = attention(b, traits, layer, source)
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


def normed_by(b: Builder, traits: Decoder, source: Tensor, layer: int, name: str) -> Tensor:
    if b.weight(layer, name) is None and not traits.weightless_norms:
        return source
    return b.layer_norm(source, layer, name, traits.norm)


def finish(b: Builder, traits: Decoder, current: Tensor) -> None:
    """The last norm and the output layer."""
    if traits.kept_hidden == "sum":
        current.is_output = True
    if traits.gather_last and traits.kept_hidden != "norm":
        (current,) = b.gather(current)
    scale = b.top("output_norm.weight") or b.top("enc.output_norm.weight")  # the latter: neo-bert
    hidden = b.norm(current, scale, b.top("output_norm.bias"), traits.norm)
    if traits.kept_hidden == "norm":
        hidden.is_output = True
        if traits.gather_last:
            (hidden,) = b.gather(hidden)
    if b.hyper.architecture in ENCODERS or b.hyper.architecture == "llama-embed":
        b.finish(hidden, None)
        return
    said = bool(b.hyper.real("final_logit_softcapping", traits.soft_cap_default))
    capped = said if traits.soft_cap is None else traits.soft_cap
    source = b.scale(hidden) if traits.scaled_hidden else hidden
    b.finish(hidden, b.head(source, scaled=traits.scaled_logits, soft_cap=capped))


def attention(b: Builder, traits: Decoder, layer: int, source: Tensor) -> Tensor:
    hyper = b.hyper
    parts = project(b, traits, layer, source)
    sinks = b.weight(layer, "attn_sinks")
    gate = b.weight(layer, "attn_gate")
    if gate is None and b.weight(layer, "attn_sub_norm") is None:
        made = b.attention(layer, *parts, sinks=sinks)
    else:
        made = b.attention(layer, *parts, sinks=sinks, output=None)
        if gate is not None:
            made = gated(b, traits, layer, made, ggml.mul_mat(gate, source))
        else:
            made = b.layer_norm(made, layer, "attn_sub_norm")
        made = b.linear(layer, "attn_output", made)
    if hyper.real("attention.value_scale") not in (0.0, 1.0):
        made = b.scale(made)
    return made


def gated(b: Builder, traits: Decoder, layer: int, made: Tensor, gate: Tensor) -> Tensor:
    """Attention's result times a gate, of each element or of each head."""
    hyper, tokens = b.hyper, made.ne[1]
    gate = ggml.like(traits.attention_gate, gate)
    heads = hyper.heads[layer]
    if gate.ne[0] != heads:
        return ggml.like("MUL", made, gate)
    wide = made.ne[0]
    shaped = ggml.reshape(made, wide // heads, heads, tokens)
    return ggml.reshape(ggml.like("MUL", shaped, ggml.reshape(gate, 1, heads, tokens)), wide, tokens)


def project(b: Builder, traits: Decoder, layer: int, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    if traits.flat_norm or (traits.reshaped_norm and b.weight(layer, "attn_q_norm") is not None):
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
    if rule == "window_or_first" and not any(b.hyper.windowed):
        return True
    if rule == "window_or_first":
        return layer % 4 != 0
    if rule == "window":
        return b.hyper.windowed[layer] or layer < b.hyper.whole("leading_dense_block_count")
    if rule == "window_or_none":
        return b.hyper.windowed[layer] or not any(b.hyper.windowed)
    if rule.startswith("not_every_"):
        return (layer + 1) % int(rule[10:]) != 0
    return rule == "all"


def gating(b: Builder, traits: Decoder) -> str:
    return traits.gating or GATING.get(b.hyper.whole("expert_gating_func"), traits.gating_default)


def fed(b: Builder, traits: Decoder, layer: int, attended: Tensor, residual: Tensor) -> Tensor:
    """A layer's result out of what its attention gives and its input."""
    attended, residual = b.wanted(layer, attended, residual)
    middle = ggml.like("ADD", attended, residual)
    made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
    return ggml.like("ADD", made, middle)


def latent_experts(
    b: Builder, layer: int, source: Tensor, activation: str, gating_: str, name: str = "ffn_latent"
) -> Tensor:
    """Experts that may work on a narrower state than their router (nemotron-h.cpp, build_ffn_layer; kimi-k3.cpp)."""
    hyper = b.hyper
    down, up = b.weight(layer, name + "_down"), b.weight(layer, name + "_up")
    inner = ggml.mul_mat(down, source) if down is not None else source
    logits = ggml.mul_mat(b.needed(layer, "ffn_gate_inp"), source)
    made = b.experts(
        layer, inner, activation, gating_, hyper.truth("expert_weights_norm"),
        hyper.real("expert_weights_scale") not in (0.0, 1.0), logits,
    )  # fmt: skip
    if b.weight(layer, name + "_norm") is not None:
        made = b.layer_norm(made, layer, name + "_norm")
    return ggml.mul_mat(up, made) if up is not None else made


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
