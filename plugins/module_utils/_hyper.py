# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's hyper-parameters as llama.cpp reads them: what the header states, and what is fixed in the engine's code.

Source of the common part: llama-model.cpp, load_hparams; of what an architecture adds: its file in src/models.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gguf
from ansible_collections.onprem.llm.plugins.module_utils._llama_cpp import Rules

# Window layers that no header states: architecture -> (period, the full layer comes first). models/*.cpp,
# set_swa_pattern; with a period of 0 every layer has the window.
WINDOW_PATTERNS: dict[str, tuple[int, bool]] = {
    "gemma2": (2, False), "gemma3": (6, False), "gemma-embedding": (6, False), "gemma3n": (5, False),
    "gpt-oss": (2, False), "llama4": (4, False), "cohere2": (4, False), "afmoe": (4, False),
    "smallthinker": (4, True), "exaone4": (4, False), "exaone-moe": (4, False), "olmo2": (4, False),
    "plamo3": (8, False), "modern-bert": (3, True), "cohere2moe": (4, True), "mellum": (4, False),
    "muse-glimmer": (4, False), "laguna": (4, True), "deepseek4": (0, False),
}  # fmt: skip
# Windows that the engine fixes, whatever the header says; for llama4 also where it says nothing.
FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
# The engine ignores the header's window for these (phi3.cpp: long contexts suffer).
WITHOUT_WINDOW = frozenset({"phi3"})
# llama-arch.cpp, llm_arch_is_recurrent: no attention anywhere.
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
# Mamba's selective scan.
SCANNED = frozenset(
    {"mamba", "mamba2", "jamba", "granitehybrid", "falcon-h1", "nemotron_h", "nemotron_h_moe", "plamo2"}
)
# A layer without KV heads has a recurrent state instead (models/*.cpp, is_recr_impl).
HYBRIDS = frozenset({"jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear", "kimi-k3", "bailingmoe3"})
# llama-model.cpp, create_memory: nothing is kept between calls.
WITHOUT_CACHE = frozenset(
    {
        "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
        "gemma-embedding", "dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec",
    }
)  # fmt: skip
# hparams.causal_attn, where it does not come from the header (models/*.cpp, load_arch_hparams).
NOT_CAUSAL = frozenset({"gemma-embedding", "dream", "llada", "llada-moe", "rnd1"})
# Of these, no logits but embeddings are what they are for.
ENCODERS = WITHOUT_CACHE - {"dream", "llada", "llada-moe", "rnd1"}
# llama-model.cpp, llama_model_rope_type: four positions a token (M-RoPE), always or where the header parts them.
FOUR_POSITIONS = frozenset(
    {"qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "paddleocr", "qwen3tts"}
)
FOUR_WITH_SECTIONS = frozenset({"glm4moe", "glm4", "hunyuan_vl"})
# More than these no model has; a header that announces them is damaged or hostile.
MOST_LOOPS, MOST_EXPERTS_USED = 64, 1024
# The same of what graphs have nodes of their own for, one after the other.
MOST_PARTS = 1024
PARTS = (
    "hyper_connection.count", "hyper_connection.sinkhorn_iterations", "attention.indexer.head_count",
    "posnet.block_count", "convnext.block_count", "ple.conv_kernel",
)  # fmt: skip


class Hyper:
    """Typed access to ``<architecture>.*`` and what follows from it. A list is by layer."""

    def __init__(self, header: _gguf.Header) -> None:
        self.header = header
        self.architecture = header.architecture
        # What others work out of the tensor table, once for each placement.
        self.memory: dict[object, t.Any] = {}
        self.tensors = {tensor.name: tensor for tensor in header.tensors}
        self.all_layers = self.whole("block_count")
        # Layers that only predict further tokens, after the others; the main graph leaves them out.
        self.prediction_layers = self.whole("nextn_predict_layers")
        probe = f"blk.{self.all_layers - self.prediction_layers}.nextn.eh_proj.weight"
        if self.architecture == "deepseek4" and not self.has(probe):
            self.prediction_layers = 0  # announced, but not in the file (deepseek4.cpp, load_arch_hparams)
        self.layers = self.all_layers - self.prediction_layers
        # Layers of tensors; a looped model goes through them several times (nanbeige).
        self.physical_layers = self.all_layers
        if self.architecture == "nanbeige":
            self.all_layers = self.layers = self.physical_layers * min(self.whole("num_loops", 1), MOST_LOOPS)
        # A layer without tensors behind the others, whose cache routes tokens to adapters (granite-switch.cpp).
        self.router_layer = self.layers if self.architecture == "graniteswitch" else -1
        self.all_layers += self.router_layer >= 0
        self.width = self.whole("embedding_length")
        if self.architecture == "wavtokenizer-dec":  # what comes out is as wide as that, what goes in is not
            self.width = self.whole("features_length", self.width)
        self.context = self.whole("context_length")
        count = self.all_layers
        self.heads = self.by_layer("attention.head_count", count, 0)
        self.kv_heads = (
            self.by_layer("attention.head_count_kv", count, 0)
            if self.get("attention.head_count_kv") is not None
            else list(self.heads)
        )
        if self.router_layer >= 0:
            self.heads[self.router_layer] = self.kv_heads[self.router_layer] = 1
        head = self.width // self.heads[0] if self.heads and self.heads[0] else 0
        self.key_length = self.whole("attention.key_length", head)
        self.value_length = self.whole("attention.value_length", head)
        self.key_length_swa = self.whole("attention.key_length_swa", self.key_length)
        self.value_length_swa = self.whole("attention.value_length_swa", self.value_length)
        self.rotated = self.whole("rope.dimension_count", self.key_length)
        self.experts = self.whole("expert_count")
        self.experts_used = self.by_layer("expert_used_count", count, 0)
        if max(self.experts_used, default=0) > MOST_EXPERTS_USED:
            raise ValueError(f"{max(self.experts_used)} experts are used of {self.experts}")
        self.expert_groups = self.whole("expert_group_count")
        self.expert_groups_used = self.whole("expert_group_used_count")
        self.key_length_mla = self.whole("attention.key_length_mla")
        self.value_length_mla = self.whole("attention.value_length_mla")
        self.mla = bool(self.key_length_mla and self.value_length_mla)
        self.kv_rank = self.whole("attention.kv_lora_rank")
        self.window = self._window()
        self.windowed = self._windows()
        if not any(self.windowed):
            self.window = 0
        self.recurrent = self._recurrent()
        # Layers before this one have a cache of their own, the others use one of theirs.
        self.layers_with_cache = self._layers_with_cache()

    def source_layer(self, layer: int) -> int:
        """The number under which the file has the layer's tensors: a looped model reads the same ones several times."""
        if self.architecture == "hrm_text":
            # Rounds of low stacks and a high one after them; the file has one of each (hrm-text.cpp).
            stack, within = divmod(layer, self.stack_layers)
            return within + (self.stack_layers if (stack + 1) % self.stacks_a_round == 0 else 0)
        return layer % self.physical_layers

    @property
    def stack_layers(self) -> int:
        return self.whole("hrm.layers_per_stack") or 1

    @property
    def stacks_a_round(self) -> int:
        return self.whole("hrm.l_cycles") + 1

    def get(self, key: str, default: t.Any = None) -> t.Any:
        return self.header.get(key, default)

    def whole(self, key: str, default: int = 0) -> int:
        value = self.get(key)
        if isinstance(value, list):
            value = value[0] if value else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default

    def real(self, key: str, default: float = 0.0) -> float:
        value = self.get(key)
        return float(value) if isinstance(value, (int, float)) else default

    def truth(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return value if isinstance(value, bool) else default

    def widest(self, key: str) -> int:
        value = self.get(key)
        values = value if isinstance(value, list) else [value]
        return max((item for item in values if isinstance(item, int)), default=0)

    def by_layer(self, key: str, count: int, default: int) -> list[int]:
        value = self.get(key)
        if isinstance(value, list):
            values = [int(item) for item in value[:count]]
            values *= max(1, count // max(1, len(values)))
            return values + [default] * (count - len(values))
        return [value if isinstance(value, int) else default] * count

    def limited(self, key: str, layer: int) -> bool:
        """The gated activation is clamped in this layer, and so made of several operations."""
        value = self.get(key)
        if value is None and key == "swiglu_clamp_shexp" and self.architecture == "deepseek4":
            value = self.get("swiglu_clamp_exp")
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else 0.0
        return isinstance(value, (int, float)) and value > 1e-6

    def has(self, name: str) -> bool:
        return name in self.tensors

    def rows(self, name: str) -> int:
        """Elements of the second dimension, 0 where there is no such tensor."""
        tensor = self.tensors.get(name)
        return tensor.dimensions[1] if tensor is not None and len(tensor.dimensions) > 1 else 0

    def kind(self, name: str) -> str:
        """A tensor's type in ggml's words, empty where there is no such tensor."""
        tensor = self.tensors.get(name)
        return "" if tensor is None else _gguf.TENSOR_TYPES[tensor.type_id][0].lower()

    @property
    def causal(self) -> bool:
        """Whether a token attends only to those before it."""
        return self.truth("attention.causal", True) and self.architecture not in NOT_CAUSAL

    @property
    def positions(self) -> int:
        """Position numbers a token."""
        sections = self.get("rope.dimension_sections")
        parted = isinstance(sections, list) and len(sections) > 1 and bool(sections[0] and sections[1])
        if self.architecture in FOUR_POSITIONS or (self.architecture in FOUR_WITH_SECTIONS and parted):
            return 4
        return 1

    @property
    def vocabulary(self) -> int:
        return self.rows("output.weight") or self.rows("token_embd.weight")

    def kept_on_host(self, name: str, rules: Rules) -> bool:
        """No CUDA kernel takes the layer's tensor, so it stays in host memory (llama-model-loader.cpp,
        weight_buft_supported; ggml-cuda.cu, supports_op of MUL, SSM_CONV and SSM_SCAN)."""
        tensor = self.tensors.get(name)
        if (name.startswith("posnet.") and ".norm" in name) or ".ple_norm_" in name:
            return self.kind(name) not in ("", "f32", "f16")  # MUL takes no others
        if tensor is None or not (".ssm_" in name or name.endswith(".ple_conv1d.weight")):
            return False
        ne = (*tensor.dimensions, 1)
        if name.endswith((".ssm_conv1d.weight", ".ple_conv1d.weight")):
            return ne[1] % 128 != 0
        if not name.endswith(".ssm_a") or self.architecture not in SCANNED | rules.decay_as_scanned:
            return False
        if ne[0] == 1:
            length = self.whole("ssm.inner_size") // ne[1]
            return self.whole("ssm.state_size") not in (128, 256) or length % 16 != 0
        return not (ne[0] == 16 and self.whole("ssm.inner_size") == ne[1] and ne[1] % 128 == 0)

    def head_key(self, layer: int) -> int:
        return self.key_length_swa if self.windowed[layer] else self.key_length

    def head_value(self, layer: int) -> int:
        return self.value_length_swa if self.windowed[layer] else self.value_length

    def key_row(self, layer: int) -> int:
        """Elements of K that one token leaves in the layer's cache."""
        return self.head_key(layer) * self.kv_heads[layer]

    def value_row(self, layer: int) -> int:
        return self.head_value(layer) * self.kv_heads[layer]

    def latent_rank(self, layer: int) -> int:
        """Elements of a token's latent vector; windows may have one of their own (dots3note)."""
        return self.whole("attention.kv_lora_rank_swa", self.kv_rank) if self.windowed[layer] else self.kv_rank

    def latent_key(self, layer: int) -> int:
        """Elements of a key that the latent vector expands to."""
        whole = self.key_length_mla
        return self.whole("attention.key_length_mla_swa", whole) if self.windowed[layer] else whole

    @property
    def widest_value_row(self) -> int:
        return max(self.value_row(layer) for layer in range(self.all_layers))

    def has_cache(self, layer: int) -> bool:
        return layer < self.layers_with_cache

    def _window(self) -> int:
        stated = self.widest("attention.sliding_window")
        if self.architecture in FIXED_WINDOWS and (stated or self.get("attention.sliding_window") is None):
            return FIXED_WINDOWS[self.architecture] if stated or self.architecture == "llama4" else 0
        return stated

    def _windows(self) -> list[bool]:
        count, architecture = self.all_layers, self.architecture
        if not self.window or architecture in WITHOUT_WINDOW:
            return [False] * count
        stated = self.get("attention.sliding_window_pattern")
        if isinstance(stated, list):
            values = [bool(item) for item in stated[:count]]
            return values + [False] * (count - len(values))
        if architecture in ("lfm2", "lfm2moe"):
            return [bool(heads) for heads in self.kv_heads]
        if architecture not in WINDOW_PATTERNS or (architecture == "exaone4" and self.layers != 64):
            return [False] * count
        period, full_first = WINDOW_PATTERNS[architecture]
        if isinstance(stated, int) and not isinstance(stated, bool):
            period = stated
        if not period:
            return [layer < self.layers for layer in range(count)]
        return [
            layer < self.layers and (layer % period != 0 if full_first else layer % period < period - 1)
            for layer in range(count)
        ]

    def _recurrent(self) -> list[bool]:
        count, architecture = self.all_layers, self.architecture
        if architecture in RECURRENT:
            return [True] * count
        stated = self.get("attention.recurrent_layers") if architecture in ("minimax-01", "qwen4exp") else None
        if isinstance(stated, list):
            return [bool(item) for item in stated[:count]]
        if architecture in ("qwen3next", "qwen35", "qwen35moe", "qwen4exp"):
            period = self.whole("full_attention_interval", 4)
            return [layer < self.layers and (layer + 1) % period != 0 for layer in range(count)]
        if architecture == "falcon-h1":
            return [True] * count
        if architecture == "minimax-01":
            period = self.whole("full_attention_interval", 8)
            return [layer < self.layers and (layer + 1) % period != 0 for layer in range(count)]
        if architecture in HYBRIDS:
            return [layer < self.layers and not self.kv_heads[layer] for layer in range(count)]
        if architecture in ("nemotron_h", "nemotron_h_moe"):
            return [
                layer < self.layers and not self.kv_heads[layer] and not self.feeds(layer) for layer in range(count)
            ]
        return [False] * count

    def indexed(self, layer: int) -> bool:
        """The layer keeps an index key of every token, to choose what attention reads (sparse attention)."""
        if self.architecture == "deepseek32":
            return True
        if self.architecture == "qwen4exp":
            return not self.recurrent[layer]
        if self.architecture == "minimax-m3":
            return layer >= self.whole("leading_dense_block_count")
        if self.architecture not in ("glm-dsa", "hy_v4", "dots3note"):
            return False
        if self.architecture == "hy_v4" and not self.whole("attention.indexer.top_k"):
            return False
        stated = self.get("attention.indexer.types")
        if isinstance(stated, list):
            return bool(stated[layer]) if layer < len(stated) else False
        # Before GLM 5.2 every layer; from then on the first three and every fourth (glm-dsa.cpp).
        return self.context < 1048576 or layer < 3 or (layer - 2) % 4 == 0

    @property
    def gram_heads(self) -> int:
        """Rows of the table of n-grams that each token reads (qwen4exp's ple)."""
        if self.architecture != "qwen4exp" or not isinstance(self.get("ple.layers"), list):
            return 0
        return (self.whole("ple.ngram_size") - 1) * self.whole("ple.heads_per_ngram")

    def gram_state(self, layer: int) -> int:
        """Elements a sequence of the convolution over n-grams, 0 where the layer has none (ple_conv_state)."""
        if not self.gram_heads or layer not in self.get("ple.layers"):
            return 0
        kept = (self.whole("ple.conv_kernel") - 1) * self.whole("ple.ngram_size")
        return kept * self.whole("hyper_connection.count") * self.width

    def feeds(self, layer: int) -> bool:
        """The layer has a feed-forward network."""
        names = (f"blk.{layer}.ffn_down.weight", f"blk.{layer}.ffn_down_exps.weight")
        return any(name in self.tensors for name in names)

    def _layers_with_cache(self) -> int:
        if self.architecture == "gemma3n":
            return 20
        if self.architecture == "gemma4":
            return self.all_layers - self.whole("attention.shared_kv_layers")
        return self.all_layers
