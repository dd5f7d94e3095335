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
from ansible_collections.onprem.llm.plugins.module_utils._streams import (
    coefficients,
    gathered,
    head_shares,
    spread,
    weighted,
)


def hy_v4(b: Builder) -> None:
    """Latent attention with a gate and sinks, where the header says so over cells that an index chooses."""
    hyper = b.hyper
    traits = Decoder(gating="", normed_weights=None)
    streams = spread(b.embedding(), hyper.whole("hyper_connection.count"))
    chosen = None
    sparse = hyper.whole("attention.indexer.top_k") > 0
    for layer in b.numbers:
        joined, shares = _joined(b, layer, "hc_attn", streams)
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
        joined, shares = _joined(b, layer, "hc_ffn", streams)
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(joined, layer, "ffn_norm"))
        streams = _parted(made, streams, shares)
    streams = gathered(b, streams)
    hidden = b.norm(_sum(streams, head_shares(b, streams)), b.top("output_norm.weight"))
    b.finish(hidden, b.head(hidden))


def _sum(streams: Tensor, shares: Tensor) -> Tensor:
    return ggml.cast(weighted(ggml.cast(streams, "f32"), shares), streams.type)


def _joined(b: Builder, layer: int, name: str, streams: Tensor) -> tuple[Tensor, Tensor]:
    """What the block reads, and the shares by which its result goes back to the streams."""
    count = streams.ne[1]
    made = coefficients(b, layer, name, streams)
    read, written = (made.group(number, number * count, count).gate(b) for number in range(2))
    return _sum(streams, read), b.scale(written)


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
