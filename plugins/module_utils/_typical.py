# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tensor table out of hyper-parameters alone, for models of which only a catalog entry is known.

Which tensors a model of an architecture has, and their shapes, is what llama.cpp's loader asks for
(src/models/*.cpp, load_arch_tensors). Their types are not known, so weights are not counted from it.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gguf

F16 = 1
# What the architecture has beside a plain decoder's tensors: biases, norms by head or after a block, fused projections.
_BIASED = frozenset({"qwen2", "gpt-oss", "bert"})
_HEAD_NORMED = frozenset({"qwen3", "qwen3moe", "gemma3", "gemma-embedding", "qwen35", "qwen35moe"})
_POST_NORMED = frozenset({"gemma2", "gemma3", "gemma-embedding"})
_FUSED = frozenset({"phi3", "nomic-bert"})
_ENCODERS = frozenset({"bert", "nomic-bert"})
_HYBRID = frozenset({"qwen35", "qwen35moe"})
KNOWN = (
    _BIASED | _HEAD_NORMED | _POST_NORMED | _FUSED | _ENCODERS | _HYBRID
    | {"llama", "mistral3", "llama4", "deepseek2", "qwen3moe"}
)  # fmt: skip


class _Table:
    def __init__(self, architecture: str, values: t.Mapping[str, t.Any], vocabulary: int) -> None:
        self.architecture = architecture
        self.values = values
        self.vocabulary = vocabulary
        self.tensors: list[_gguf.Tensor] = []
        self.width = self.get("embedding_length")

    def get(self, key: str, default: int = 0) -> int:
        value = self.values.get(key, default)
        if isinstance(value, list):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def add(self, name: str, *dimensions: int) -> None:
        suffix = "" if name.endswith((".bias", ".ssm_a")) else ".weight"
        self.tensors.append(_gguf.Tensor(name + suffix, tuple(max(1, extent) for extent in dimensions), F16))


def header(architecture: str, values: t.Mapping[str, t.Any], vocabulary: int) -> _gguf.Header | None:
    """The header that a file of this model would have, its types aside; None for architectures not known here."""
    if architecture not in KNOWN:
        return None
    values = _completed(architecture, values)
    table = _Table(architecture, values, vocabulary)
    table.add("token_embd", table.width, vocabulary)
    if architecture in _ENCODERS:
        table.add("token_types", table.width, 2)
        table.add("token_embd_norm", table.width)
        table.add("token_embd_norm.bias", table.width)
        if architecture == "bert":
            table.add("position_embd", table.width, table.get("context_length", 512))
    else:
        table.add("output_norm", table.width)
    for layer in range(table.get("block_count")):
        _layer(table, layer)
    metadata = {f"{architecture}.{key}": value for key, value in values.items()}
    metadata["general.architecture"] = architecture
    if architecture == "deepseek2":
        metadata.setdefault("deepseek2.expert_gating_func", 1)
    return _gguf.Header(3, metadata, {}, tuple(table.tensors))


def _completed(architecture: str, values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """With what an entry need not say, as every model of the architecture has it."""
    full = dict(values)
    if architecture in _HYBRID and full.get("ssm.inner_size") and full.get("ssm.state_size"):
        # Heads of the delta net are as wide as its state.
        full.setdefault("ssm.time_step_rank", full["ssm.inner_size"] // full["ssm.state_size"])
    if full.get("attention.key_length_mla"):
        full.setdefault(
            "attention.value_length_mla", full["attention.key_length_mla"] - full.get("rope.dimension_count", 0)
        )
    return full


def _layer(table: _Table, layer: int) -> None:
    prefix = f"blk.{layer}."
    architecture, width = table.architecture, table.width
    recurrent = False
    if architecture in _HYBRID:
        recurrent = (layer + 1) % table.get("full_attention_interval", 4) != 0
    if architecture in _ENCODERS:
        for name in ("attn_output_norm", "layer_output_norm"):
            table.add(prefix + name, width)
            table.add(prefix + name + ".bias", width)
    else:
        table.add(prefix + "attn_norm", width)
        normed = architecture in _HYBRID or architecture == "gpt-oss" or architecture in _POST_NORMED
        if normed:
            table.add(prefix + "post_attention_norm", width)
        if architecture in _POST_NORMED:
            table.add(prefix + "post_ffw_norm", width)
        if architecture not in _HYBRID and architecture != "gpt-oss":
            table.add(prefix + "ffn_norm", width)
    if recurrent:
        _delta(table, prefix)
    elif table.get("attention.kv_lora_rank"):
        _latent(table, prefix)
    else:
        _attention(table, prefix)
    _feed_forward(table, prefix, layer)


def _attention(table: _Table, prefix: str) -> None:
    architecture, width = table.architecture, table.width
    heads = table.get("attention.head_count")
    kv_heads = table.get("attention.head_count_kv", heads)
    length = width // heads if heads else 0
    key, value = table.get("attention.key_length", length), table.get("attention.value_length", length)
    query = key * heads * (2 if architecture in _HYBRID else 1)
    if architecture in _FUSED:
        table.add(prefix + "attn_qkv", width, query + (key + value) * kv_heads)
    else:
        for name, rows in (("attn_q", query), ("attn_k", key * kv_heads), ("attn_v", value * kv_heads)):
            table.add(prefix + name, width, rows)
            if architecture in _BIASED:
                table.add(prefix + name + ".bias", rows)
    table.add(prefix + "attn_output", value * heads, width)
    if architecture in ("bert", "gpt-oss"):
        table.add(prefix + "attn_output.bias", width)
    if architecture == "gpt-oss":
        table.add(prefix + "attn_sinks", heads)
    if architecture in _HEAD_NORMED:
        table.add(prefix + "attn_q_norm", key)
        table.add(prefix + "attn_k_norm", key)


def _latent(table: _Table, prefix: str) -> None:
    width, heads = table.width, table.get("attention.head_count")
    rank, rope = table.get("attention.kv_lora_rank"), table.get("rope.dimension_count", 64)
    key = table.get("attention.key_length_mla", table.get("attention.key_length"))
    value = table.get("attention.value_length_mla", table.get("attention.value_length"))
    narrow = table.get("attention.q_lora_rank")
    if narrow:
        table.add(prefix + "attn_q_a_norm", narrow)
        table.add(prefix + "attn_q_a", width, narrow)
        table.add(prefix + "attn_q_b", narrow, key * heads)
    else:
        table.add(prefix + "attn_q", width, key * heads)
    table.add(prefix + "attn_kv_a_norm", rank)
    table.add(prefix + "attn_kv_a_mqa", width, rank + rope)
    if table.get("attention.key_length_mla"):
        table.add(prefix + "attn_k_b", key - rope, rank, heads)
        table.add(prefix + "attn_v_b", rank, value, heads)
    else:
        # Files of the older form, Ollama's own among them (convert_deepseek2.go), keep full K and V in the cache.
        table.add(prefix + "attn_kv_b", rank, heads * (key - rope + value))
    table.add(prefix + "attn_output", value * heads, width)


def _delta(table: _Table, prefix: str) -> None:
    width, inner = table.width, table.get("ssm.inner_size")
    state, groups = table.get("ssm.state_size"), table.get("ssm.group_count")
    heads = table.get("ssm.time_step_rank") or inner // max(1, state)
    channels = inner + 2 * groups * state
    table.add(prefix + "attn_qkv", width, channels)
    table.add(prefix + "attn_gate", width, inner)
    table.add(prefix + "ssm_conv1d", table.get("ssm.conv_kernel", 4), channels)
    for name in ("ssm_dt.bias", "ssm_a"):
        table.add(prefix + name, heads)
    for name in ("ssm_beta", "ssm_alpha"):
        table.add(prefix + name, width, heads)
    table.add(prefix + "ssm_norm", inner // max(1, heads))
    table.add(prefix + "ssm_out", inner, width)


def _feed_forward(table: _Table, prefix: str, layer: int) -> None:
    architecture, width = table.architecture, table.width
    experts, inner = table.get("expert_count"), table.get("feed_forward_length")
    dense = not experts or layer < table.get("leading_dense_block_count")
    if architecture == "llama4" and experts:
        dense = (layer + 1) % max(1, table.get("interleave_moe_layer_step", 1)) != 0
    if dense:
        if architecture == "phi3":
            table.add(prefix + "ffn_up", width, 2 * inner)
        else:
            table.add(prefix + "ffn_up", width, inner)
            if architecture != "bert":
                table.add(prefix + "ffn_gate", width, inner)
        table.add(prefix + "ffn_down", inner, width)
        if architecture == "bert":
            table.add(prefix + "ffn_up.bias", inner)
            table.add(prefix + "ffn_down.bias", width)
        return
    inner = table.get("expert_feed_forward_length", inner)
    table.add(prefix + "ffn_gate_inp", width, experts)
    for name, dimensions in (("ffn_gate", (width, inner)), ("ffn_up", (width, inner)), ("ffn_down", (inner, width))):
        table.add(f"{prefix}{name}_exps", *dimensions, experts)
        if architecture == "gpt-oss":
            table.add(f"{prefix}{name}_exps.bias", dimensions[1], experts)
    if architecture == "gpt-oss":
        table.add(prefix + "ffn_gate_inp.bias", experts)
    shared = table.get("expert_shared_count") * inner or table.get("expert_shared_feed_forward_length")
    if not shared and architecture in ("deepseek2", "llama4", "qwen35moe"):
        shared = inner
    if shared:
        table.add(prefix + "ffn_gate_shexp", width, shared)
        table.add(prefix + "ffn_up_shexp", width, shared)
        table.add(prefix + "ffn_down_shexp", shared, width)
        if architecture == "qwen35moe":
            table.add(prefix + "ffn_gate_inp_shexp", width)
