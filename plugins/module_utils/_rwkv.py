# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs of RWKV 6 and 7, alone and in other models' bodies.

Sources: llama.cpp, src/models/rwkv6-base.cpp, rwkv7-base.cpp, rwkv6.cpp, rwkv6qwen2.cpp, rwkv7.cpp, arwkv7.cpp.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, finish
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor

Mix = t.Callable[[int, Tensor, Tensor], Tensor]


def rwkv6(b: Builder) -> None:
    _rwkv(b, lambda layer, current, before: _time_mix6(b, layer, current, before), b.hyper.architecture == "rwkv6")


def rwkv7(b: Builder) -> None:
    first: list[Tensor] = []
    own = b.hyper.architecture == "rwkv7"
    _rwkv(b, lambda layer, current, before: _time_mix7(b, layer, current, before, first), own)


def _rwkv(b: Builder, mix: Mix, own: bool) -> None:
    """``own``: RWKV's own body, with layer norms and channel mixing; else Qwen's with RWKV in attention's place."""
    hyper, batch = b.hyper, b.batch
    width, sequences, steps, tokens = hyper.width, batch.sequences, batch.sequence_tokens, batch.tokens
    kind = "NORM" if own else "RMS_NORM"
    shifts = hyper.whole("token_shift_count", 2)
    current = b.embedding()
    if own:
        current = b.norm(current, b.top("token_embd_norm.weight", 0), b.top("token_embd_norm.bias", 0), "NORM")
    for layer in b.numbers:
        current = ggml.reshape(current, width, steps, sequences)
        shift = ggml.reshape(b.state(layer, "r", shifts * width), width, shifts, sequences)
        normed = b.layer_norm(current, layer, "attn_norm", kind)
        if own:
            before = _shifted(ggml.view(shift, (width, 1, sequences), shift.nb[1:3]), normed, steps)
        else:
            before = _shifted(shift, normed, steps)
        made = mix(layer, normed, before)
        if own:
            middle = ggml.like("ADD", made, current)
            fed = b.layer_norm(middle, layer, "attn_norm_2", "NORM")
            before = _shifted(ggml.view(shift, (width, 1, sequences), shift.nb[1:3], 4 * width), fed, steps)
            _store(b, layer, ggml.concat(_last(normed, steps), _last(fed, steps), 1), shifts)
            middle, fed, before = (ggml.reshape(part, width, tokens) for part in (middle, fed, before))
            middle, fed, before = b.wanted(layer, middle, fed, before)
            current = ggml.like("ADD", _channel_mix(b, layer, fed, before), middle)
            every = hyper.whole("rescale_every_n_layers")
            if every and (layer + 1) % every == 0 and hyper.architecture == "rwkv6":
                current = b.scale(current)
        else:
            _store(b, layer, _last(normed, steps), shifts)
            middle = ggml.reshape(ggml.like("ADD", made, current), width, tokens)
            (middle,) = b.wanted(layer, middle)
            made = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
            current = ggml.like("ADD", made, middle)
    finish(b, Decoder(norm=kind), current)


def _shifted(shift: Tensor, source: Tensor, steps: int) -> Tensor:
    """The token before each token, the state's in front."""
    rest = ggml.view(source, (source.ne[0], steps - 1, source.ne[2]), source.nb[1:3])
    return ggml.concat(shift, rest, 1)


def _last(source: Tensor, steps: int) -> Tensor:
    return ggml.view(source, (source.ne[0], 1, source.ne[2]), source.nb[1:3], 4 * (steps - 1) * source.ne[0])


def _store(b: Builder, layer: int, shift: Tensor, shifts: int) -> None:
    size = b.hyper.width * b.batch.sequences * shifts
    store = b.state_cache(layer, "r", shifts * b.hyper.width)
    b.graph.expand(ggml.cpy(ggml.view(shift, (size,)), ggml.view(store, (size,))))


def _channel_mix(b: Builder, layer: int, current: Tensor, before: Tensor) -> Tensor:
    step = ggml.like("SUB", before, current)

    def mixed(name: str) -> Tensor:
        return ggml.like("ADD", ggml.like("MUL", step, b.needed(layer, name)), current)

    def key() -> Tensor:
        made = ggml.mul_mat(b.needed(layer, "channel_mix_key"), mixed("channel_mix_lerp_k"))
        return ggml.mul_mat(b.needed(layer, "channel_mix_value"), ggml.like("SQR", ggml.like("RELU", made)))

    if b.weight(layer, "channel_mix_receptance") is None:
        return key()
    gate = ggml.mul_mat(b.needed(layer, "channel_mix_receptance"), mixed("channel_mix_lerp_r"))
    return ggml.like("MUL", ggml.like("SIGMOID", gate), key())


