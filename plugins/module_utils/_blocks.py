# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts that language models' compute graphs are made of: norms, attention over a cache, feed-forward networks,
experts, recurrent states. Sources: llama.cpp, src/llama-graph.cpp, src/llama-kv-cache*.cpp.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Graph, Tensor
from ansible_collections.onprem.llm.plugins.module_utils._ggml_plan import OFFLOAD_ROWS, supported_on_gpu
from ansible_collections.onprem.llm.plugins.module_utils._gguf import TENSOR_TYPES
from ansible_collections.onprem.llm.plugins.module_utils._hyper import WITHOUT_CACHE, Hyper
from ansible_collections.onprem.llm.plugins.module_utils._llama_cpp import V0_5_0, Rules


@dataclass(frozen=True)
class Batch:
    """What one graph is built for: tokens, sequences, rows of logits, cells of cache a sequence (all and window)."""

    tokens: int
    sequences: int
    outputs: int
    cells: int
    window_cells: int
    flash: bool
    key_type: str
    value_type: str
    embeddings: bool = False
    pooling: int = -1
    # V lies transposed in the cache; decided before the engine finds that flash attention has no kernel.
    transposed: bool = False
    # The context is beyond the one that positions were trained for (long RoPE factors).
    long_context: bool = False
    # The graph is not computed and sizes nothing: it only shows which device would compute what.
    trial: bool = False
    # Operations that the engine takes apart, as a layer's device would not compute them.
    unfused: frozenset[str] = frozenset()
    # The engine's, where releases of llama.cpp differ.
    rules: Rules = V0_5_0

    @property
    def sequence_tokens(self) -> int:
        return self.tokens // self.sequences


@dataclass(frozen=True)
class Homes:
    """Where weights and caches lie, as backend numbers: by layer, of the output layer, and the CPU's. Experts of the
    first layers may stay with the CPU."""

    layers: tuple[int, ...]
    output: int
    cpu: int
    expert_layers_on_cpu: int = 0


_EXPERTS = ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_up_exps")
_ON_CPU = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.", "hrm.")


def one_head(cache: Tensor) -> Tensor:
    """A cache's rows, each a head of its own."""
    length, cells, sequences = cache.ne[:3]
    row = ggml.row_bytes(cache.type, length)
    return ggml.view(cache, (length, 1, cells, sequences), (row, row, row * cells))


def rotation_size(length: int) -> int:
    """Width of the Hadamard matrix for rows of so many elements: the largest power of two from 64 on that divides
    them."""
    size = 64
    while length > size and length % (size * 2) == 0:
        size *= 2
    return size


def there(tensor: Tensor | None, name: str) -> Tensor:
    """A tensor that the architecture cannot do without.

    :raises KeyError: the header has none of that name.
    """
    if tensor is None:
        raise KeyError(name)
    return tensor


