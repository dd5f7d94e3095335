# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which compute graph each architecture has: what llama.cpp's src/models/*.cpp build, as traits of the common decoder
or as a function of its own family."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import (
    _blockwise,
    _compressed,
    _encoders,
    _gemma,
    _hyper_connections,
    _kimi,
    _latent,
    _qwen4,
    _recurrent,
    _rwkv,
    _switched,
    _vocoder,
)
from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._decoder import (
    SOFT_CAP,
    Decoder,
    decoder,
    fed,
    finish,
    mixed_feed_forward,
    parallel_decoder,
    project,
)
from ansible_collections.onprem.llm.plugins.module_utils._hyper import MOST_PARTS, PARTS

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
    "gemma3": Decoder(scaled_input=True, scaled_query=True, activation="GEGLU", soft_cap=None),
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
    "minicpm": Decoder(factors=True, scaled_residual=True, scaled_logits=True),
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
    "command-r": Decoder(norm="NORM", parallel="attention_last", scaled_logits=True),
    "cohere2": Decoder(norm="NORM", parallel="attention_last", scaled_logits=True, rope="window", factors=True),
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
    "muse-glimmer": Decoder(
        normed_input=True, rope="window", scaled_logits=True, soft_cap=None, soft_cap_default=SOFT_CAP, normed_rows=True
    ),
    "deepseek2-ocr": Decoder(gating="", normed_weights=None),
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
        current = fed(b, traits, layer, attended, residual)
    finish(b, traits, current)


def baichuan(b: Builder) -> None:
    """7B has rotary positions, 13B a bias by distance."""
    decoder(b, Decoder(rope="all" if b.hyper.layers == 32 else "none"))


def cogvlm(b: Builder) -> None:
    """Every row of logits is computed."""
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        middle = ggml.like("ADD", attended, current)
        made = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


def chameleon(b: Builder) -> None:
    """The logits of image tokens are overwritten."""
    decoder(b, Decoder(qk_norm="NORM"), masked_logits=8192)


def nanbeige(b: Builder) -> None:
    """The same layers several times over, a norm between the rounds."""
    hyper = b.hyper
    traits = Decoder(factors=True)
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        attended, residual = b.wanted(layer, attended, residual)
        middle = ggml.like("ADD", attended, residual)
        made = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", made, middle)
        last_of_round = (layer + 1) % hyper.physical_layers == 0 and layer + 1 < hyper.layers
        if last_of_round and not hyper.truth("skip_loop_final_norm"):
            current = b.norm(current, b.top("output_norm.weight"))
    finish(b, traits, current)


def hrm_text(b: Builder) -> None:
    """Rounds of low stacks and a high one, each on the sum of both states (hrm-text.cpp)."""
    hyper = b.hyper
    traits = Decoder()
    rounds = hyper.whole("hrm.h_cycles")
    if hyper.layers != rounds * hyper.stacks_a_round * hyper.stack_layers:
        raise ValueError(f"{hyper.layers} layers are not {rounds} rounds of {hyper.stacks_a_round} stacks")
    high = b.embedding()
    low = there(b.top("hrm.z_l_init"), "hrm.z_l_init")
    current = high
    for layer in b.numbers:
        stack, within = divmod(layer, hyper.stack_layers)
        if not within:
            current = ggml.like("ADD", high, low)
        residual = current
        normed = b.norm(current, None)
        gate = ggml.mul_mat(b.needed(layer, "attn_gate"), normed)
        made = b.attention(layer, *project(b, traits, layer, normed), output=None)
        made = b.linear(layer, "attn_output", ggml.like("MUL", made, ggml.like("SIGMOID", gate)))
        middle = ggml.like("ADD", made, residual)
        current = ggml.like("ADD", b.feed_forward(layer, b.norm(middle, None)), middle)
        if within == hyper.stack_layers - 1:
            current = b.norm(current, None)
            if (stack + 1) % hyper.stacks_a_round:
                low = current
            else:
                high = current
    (hidden,) = b.gather(high)
    b.finish(hidden, b.head(hidden))


def grok(b: Builder) -> None:
    """Experts beside a dense network, every score squeezed."""
    traits = Decoder(scaled_logits=True, soft_cap=None, activation="GEGLU")
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        attended, residual = b.wanted(layer, attended, residual)
        attended = b.layer_norm(attended, layer, "attn_output_norm")
        middle = ggml.like("ADD", attended, residual)
        normed = b.layer_norm(middle, layer, "ffn_norm")
        made = b.experts(layer, normed, "GEGLU", normed=True)
        if b.weight(layer, "ffn_up") is not None:
            dense = b.feed_forward(layer, normed, "GEGLU")
            made = b.scale(ggml.like("ADD", dense, made))
        name = "post_ffw_norm" if b.weight(layer, "post_ffw_norm") is not None else "layer_output_norm"
        current = ggml.like("ADD", b.layer_norm(made, layer, name), middle)
    finish(b, traits, current)


def arctic(b: Builder) -> None:
    """A dense network, and experts on the layer's input."""
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        attended, residual = b.wanted(layer, attended, residual)
        middle = ggml.like("ADD", attended, residual)
        dense = b.feed_forward(layer, b.layer_norm(middle, layer, "ffn_norm"))
        dense = ggml.like("ADD", dense, middle)
        made = b.experts(layer, b.layer_norm(residual, layer, "ffn_norm_exps"), normed=True)
        current = ggml.like("ADD", made, dense)
    finish(b, traits, current)


