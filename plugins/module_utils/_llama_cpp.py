# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which llama.cpp an engine has, and by which rules that one plans its memory.

The account replays llama.cpp v0.5.0. Where b10488 does otherwise, the difference is a rule here, and who builds graphs,
places them or loads models asks for it by its name. Nothing else compares versions.

Sources: both trees, at the places that each rule names; of what an engine has, Ollama's LLAMA_CPP_VERSION by tag.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

# DeepSeek V4's residual streams; see Rules.probed.
_STREAMS_PROBED = (("DSV4_HC_PRE", 1), ("DSV4_HC_COMB", 1), ("DSV4_HC_POST", 1))


@dataclass(frozen=True)
class Rules:
    """What differs between releases of llama.cpp; as it stands, v0.5.0."""

    release: str
    # ggml.c, ggml_clamp: the result is a view of its source; later a tensor of its own, which may take over the memory.
    clamps_in_view: bool = False
    # ggml-backend.cpp, split_graph: a part of the graph with so many inputs ends there; 0: there is no limit.
    split_inputs: int = 0
    # llama-model.cpp, create_memory: layers that predict further tokens keep a cache, which nothing reads, but in the
    # architectures that filter it (FILTERED).
    prediction_cache: bool = False
    # llama-graph.cpp, build_moe_ffn: these experts' last product wants its input in f32, which no CUDA kernel takes.
    exact_experts: frozenset[str] = frozenset({"mistral4"})
    # mamba-base.cpp: Mamba 2 projects tokens, not tokens by sequence; Mamba 1 copies its step before it is projected.
    mamba2_flat: bool = True
    mamba_step_copied: bool = True
    # models.h, build_gdn_l2_norm: queries and keys of delta nets are normed by two operations that work in place.
    delta_norm_scaled: bool = True
    # llama-context.cpp, resolve_fused_ops: what is taken apart unless every layer's own device runs it in a small
    # graph, in the order in which that is tried, each with that graph's tokens a sequence.
    probed: tuple[tuple[str, int], ...] = _STREAMS_PROBED
    # kimi-linear.cpp and others, ssm_a: loaded as an operand of the selective scan, for which no CUDA kernel takes it,
    # although it is only multiplied (LLM_TENSOR_SSM_A, not LLM_TENSOR_SSM_A_NOSCAN).
    decay_as_scanned: frozenset[str] = frozenset()
    # minicpm3.cpp, plm.cpp, deepseek2.cpp (without MLA), deepseek4.cpp: the end of a head is rotated where it lies, not
    # cut out and joined again (ggml_rope_set_offset).
    rotates_in_part: bool = True
    # llama-graph.cpp, build_ffn and build_moe_ffn: SwiGLU limits both sides itself where its gate is limited before the
    # activation (ggml_swiglu_clamp).
    swiglu_limits: bool = True
    # llama-kv-cache-dsv4.cpp, dsv4_build_reserve_comp_plan: the compressed rows of a batch are counted for equal parts
    # of it by sequence, not for the worst division.
    rows_by_sequence: bool = False
    # plamo2.cpp: the rows that logits are wanted for are picked before the last layer's network, not behind it.
    early_rows: bool = True
    # Architectures that it does not know (llama-arch.cpp, LLM_ARCH_NAMES).
    unknown: frozenset[str] = frozenset()
    # Architectures whose header must tell which layers have a window (attention.sliding_window_pattern).
    stated_windows: frozenset[str] = frozenset()
    # Architectures whose projections of queries, keys and values must have biases.
    needed_biases: frozenset[str] = frozenset()


V0_5_0 = Rules("v0.5.0")
B10488 = Rules(
    "b10488",
    clamps_in_view=True,
    split_inputs=30,
    prediction_cache=True,
    exact_experts=frozenset(),
    mamba2_flat=False,
    mamba_step_copied=False,
    delta_norm_scaled=False,
    probed=(("GATED_DELTA_NET", 16), ("LIGHTNING_INDEXER", 1), *_STREAMS_PROBED),
    decay_as_scanned=frozenset({"kimi-linear", "bailingmoe3", "kimi-k3"}),
    rotates_in_part=False,
    swiglu_limits=False,
    rows_by_sequence=True,
    early_rows=False,
    unknown=frozenset({"dots3note", "granite_swa", "hrm_text", "hy_v4", "maple", "qwen4exp", "spark2_5"}),
    stated_windows=frozenset({"cohere2moe", "mellum", "muse-glimmer"}),
    needed_biases=frozenset({"jais2"}),
)
# The commit that Ollama kept to before. It is older than b10488, but in it, too, prediction layers have no cache
# (llama-model.cpp, n_layer_kv_from_start).
BEFORE_0_30 = replace(B10488, release="ec98e2002", prediction_cache=False)

RELEASES = {rules.release: rules for rules in (V0_5_0, B10488, BEFORE_0_30)}

# Of Ollama, from which version on: 0.30.0 has b9452, 0.32.15 and the first candidates of 0.33 have b10488. What v0.5.0
# changed came after that, so all of them have b10488's rules; what else b9452 and its successors do otherwise was not
# compared. No version is known to have v0.5.0: those after the known ones are taken to have the newest rules.
OLLAMA: tuple[tuple[tuple[int, ...], Rules], ...] = (((0, 34, 0), V0_5_0), ((0, 30, 0), B10488), ((0,), BEFORE_0_30))


def of_ollama(version: t.Sequence[int]) -> Rules:
    """The rules of the llama.cpp in this version of Ollama."""
    return next((rules for since, rules in OLLAMA if tuple(version) >= since), BEFORE_0_30)


# llama-model.cpp, create_memory: these keep prediction layers out of the main context's cache in every release, as do
# the hybrids with a filter of their own (nemotron_h: layers with a feed-forward network have none).
FILTERED = frozenset(
    {
        "deepseek32", "glm-dsa", "hy_v3", "mimo2", "minimax-01", "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe",
        "qwen3next", "qwen4exp", "step35",
    }
)  # fmt: skip
