# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of Hunyuan 4: several residual streams, which learned weights join and part around each block.

Source: llama.cpp, src/models/hy-v4.cpp. The joining and parting is computed in float32, by explicit copies.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, mixed_feed_forward
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._latent import absorbed, chosen_cells


def hy_v4(b: Builder) -> None:
    """Latent attention with a gate and sinks, where the header says so over cells that an index chooses."""
    hyper, tokens = b.hyper, b.batch.tokens
    count = hyper.whole("hyper_connection.count")
    traits = Decoder(gating="", normed_weights=None)
    streams = ggml.repeat(ggml.reshape(b.embedding(), hyper.width, 1, tokens), hyper.width, count, tokens, 1)
    chosen = None
    sparse = hyper.whole("attention.indexer.top_k") > 0
    for layer in b.numbers:
        joined, shares = _joined(b, layer, "hc_attn", streams, count)
        source = b.layer_norm(joined, layer, "attn_norm")
        narrow = ggml.mul_mat(b.needed(layer, "attn_q_a"), source)
        narrow = b.layer_norm(narrow, layer, "attn_q_a_norm")
        if hyper.indexed(layer):
            chosen = chosen_cells(b, layer, source, narrow)
        elif sparse:
            there(chosen, "an index in the first layer, which the others share")
        query = ggml.mul_mat(b.needed(layer, "attn_q_b"), narrow)
        sinks = b.needed(layer, "attn_sinks")
        made = absorbed(b, layer, source, query, True, chosen, output=None, sinks=sinks)
        gate = ggml.like("SIGMOID", ggml.mul_mat(b.needed(layer, "attn_gate"), source))
        made = b.linear(layer, "attn_output", ggml.like("MUL", made, gate))
        streams = _parted(made, streams, shares)
        joined, shares = _joined(b, layer, "hc_ffn", streams, count)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(joined, layer, "ffn_norm"))
        streams = _parted(made, streams, shares)
    (flat,) = b.gather(ggml.reshape(streams, hyper.width * count, tokens))
    hidden = b.norm(_head(b, ggml.reshape(flat, hyper.width, count, flat.ne[1])), b.top("output_norm.weight"))
    b.finish(hidden, b.head(hidden))


def _mixes(weights: Tensor, streams: Tensor) -> Tensor:
    """Coefficients of every token, out of all of its streams."""
    flat = ggml.reshape(streams, streams.ne[0] * streams.ne[1], streams.ne[2])
    return ggml.mul_mat(weights, ggml.like("RMS_NORM", flat))


def _gates(b: Builder, mixes: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    return b.scale(ggml.like("SIGMOID", ggml.like("ADD", ggml.like("MUL", mixes, scale), base)))


def _sum(streams: Tensor, weights: Tensor) -> Tensor:
    """The streams as one, each by its weight."""
    width, count, tokens = streams.ne[:3]
    exact = ggml.cast(streams, "f32")
    total: Tensor | None = None
    for number in range(count):
        part = ggml.view(exact, (width, tokens), exact.nb[2:3], number * exact.nb[1])
        weight = ggml.view(weights, (1, tokens), weights.nb[1:2], number * weights.nb[0])
        weighed = ggml.like("MUL", part, weight)
        total = weighed if total is None else ggml.like("ADD", total, weighed)
    return ggml.cast(there(total, "hyper_connection.count"), streams.type)


def _joined(b: Builder, layer: int, name: str, streams: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What the block reads, and the shares by which its result goes back to the streams."""
    tokens = streams.ne[2]
    mixes = _mixes(b.needed(layer, name + "_fn"), streams)
    scale, base = b.needed(layer, name + "_scale"), b.needed(layer, name + "_base")
    parts = []
    for number in range(2):
        part = ggml.view(mixes, (count, tokens), mixes.nb[1:2], number * count * 4)
        bias = ggml.view(base, (count,), (), number * count * 4)
        parts.append(_gates(b, part, ggml.view(scale, (1,), (), number * 4), bias))
    return _sum(streams, parts[0]), b.scale(parts[1])


def _parted(made: Tensor, streams: Tensor, shares: Tensor) -> Tensor:
    """Every stream and its share of the block's result."""
    width, count, tokens = streams.ne[:3]
    made, shares, exact = (ggml.cast(part, "f32") for part in (made, shares, streams))
    total: Tensor | None = None
    for number in range(count):
        stream = ggml.view(exact, (width, tokens), exact.nb[2:3], number * exact.nb[1])
        share = ggml.view(shares, (1, tokens), shares.nb[1:2], number * shares.nb[0])
        part = ggml.reshape(ggml.like("ADD", stream, ggml.like("MUL", made, share)), width, 1, tokens)
        total = part if total is None else ggml.concat(total, part, 1)
    return ggml.cast(there(total, "hyper_connection.count"), streams.type)


def _head(b: Builder, streams: Tensor) -> Tensor:
    """All streams as one, before the last norm."""
    weights, scale, base = (
        there(b.top(f"output_hc_{name}.weight"), f"output_hc_{name}.weight") for name in ("fn", "scale", "base")
    )
    return _sum(streams, _gates(b, _mixes(weights, streams), scale, base))
