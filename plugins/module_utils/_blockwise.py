# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of MiniMax M3: attention reads the blocks of positions that an index ranks best.

Sources: llama.cpp, src/models/minimax-m3.cpp, src/llama-kv-cache-msa.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, one_head
from ansible_collections.onprem.llm.plugins.module_utils._decoder import Decoder, fed, finish, project
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor

# llama-kv-cache-msa.cpp, get_n_pos: positions come in steps of so many; the caches that buffers are sized over hold
# cells, but no position yet.
POSITIONS = 256


def minimax_m3(b: Builder) -> None:
    """Dense layers, then sparse ones with experts. Without flash attention all attention is dense."""
    traits = Decoder(activation="SWIGLU_OAI", gating="", normed_weights=None)
    current = b.embedding()
    for layer in b.numbers:
        residual = current
        normed = b.layer_norm(current, layer, "attn_norm")
        query, key, value = project(b, traits, layer, normed)
        if b.batch.flash and b.hyper.indexed(layer):
            made = _sparse(b, layer, normed, query, key, value)
        else:
            made = b.attention(layer, query, key, value)
        current = fed(b, traits, layer, made, residual)
    finish(b, traits, current)


def _sparse(b: Builder, layer: int, source: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    hyper, batch = b.hyper, b.batch
    index_query, index_keys = _index(b, layer, source)
    key_rotation, value_rotation = b.rotations(False)
    if key_rotation is not None:
        query, key = b.hadamard(query, key_rotation), b.hadamard(key, key_rotation)
    if value_rotation is not None:
        value = b.hadamard(value, value_rotation)
    for part in (query, key, value):
        b.graph.expand(part)
    b.store(layer, key, value)
    keys, values = b.read_cache(layer)
    size = hyper.whole("attention.indexer.block_size")
    positions = (POSITIONS + size - 1) & ~(size - 1)  # ggml.h, GGML_PAD, which is meant for powers of two
    if batch.sequence_tokens == 1:
        made = _gathered(b, layer, index_query, index_keys, query, keys, values, positions)
    else:
        each = [
            _masked(b, layer, number, index_query, index_keys, query, keys, values, positions)
            for number in range(batch.sequences)
        ]
        made = each[0]
        for one in each[1:]:
            made = ggml.concat(made, one, 1)
    if value_rotation is not None:
        made = b.hadamard(made, value_rotation)
    return b.linear(layer, "attn_output", made)


def _index(b: Builder, layer: int, source: Tensor) -> tuple[Tensor, Tensor]:
    """The index's queries, one head for each group of heads, and the keys that its cache holds."""
    hyper, batch = b.hyper, b.batch
    heads, length = hyper.whole("attention.indexer.head_count"), hyper.whole("attention.indexer.key_length")
    parts = []
    for letter, count in (("q", heads), ("k", 1)):
        part = ggml.reshape(b.linear(layer, f"indexer.{letter}_proj", source), length, count, batch.tokens)
        parts.append(b.rope(b.layer_norm(part, layer, f"indexer.{letter}_norm")))
    query, key = parts
    cache = b.cache("index", layer, batch.key_type, length, batch.cells, batch.sequences)
    b.keep(cache, key, b.input("index_cells", "i64", batch.tokens))
    return query, one_head(cache)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, per: int) -> Tensor:
    """Attention over what was chosen, the groups of heads as sequences (build_attn_msa_fa)."""
    length, heads, tokens = query.ne[:3]
    groups = keys.ne[3]
    query = ggml.permute(ggml.reshape(query, length, per, groups, heads * tokens // (per * groups)), 0, 2, 3, 1)
    made = ggml.permute(ggml.flash_attention(query, keys, values, mask), 0, 1, 3, 2)
    if not made.contiguous:
        made = ggml.cont(made)
    return ggml.reshape(made, length * heads, tokens)


def _masked(
    b: Builder, layer: int, number: int, index_query: Tensor, index_keys: Tensor, query: Tensor, keys: Tensor,
    values: Tensor, positions: int,
) -> Tensor:  # fmt: skip
    """One sequence of a batch: all cells are read, those of other blocks masked."""
    hyper, batch = b.hyper, b.batch
    tokens, cells = batch.sequence_tokens, batch.cells
    length, groups = index_query.ne[:2]
    size = hyper.whole("attention.indexer.block_size")
    blocks = positions // size

    def rows(source: Tensor, *ne: int) -> Tensor:
        """The sequence's tokens of an input that has a row for each."""
        return ggml.view(source, ne, (source.nb[1], source.nb[1]), number * tokens * source.nb[1])

    def heads(source: Tensor) -> Tensor:
        ne = (*source.ne[:2], tokens)
        return ggml.view(source, ne, source.nb[1:3], number * tokens * source.nb[2])

    bias = b.input("block_bias", "f32", blocks, batch.tokens)
    seen = b.input("position_mask", "f32", positions, batch.tokens)
    slots = b.input("position_cells", "i32", positions, batch.sequences)
    cell_blocks = b.input("cell_blocks", "i32", cells, batch.sequences)
    if "mask_whole" not in b.made:
        b.made["mask_whole"] = ggml.cast(b.mask(False), "f32")
    whole = b.made["mask_whole"]
    stored = ggml.view(index_keys, (length, cells), index_keys.nb[2:3], number * index_keys.nb[3])
    ranked = ggml.get_rows(stored, ggml.view(slots, (positions,), (), number * slots.nb[1]))
    scores = ggml.mul_mat(ranked, ggml.reshape(heads(index_query), length, groups * tokens))
    scores = ggml.reshape(scores, positions, groups, tokens)
    scores = ggml.inplace("ADD", scores, rows(seen, positions, 1, tokens))
    best = ggml.result("POOL_2D", "f32", (blocks, groups, tokens, 1), scores)
    mine = rows(bias, blocks, 1, tokens)
    best = ggml.like("ADD", best, mine)
    count = min(hyper.whole("attention.indexer.top_k"), blocks)
    chosen = ggml.result("TOP_K", "i32", (count, groups, tokens, 1), best)
    closed = ggml.repeat(ggml.cast(b.scale(mine), "f16"), blocks, groups, tokens, 1)
    zeros = b.scale(ggml.cast(chosen, "f32"))
    opened = ggml.set_rows(
        ggml.reshape(closed, 1, blocks, groups * tokens), ggml.reshape(zeros, 1, count, groups * tokens),
        ggml.reshape(chosen, count, groups * tokens),
    )  # fmt: skip
    opened = ggml.cont(ggml.permute(ggml.reshape(opened, blocks, groups, tokens), 0, 2, 1, 3))
    opened = ggml.cont(ggml.transpose(ggml.reshape(opened, blocks, tokens * groups)))
    by_cell = ggml.get_rows(opened, ggml.view(cell_blocks, (cells,), (), number * cell_blocks.nb[1]))
    by_cell = ggml.reshape(ggml.cont(ggml.transpose(by_cell)), cells, tokens, groups)
    part = ggml.view(whole, (cells, tokens, 1), (whole.nb[1], whole.nb[3]), number * whole.nb[3])
    mask = ggml.inplace("ADD", by_cell, part)
    mask = ggml.cast(ggml.reshape(mask, cells, tokens, 1, groups), "f16")
    both = [
        ggml.permute(ggml.view(part, (*part.ne[:3], 1), part.nb[1:], number * part.nb[3]), 0, 3, 1, 2)
        for part in (keys, values)
    ]
    return _attend(heads(query), both[0], both[1], mask, query.ne[1] // groups)


def _gathered(
    b: Builder, layer: int, index_query: Tensor, index_keys: Tensor, query: Tensor, keys: Tensor, values: Tensor,
    positions: int,
) -> Tensor:  # fmt: skip
    """One token of each sequence: the cells of the chosen blocks alone are read."""
    hyper, batch = b.hyper, b.batch
    sequences, cells = batch.sequences, batch.cells
    length, groups = index_query.ne[:2]
    wide, kv_heads = keys.ne[:2]
    size = hyper.whole("attention.indexer.block_size")
    blocks = positions // size
    count = min(hyper.whole("attention.indexer.top_k"), blocks)
    bias = b.input("block_bias", "f32", blocks, batch.tokens)
    seen = b.input("position_mask", "f32", positions, batch.tokens)
    slots = b.input("position_cells", "i32", positions, sequences)
    slot_values = b.input("position_cells_f32", "f32", positions, sequences)
    stored = ggml.view(index_keys, (length, cells, sequences), index_keys.nb[2:4])
    ranked = ggml.reshape(ggml.get_rows(stored, slots), length, positions, 1, sequences)
    scores = ggml.mul_mat(ranked, ggml.reshape(index_query, length, groups, 1, sequences))
    scores = ggml.inplace("ADD", scores, ggml.reshape(seen, positions, 1, 1, sequences))
    best = ggml.result("POOL_2D", "f32", (blocks, groups, 1, sequences), scores)
    best = ggml.like("ADD", best, ggml.reshape(bias, blocks, 1, 1, sequences))
    chosen = ggml.result("TOP_K", "i32", (count, groups, 1, sequences), best)
    first = ggml.reshape(b.scale(ggml.cast(chosen, "f32")), 1, count, groups, sequences)
    numbers = ggml.reshape(ggml.result("ARANGE", "f32", (size, 1, 1, 1)), size, 1, 1)
    places = ggml.like("ADD", ggml.repeat(first, size, count, groups, sequences), numbers)
    total = size * count * groups
    places = ggml.cast(ggml.reshape(places, total, sequences), "i32")
    at = ggml.get_rows(ggml.reshape(slot_values, 1, positions, sequences), places)
    at = ggml.reshape(at, size, count, groups, sequences)
    heads = ggml.reshape(ggml.result("ARANGE", "f32", (kv_heads, 1, 1, 1)), 1, 1, groups)
    at = ggml.cast(ggml.reshape(ggml.like("ADD", b.scale(at), heads), total, sequences), "i32")
    flat = [ggml.view(part, (wide, kv_heads * cells, sequences), (part.nb[1], part.nb[3])) for part in (keys, values)]
    read = []
    for part, whole in zip(flat, (keys, values)):
        rows = ggml.reshape(ggml.get_rows(part, at), wide, size * count, 1, groups * sequences)
        kind = "f16" if whole.quantized else whole.type
        read.append(rows if rows.type == kind else ggml.cast(rows, kind))
    mask = ggml.get_rows(ggml.reshape(seen, 1, positions, sequences), places)
    mask = ggml.cast(ggml.reshape(mask, size * count, 1, 1, groups * sequences), "f16")
    return _attend(query, read[0], read[1], mask, query.ne[1] // kv_heads)
