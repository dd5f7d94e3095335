# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute graphs with a recurrent state: delta nets, Mamba, short convolutions, linear attention, and hybrids.

Sources: llama.cpp, src/models/delta-net-base.cpp, mamba-base.cpp, lfm2.cpp and others named with their function.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._decoder import (
    Decoder,
    finish,
    latent_experts,
    mixed_feed_forward,
    project,
)
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._latent import absorbed


def qwen35(b: Builder) -> None:
    """Qwen 3.5 and 3-Next: gated delta nets, every fourth layer gated attention."""
    hyper = b.hyper
    traits = Decoder(gather_last=True, kept_hidden="norm")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        b.graph.expand(normed)
        made = delta_net(b, layer, normed) if hyper.recurrent[layer] else gated_attention(b, layer, normed)
        middle = ggml.like("ADD", made, residual)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "post_attention_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


def gated_attention(b: Builder, layer: int, source: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Attention, over the cells that an index chose where there is one; half of its queries gate what comes out."""
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
    made = b.attention(layer, b.rope(query), b.rope(keys), values, output=None, chosen=chosen)
    made = ggml.like("MUL", made, ggml.like("SIGMOID", gate))
    return b.linear(layer, "attn_output", made)


def delta_net(b: Builder, layer: int, source: Tensor) -> Tensor:
    """A gated delta net (delta-net-base.cpp); qwen4exp copies its convolution's state and gates by a sigmoid."""
    hyper, batch = b.hyper, b.batch
    later = hyper.architecture == "qwen4exp"
    sequences, steps = batch.sequences, batch.sequence_tokens
    inner, state = hyper.whole("ssm.inner_size"), hyper.whole("ssm.state_size")
    groups, heads = hyper.whole("ssm.group_count"), hyper.whole("ssm.time_step_rank")
    length = inner // heads
    mixed, gate_z = _mixed(b, layer, source)
    if b.weight(layer, "ssm_beta") is not None:
        beta = ggml.mul_mat(b.needed(layer, "ssm_beta"), source)
        beta = ggml.like("SIGMOID", ggml.reshape(beta, 1, heads, steps, sequences))
        alpha = ggml.reshape(ggml.mul_mat(b.needed(layer, "ssm_alpha"), source), heads, steps, sequences)
    else:  # qwen3next: both in one projection, by group of keys
        per = heads // groups
        both = ggml.mul_mat(b.needed(layer, "ssm_ba"), source)
        both = ggml.reshape(both, 2 * per, groups, steps, sequences)
        beta = ggml.view(both, (per, groups, steps, sequences), both.nb[1:])
        alpha = ggml.view(both, (per, groups, steps, sequences), both.nb[1:], 4 * per)
        beta = ggml.like("SIGMOID", ggml.cont(beta, 1, heads, steps, sequences))
        alpha = ggml.cont(alpha, heads, steps, sequences)
    alpha = ggml.like("SOFTPLUS", ggml.like("ADD", alpha, b.needed(layer, "ssm_dt", "bias")))
    gate = ggml.reshape(ggml.like("MUL", alpha, b.needed(layer, "ssm_a")), 1, heads, steps, sequences)
    kernel = b.needed(layer, "ssm_conv1d")
    channels = inner + 2 * groups * state
    conv = conv_state(b, layer, mixed, kernel.ne[0], channels, copied=later)
    size = state * inner
    recurrent = ggml.reshape(b.state(layer, "s", size), length, length, heads, sequences)
    mixed = ggml.like("SILU", ssm_conv(conv, kernel))
    total = state * groups * 2 + length * heads
    nb = (4 * total, 4 * total * steps)
    query = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, *nb))
    keys = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, *nb), 4 * state * groups)
    values = ggml.view(mixed, (length, heads, steps, sequences), (4 * length, *nb), 8 * state * groups)
    query, keys = _unit(b, query), _unit(b, keys)
    # Keys for every head of values: the one operation shares them out itself, but not as qwen3next orders its heads.
    if groups != heads and (hyper.architecture == "qwen3next" or not b.fuses("GATED_DELTA_NET")):
        query, keys = (ggml.repeat(part, state, heads, steps, sequences) for part in (query, keys))
    made = gated_delta_net(b, layer, query, keys, values, gate, beta, recurrent, size)
    z = ggml.reshape(gate_z, length, heads, steps, sequences)
    normed = b.layer_norm(made, layer, "ssm_norm")
    made = ggml.like("MUL", normed, ggml.like("SIGMOID" if later else "SILU", z))
    made = ggml.reshape(made, length * heads, steps, sequences)
    made = b.linear(layer, "ssm_out", made)
    return ggml.reshape(made, hyper.width, steps * sequences)


def _unit(b: Builder, source: Tensor) -> Tensor:
    """Vectors of length 1."""
    if b.batch.rules.delta_norm_scaled:
        return b.scale(ggml.like("RMS_NORM", source))
    return ggml.like("L2_NORM", source)


