# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DeepSeek V4: a window of the last tokens as they are, all earlier ones compressed by fours or by 128s, and several
residual streams that every sublayer mixes.

Sources: llama.cpp, src/models/deepseek4.cpp, src/llama-kv-cache-dsv4.cpp.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, one_head, rotation_size, there
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor
from ansible_collections.onprem.llm.plugins.module_utils._hyper import Hyper
from ansible_collections.onprem.llm.plugins.module_utils._latent import best, by_sequence
from ansible_collections.onprem.llm.plugins.module_utils._streams import (
    coefficients,
    gathered,
    head_shares,
    spread,
    weighted,
)

# Tokens that one compressed row stands for. Rows of four overlap the four before, and an index chooses among them.
OVERLAPPING, WIDE = 4, 128


def ratio(hyper: Hyper, layer: int) -> int:
    """Tokens a compressed row of the layer, 0 where it sees its window alone."""
    ratios = hyper.get("attention.compress_ratios")
    return int(ratios[layer]) if isinstance(ratios, list) and layer < len(ratios) else 0


def compressed_cells(cells: int, each: int) -> int:
    """Rows of a compressed cache for so many cells."""
    return -(-max(1, -(-cells // each)) // 256) * 256


def caches(
    hyper: Hyper, layer: int, kind: str, cells: int, window_cells: int, sequences: int
) -> dict[str, tuple[str, int, int, int]]:
    """What a layer keeps: name -> (type, elements a row, rows, sequences). The compressors' unfinished rows are float32
    whatever the cache's type."""
    length, index = hyper.key_length, hyper.whole("attention.indexer.key_length")
    found = {"k": (kind, length, window_cells, sequences)}
    each = ratio(hyper, layer)
    parts = {OVERLAPPING: (("part", length), ("index", index)), WIDE: (("part", length),)}.get(each, ())
    for name, row in parts:
        found[name] = (kind, row, compressed_cells(cells, each), sequences)
        if layer >= hyper.layers:
            continue  # a prediction layer compresses nothing
        wide, rows = (2 * row, 2 * each) if each == OVERLAPPING else (row, each)
        found[name + "_values"] = found[name + "_scores"] = ("f32", wide, rows, sequences)
    return found


def deepseek4(b: Builder) -> None:
    """Four residual streams; attention over a window and compressed rows; the first layers' experts by token."""
    current = b.embedding()
    b.graph.expand(b.mask(True))
    current = spread(current, b.hyper.whole("hyper_connection.count"))
    for layer in b.numbers:
        residual = current
        made, post, mixed = _before(b, layer, "hc_attn", current)
        made = _attention(b, layer, b.layer_norm(made, layer, "attn_norm"))
        current = residual = _after(b, layer, made, residual, post, mixed)
        made, post, mixed = _before(b, layer, "hc_ffn", current)
        for part in (residual, post, mixed):
            b.graph.expand(part)
        made = _experts(b, layer, b.layer_norm(made, layer, "ffn_norm"))
        current = _after(b, layer, made, residual, post, mixed)
        b.pin(current, layer)
    current = gathered(b, current)
    hidden = b.norm(weighted(current, head_shares(b, current)), b.top("output_norm.weight"))
    b.finish(hidden, b.head(hidden))


# --- residual streams -------------------------------------------------------------------------------------------------


def _before(b: Builder, layer: int, name: str, current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A sublayer's input out of the streams, the share of its output in each, and how the streams are mixed."""
    count, tokens = current.ne[1], current.ne[2]
    made = coefficients(b, layer, name, current)
    pre, post = (made.group(number, number * count, count).gate(b) for number in range(2))
    if b.fuses("DSV4_HC_COMB"):
        mixed = b.fused(layer, ggml.result("DSV4_HC_COMB", "f32", (count, count, tokens, 1), *made))
    else:
        mixed = made.group(2, 2 * count, count * count).affine()
        mixed = _balanced(b, ggml.reshape(mixed, count, count, tokens))
    if not b.fuses("DSV4_HC_PRE"):
        return weighted(current, pre), post, mixed
    joined = ggml.result("DSV4_HC_PRE", "f32", (current.ne[0], tokens, 1, 1), current, pre)
    return b.fused(layer, joined), post, mixed


def _balanced(b: Builder, mixed: Tensor) -> Tensor:
    """Rows and columns are normed in turn, so that each sums to one (Sinkhorn)."""
    least = ggml.like("FILL", ggml.tensor("f32", 1))
    mixed = ggml.like("ADD", ggml.like("SOFT_MAX", mixed), least)
    for turn in range(max(1, b.hyper.whole("hyper_connection.sinkhorn_iterations"))):
        if turn:
            mixed = ggml.like("DIV", mixed, ggml.like("ADD", ggml.sum_rows(mixed), least))
        turned = ggml.cont(ggml.permute(mixed, 1, 0, 2, 3))
        total = ggml.like("ADD", ggml.sum_rows(turned), least)
        mixed = ggml.like("DIV", mixed, ggml.permute(total, 1, 0, 2, 3))
    return mixed


def _after(b: Builder, layer: int, made: Tensor, residual: Tensor, post: Tensor, mixed: Tensor) -> Tensor:
    """The mixed streams, a share of the sublayer's output in each."""
    width, count, tokens = residual.ne[:3]
    if b.fuses("DSV4_HC_POST"):
        return b.fused(layer, ggml.result("DSV4_HC_POST", "f32", residual.ne, made, residual, post, mixed))
    joined: Tensor | None = None
    for target in range(count):
        total = ggml.like("MUL", made, ggml.view(post, (1, tokens), post.nb[1:2], target * post.nb[0]))
        for source in range(count):
            stream = ggml.view(residual, (width, tokens), residual.nb[2:3], source * residual.nb[1])
            share = ggml.view(mixed, (1, tokens), mixed.nb[2:3], target * mixed.nb[0] + source * mixed.nb[1])
            total = ggml.like("ADD", total, ggml.like("MUL", stream, share))
        one = ggml.reshape(total, width, 1, tokens)
        joined = one if joined is None else ggml.concat(joined, one, 1)
    return there(joined, "hyper_connection.count")


# --- attention --------------------------------------------------------------------------------------------------------


def _cache(b: Builder, layer: int, name: str) -> Tensor:
    batch = b.batch
    kept = caches(b.hyper, layer, batch.key_type, batch.cells, batch.window_cells, batch.sequences)
    kind, *extents = kept[name]
    return b.cache(name, layer, kind, *extents)


def _all_rows(b: Builder, layer: int, name: str) -> Tensor:
    rows = one_head(_cache(b, layer, name))
    return ggml.view(rows, rows.ne, rows.nb[1:])


def _rotation(b: Builder, name: str, length: int, always: bool = False) -> Tensor | None:
    """The Hadamard matrix of one of the caches: where it is quantized, and always for the index."""
    kind = b.batch.key_type
    if not always and (ggml.TYPES[kind][0] == 1 or length % 64):
        return None
    size = rotation_size(length)
    return b.input("rotation_" + name, "f32", size, size)


def _attention(b: Builder, layer: int, source: Tensor) -> Tensor:
    hyper, tokens = b.hyper, b.batch.tokens
    heads, length = hyper.heads[layer], hyper.key_length
    narrow = b.layer_norm(b.linear(layer, "attn_q_a", source), layer, "attn_q_a_norm")
    query = ggml.reshape(b.linear(layer, "attn_q_b", narrow), length, heads, tokens)
    query = b.rope_end(ggml.like("RMS_NORM", query), hyper.rotated)
    key = b.layer_norm(b.linear(layer, "attn_kv", source), layer, "attn_kv_a_norm")
    key = b.rope_end(ggml.reshape(key, length, 1, tokens), hyper.rotated)
    each = ratio(hyper, layer)
    chosen: Tensor | None = None
    if each:
        _compress(b, layer, source, "part", "attn_compressor", each)
    if each == OVERLAPPING:
        _compress(b, layer, source, "index", "indexer_compressor", each)
        chosen = _chosen(b, layer, source, narrow)
    rotation = _rotation(b, "window", length)
    if rotation is not None:
        query, key = b.hadamard(query, rotation), b.hadamard(key, rotation)
    b.graph.expand(query)
    b.graph.expand(key)
    cache = _cache(b, layer, "k")
    b.keep(cache, key, b.input("key_cells_window", "i64", tokens))
    keys, mask = one_head(cache), b.mask(True)
    if each:
        keys = ggml.concat(keys, _all_rows(b, layer, "part"), 2)
        more = _mask(b, each, "mask", b.batch.flash)
        if chosen is not None:
            more = b.chosen_mask(chosen, more, more.type)
        mask = ggml.concat(mask, more, 0)
    made = b.attend(layer, query, keys, keys, mask, b.weight(layer, "attn_sinks"))
    if rotation is not None:
        made = b.hadamard(made, rotation)
    made = ggml.reshape(made, length, heads, tokens)
    made = b.rope_end(made, hyper.rotated, turn=lambda part: ggml.like("ROPE_BACK", part, b.positions()))
    groups = hyper.whole("attention.output_group_count")
    made = ggml.permute(ggml.reshape(made, length * heads // groups, groups, tokens), 0, 2, 1, 3)
    first = b.needed(layer, "attn_output_a")
    if first.ne[2] != groups:  # the file may hold all groups' rows in one matrix
        first.ne = (first.ne[0], first.ne[1] // groups, groups, 1)
        first.nb = ggml.strides(first.type, first.ne)
    made = ggml.permute(ggml.mul_mat(first, made), 0, 2, 1, 3)
    return b.linear(layer, "attn_output_b", ggml.cont(made, made.ne[0] * groups, tokens))


def _mask(b: Builder, each: int, name: str, half: bool) -> Tensor:
    """Which compressed rows each token sees."""
    batch = b.batch
    cells = compressed_cells(batch.cells, each)
    kind = "f16" if half else "f32"
    return b.input(f"{name}_{each}", kind, cells, batch.sequence_tokens, 1, batch.sequences)


def _compress(b: Builder, layer: int, source: Tensor, cache: str, name: str, each: int) -> None:
    """Rows that the batch completes go into the compressed cache, what is unfinished into the compressor's state
    (dsv4_build_reserve_comp_plan: the most rows that a batch may complete)."""
    batch = b.batch
    prefix = f"{cache}_{each}_"
    values = b.linear(layer, name + "_kv", source)
    scores = b.linear(layer, name + "_gate", source)
    places = ggml.get_rows(b.needed(layer, name + "_ape"), b.input(prefix + "places", "i32", batch.tokens))
    scores = ggml.like("ADD", scores, places)
    if batch.rules.rows_by_sequence:
        blocks = batch.sequences * -(-batch.sequence_tokens // each)
    else:
        blocks = batch.tokens // each + batch.sequences
    overlap = each == OVERLAPPING
    joined, states = [], []
    for part, rows in (("_values", values), ("_scores", scores)):
        state = _cache(b, layer, cache + part)
        count = state.ne[1] * state.ne[2]
        flat = ggml.view(state, (state.ne[0], count), state.nb[1:2])
        base = ggml.view(flat, (state.ne[0], count), flat.nb[1:2])
        joined.append(ggml.concat(base, rows, 1))
        states.append(state)
    reads = b.input(prefix + "reads", "i32", (2 if overlap else 1) * each * blocks)
    made = (_overlapping if overlap else _plain)(b, joined[0], joined[1], reads, each)
    made = b.layer_norm(made, layer, name + "_norm")
    positions = b.input(prefix + "positions", "i32", blocks)
    made = b.rope_end(made, b.hyper.rotated, turn=lambda part: ggml.like("ROPE", part, positions))
    rotation = _rotation(b, prefix, made.ne[0], cache == "index")
    if rotation is not None:
        made = b.hadamard(made, rotation)
    b.keep(_cache(b, layer, cache), made, b.input(prefix + "writes", "i64", blocks))
    count = min(batch.tokens, states[0].ne[1] * states[0].ne[2])
    sources, targets = (b.input(prefix + what, "i32", count) for what in ("kept_from", "kept_at"))
    kept = []
    for state, rows in zip(states, (values, scores)):
        flat = ggml.view(state, (state.ne[0], state.ne[1] * state.ne[2]), state.nb[1:2])
        kept.append(ggml.set_rows(flat, ggml.get_rows(rows, sources), targets))
    for part_ in kept:
        b.graph.expand(part_)


def _averaged(values: Tensor, scores: Tensor) -> Tensor:
    """Values of a block's tokens, summed by the softmax of their scores, channel by channel."""
    values, scores = (ggml.cont(ggml.permute(part, 1, 0, 2, 3)) for part in (values, scores))
    made = ggml.sum_rows(ggml.like("MUL", values, ggml.like("SOFT_MAX", scores)))
    return ggml.cont(ggml.permute(made, 1, 0, 2, 3))


def _plain(b: Builder, values: Tensor, scores: Tensor, reads: Tensor, each: int) -> Tensor:
    blocks = reads.ne[0] // each
    shaped = [ggml.reshape(ggml.get_rows(part, reads), part.ne[0], each, blocks) for part in (values, scores)]
    return _averaged(*shaped)


def _overlapping(b: Builder, values: Tensor, scores: Tensor, reads: Tensor, each: int) -> Tensor:
    """A block's own half of the channels beside the other half of the block before."""
    count = reads.ne[0] // 2
    length, blocks = values.ne[0] // 2, count // each
    rows = []
    for part in (values, scores):
        empty = ggml.reshape(b.scale(ggml.view(part, (part.ne[0],))), part.ne[0], 1)
        rows.append(ggml.get_rows(ggml.concat(part, empty, 1), reads))
    halves = []
    for part in rows:
        both = []
        for offset in (0, count * part.nb[1] + 4 * length):
            half = ggml.cont(ggml.view(part, (length, count), part.nb[1:2], offset))
            both.append(ggml.reshape(half, length, each, blocks))
        halves.append(ggml.concat(both[0], both[1], 1))
    return _averaged(*halves)


def _chosen(b: Builder, layer: int, source: Tensor, narrow: Tensor) -> Tensor:
    """The compressed rows with the best index scores (build_lid_top_k)."""
    hyper, batch = b.hyper, b.batch
    heads, length = hyper.whole("attention.indexer.head_count"), hyper.whole("attention.indexer.key_length")
    query = ggml.reshape(b.linear(layer, "indexer.attn_q_b", narrow), length, heads, batch.tokens)
    rotation = there(_rotation(b, f"index_{OVERLAPPING}_", length, True), "rotation")
    query = b.hadamard(b.rope_end(query, hyper.rotated), rotation)
    weights = b.scale(b.linear(layer, "indexer.proj", source))
    query, weights = by_sequence(query, weights, batch.sequences)
    mask = _mask(b, OVERLAPPING, "mask_index", b.fuses("LIGHTNING_INDEXER"))
    return best(b, layer, query, _all_rows(b, layer, "index"), weights, mask)


def _experts(b: Builder, layer: int, source: Tensor) -> Tensor:
    """Experts by the router, in the first layers by the token itself, and a shared one."""
    hyper = b.hyper
    table = b.weight(layer, "ffn_gate_tid2eid")
    picked = ggml.get_rows(table, b.input("tokens", "i32", b.batch.tokens)) if table is not None else None
    made = b.experts(
        layer, source, gating="sqrt_softplus", normed=hyper.truth("expert_weights_norm"),
        scaled=hyper.real("expert_weights_scale") not in (0.0, 1.0), picked=picked,
    )  # fmt: skip
    return ggml.like("ADD", made, b.shared_expert(layer, source))