def grovemoe(b: Builder) -> None:
    """Experts, and smaller ones that groups of them share."""
    hyper = b.hyper
    traits = Decoder()
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        attended = b.attention(layer, *project(b, traits, layer, b.layer_norm(current, layer, "attn_norm")))
        attended, residual = b.wanted(layer, attended, residual)
        middle = ggml.like("ADD", attended, residual)
        normed = b.layer_norm(middle, layer, "ffn_norm")
        logits = ggml.mul_mat(b.needed(layer, "ffn_gate_inp"), normed)
        made = b.experts(layer, normed, normed=True, logits=logits)
        chunks = hyper.experts // max(1, hyper.whole("experts_per_group", 1))
        small = b.experts(
            layer, made, normed=True, logits=logits, used=min(hyper.experts_used[layer], chunks), suffix="_chexps"
        )
        made = ggml.like("ADD", made, b.scale(small))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


def deci(b: Builder) -> None:
    """Layers without attention, with a linear one, or without a feed-forward network."""
    hyper = b.hyper
    traits = Decoder(factors=True)
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        made = current if not hyper.heads[layer] else b.layer_norm(current, layer, "attn_norm")
        if hyper.heads[layer] and not hyper.kv_heads[layer]:
            made = ggml.mul_mat(b.needed(layer, "attn_output"), made)
        elif hyper.heads[layer]:
            made = b.attention(layer, *project(b, traits, layer, made))
        made, residual = b.wanted(layer, made, residual)
        if b.weight(layer, "ffn_down") is None:
            continue
        middle = ggml.like("ADD", made, residual) if hyper.heads[layer] else made
        made = mixed_feed_forward(b, traits, layer, b.layer_norm(middle, layer, "ffn_norm"))
        current = ggml.like("ADD", made, middle)
    finish(b, traits, current)


def talkie(b: Builder) -> None:
    """Norms without weights, the input once more at the end of each layer."""
    hyper = b.hyper
    current = skip = b.norm(b.embedding(), None)
    for layer in b.numbers:
        residual, again = current, skip
        heads, length = hyper.heads[layer], hyper.key_length
        query, key, value = b.qkv(layer, b.norm(current, None), heads, hyper.kv_heads[layer], length, length)
        query = b.norm(b.rope(query), b.weight(layer, "attn_q_norm"))
        attended = b.attention(layer, query, b.norm(b.rope(key), None), value)
        attended, residual, again = b.wanted(layer, attended, residual, again)
        middle = ggml.like("ADD", attended, residual)
        made = ggml.like("ADD", b.feed_forward(layer, b.norm(middle, None)), middle)
        current = ggml.like("ADD", made, ggml.like("MUL", again, b.needed(layer, "layer_output_scale")))
    finish(b, Decoder(scaled_logits=True), current)


def cohere2moe(b: Builder) -> None:
    """Cohere's parallel layers with experts; the header tells the kind of norm."""
    kind = "RMS_NORM" if b.hyper.real("attention.layer_norm_rms_epsilon") else "NORM"
    traits = Decoder(
        norm=kind, parallel="attention_last", scaled_logits=True, rope="window", factors=True, gating="",
        gating_default="sigmoid", normed_weights=None, gather_last=True, kept_hidden="norm",
    )  # fmt: skip
    parallel_decoder(b, traits)


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
    "cohere2moe": cohere2moe,
    "cogvlm": cogvlm,
    "chameleon": chameleon,
    "nanbeige": nanbeige,
    "grok": grok,
    "hrm_text": hrm_text,
    "arctic": arctic,
    "grovemoe": grovemoe,
    "deci": deci,
    "talkie": talkie,
    "gptneox": gptneox,
    "t5": _encoders.t5,
    "t5encoder": _encoders.t5_encoder,
    "rwkv6": _rwkv.rwkv6,
    "rwkv6qwen2": _rwkv.rwkv6,
    "rwkv7": _rwkv.rwkv7,
    "arwkv7": _rwkv.rwkv7,
    "plamo2": _recurrent.plamo2,
    "kimi-linear": _recurrent.kimi_linear,
    "bailingmoe3": _recurrent.kimi_linear,
    "kimi-k3": _kimi.kimi_k3,
    "graniteswitch": _switched.granite_switch,
    "minimax-01": _recurrent.minimax01,
    "deepseek32": _latent.deepseek32,
    "glm-dsa": _latent.deepseek32,
    "deepseek4": _compressed.deepseek4,
    "minimax-m3": _blockwise.minimax_m3,
    "dots3note": _latent.dots3note,
    "hy_v4": _hyper_connections.hy_v4,
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
    "wavtokenizer-dec": _vocoder.wavtokenizer,
    "qwen3next": _recurrent.qwen35,
    "qwen35": _recurrent.qwen35,
    "qwen35moe": _recurrent.qwen35,
    "qwen4exp": _qwen4.qwen4exp,
}


def known(architecture: str) -> bool:
    return architecture in DECODERS or architecture in OTHERS


def build(b: Builder) -> None:
    """The whole graph of the model's architecture.

    :raises KeyError: the architecture is not known, or a tensor that it needs is missing.
    :raises ValueError: the header announces more parts than any model has.
    """
    architecture = b.hyper.architecture
    for key in PARTS:
        if b.hyper.whole(key) > MOST_PARTS:
            raise ValueError(f"{key} is {b.hyper.whole(key)}")
    if architecture in DECODERS:
        traits = DECODERS[architecture]
        (parallel_decoder if traits.parallel else decoder)(b, traits)
    else:
        OTHERS[architecture](b)