class Builder:
    """One graph in the making. Methods return tensors; what must be computed is given to ``graph.expand``."""

    def __init__(self, hyper: Hyper, batch: Batch, homes: Homes, only: t.Sequence[int] | None = None) -> None:
        self.hyper = hyper
        self.batch = batch
        self.homes = homes
        self.graph = Graph()
        # The layers to build, in order: all, or some that stand for the others.
        self._numbers = list(range(hyper.layers)) if only is None else list(only)
        self.last = self._numbers[-1] if self._numbers else -1
        # How many nodes stood in the graph when each layer was begun.
        self.marks: list[int] = []
        self._weights: dict[tuple[str, int], Tensor] = {}
        self._caches: dict[tuple[str, int], Tensor] = {}
        self._inputs: dict[str, Tensor] = {}
        # Results that all layers share.
        self.made: dict[str, Tensor] = {}
        self.attention_nodes: list[tuple[Tensor, int]] = []
        # Operations that may be taken apart, with their layers.
        self.fused_nodes: list[tuple[Tensor, int]] = []
        self.outputs: list[Tensor] = []

    @property
    def numbers(self) -> t.Iterator[int]:
        """The layers to build."""
        for number in self._numbers:
            self.marks.append(len(self.graph.nodes))
            yield number

    # --- weights, inputs, caches -------------------------------------------------------------------------------------

    def _weight(self, name: str, home: int) -> Tensor | None:
        entry = self.hyper.tensors.get(name)
        if entry is None:
            return None
        made = self._weights.get((name, home))
        if made is None:
            made = ggml.tensor(TENSOR_TYPES[entry.type_id][0].lower(), *entry.dimensions)
            made.home = self.homes.cpu if self.hyper.kept_on_host(name, self.batch.rules) else home
            made.weight = True
            made.name = name
            self._weights[name, home] = made
        return made

    def weight(self, layer: int, name: str, part: str = "weight", prefix: str = "") -> Tensor | None:
        """A layer's tensor, None where the model has none."""
        layer = self.hyper.source_layer(layer)
        home = self.homes.layers[layer]
        if name in _EXPERTS and layer < self.homes.expert_layers_on_cpu:
            home = self.homes.cpu
        found = self._weight(f"{prefix}blk.{layer}.{name}.{part}", home)
        # Some tensors carry no suffix.
        return self._weight(f"blk.{layer}.{name}", home) if found is None and part == "weight" else found

    def bias(self, layer: int, name: str) -> Tensor | None:
        return self.weight(layer, name, "bias")

    def needed(self, layer: int, name: str, part: str = "weight") -> Tensor:
        return there(self.weight(layer, name, part), f"blk.{layer}.{name}.{part}")

    def top(self, name: str, layer: int | None = None) -> Tensor | None:
        """A tensor outside of the layers: with the input, the output, or as a copy with a layer."""
        if name.startswith(_ON_CPU):
            home = self.homes.cpu
        elif layer is None and name.startswith(("per_layer_model_proj", "per_layer_proj_norm")):
            home = self.homes.layers[0]
        else:
            home = self.homes.output if layer is None else self.homes.layers[layer]
        return self._weight(name, home)

    def input(self, name: str, kind: str, *ne: int) -> Tensor:
        made = self._inputs.get(name)
        if made is None:
            made = ggml.tensor(kind, *ne)
            made.is_input = True
            made.name = name
            self._inputs[name] = made
        return made

    def positions(self) -> Tensor:
        return self.input("positions", "i32", self.batch.tokens * self.hyper.positions)

    def output_rows(self) -> Tensor:
        return self.input("output_rows", "i32", self.batch.outputs)

    def cache(self, what: str, layer: int, kind: str, *ne: int) -> Tensor:
        made = self._caches.get((what, layer))
        if made is None:
            made = ggml.tensor(kind, *ne)
            made.home = self.homes.layers[layer]
            self._caches[what, layer] = made
        return made

    # --- small parts -------------------------------------------------------------------------------------------------

    def embedding(self) -> Tensor:
        """The batch's input: rows of the embedding table, or embeddings given as they are.

        :raises ValueError: the table is not as wide as the model.
        """
        table = there(self.top("token_embd.weight"), "token_embd.weight")
        width = self.hyper.width
        if table.ne[0] != width:
            raise ValueError(f"the input embeddings are {table.ne[0]} wide, the model {width}")
        rows = ggml.get_rows(table, self.input("tokens", "i32", self.batch.tokens))
        extra = self.hyper.whole("n_deepstack_layers") * width
        if extra:
            rows = ggml.pad(rows, extra)
        self.graph.expand(rows)
        self.graph.expand(self.input("embeddings", "f32", width + extra, self.batch.tokens))
        if extra:
            rows = ggml.view(rows, (width, self.batch.tokens), rows.nb[1:2])
        self.input_rows = rows
        if self.hyper.real("embedding_scale") or self.hyper.architecture in ("grok", "minicpm"):
            if not rows.contiguous:
                rows = ggml.cont(rows)
            rows = ggml.like("SCALE", rows)
        self.graph.expand(rows)
        return rows

    def norm(self, source: Tensor, weight: Tensor | None, bias: Tensor | None = None, kind: str = "RMS_NORM") -> Tensor:
        made = ggml.like(kind, source)
        if weight is not None:
            made = ggml.like("MUL", made, weight)
        if bias is not None:
            made = ggml.like("ADD", made, bias)
        return made

    def layer_norm(self, source: Tensor, layer: int, name: str, kind: str = "RMS_NORM") -> Tensor:
        weight, bias = self.weight(layer, name), self.bias(layer, name)
        made = self.norm(source, weight, bias, kind)
        if self.batch.trial and made.op != kind:
            self.pin(made.src[0] if weight is None or bias is None else made.src[0].src[0], layer)
        return made

    def linear(self, layer: int, name: str, source: Tensor) -> Tensor:
        """Weight, bias and scale of one projection."""
        made = ggml.mul_mat(self.needed(layer, name), source)
        scale = self.weight(layer, name, "scale")
        if scale is not None:
            made = ggml.like("MUL", made, scale)
        bias = self.bias(layer, name)
        return ggml.like("ADD", made, bias) if bias is not None else made

    def rope(self, source: Tensor, layer: int | None = None) -> Tensor:
        """Rotary positions; ``layer`` where the layer may bring frequency factors of its own."""
        factors: tuple[Tensor, ...] = ()
        if layer is not None:
            found = self.top("rope_freqs.weight", layer)
            if found is None:
                found = self.top(
                    "rope_factors_long.weight" if self.batch.long_context else "rope_factors_short.weight", layer
                )
            factors = (found,) if found is not None else ()
        return ggml.like("ROPE", source, self.positions(), *factors)

    def rope_end(
        self, source: Tensor, rotated: int, layer: int | None = None, turn: t.Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """By head, the last ``rotated`` elements with rotary positions: the batch's, or what ``turn`` makes of them."""
        turn = turn or (lambda part: self.rope(part, layer))
        if self.batch.rules.rotates_in_part:
            return turn(source)
        plain, ne, nb = source.ne[0] - rotated, source.ne[1:3], source.nb[1:3]
        last = ggml.view(source, (rotated, *ne), nb, 4 * plain)
        return ggml.concat(ggml.view(source, (plain, *ne), nb), turn(last), 0)

    def scale(self, source: Tensor) -> Tensor:
        return ggml.like("SCALE", source)

    def pin(self, made: Tensor, layer: int) -> None:
        """In a trial graph norms and the last result of a layer stay on the layer's device (llama-context.cpp,
        graph_get_cb). Where buffers are sized the scheduler has forgotten it (ggml_backend_sched_reserve_size)."""
        homes = self.homes
        home = homes.layers[layer]
        small = self.batch.tokens < OFFLOAD_ROWS or homes.cpu not in homes.layers
        if self.batch.trial and small and (home == homes.cpu or supported_on_gpu(made)):
            made.pinned = home

    def fuses(self, operation: str) -> bool:
        """Whether the engine has one operation for what may be taken apart."""
        return operation not in self.batch.unfused

    def fused(self, layer: int, made: Tensor) -> Tensor:
        """Remembers an operation that may be taken apart."""
        self.fused_nodes.append((made, layer))
        return made

    def clamp(self, source: Tensor) -> Tensor:
        return (ggml.inplace if self.batch.rules.clamps_in_view else ggml.like)("CLAMP", source)

    def gather(self, *sources: Tensor) -> tuple[Tensor, ...]:
        """Only the rows that logits are wanted for."""
        rows = self.output_rows()
        return tuple(ggml.get_rows(source, rows) for source in sources)

    def wanted(self, layer: int, *sources: Tensor) -> tuple[Tensor, ...]:
        """A layer's tensors as they are; in the last one, only the rows that logits are wanted for."""
        return self.gather(*sources) if layer == self.last else sources

    def finish(self, hidden: Tensor, logits: Tensor | None) -> None:
        """Marks what the caller reads afterwards, adds the pooling of embedding models."""
        self.graph.expand(logits if logits is not None else hidden)
        hidden.is_output = True
        if logits is not None:
            logits.is_output = True
        if self.batch.embeddings:
            self._pool(hidden)

    def _pool(self, hidden: Tensor) -> None:
        kind, batch = self.batch.pooling, self.batch
        pooled = hidden
        if kind == 1:
            mean = self.input("mean", "f32", batch.tokens, batch.sequences)
            pooled = ggml.mul_mat(ggml.cont(ggml.transpose(hidden)), mean)
        elif kind in (2, 3, 4):
            pooled = ggml.get_rows(hidden, self.input("classes", "i32", batch.sequences))
        for name in ("dense_2.weight", "dense_3.weight"):
            dense = self.top(name)
            if dense is not None:
                pooled = ggml.mul_mat(dense, pooled)
        pooled.is_output = True
        self.graph.expand(pooled)

    def head(self, hidden: Tensor, scaled: bool = False, soft_cap: bool = False) -> Tensor:
        """The output layer, tied to the input embeddings where it has no tensor of its own."""
        weight = self.top("output.weight")
        if weight is None:
            # bitnet reads the input embeddings where they are.
            home = self.homes.cpu if self.hyper.architecture == "bitnet" else self.homes.output
            weight = there(self._weight("token_embd.weight", home), "token_embd.weight")
        logits = ggml.mul_mat(weight, hidden)
        bias = self.top("output.bias")
        if bias is not None:
            logits = ggml.like("ADD", logits, bias)
        missing = self.hyper.rows("token_embd.weight") - logits.ne[0]
        if self.hyper.architecture in ("qwen3vl", "qwen3tts") and missing > 0:
            norm = there(self.top("output_norm.weight"), "output_norm.weight")
            filler = ggml.repeat(ggml.like("SCALE", ggml.view(norm, (1,))), missing, logits.ne[1], 1, 1)
            logits = ggml.concat(filler, logits, 0)
        if scaled:
            logits = self.scale(logits)
        if soft_cap:
            logits = self.scale(ggml.like("TANH", self.scale(logits)))
        return logits

    # --- attention ---------------------------------------------------------------------------------------------------

    def qkv(
        self, layer: int, source: Tensor, heads: int, kv_heads: int, key: int, value: int, shaped: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, from one fused projection or three."""
        tokens = self.batch.tokens
        clamp = bool(self.hyper.real("attention.clamp_kqv")) and shaped
        if self.weight(layer, "attn_qkv") is not None:
            fused = self.linear(layer, "attn_qkv", source)
            biases = [self.bias(layer, name) for name in ("attn_q", "attn_k", "attn_v")]
            if self.bias(layer, "attn_qkv") is None and None not in biases:  # weights fused, biases not
                query_bias, key_bias, value_bias = map(there, biases, ("attn_q", "attn_k", "attn_v"))
                together = ggml.concat(ggml.concat(query_bias, key_bias, 0), value_bias, 0)
                fused = ggml.like("ADD", fused, together)
            if clamp:
                fused = self.clamp(fused)
            first, second = key * heads, key * kv_heads
            row = fused.nb[1]
            if shaped:
                return (
                    ggml.view(fused, (key, heads, tokens), (4 * key, row), 0),
                    ggml.view(fused, (key, kv_heads, tokens), (4 * key, row), 4 * first),
                    ggml.view(fused, (value, kv_heads, tokens), (4 * value, row), 4 * (first + second)),
                )
            return (
                ggml.cont(ggml.view(fused, (first, tokens), (row,), 0)),
                ggml.cont(ggml.view(fused, (second, tokens), (row,), 4 * first)),
                ggml.cont(ggml.view(fused, (value * kv_heads, tokens), (row,), 4 * (first + second))),
            )
        parts = [self.linear(layer, name, source) for name in ("attn_q", "attn_k", "attn_v")]
        if clamp:
            parts = [self.clamp(part) for part in parts]
        if not shaped:
            return parts[0], parts[1], parts[2]
        return (
            ggml.reshape(parts[0], key, heads, tokens),
            ggml.reshape(parts[1], key, kv_heads, tokens),
            ggml.reshape(parts[2], value, kv_heads, tokens),
        )

    def mask(self, windowed: bool) -> Tensor:
        """Which cells each token sees: by sequence, f16 for flash attention. Without a cache the batch sees itself."""
        batch = self.batch
        kind = "f16" if batch.flash else "f32"
        name = "mask_window" if windowed else "mask"
        if self.hyper.architecture in READS_BATCH:
            return self.input(name, kind, batch.tokens, batch.tokens)
        cells = batch.window_cells if windowed else batch.cells
        return self.input(name, kind, cells, batch.sequence_tokens, 1, batch.sequences)

    def _rotation(self, what: str, windowed: bool, head_lengths: set[int], first: int, kind: str) -> Tensor | None:
        """The Hadamard matrix that spreads outliers before a cache is quantized (llama-kv-cache.cpp, attn_rot)."""
        if not ggml.TYPES[kind][0] > 1 or len(head_lengths) != 1 or first % 64:
            return None
        size = rotation_size(next(iter(head_lengths))) if what == "k" else 64
        return self.input(f"rotation_{what}{'_window' if windowed else ''}", "f32", size, size)

    def rotations(self, windowed: bool) -> tuple[Tensor | None, Tensor | None]:
        hyper, batch = self.hyper, self.batch
        layers = [
            layer
            for layer in range(hyper.layers)
            if hyper.has_cache(layer) and (hyper.windowed[layer] == windowed) and self.keeps_attention(layer)
        ]
        keys = {hyper.head_key(layer) for layer in layers}
        values = {hyper.head_value(layer) for layer in layers}
        return (
            self._rotation("k", windowed, keys, hyper.head_key(0), batch.key_type),
            self._rotation("v", windowed, values, hyper.head_value(0), batch.value_type),
        )

    def keeps_attention(self, layer: int) -> bool:
        hyper = self.hyper
        if hyper.architecture in ("nemotron_h", "nemotron_h_moe") and hyper.feeds(layer):
            return False
        return not hyper.recurrent[layer] or hyper.architecture == "falcon-h1"

    def hadamard(self, source: Tensor, rotation: Tensor) -> Tensor:
        size = rotation.ne[0]
        rows = source.elements // size
        flat = ggml.reshape(source, size, rows) if source.contiguous else ggml.cont(source, size, rows)
        return ggml.reshape(ggml.mul_mat(rotation, flat), *source.ne)

    def store(self, layer: int, key: Tensor | None, value: Tensor | None) -> None:
        """The batch's keys and values go into the cache, values transposed where attention has no kernel of its own."""
        hyper, batch = self.hyper, self.batch
        suffix = "_window" if hyper.windowed[layer] else ""
        if key is not None:
            self.keep(self.key_cache(layer), key, self.input("key_cells" + suffix, "i64", batch.tokens))
        if value is None:
            return
        cache = self.value_cache(layer)
        if not batch.transposed:
            self.keep(cache, value, self.input("value_cells" + suffix, "i64", batch.tokens))
            return
        wide = value.ne[0] * value.ne[1]
        flat = (
            ggml.reshape(value, wide, value.ne[2]) if value.nb[2] == 4 * wide else ggml.cont(value, wide, value.ne[2])
        )
        if wide < cache.ne[0]:
            flat = ggml.pad(flat, cache.ne[0] - wide)
        ids = self.input("value_cells" + suffix, "i64", batch.tokens * hyper.widest_value_row)
        self.graph.expand(
            ggml.set_rows(ggml.reshape(cache, 1, cache.elements), ggml.reshape(flat, 1, flat.elements), ids)
        )

    def keep(self, cache: Tensor, rows: Tensor, ids: Tensor) -> None:
        """Rows of the batch go into a cache, in which the cells of one sequence follow on those of another."""
        wide = rows.ne[0] * rows.ne[1]
        flat = ggml.view(rows, (wide, rows.ne[2]), (rows.nb[2],))
        if self.batch.sequences > 1:
            cache = ggml.reshape(cache, wide, cache.ne[1] * cache.ne[2])
        self.graph.expand(ggml.set_rows(cache, flat, ids))

    def cache_owner(self, layer: int) -> int:
        """The layer whose cache this one reads: its own, or of the last layers of its kind that keep one."""
        hyper = self.hyper
        if hyper.has_cache(layer):
            return layer
        return hyper.layers_with_cache - (2 if hyper.windowed[layer] else 1)

    def key_cache(self, layer: int) -> Tensor:
        owner, batch = self.cache_owner(layer), self.batch
        cells = batch.window_cells if self.hyper.windowed[owner] else batch.cells
        return self.cache("k", owner, batch.key_type, self.hyper.key_row(owner), cells, batch.sequences)

    def value_cache(self, layer: int) -> Tensor:
        owner, batch, hyper = self.cache_owner(layer), self.batch, self.hyper
        cells = batch.window_cells if hyper.windowed[owner] else batch.cells
        wide = hyper.widest_value_row if batch.transposed else hyper.value_row(owner)
        return self.cache("v", owner, batch.value_type, wide, cells, batch.sequences)

    def read_cache(self, layer: int) -> tuple[Tensor, Tensor]:
        hyper, batch = self.hyper, self.batch
        heads, length, wide = hyper.kv_heads[layer], hyper.head_key(layer), hyper.head_value(layer)
        key, value = self.key_cache(layer), self.value_cache(layer)
        cells, sequences = key.ne[1], batch.sequences
        row = ggml.row_bytes(key.type, key.ne[0])
        keys = ggml.view(key, (length, heads, cells, sequences), (ggml.row_bytes(key.type, length), row, row * cells))
        size, total = value.type, value.ne[0]
        if not batch.transposed:
            row = ggml.row_bytes(size, total)
            values = ggml.view(value, (wide, heads, cells, sequences), (ggml.row_bytes(size, wide), row, row * cells))
        else:
            values = ggml.view(
                value,
                (cells, heads, wide, sequences),
                (
                    ggml.row_bytes(size, cells * wide),
                    ggml.row_bytes(size, cells),
                    ggml.row_bytes(size, cells * total),
                ),
            )
        return keys, values

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor | None = None,
        bias: Tensor | None = None, decompress: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention proper: one kernel, or scores, soft-max and weighted sum as tensors of their own."""
        hyper = self.hyper
        streams = key.ne[3]
        transposed = value.nb[1] > value.nb[2]
        query = ggml.view(
            query,
            (query.ne[0], query.ne[1], query.ne[2] // streams, streams),
            (query.nb[1], query.nb[2], query.nb[3] // streams),
        )
        query, key, value = (ggml.permute(part, 0, 2, 1, 3) for part in (query, key, value))
        extra = (sinks,) if sinks is not None else ()
        if self.batch.flash and bias is None:
            if transposed:
                value = ggml.transpose(value)
            key, value = (ggml.cast(part, "f16") if part.type == "f32" else part for part in (key, value))
            made = ggml.flash_attention(query, key, value, mask, *extra)
            made.bias = self.alibi
            self.attention_nodes.append((made, layer))
            if decompress is not None:
                made = ggml.mul_mat(decompress, ggml.permute(made, 0, 2, 1, 3))
                made = ggml.cont(ggml.permute(made, 0, 2, 1, 3))
            made = ggml.reshape(made, made.ne[0] * made.ne[1], made.ne[2] * made.ne[3])
        else:
            scores = ggml.mul_mat(key, query)
            if hyper.architecture == "grok":
                scores = self.scale(ggml.like("TANH", self.scale(scores)))
            if hyper.architecture in SOFT_CAPPED:
                scores = self.scale(ggml.like("TANH", self.scale(scores)))
            if bias is not None:
                scores = ggml.like("ADD", scores, bias)
            scores = ggml.like("SOFT_MAX", scores, mask, *extra)
            if not transposed:
                value = ggml.cont(ggml.transpose(value))
            made = ggml.mul_mat(value, scores)
            if decompress is not None:
                made = ggml.mul_mat(decompress, made)
            made = ggml.permute(made, 0, 2, 1, 3)
            made = ggml.cont(made, made.ne[0] * made.ne[1], made.ne[2] * made.ne[3])
        self.graph.expand(made)
        return made

    @property
    def alibi(self) -> bool:
        if self.hyper.architecture == "baichuan" and self.hyper.layers == 40:
            return True
        return self.hyper.architecture in ALIBI or self.hyper.real("attention.max_alibi_bias") > 0

    def attention(
        self, layer: int, query: Tensor, key: Tensor | None, value: Tensor | None, sinks: Tensor | None = None,
        output: str | None = "attn_output", bias: Tensor | None = None, chosen: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention of a layer over its cache, of which an index may have ``chosen`` cells, or over the batch itself
        where the model keeps none."""
        graph, hyper = self.graph, self.hyper
        windowed = hyper.windowed[layer]
        if hyper.architecture in READS_BATCH:
            key, value = there(key, "attn_k"), there(value, "attn_v")
            for part in (query, key, value):
                graph.expand(part)
            made = self.attend(layer, query, key, value, self.mask(windowed), sinks, bias)
            return self.linear(layer, output, made) if output else made
        key_rotation, value_rotation = self.rotations(windowed)
        if key_rotation is not None:
            query = self.hadamard(query, key_rotation)
            key = self.hadamard(key, key_rotation) if key is not None else None
        if value_rotation is not None and value is not None:
            value = self.hadamard(value, value_rotation)
        graph.expand(query)
        order = (key, value) if any(hyper.windowed) else (value, key)
        for part_ in order:
            if part_ is not None:
                graph.expand(part_)
        self.store(layer, key, value)
        keys, values = self.read_cache(layer)
        mask = self.mask(windowed)
        if chosen is not None:
            mask = self.chosen_mask(chosen, mask)
        made = self.attend(layer, query, keys, values, mask, sinks, bias)
        if value_rotation is not None:
            made = self.hadamard(made, value_rotation)
        return self.linear(layer, output, made) if output else made

    def latent_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, decompress: Tensor | None,
        output: str | None = "attn_output", chosen: Tensor | None = None, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """MLA: the cache holds one latent vector a token, of which the values are a part."""
        for part in (query, value, key):
            self.graph.expand(part)
        self.store(layer, key, None)
        keys = one_head(self.key_cache(layer))
        values = ggml.view(keys, (value.ne[0], *keys.ne[1:]), keys.nb[1:])
        every = self.mask(chosen is None and self.hyper.windowed[layer])
        mask = every if chosen is None else self.chosen_mask(chosen, every)
        made = self.attend(layer, query, keys, values, mask, sinks, decompress=decompress)
        return self.linear(layer, output, made) if output else made

    def chosen_mask(self, chosen: Tensor, mask: Tensor, kind: str = "f32") -> Tensor:
        """The mask, open only where an index chose a cell (sparse attention); ``kind`` is the type of what opens it."""
        closed = ggml.like("FILL", mask)
        ne, nb = closed.ne, closed.nb
        closed = ggml.view(closed, (1, ne[0], ne[1], ne[3]), nb[:3])
        ids = ggml.view(
            chosen, (chosen.ne[0], chosen.ne[1], chosen.ne[3], 1), (*chosen.nb[1:3], chosen.ne[3] * chosen.nb[3])
        )
        zeros = ggml.like("FILL", ggml.tensor(kind, 1, *ids.ne[:3]))
        opened = ggml.set_rows(closed, zeros, ids)
        shape, steps = opened.ne, opened.nb
        opened = ggml.view(opened, (shape[1], shape[2], 1, shape[3]), (steps[2], steps[3], steps[3]))
        return ggml.like("ADD", opened, mask)

    # --- feed-forward ------------------------------------------------------------------------------------------------

    def feed_forward(self, layer: int, source: Tensor, activation: str = "SWIGLU", suffix: str = "") -> Tensor:
        """Up, an activation that a gate may steer, and down. Without a gate tensor the activation is unary, or splits
        ``up`` in two where that is twice as wide as ``down`` reads."""
        up = self.linear(layer, "ffn_up" + suffix, source) if self.weight(layer, "ffn_up" + suffix) else source
        down = self.needed(layer, "ffn_down" + suffix)
        if self.weight(layer, "ffn_gate" + suffix) is not None:
            gate = self.linear(layer, "ffn_gate" + suffix, source)
            if activation == "SWIGLU" and self.hyper.limited("swiglu_clamp_shexp", layer):
                hidden = self.limited_swiglu(gate, up, self.hyper.architecture == "deepseek4")
            else:
                hidden = self.gated(activation, gate, up)
        elif up.ne[0] == 2 * down.ne[0]:
            hidden = ggml.glu(activation, up)
        else:
            hidden = ggml.like(UNGATED.get(activation, activation), up)
            if activation == "RELU_SQR":
                hidden = ggml.like("SQR", hidden)
        if not suffix and self.weight(layer, "ffn_sub_norm") is not None:
            hidden = self.layer_norm(hidden, layer, "ffn_sub_norm")
        return self.linear(layer, "ffn_down" + suffix, hidden)

    def gated(self, activation: str, gate: Tensor, up: Tensor) -> Tensor:
        """The gate's activation times ``up``: one operation, or SITU's several (llama-graph.cpp, LLM_FFN_SITU), of
        which the header may leave out those of ``up``."""
        if activation != "SITU":
            return ggml.glu(activation, gate, up)
        opened = ggml.like("MUL", self.scale(ggml.like("TANH", self.scale(gate))), ggml.like("SIGMOID", gate))
        if self.hyper.real("activation.situ_linear_beta") > 0:
            up = self.scale(ggml.like("TANH", self.scale(up)))
        return ggml.like("MUL", opened, up)

    def limited_swiglu(self, gate: Tensor, up: Tensor, before: bool) -> Tensor:
        """SwiGLU with both sides limited, the gate before or behind its activation."""
        if before and self.batch.rules.swiglu_limits:
            return ggml.glu("SWIGLU_CLAMP", gate, up)
        up = self.clamp(up)
        if before:
            return ggml.glu("SWIGLU", self.clamp(gate), up)
        return ggml.like("MUL", self.clamp(ggml.like("SILU", gate)), up)

    def experts(
        self, layer: int, source: Tensor, activation: str = "SWIGLU", gating: str = "softmax", normed: bool = False,
        scaled: bool = False, logits: Tensor | None = None, used: int | None = None, suffix: str = "_exps",
        picked: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """A mixture of experts: the router's choice, or ``picked`` ones, on each token, their weighted sum."""
        hyper, graph = self.hyper, self.graph
        width, tokens = source.ne[0], source.ne[1]
        count = self.needed(layer, "ffn_down" + suffix).ne[2]
        used = hyper.experts_used[layer] if used is None else used
        before = hyper.architecture == "llama4"  # the weights go to the experts' input
        if logits is None:
            logits = ggml.mul_mat(self.needed(layer, "ffn_gate_inp"), source)
        bias = self.bias(layer, "ffn_gate_inp")
        if bias is not None:
            logits = ggml.like("ADD", logits, bias)
        routed = logits.ne[0]
        if gating == "softmax":
            probabilities = ggml.like("SOFT_MAX", logits)
        elif gating == "sigmoid":
            probabilities = ggml.like("SIGMOID", logits)
        elif gating == "sqrt_softplus":
            probabilities = ggml.like("SQRT", ggml.like("SOFTPLUS", logits))
        else:
            probabilities = logits
        selection = probabilities
        choice = self.bias(layer, "exp_probs_b") or self.weight(layer, "exp_probs_b")  # hy_v3 gives it no suffix
        if choice is not None:
            selection = ggml.like("ADD", probabilities, choice)
        if before:
            selection = logits
        if hyper.architecture == "grovemoe":
            selection = ggml.like("SIGMOID", logits)
        groups = hyper.expert_groups
        if groups > 1:
            selection = self._best_groups(selection, count, groups, tokens)
        if picked is None:
            picked = ggml.argsort_top_k(selection, used)
        if routed != count:  # grovemoe: experts that others share
            picked = ggml.cast(self.scale(ggml.cast(picked, "f32")), "i32")
        weights = ggml.get_rows(ggml.reshape(probabilities, 1, routed, tokens), picked)
        if gating == "softmax_weight":
            weights = ggml.like("SOFT_MAX", ggml.reshape(weights, used, tokens))
            weights = ggml.reshape(weights, 1, used, tokens)
        if normed:
            flat = ggml.reshape(weights, used, tokens)
            total = self.clamp(ggml.sum_rows(flat))
            weights = ggml.reshape(ggml.like("DIV", flat, total), 1, used, tokens)
        if scaled:
            weights = self.scale(weights)
        graph.expand(weights)
        current = ggml.reshape(source, width, 1, tokens)
        if before:
            current = ggml.like("MUL", ggml.repeat(current, width, used, tokens, 1), weights)
        fused = self.weight(layer, "ffn_gate_up_exps")
        gate: Tensor | None
        if fused is not None:
            both = self._expert_linear(layer, "ffn_gate_up_exps", current, picked)
            half = both.ne[0] // 2
            gate = ggml.view(both, (half, *both.ne[1:3]), both.nb[1:3])
            up = ggml.view(both, (half, *both.ne[1:3]), both.nb[1:3], half * 4)
        else:
            up = self._expert_linear(layer, "ffn_up" + suffix, current, picked)
            gate = (
                self._expert_linear(layer, "ffn_gate" + suffix, current, picked)
                if self.weight(layer, "ffn_gate" + suffix) is not None
                else None
            )
        if gate is not None:
            before_gate = hyper.architecture in ("maple", "deepseek4", "hy_v4")
            if (before_gate or (fused is None and activation == "SWIGLU")) and hyper.limited("swiglu_clamp_exp", layer):
                hidden = self.limited_swiglu(gate, up, before_gate)
            else:
                hidden = self.gated(activation, gate, up)
        else:
            hidden = ggml.like(UNGATED.get(activation, activation), up)
            if activation == "RELU_SQR":
                hidden = ggml.like("SQR", hidden)
        made = self._expert_linear(layer, "ffn_down" + suffix, hidden, picked)
        made.strict = hyper.architecture in self.batch.rules.exact_experts
        if not before:
            made = ggml.like("MUL", made, weights)
        graph.expand(made)
        parts = [ggml.view(made, (width, tokens), (made.nb[2],), index * made.nb[1]) for index in range(used)]
        for part in parts:
            graph.expand(part)
        total = parts[0]
        for part in parts[1:]:
            total = ggml.like("ADD", total, part)
            graph.expand(total)
        return ggml.cont(total) if used == 1 else total

    def _expert_linear(self, layer: int, name: str, source: Tensor, ids: Tensor) -> Tensor:
        weight = self.needed(layer, name)
        made = ggml.mul_mat_id(weight, source, ids)
        scale = self.weight(layer, name, "scale")
        if scale is not None:
            row = ggml.repeat(ggml.reshape(scale, 1, weight.ne[2]), 1, weight.ne[2], source.ne[2], 1)
            made = ggml.like("MUL", made, ggml.get_rows(row, ids))
        bias = self.bias(layer, name)
        return ggml.like("ADD_ID", made, bias, ids) if bias is not None else made

    def _best_groups(self, selection: Tensor, count: int, groups: int, tokens: int) -> Tensor:
        """Experts outside of the groups with the best two are masked (DeepSeek V3)."""
        size = count // groups
        grouped = ggml.reshape(selection, size, groups, tokens)
        best = ggml.argsort_top_k(grouped, 2)
        scores = ggml.get_rows(ggml.reshape(grouped, 1, *grouped.ne[:3]), best)
        scores = ggml.sum_rows(ggml.reshape(scores, *scores.ne[1:]))
        scores = ggml.reshape(scores, *scores.ne[1:3])
        chosen = ggml.argsort_top_k(scores, self.hyper.expert_groups_used)
        kept = ggml.get_rows(grouped, chosen)
        masked = ggml.set_rows(ggml.like("FILL", grouped), kept, chosen)
        return ggml.reshape(masked, count, tokens)

    def shared_expert(self, layer: int, source: Tensor, activation: str = "SWIGLU") -> Tensor:
        return self.feed_forward(layer, source, activation, "_shexp")

    # --- recurrent state ---------------------------------------------------------------------------------------------

    def state(
        self, layer: int, what: str, size: int, rows: t.Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """The batch's sequences' states out of the layer's, one cleared on the way (build_rs)."""
        graph, sequences = self.graph, self.batch.sequences
        store = self.state_cache(layer, what, size)
        states = ggml.reshape(store, size, store.ne[1])
        copies = self.input("state_copies", "i32", sequences)
        if "state_main" not in self._inputs:
            self._inputs["state_main"] = ggml.view(copies, (sequences,))
            self._inputs["state_extra"] = ggml.view(copies, (0,), (), sequences * 4)
        zero = ggml.view(states, (0,))
        graph.expand(ggml.inplace("SCALE", zero))
        main = self._inputs["state_main"]
        picked = ggml.get_rows(states, main) if rows is None else rows(states, main)
        graph.expand(picked)
        extra = ggml.get_rows(states, self._inputs["state_extra"])
        graph.expand(ggml.cpy(extra, ggml.view(store, (size, 0), store.nb[1:2], sequences * store.nb[1])))
        return picked

    def state_cache(self, layer: int, what: str, size: int) -> Tensor:
        return self.cache(what, layer, "f32", size, self.batch.sequences)

    def state_rows(self, layer: int, what: str, size: int) -> Tensor:
        """The view that new states are written to."""
        store = self.state_cache(layer, what, size)
        return ggml.view(store, (size, self.batch.sequences), store.nb[1:2])


# Attention sees the batch alone; two of these models have a cache set aside all the same.
READS_BATCH = WITHOUT_CACHE | {"llama-embed", "t5encoder"}
# llama.cpp: attention scores squeezed by tanh; positions as a bias that falls with the distance.
SOFT_CAPPED = frozenset({"gemma2"})
ALIBI = frozenset({"bloom", "refact", "jina-bert-v2"})
# The unary activation that stands for a gated one where there is no gate.
UNGATED = {"SWIGLU": "SILU", "GEGLU": "GELU", "REGLU": "RELU", "RELU_SQR": "RELU"}