def _mixed(b: Builder, layer: int, source: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, keys and values in one, and what gates the output."""
    hyper, batch = b.hyper, b.batch
    steps, sequences = batch.sequence_tokens, batch.sequences
    if b.weight(layer, "attn_qkv") is not None:
        mixed = b.linear(layer, "attn_qkv", source)
        return ggml.reshape(mixed, mixed.ne[0], steps, sequences), b.linear(layer, "attn_gate", source)
    key, groups = hyper.whole("ssm.state_size"), hyper.whole("ssm.group_count")
    value = hyper.whole("ssm.inner_size") // groups
    made = ggml.mul_mat(b.needed(layer, "ssm_in"), source)
    made = ggml.reshape(made, 2 * key + 2 * value, groups, steps, sequences)
    parts = []
    offset = 0
    for width in (key, key, value, value):
        parts.append(ggml.view(made, (width, groups, steps, sequences), made.nb[1:], 4 * offset))
        offset += width
    gate = ggml.cont(parts[3])
    flat = [ggml.cont(part, part.ne[0] * groups, steps, sequences) for part in parts[:3]]
    return ggml.concat(ggml.concat(flat[0], flat[1], 0), flat[2], 0), gate


def ssm_conv(source: Tensor, kernel: Tensor) -> Tensor:
    ne = (kernel.ne[1], source.ne[0] - kernel.ne[0] + 1, source.ne[2], 1)
    return ggml.result("SSM_CONV", "f32", ne, source, kernel)


def conv_state(
    b: Builder, layer: int, source: Tensor, kernel: int, channels: int, what: str = "r", copied: bool = False
) -> Tensor:
    """The last columns of the sequence so far in front of the batch, and the new last ones back into the cache, some
    made contiguous first."""
    sequences = b.batch.sequences
    size = (kernel - 1) * channels
    states = ggml.reshape(b.state(layer, what, size), kernel - 1, channels, sequences)
    joined = ggml.concat(states, ggml.transpose(source), 0)
    last = ggml.view(joined, (kernel - 1, channels, sequences), joined.nb[1:3], 4 * (joined.ne[0] - kernel + 1))
    b.graph.expand(ggml.cpy(ggml.cont(last) if copied else last, b.state_rows(layer, what, size)))
    return joined


def gated_delta_net(
    b: Builder, layer: int, query: Tensor, keys: Tensor, values: Tensor, gate: Tensor, beta: Tensor, state: Tensor,
    size: int, flat: bool = False,
) -> Tensor:  # fmt: skip
    """The outputs; the new states go into the cache."""
    make = _fused_delta_net if b.fuses("GATED_DELTA_NET") else _chunked_delta_net
    output, new = make(b, layer, query, keys, values, gate, beta, state)
    store = b.state_cache(layer, "s", size)
    target = ggml.view(store, (size * values.ne[3],)) if flat else b.state_rows(layer, "s", size)
    b.graph.expand(ggml.cpy(new, target))
    return output


def _fused_delta_net(
    b: Builder, layer: int, query: Tensor, keys: Tensor, values: Tensor, gate: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One operation gives the outputs and, behind them, the new states (ggml_gated_delta_net)."""
    length, heads, steps, sequences = values.ne
    made = ggml.result(
        "GATED_DELTA_NET", "f32", (length * heads, steps * sequences + length * sequences, 1, 1),
        query, keys, values, gate, beta, state,
    )  # fmt: skip
    b.fused(layer, made)
    output = ggml.view(made, values.ne, (4 * length, 4 * length * heads, 4 * length * heads * steps))
    new = ggml.view(
        made, (length, length, heads, sequences), (4 * length, 4 * length**2, 4 * length**2 * heads),
        4 * length * heads * steps * sequences,
    )  # fmt: skip
    return output, new


def _chunked_delta_net(
    b: Builder, _layer: int, query: Tensor, keys: Tensor, values: Tensor, gate: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same out of plain operations, chunk by chunk (delta-net-base.cpp, build_delta_net_chunking). A gate by
    channel takes smaller chunks than one by head."""
    length, heads, steps, sequences = values.ne
    by_channel = gate.ne[:2] == keys.ne[:2]
    size = 16 if by_channel else 64
    more = -steps % size
    count = (steps + more) // size
    key_lines, lines = query.ne[1] * sequences, heads * sequences
    query, keys, values, gate, beta = (
        ggml.pad(ggml.permute(part, 0, 2, 1, 3), 0, more) for part in (b.scale(query), keys, values, gate, beta)
    )
    values_beta, keys_beta = ggml.like("MUL", values, beta), ggml.like("MUL", keys, beta)
    query, keys = (ggml.reshape(part, length, size, count, key_lines) for part in (query, keys))
    keys_beta, values_beta = (ggml.reshape(part, length, size, count, lines) for part in (keys_beta, values_beta))
    gate = ggml.reshape(gate, gate.ne[0], size, count, lines)
    summed = ggml.like("CUMSUM", ggml.cont(ggml.transpose(gate)))
    if by_channel:
        blocks = count * key_lines
        decay = _decay(
            ggml.reshape(summed, size, 1, length, blocks), ggml.reshape(summed, 1, size, length, blocks), size
        )
        decay = ggml.cont(ggml.permute(decay, 2, 1, 0, 3), length, size, size, blocks)
        column = ggml.reshape(keys, length, 1, size, blocks)
        scores, reads = (
            ggml.mul_mat(ggml.like("MUL", decay, ggml.reshape(part, length, size, 1, blocks)), column)
            for part in (keys_beta, query)
        )
        scores, reads = (
            ggml.cont(ggml.transpose(ggml.reshape(part, size, size, count, lines))) for part in (scores, reads)
        )
    else:
        decay = _decay(summed, ggml.reshape(summed, 1, size, count, lines), size)
        scores, reads = (ggml.like("MUL", ggml.mul_mat(keys, part), decay) for part in (keys_beta, query))
    reads = ggml.like("TRI", reads)
    scores = ggml.like("TRI", scores)
    ones = ggml.like("FILL", ggml.view(scores, (size,)))
    identity = ggml.result("DIAG", "f32", (size, size, 1, 1), ones)
    left = ggml.like("ADD", scores, identity)
    negated = ggml.like("NEG", scores)
    solved = ggml.like("ADD", ggml.result("SOLVE_TRI", "f32", negated.ne, left, negated), identity)
    values = ggml.mul_mat(ggml.cont(ggml.transpose(values_beta)), solved)
    opened = ggml.like("EXP", summed)
    decayed = ggml.like("MUL", ggml.cont(ggml.transpose(keys_beta)), opened)
    decayed = ggml.mul_mat(decayed, solved)
    asked = ggml.like("MUL", query, ggml.cont(ggml.transpose(opened)))
    last = ggml.cont(ggml.view(summed, (1, *summed.ne[1:]), summed.nb[1:], 4 * (size - 1)))
    last_opened = ggml.transpose(ggml.like("EXP", last))
    rest = ggml.like("EXP", ggml.like("NEG", ggml.like("SUB", summed, last)))
    kept = ggml.like("MUL", keys, ggml.cont(ggml.transpose(rest)))
    kept = ggml.cont(ggml.transpose(kept))
    state = ggml.reshape(state, length, length, 1, lines)
    turned = ggml.cont(ggml.transpose(values))
    for index in range(count):
        before = ggml.mul_mat(_chunk(decayed, index), state)
        fresh = ggml.like("SUB", _chunk(turned, index), before)
        inside = ggml.mul_mat(fresh, _chunk(reads, index))
        across = ggml.mul_mat(state, _chunk(asked, index))
        values = ggml.inplace("SET", values, ggml.like("ADD", across, inside))
        learned = ggml.mul_mat(_chunk(kept, index), fresh)
        state = ggml.like("ADD", ggml.like("MUL", state, _chunk(last_opened, index)), learned)
    row = 4 * length
    output = ggml.view(values, (length, steps, heads, sequences), (row, row * size * count, row * size * count * heads))
    return ggml.permute(output, 0, 2, 1, 3), ggml.reshape(state, length, length, heads, sequences)


def _decay(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """How much of each step is left at each later one of its chunk."""
    spread = ggml.repeat(columns, size, size, *columns.ne[2:])
    return ggml.like("EXP", ggml.like("TRI", ggml.like("SUB", spread, rows)))


def _chunk(source: Tensor, index: int) -> Tensor:
    ne, nb = source.ne, source.nb
    return ggml.view(source, (ne[0], ne[1], 1, ne[3]), nb[1:], index * nb[2])


# --- Mamba ------------------------------------------------------------------------------------------------------------


def mamba(b: Builder) -> None:
    """Mamba and Mamba 2: no attention, nothing grows with the context."""
    current = b.embedding()
    block = mamba2_block if b.hyper.architecture == "mamba2" else mamba_block
    for layer in b.numbers:
        made = block(b, layer, b.layer_norm(current, layer, "attn_norm"))
        made, current = b.wanted(layer, made, current)
        current = ggml.like("ADD", made, current)
    finish(b, Decoder(), current)


def jamba(b: Builder) -> None:
    """Mamba layers with attention between them, experts in some."""
    hyper = b.hyper
    traits = Decoder(rope="none", normed_weights=False)
    current = b.embedding()
    for layer in b.numbers:
        normed = b.layer_norm(current, layer, "attn_norm")
        if hyper.recurrent[layer]:
            made = mamba_block(b, layer, normed)
        else:
            made = b.attention(layer, *project(b, traits, layer, normed))
        made, current = b.wanted(layer, made, current)
        middle = ggml.like("ADD", current, made)
        fed = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", middle, fed)
    finish(b, traits, current)


def granite_hybrid(b: Builder) -> None:
    """Mamba 2 layers with attention between them, scaled residuals."""
    hyper = b.hyper
    traits = Decoder(
        rope="all" if hyper.truth("rope.scaling.finetuned", True) else "none", factors=True,
        scaled_logits=bool(hyper.real("logit_scale")),
    )  # fmt: skip
    scaled = bool(hyper.real("residual_scale"))
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        if hyper.recurrent[layer]:
            made = mamba2_block(b, layer, normed)
        else:
            made = b.attention(layer, *project(b, traits, layer, normed))
        made, residual = b.wanted(layer, made, residual)
        middle = ggml.like("ADD", b.scale(made) if scaled else made, residual)
        fed = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", b.scale(fed) if scaled else fed, middle)
    finish(b, traits, current)


def falcon_h1(b: Builder) -> None:
    """Attention and Mamba 2 side by side in every layer."""
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        made = mamba2_block(b, layer, b.layer_norm(current, layer, "attn_norm"))
        made = ggml.like("ADD", attended, made)
        middle = ggml.like("ADD", made, current)
        made, middle = b.wanted(layer, made, middle)
        fed = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", fed, middle)
    finish(b, traits, current)


def nemotron_h(b: Builder) -> None:
    """Each layer is one thing: Mamba 2, attention, or a feed-forward network."""
    hyper = b.hyper
    traits = Decoder(rope="none", gather_last=True, kept_hidden="norm")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        if hyper.recurrent[layer]:
            made = mamba2_block(b, layer, normed)
        elif b.weight(layer, "ffn_down") is None and b.weight(layer, "ffn_down_exps") is None:
            made = b.attention(layer, *project(b, traits, layer, normed))
        elif b.weight(layer, "ffn_gate_inp") is None:
            made = b.feed_forward(layer, normed, "RELU_SQR")
        else:
            made = latent_experts(b, layer, normed, "RELU_SQR", "sigmoid")
            made = ggml.like("ADD", made, b.shared_expert(layer, normed, "RELU_SQR"))
        current = ggml.like("ADD", made, residual)
    finish(b, traits, current)


def _scan(
    b: Builder, layer: int, inner: Tensor, step: Tensor, a: Tensor, left: Tensor, right: Tensor,
    shape: tuple[int, int, int],
) -> Tensor:  # fmt: skip
    """The selective scan over the layer's states; the new ones stand behind the outputs (ggml_ssm_scan)."""
    state, length, heads = shape
    size = state * length * heads

    def rows(states: Tensor, ids: Tensor) -> Tensor:
        shaped = ggml.reshape(states, state, length, heads, states.ne[1])
        count = inner.elements + size * ids.ne[0]
        return ggml.result("SSM_SCAN", "f32", (count, 1, 1, 1), shaped, inner, step, a, left, right, ids)

    return b.state(layer, "s", size, rows)


def mamba_block(b: Builder, layer: int, source: Tensor) -> Tensor:
    """mamba-base.cpp, build_mamba_layer."""
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    kernel, inner = hyper.whole("ssm.conv_kernel"), hyper.whole("ssm.inner_size")
    state, rank = hyper.whole("ssm.state_size"), hyper.whole("ssm.time_step_rank")
    size = (kernel - 1) * inner
    conv = ggml.reshape(b.state(layer, "r", size), kernel - 1, inner, sequences)
    source = ggml.reshape(source, source.ne[0], steps, sequences)
    both = b.linear(layer, "ssm_in", source)
    x = ggml.view(both, (inner, steps, sequences), both.nb[1:3])
    z = ggml.view(both, (inner, steps, sequences), both.nb[1:3], 4 * inner)
    joined = ggml.concat(conv, ggml.transpose(x), 0)
    last = ggml.view(joined, (kernel - 1, inner, sequences), joined.nb[1:3], steps * 4)
    store = b.state_cache(layer, "r", size)
    b.graph.expand(ggml.cpy(last, ggml.view(store, (size * sequences,))))
    x = ssm_conv(joined, b.needed(layer, "ssm_conv1d"))
    x = ggml.like("SILU", ggml.like("ADD", x, b.needed(layer, "ssm_conv1d", "bias")))
    parts = ggml.mul_mat(b.needed(layer, "ssm_x"), x)
    step = ggml.view(parts, (rank, steps, sequences), parts.nb[1:3])
    nb = (4 * state, *parts.nb[1:3])
    left = ggml.view(parts, (state, 1, steps, sequences), nb, 4 * rank)
    right = ggml.view(parts, (state, 1, steps, sequences), nb, 4 * (rank + state))
    names = ("ssm_dt_norm", "ssm_b_norm", "ssm_c_norm")
    if hyper.truth("ssm.dt_b_c_rms") or all(b.weight(layer, name) is not None for name in names):
        step, left, right = (b.norm(part, b.weight(layer, name)) for name, part in zip(names, (step, left, right)))
    elif batch.rules.mamba_step_copied:
        step = ggml.cont(step)
    step = b.linear(layer, "ssm_dt", step)
    shaped = ggml.reshape(x, 1, inner, steps, sequences)
    made = _scan(b, layer, shaped, step, b.needed(layer, "ssm_a"), left, right, (state, 1, inner))
    store = b.state_cache(layer, "s", state * inner)
    new = ggml.view(made, (state * inner * sequences,), (), shaped.nb[3] * sequences)
    b.graph.expand(ggml.cpy(new, ggml.view(store, (state * inner * sequences,))))
    y = ggml.view(made, (inner, steps, sequences), shaped.nb[2:4])
    y = ggml.like("ADD", y, ggml.like("MUL", x, b.needed(layer, "ssm_d")))
    y = ggml.glu("SWIGLU", ggml.cont(z), y)
    out = b.linear(layer, "ssm_out", y)
    return ggml.reshape(out, out.ne[0], steps * sequences)


def mamba2_block(b: Builder, layer: int, source: Tensor) -> Tensor:
    """mamba-base.cpp, build_mamba2_layer."""
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    kernel, inner = hyper.whole("ssm.conv_kernel"), hyper.whole("ssm.inner_size")
    state, heads = hyper.whole("ssm.state_size"), hyper.whole("ssm.time_step_rank")
    groups = hyper.whole("ssm.group_count")
    length = inner // heads
    channels = inner + 2 * groups * state
    size = (kernel - 1) * channels
    conv = ggml.reshape(b.state(layer, "r", size), kernel - 1, channels, sequences)
    if batch.rules.mamba2_flat:
        both = b.linear(layer, "ssm_in", source)
        both = ggml.reshape(both, both.ne[0], steps, sequences)
    else:
        both = b.linear(layer, "ssm_in", ggml.reshape(source, source.ne[0], steps, sequences))
    nb = both.nb
    z = ggml.view(both, (length, heads, steps, sequences), (4 * length, nb[1], nb[2]))
    mixed = ggml.view(both, (channels, steps, sequences), nb[1:3], 4 * inner)
    step = ggml.view(both, (heads, steps, sequences), nb[1:3], 4 * (2 * inner + 2 * groups * state))
    joined = ggml.concat(conv, ggml.transpose(mixed), 0)
    last = ggml.view(joined, (kernel - 1, channels, sequences), joined.nb[1:3], steps * 4)
    b.graph.expand(ggml.cpy(last, b.state_rows(layer, "r", size)))
    mixed = ssm_conv(joined, b.needed(layer, "ssm_conv1d"))
    mixed = ggml.like("SILU", ggml.like("ADD", mixed, b.needed(layer, "ssm_conv1d", "bias")))
    nb = mixed.nb
    x = ggml.view(mixed, (length, heads, steps, sequences), (4 * length, nb[1], nb[2]))
    left = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, nb[1], nb[2]), 4 * inner)
    right = ggml.view(mixed, (state, groups, steps, sequences), (4 * state, nb[1], nb[2]), 4 * (inner + groups * state))
    step = ggml.like("ADD", ggml.cont(step), b.needed(layer, "ssm_dt", "bias"))
    made = _scan(b, layer, x, step, b.needed(layer, "ssm_a"), left, right, (state, length, heads))
    total = state * inner
    new = ggml.view(made, (total, sequences, 1), (4 * total, 4 * total * sequences), 4 * x.elements)
    store = b.state_cache(layer, "s", total)
    b.graph.expand(ggml.cpy(new, ggml.view(store, (total, sequences, 1), (store.nb[1], store.nb[1] * sequences))))
    y = ggml.view(made, (length, heads, steps, sequences), (x.nb[1], heads * x.nb[1], steps * heads * x.nb[1]))
    y = ggml.like("ADD", y, ggml.like("MUL", x, b.needed(layer, "ssm_d")))
    y = ggml.glu("SWIGLU", ggml.cont(z), y)
    if b.weight(layer, "ssm_norm") is not None:
        y = b.layer_norm(ggml.reshape(y, inner // groups, groups, steps, sequences), layer, "ssm_norm")
    if batch.rules.mamba2_flat:
        return b.linear(layer, "ssm_out", ggml.reshape(y, inner, steps * sequences))
    out = b.linear(layer, "ssm_out", ggml.reshape(y, inner, steps, sequences))
    return ggml.reshape(out, out.ne[0], steps * sequences)


# --- short convolutions -----------------------------------------------------------------------------------------------


def lfm2(b: Builder) -> None:
    """LFM2: gated short convolutions, attention in some layers."""
    hyper = b.hyper
    traits = Decoder(gating="")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        if hyper.recurrent[layer]:
            made = _short_conv(b, layer, normed)
        else:
            made = b.attention(layer, *project(b, traits, layer, normed))
        made, residual = b.wanted(layer, made, residual)
        middle = ggml.like("ADD", residual, made)
        fed = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", middle, fed)
    hidden = b.norm(current, b.top("token_embd_norm.weight"))
    b.finish(hidden, b.head(hidden))


def _short_conv(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    sequences, steps, width = batch.sequences, batch.sequence_tokens, hyper.width
    kept = hyper.whole("shortconv.l_cache") - 1
    source = ggml.reshape(source, source.ne[0], steps, sequences)
    made = ggml.mul_mat(b.needed(layer, "shortconv.in_proj"), source)
    chunk = made.ne[0] // 3
    left, middle, right = (
        ggml.view(made, (chunk, steps, sequences), made.nb[1:3], 4 * chunk * number) for number in range(3)
    )
    mixed = ggml.transpose(ggml.like("MUL", left, right))
    conv = ggml.reshape(b.state(layer, "r", kept * width), kept, width, sequences)
    joined = ggml.concat(conv, mixed, 0)
    last = ggml.view(joined, (kept, width, sequences), joined.nb[1:3], 4 * (joined.ne[0] - kept))
    b.graph.expand(ggml.cpy(last, b.state_rows(layer, "r", kept * width)))
    y = ggml.like("MUL", middle, ssm_conv(joined, b.needed(layer, "shortconv.conv")))
    y = ggml.mul_mat(b.needed(layer, "shortconv.out_proj"), y)
    return ggml.reshape(y, y.ne[0], steps * sequences)


# --- PLaMo 2 ----------------------------------------------------------------------------------------------------------


def plamo2(b: Builder) -> None:
    """Mamba layers of its own kind with attention between them (plamo2.cpp)."""
    hyper = b.hyper
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        if hyper.recurrent[layer]:
            made = _plamo2_block(b, layer, normed)
        else:
            made = b.attention(layer, *project(b, traits, layer, normed))
        early = b.batch.rules.early_rows
        if early:
            made, residual = b.wanted(layer, made, residual)
        middle = ggml.like("ADD", b.layer_norm(made, layer, "post_attention_norm"), residual)
        fed = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
        fed = b.layer_norm(fed, layer, "post_ffw_norm")
        if not early:
            fed, middle = b.wanted(layer, fed, middle)
        current = ggml.like("ADD", fed, middle)
    finish(b, traits, current)


def _plamo2_block(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    kernel, inner = hyper.whole("ssm.conv_kernel"), hyper.whole("ssm.inner_size")
    state, heads = hyper.whole("ssm.state_size"), hyper.whole("ssm.time_step_rank")
    length = inner // heads
    channels = inner + 2 * hyper.whole("ssm.group_count") * state
    size = (kernel - 1) * channels
    conv = ggml.reshape(b.state(layer, "r", size), kernel - 1, channels, sequences)
    source = ggml.reshape(source, source.ne[0], steps, sequences)
    both = ggml.permute(b.linear(layer, "ssm_in", source), 0, 2, 1, 3)
    both = ggml.cont(both, length * 2, heads, steps, sequences)
    x = ggml.view(both, (length, heads, steps, sequences), both.nb[1:], 4 * length)
    x = ggml.cont(x, length * heads, steps, sequences)
    z = ggml.view(both, (length, heads, steps, sequences), both.nb[1:])
    joined = ggml.concat(conv, ggml.transpose(x), 0)
    last = ggml.view(joined, (kernel - 1, inner, sequences), joined.nb[1:3], 4 * steps)
    store = b.state_cache(layer, "r", size)
    b.graph.expand(ggml.cpy(last, ggml.view(store, (size * sequences,))))
    x = ggml.like("SILU", ssm_conv(joined, b.needed(layer, "ssm_conv1d")))
    parts = ggml.mul_mat(b.needed(layer, "ssm_x"), x)
    narrow = max(64, hyper.width // 16)
    left = ggml.view(parts, (state, steps, sequences), parts.nb[1:3])
    right = ggml.view(parts, (state, steps, sequences), parts.nb[1:3], 4 * state)
    step = ggml.view(parts, (narrow, steps, sequences), parts.nb[1:3], 8 * state)
    left, right = b.layer_norm(left, layer, "ssm_b_norm"), b.layer_norm(right, layer, "ssm_c_norm")
    step = b.linear(layer, "ssm_dt", b.layer_norm(step, layer, "ssm_dt_norm"))
    a = ggml.reshape(b.needed(layer, "ssm_a"), 1, heads)
    nb = (4 * length, 4 * length * heads, 4 * length * heads * steps)
    x = ggml.view(x, (length, heads, steps, sequences), nb)
    left, right = (ggml.view(part, (state, 1, steps, sequences), (4 * state, *part.nb[1:3])) for part in (left, right))
    made = _scan(b, layer, x, step, a, left, right, (state, length, heads))
    total = state * inner
    store = b.state_cache(layer, "s", total)
    new = ggml.view(made, (total * sequences,), (), 4 * inner * steps * sequences)
    b.graph.expand(ggml.cpy(new, ggml.view(store, (total * sequences,))))
    y = ggml.view(made, (length, heads, steps, sequences), nb)
    y = ggml.like("ADD", y, ggml.like("MUL", x, ggml.reshape(b.needed(layer, "ssm_d"), 1, heads)))
    y = ggml.glu("SWIGLU", ggml.cont(z), y)
    y = ggml.view(y, (inner, steps, sequences), y.nb[2:4])
    out = b.linear(layer, "ssm_out", y)
    return ggml.reshape(out, out.ne[0], steps * sequences)


# --- Kimi delta attention ---------------------------------------------------------------------------------------------


def kimi_linear(b: Builder) -> None:
    """Delta attention by channel, latent attention in some layers (kimi-linear.cpp, bailingmoe3.cpp)."""
    hyper = b.hyper
    bailing = hyper.architecture == "bailingmoe3"
    traits = Decoder(
        gating="", normed_weights=None if bailing else True, gather_last=bailing, kept_hidden="norm" if bailing else ""
    )
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        if not bailing:
            b.graph.expand(normed)
        made = (kimi_delta if hyper.recurrent[layer] else kimi_latent)(b, layer, normed)
        if layer == b.last and not traits.gather_last:
            made, residual = b.gather(made, residual)
        middle = ggml.like("ADD", made, residual)
        fed = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", fed, middle)
    finish(b, traits, current)


def kimi_latent(b: Builder, layer: int, source: Tensor) -> Tensor:
    """Latent attention, its result opened by a gate: none, one a head (bailingmoe3) or one a channel (kimi-k3)."""
    hyper, tokens = b.hyper, b.batch.tokens
    bailing = hyper.architecture == "bailingmoe3"
    if b.weight(layer, "attn_q_a") is not None:
        query = ggml.mul_mat(b.needed(layer, "attn_q_a"), source)
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), b.layer_norm(query, layer, "attn_q_a_norm"))
    else:
        query = ggml.mul_mat(b.needed(layer, "attn_q"), source)
    gate = b.weight(layer, "attn_gate")
    made = absorbed(b, layer, source, query, bailing, output=None if bailing or gate is not None else "attn_output")
    if gate is None:
        return made
    if not bailing:
        made = ggml.like("MUL", made, ggml.like("SIGMOID", ggml.mul_mat(gate, source)))
        return ggml.mul_mat(b.needed(layer, "attn_output"), made)
    heads, wide = hyper.heads[layer], hyper.value_length_mla
    opened = ggml.like("SIGMOID", ggml.reshape(ggml.mul_mat(gate, source), 1, heads, tokens))
    made = ggml.like("MUL", ggml.reshape(made, wide, heads, tokens), opened)
    return ggml.mul_mat(b.needed(layer, "attn_output"), ggml.cont(made, wide * heads, tokens))


def _kimi_conv(b: Builder, layer: int, states: Tensor, number: int, source: Tensor, name: str, conv: str) -> Tensor:
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    heads, length, kernel = hyper.heads[0], hyper.whole("kda.head_dim"), hyper.whole("ssm.conv_kernel")
    inner = heads * length
    size = (kernel - 1) * inner
    nb = (4 * (kernel - 1), 12 * size)
    mine = ggml.view(states, (kernel - 1, inner, sequences), nb, 4 * number * size)
    mapped = ggml.reshape(ggml.mul_mat(b.needed(layer, name), source), inner, steps, sequences)
    joined = ggml.concat(mine, ggml.transpose(mapped), 0)
    last = ggml.view(joined, (kernel - 1, inner, sequences), joined.nb[1:3], 4 * steps)
    store = b.state_cache(layer, "r", 3 * size)
    b.graph.expand(ggml.cpy(last, ggml.view(store, (kernel - 1, inner, sequences), nb, 4 * number * size)))
    made = ssm_conv(joined, ggml.reshape(b.needed(layer, conv), kernel, inner))
    made = ggml.like("SILU", ggml.reshape(made, inner, batch.tokens))
    return ggml.reshape(made, length, heads, steps, sequences)


def kimi_delta(b: Builder, layer: int, source: Tensor) -> Tensor:
    """Gated delta attention with a decay for each channel (kimi-linear.cpp, bailingmoe3.cpp, kimi-k3.cpp)."""
    hyper, batch = b.hyper, b.batch
    sequences, steps, tokens = batch.sequences, batch.sequence_tokens, batch.tokens
    heads, length, kernel = hyper.heads[0], hyper.whole("kda.head_dim"), hyper.whole("ssm.conv_kernel")
    bailing = hyper.architecture == "bailingmoe3"
    inner = heads * length
    states = b.state(layer, "r", 3 * (kernel - 1) * inner)
    query, key, value = (
        _kimi_conv(b, layer, states, number, source, f"attn_{letter}", f"ssm_conv1d_{letter}")
        for number, letter in enumerate("qkv")
    )
    gate = ggml.mul_mat(b.needed(layer, "ssm_f_a"), source)
    if not bailing:
        gate = ggml.mul_mat(b.needed(layer, "ssm_f_b"), gate)
    gate = ggml.like("ADD", gate, b.needed(layer, "ssm_dt", "bias"))
    a = ggml.reshape(b.needed(layer, "ssm_a"), 1, heads, 1)
    if bailing:
        gate = ggml.like("MUL", ggml.reshape(gate, length, heads, tokens), a)
        gate = b.scale(ggml.like("SIGMOID", gate))
    elif hyper.architecture == "kimi-k3" and hyper.get("kda.gate_lower_bound") is not None:
        gate = ggml.like("MUL", ggml.reshape(gate, length, heads, tokens), a)
        gate = b.scale(ggml.like("SIGMOID", b.scale(gate)))
    else:
        gate = ggml.like("MUL", ggml.reshape(ggml.like("SOFTPLUS", gate), length, heads, tokens), a)
    gate = ggml.reshape(gate, length, heads, steps, sequences)
    beta = ggml.mul_mat(b.needed(layer, "ssm_beta"), source)
    beta = ggml.like("SIGMOID", ggml.reshape(beta, 1, heads, steps, sequences))
    size = length * length * heads
    state = ggml.reshape(b.state(layer, "s", size), length, length, heads, sequences)
    query, key = _unit(b, query), _unit(b, key)
    made = gated_delta_net(
        b, layer, query, key, value, gate, beta, state, size, flat=hyper.architecture == "kimi-linear"
    )
    made = ggml.cont(made)
    whole = b.weight(layer, "ssm_g")
    opened = ggml.mul_mat(whole if whole is not None else b.needed(layer, "ssm_g_a"), source)
    if whole is None and not bailing:
        opened = ggml.mul_mat(b.needed(layer, "ssm_g_b"), opened)
    opened = ggml.reshape(opened, length, heads, tokens)
    made = b.layer_norm(ggml.reshape(made, length, heads, tokens), layer, "ssm_norm")
    made = ggml.like("MUL", made, ggml.like("SIGMOID", opened))
    return ggml.mul_mat(b.needed(layer, "attn_output"), ggml.cont(made, inner, tokens))


# --- lightning attention ----------------------------------------------------------------------------------------------


def minimax01(b: Builder) -> None:
    """Linear attention with decay, every eighth layer full; residuals of the normed input (minimax-01.cpp)."""
    hyper = b.hyper
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        normed = b.layer_norm(current, layer, "attn_norm")
        residual = normed
        if hyper.recurrent[layer]:
            made = _lightning(b, layer, normed)
        else:
            made = b.attention(layer, *project(b, traits, layer, normed))
        made, residual = b.wanted(layer, made, residual)
        middle = ggml.like("ADD", made, b.scale(residual))
        normed = b.layer_norm(middle, layer, "ffn_norm")
        fed = b.experts(layer, normed, normed=True, scaled=hyper.real("expert_weights_scale") not in (0.0, 1.0))
        current = ggml.like("ADD", fed, b.scale(normed))
    finish(b, traits, current)


def _lightning(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    sequences, steps = batch.sequences, batch.sequence_tokens
    heads, length = hyper.heads[0], hyper.key_length
    b.graph.expand(b.state(layer, "r", 0))
    slopes = b.scale(b.input("slopes", "f32", heads))
    source = ggml.reshape(source, source.ne[0], steps, 1, sequences)
    mixed = ggml.like("SILU", ggml.mul_mat(b.needed(layer, "attn_qkv"), source))
    mixed = ggml.reshape(mixed, length * 3, heads, steps, sequences)
    query, key, value = (
        ggml.view(mixed, (length, heads, steps, sequences), mixed.nb[1:], 4 * length * number) for number in range(3)
    )
    size = length * length * heads
    old = ggml.reshape(b.state(layer, "s", size), length, length, heads, sequences)
    decay_q, decay_k = (
        ggml.like("EXP", b.scale(b.input(name, "f32", 1, heads, steps, sequences))) for name in ("decay_q", "decay_k")
    )
    decay = ggml.like("EXP", b.scale(b.input("decay", "f32", steps, steps, heads, sequences)))
    outer = ggml.mul_mat(old, ggml.permute(ggml.like("MUL", query, decay_q), 0, 2, 1, 3))
    scores = ggml.mul_mat(ggml.permute(key, 0, 2, 1, 3), ggml.permute(query, 0, 2, 1, 3))
    scores = ggml.like("MUL", scores, decay)
    turned = ggml.cont(ggml.permute(value, 1, 2, 0, 3))
    made = ggml.like("ADD", outer, ggml.mul_mat(turned, scores))
    b.graph.expand(made)
    block = ggml.reshape(ggml.like("EXP", b.scale(slopes)), 1, 1, heads)
    kept = ggml.like("MUL", old, block)
    keys = ggml.cont(ggml.permute(ggml.like("MUL", key, decay_k), 1, 2, 0, 3))
    new = ggml.like("ADD", kept, ggml.mul_mat(keys, turned))
    store = b.state_cache(layer, "s", size)
    b.graph.expand(ggml.cpy(new, ggml.view(store, (size * sequences,))))
    made = ggml.cont(ggml.permute(made, 0, 2, 1, 3))
    made = ggml.reshape(made, made.ne[0] * made.ne[1], made.ne[2], 1, made.ne[3])
    made = b.layer_norm(made, layer, "attn_norm_2")
    gate = ggml.like("SIGMOID", ggml.mul_mat(b.needed(layer, "attn_gate"), source))
    made = ggml.mul_mat(b.needed(layer, "attn_output"), ggml.like("MUL", gate, made))
    return ggml.reshape(made, made.ne[0], steps * sequences)
