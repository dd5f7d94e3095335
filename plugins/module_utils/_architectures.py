# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which compute graph each architecture has: what llama.cpp's src/models/*.cpp build, as traits of the common decoder
or as a function of its own family."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _encoders, _gemma, _latent, _recurrent
from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._decoder import (
    Decoder,
    decoder,
    finish,
    gating,
    mixed_feed_forward,
    parallel_decoder,
    project,
    start,
)


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
    "orion": _LAYER,
    "xverse": Decoder(),
    "seed_oss": Decoder(ffn_norm="post_attention_norm"),
    "smollm3": Decoder(rope="not_every_4"),
    "arcee": Decoder(factors=True, activation="RELU_SQR"),
    "nemotron": Decoder(norm="NORM", activation="RELU_SQR"),
    "openelm": Decoder(residual_before=True),
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
    "smallthinker": Decoder(rope="window_or_first", activation="REGLU", gating="", router_first=True),
    "afmoe": Decoder(
        scaled_input=True, rope="not_every_4", gating="", gating_default="sigmoid", normed_weights=None
    ),
    "laguna": Decoder(attention_gate="SOFTPLUS", gating="", normed_weights=None),
    "spark2_5": Decoder(activation="GEGLU"),
    "mellum": Decoder(),
    "step35": Decoder(
        factors=True, gating="", gating_default="sigmoid", normed_weights=None, gather_last=True, kept_hidden="sum"
    ),
    "hy_v3": Decoder(
        factors=True, gating="", gating_default="sigmoid", normed_weights=None, gather_last=True, kept_hidden="norm"
    ),
    "maple": Decoder(rope="window"),
    "modern-bert": Decoder(norm="NORM", normed_input=True, activation="GEGLU"),
    "eurobert": Decoder(),
    "neo-bert": Decoder(),
    "pockettts": Decoder(norm="NORM", activation="GELU"),
    "qwen3tts": Decoder(),
    "phi2": Decoder(norm="NORM", activation="GELU", parallel="attention_first", scaled_query=True),
}  # fmt: skip


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


def baichuan(b: Builder) -> None:
    """7B has rotary positions, 13B a bias by distance."""
    decoder(b, Decoder(rope="all" if b.hyper.layers == 32 else "none"))


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
    "baichuan": baichuan,
    "bert": _encoders.bert,
    "nomic-bert": _encoders.bert,
    "nomic-bert-moe": _encoders.bert,
    "jina-bert-v2": _encoders.bert,
    "jina-bert-v3": _encoders.bert,
    "deepseek2": _latent.deepseek2,
    "mistral4": _latent.deepseek2,
    "minicpm3": _latent.minicpm3,
    "plm": _latent.minicpm3,
    "llama4": llama4,
    "gptneox": gptneox,
    "mamba": _recurrent.mamba,
    "mamba2": _recurrent.mamba,
    "jamba": _recurrent.jamba,
    "granitehybrid": _recurrent.granite_hybrid,
    "falcon-h1": _recurrent.falcon_h1,
    "nemotron_h": _recurrent.nemotron_h,
    "nemotron_h_moe": _recurrent.nemotron_h,
    "lfm2": _recurrent.lfm2,
    "lfm2moe": _recurrent.lfm2,
    "gemma3n": _gemma.gemma3n,
    "gemma4": _gemma.gemma4,
    "stablelm": stablelm,
    "qwen3next": _recurrent.qwen35,
    "qwen35": _recurrent.qwen35,
    "qwen35moe": _recurrent.qwen35,
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
