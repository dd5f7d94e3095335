# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of graphs with several residual streams (hyper-connections): what joins them before a block, and parts its
result among them. Sources: llama.cpp, src/models/deepseek4.cpp, hy-v4.cpp and qwen4exp.cpp.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor


class Coefficients(t.NamedTuple):
    """What a block's learned weights make of all streams of a token, and what each group of these is scaled and shifted
    by."""

    mixes: Tensor
    scale: Tensor
    base: Tensor

    def group(self, number: int, first: int, count: int) -> Coefficients:
        """So many of them, from one on, which share a scale."""
        return Coefficients(
            _columns(self.mixes, count, first), _columns(self.scale, 1, number), _columns(self.base, count, first)
        )

    def affine(self) -> Tensor:
        return ggml.like("ADD", ggml.like("MUL", self.mixes, self.scale), self.base)

    def gate(self, b: Builder) -> Tensor:
        return b.scale(ggml.like("SIGMOID", self.affine()))


def _columns(source: Tensor, count: int, first: int) -> Tensor:
    """So many elements of each row, from one on."""
    if source.ne[1] == 1 and source.weight:
        return ggml.view(source, (count,), (), 4 * first)
    return ggml.view(source, (count, source.ne[1]), source.nb[1:2], 4 * first)


def _mixes(weights: Tensor, streams: Tensor) -> Tensor:
    flat = ggml.reshape(streams, streams.ne[0] * streams.ne[1], streams.ne[2])
    return ggml.mul_mat(weights, ggml.like("RMS_NORM", flat))


def coefficients(b: Builder, layer: int, name: str, streams: Tensor) -> Coefficients:
    """Those of one of a layer's blocks."""
    weights, scale, base = (b.needed(layer, f"{name}_{part}") for part in ("fn", "scale", "base"))
    return Coefficients(_mixes(weights, streams), scale, base)


def head_shares(b: Builder, streams: Tensor) -> Tensor:
    """Each stream's share of what the output layer reads."""
    weights, scale, base = (
        there(b.top(f"output_hc_{part}.weight"), f"output_hc_{part}.weight") for part in ("fn", "scale", "base")
    )
    return Coefficients(_mixes(weights, streams), scale, base).gate(b)


def weighted(streams: Tensor, shares: Tensor) -> Tensor:
    """The streams' weighted sum, one at a time."""
    width, count, tokens = streams.ne[:3]
    total: Tensor | None = None
    for number in range(count):
        stream = ggml.view(streams, (width, tokens), streams.nb[2:3], number * streams.nb[1])
        share = ggml.view(shares, (1, tokens), shares.nb[1:2], number * shares.nb[0])
        one = ggml.like("MUL", stream, share)
        total = one if total is None else ggml.like("ADD", total, one)
    return there(total, "hyper_connection.count")


def spread(source: Tensor, count: int) -> Tensor:
    """The same in each of so many streams."""
    width, tokens = source.ne[:2]
    return ggml.repeat(ggml.reshape(source, width, 1, tokens), width, count, tokens, 1)


def gathered(b: Builder, streams: Tensor) -> Tensor:
    """All streams of the rows that logits are wanted for."""
    width, count, tokens = streams.ne[:3]
    (flat,) = b.gather(ggml.reshape(streams, width * count, tokens))
    return ggml.reshape(flat, width, count, flat.ne[1])