def _planes(source: Tensor, width: int, tokens: int, count: int) -> list[Tensor]:
    return [ggml.view(source, (width, tokens), source.nb[1:2], 4 * width * tokens * number) for number in range(count)]


def _keep(b: Builder, layer: int, made: Tensor) -> Tensor:
    """The new states behind the outputs go back to the layer's."""
    hyper, batch = b.hyper, b.batch
    width, tokens, size = hyper.width, batch.tokens, hyper.width * hyper.whole("wkv.head_size")
    output = ggml.view(made, (width * tokens,))
    new = ggml.view(made, (size * batch.sequences,), (), 4 * width * tokens)
    b.graph.expand(ggml.cpy(new, ggml.view(b.state_cache(layer, "s", size), (size * batch.sequences,))))
    return output


def _headed_norm(b: Builder, layer: int, source: Tensor, heads: int) -> Tensor:
    width, tokens = b.hyper.width, b.batch.tokens
    if b.weight(layer, "time_mix_ln") is None:
        return ggml.reshape(source, width, tokens)
    made = ggml.like("NORM", ggml.reshape(source, width // heads, heads, tokens))
    made = ggml.like("MUL", ggml.reshape(made, width, tokens), b.needed(layer, "time_mix_ln"))
    return ggml.like("ADD", made, b.needed(layer, "time_mix_ln", "bias"))


def _time_mix6(b: Builder, layer: int, current: Tensor, before: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    width, tokens, length = hyper.width, batch.tokens, hyper.whole("wkv.head_size")
    heads = width // length
    linear = b.weight(layer, "time_mix_first") is None  # Qwen's body: gated linear attention
    step = ggml.reshape(ggml.like("SUB", before, current), width, tokens)
    current = ggml.reshape(current, width, tokens)
    mixed = ggml.like("ADD", ggml.like("MUL", step, b.needed(layer, "time_mix_lerp_x")), current)
    first = b.needed(layer, "time_mix_w1")
    mixed = ggml.like("TANH", ggml.mul_mat(first, mixed))
    mixed = ggml.cont(ggml.permute(ggml.reshape(mixed, first.ne[1] // 5, 1, 5, tokens), 0, 1, 3, 2))
    second = b.needed(layer, "time_mix_w2")
    mixed = ggml.mul_mat(ggml.reshape(second, second.ne[0], second.ne[1], 1, 5), mixed)
    fused = b.weight(layer, "time_mix_lerp_fused")
    if fused is not None:
        step = ggml.reshape(step, width, 1, tokens)
        current = ggml.reshape(current, width, 1, tokens)
        mixed = ggml.like("ADD", ggml.like("MUL", ggml.like("ADD", mixed, fused), step), current)
        parts = _planes(mixed, width, tokens, 5)
    else:
        parts = [
            ggml.like(
                "ADD",
                ggml.like("MUL", ggml.like("ADD", part, b.needed(layer, f"time_mix_lerp_{letter}")), step),
                current,
            )
            for part, letter in zip(_planes(mixed, width, tokens, 5), "wkvrg")
        ]
    decay, key, value, receptance, gate = parts
    receptance = b.linear(layer, "time_mix_receptance", receptance)
    key, value = b.linear(layer, "time_mix_key", key), b.linear(layer, "time_mix_value", value)
    gate = ggml.like("SIGMOID" if linear else "SILU", ggml.mul_mat(b.needed(layer, "time_mix_gate"), gate))
    kv_heads = hyper.kv_heads[layer]
    if kv_heads and kv_heads != heads:
        key, value = (
            ggml.repeat(ggml.reshape(part, length, 1, kv_heads, tokens), length, heads // kv_heads, kv_heads, tokens)
            for part in (key, value)
        )
    key, value, receptance = (ggml.reshape(part, length, heads, tokens) for part in (key, value, receptance))
    inner = ggml.like("TANH", ggml.mul_mat(b.needed(layer, "time_mix_decay_w1"), decay))
    decay = ggml.mul_mat(b.needed(layer, "time_mix_decay_w2"), inner)
    decay = ggml.like("ADD", decay, b.needed(layer, "time_mix_decay"))
    decay = ggml.like("EXP", ggml.like("NEG", ggml.like("EXP", decay)))
    decay = ggml.reshape(decay, length, heads, tokens)
    if linear:
        key = ggml.like("SUB", key, ggml.like("MUL", key, decay))
    state = b.state(layer, "s", width * length)
    ne = (length * heads, tokens + length * batch.sequences, 1, 1)
    if linear:
        made = ggml.result("GATED_LINEAR_ATTN", "f32", ne, key, value, receptance, decay, state)
    else:
        bonus = b.needed(layer, "time_mix_first")
        made = ggml.result("RWKV_WKV6", "f32", ne, key, value, receptance, bonus, decay, state)
    made = _headed_norm(b, layer, _keep(b, layer, made), heads)
    made = ggml.mul_mat(b.needed(layer, "time_mix_output"), ggml.like("MUL", made, gate))
    return ggml.reshape(made, width, batch.sequence_tokens, batch.sequences)


def _time_mix7(b: Builder, layer: int, current: Tensor, before: Tensor, first: list[Tensor]) -> Tensor:
    hyper, batch = b.hyper, b.batch
    width, tokens, length = hyper.width, batch.tokens, hyper.whole("wkv.head_size")
    steps, sequences, heads = batch.sequence_tokens, batch.sequences, hyper.width // length
    gated = b.weight(layer, "time_mix_g1") is not None and b.weight(layer, "time_mix_g2") is not None
    count = 6 if gated else 5

    def low_rank(letter: str, source: Tensor, between: str = "") -> Tensor:
        inner = ggml.mul_mat(b.needed(layer, f"time_mix_{letter}1"), source)
        if between:
            inner = ggml.like(between, inner)
        return ggml.mul_mat(b.needed(layer, f"time_mix_{letter}2"), inner)

    step = ggml.repeat(ggml.like("SUB", before, current), width, steps, sequences, count)
    mixed = ggml.like("ADD", ggml.like("MUL", step, b.needed(layer, "time_mix_lerp_fused")), current)
    parts = _planes(mixed, width, tokens, count)
    receptance = ggml.mul_mat(b.needed(layer, "time_mix_receptance"), parts[0])
    decay = ggml.like("ADD", low_rank("w", parts[1], "TANH"), b.needed(layer, "time_mix_w0"))
    decay = ggml.like("EXP", b.scale(ggml.like("SIGMOID", decay)))
    key = ggml.mul_mat(b.needed(layer, "time_mix_key"), parts[2])
    value = ggml.mul_mat(b.needed(layer, "time_mix_value"), parts[3])
    if not first:
        first.append(value)
    else:
        share = ggml.like("ADD", low_rank("v", parts[3]), b.needed(layer, "time_mix_v0"))
        more = ggml.like("MUL", ggml.like("SUB", first[0], value), ggml.like("SIGMOID", share))
        value = ggml.like("ADD", value, more)
    gate = low_rank("g", parts[5], "SIGMOID") if gated else None
    rate = ggml.like("SIGMOID", ggml.like("ADD", low_rank("a", parts[4]), b.needed(layer, "time_mix_a0")))
    removal = ggml.like("MUL", key, b.needed(layer, "time_mix_k_k"))
    removal = ggml.like("L2_NORM", ggml.reshape(removal, length, heads, tokens))
    scaled = ggml.like("MUL", key, b.needed(layer, "time_mix_k_a"))
    key = ggml.like("ADD", key, ggml.like("SUB", ggml.like("MUL", rate, scaled), scaled))
    receptance, decay, key, value, rate = (
        ggml.reshape(part, length, heads, tokens) for part in (receptance, decay, key, value, rate)
    )
    state = b.state(layer, "s", width * length)
    made = ggml.result(
        "RWKV_WKV7", "f32", (length * heads, tokens + length * sequences, 1, 1), receptance, decay, key, value,
        ggml.like("NEG", removal), ggml.like("MUL", removal, rate), state,
    )  # fmt: skip
    made = _headed_norm(b, layer, _keep(b, layer, made), heads)
    weights = ggml.reshape(b.needed(layer, "time_mix_r_k"), length, heads)
    bonus = ggml.sum_rows(ggml.like("MUL", ggml.like("MUL", key, receptance), weights))
    made = ggml.like("ADD", made, ggml.reshape(ggml.like("MUL", value, bonus), width, tokens))
    if gate is not None:
        made = ggml.like("MUL", made, gate)
    made = ggml.mul_mat(b.needed(layer, "time_mix_output"), made)
    return ggml.reshape(made, width, steps, sequences)
