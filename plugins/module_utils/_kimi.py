# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of Kimi K3: each sublayer reads a weighted sum of earlier residual streams, and the experts may
work on a narrower state. Source: llama.cpp, src/models/kimi-k3.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._decoder import GATING, Decoder, finish, latent_experts
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._recurrent import kimi_delta, kimi_latent


def kimi_k3(b: Builder) -> None:
    """Delta attention, latent attention in some layers; every so many layers the residual stream is kept and begun
    anew, and what was kept is read by all that follow."""
    hyper = b.hyper
    block = hyper.whole("attn_res.block_size")
    kept: Tensor | None = None
    stream = b.embedding()
    for layer in b.numbers:
        current = _mixed(b, kept, stream, b.weight(layer, "attn_res_score"))
        fresh = bool(block) and layer % block == 0
        if fresh:
            one = ggml.reshape(stream, hyper.width, 1, b.batch.tokens)
            kept = one if kept is None else ggml.concat(kept, one, 1)
        normed = b.layer_norm(current, layer, "attn_norm")
        b.graph.expand(normed)
        made = (kimi_delta if hyper.recurrent[layer] else kimi_latent)(b, layer, normed)
        stream = made if fresh else ggml.like("ADD", stream, made)
        current = _mixed(b, kept, stream, b.weight(layer, "ffn_res_score"))
        normed = b.layer_norm(current, layer, "ffn_norm")
        if b.weight(layer, "ffn_gate_inp") is None:
            fed = b.feed_forward(layer, normed, "SITU")
        else:
            fed = _experts(b, layer, normed)
        stream = ggml.like("ADD", stream, fed)
    finish(b, Decoder(gather_last=True), _mixed(b, kept, stream, b.top("output_res_score.weight")))


def _mixed(b: Builder, kept: Tensor | None, stream: Tensor, score: Tensor | None) -> Tensor:
    """The kept streams and the present one, summed by the softmax of their scores."""
    if kept is None:
        return stream
    score = there(score, "res_score")
    width, count, tokens = kept.ne[:3]
    earlier = ggml.sum_rows(ggml.like("MUL", ggml.like("RMS_NORM", kept), score))
    present = ggml.sum_rows(ggml.like("MUL", ggml.like("RMS_NORM", stream), score))
    scores = ggml.concat(ggml.reshape(earlier, count, tokens), present, 0)
    shares = ggml.like("SOFT_MAX", scores)
    of_kept = ggml.cont(ggml.view(shares, (count, tokens), shares.nb[1:2]))
    of_present = ggml.cont(ggml.view(shares, (1, tokens), shares.nb[1:2], 4 * count))
    total = ggml.result("DSV4_HC_PRE", "f32", (width, tokens, 1, 1), kept, of_kept)
    return ggml.like("ADD", total, ggml.like("MUL", stream, of_present))


def _experts(b: Builder, layer: int, source: Tensor) -> Tensor:
    """The router and a shared expert read the layer's width, the chosen experts what is left of it."""
    gating = GATING.get(b.hyper.whole("expert_gating_func"), "softmax")
    made = latent_experts(b, layer, source, "SITU", gating, "ffn_routed")
    if b.weight(layer, "ffn_gate_shexp") is not None:
        made = ggml.like("ADD", made, b.shared_expert(layer, source, "SITU"))
    return made
