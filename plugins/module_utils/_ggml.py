# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tensors and compute graphs as ggml sees them: shapes, strides, views and the order of evaluation, no data.

What a graph needs in memory follows from these alone (see :mod:`_ggml_plan`). The rules are ggml's own: shape and type
of a result by operation, and nodes in the order in which a depth-first walk over their sources meets them (ggml.c,
ggml_visit_parents_graph). Sizes are bytes, ``ne`` counts elements from the fastest dimension, ``nb`` are strides.
"""

from __future__ import annotations

import typing as t

Four = t.Tuple[int, int, int, int]  # noqa: UP006 - evaluated, on Python 3.8 too

# ggml.c, type_traits: name -> (elements a block, bytes a block).
TYPES: dict[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "f64": (1, 8), "i8": (1, 1), "i16": (1, 2), "i32": (1, 4),
    "i64": (1, 8), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34),
    "q8_1": (32, 36), "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176),
    "q6_k": (256, 210), "q8_k": (256, 292), "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq3_xxs": (256, 98),
    "iq1_s": (256, 50), "iq4_nl": (32, 18), "iq3_s": (256, 110), "iq2_s": (256, 82), "iq4_xs": (256, 136),
    "iq1_m": (256, 56), "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17), "nvfp4": (64, 36),
}  # fmt: skip

# ggml.c: these only say how memory is read.
VIEW_OPS = frozenset({"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})


class Tensor:
    """One tensor. ``root`` is the tensor whose memory a view reads, ``home`` where a weight or cache lies (a device's
    number, the host's is the highest), None where the planner decides, ``pinned`` the device that must compute it, None
    where the planner decides. The other slots are the planner's notes."""

    __slots__ = (
        "address",
        "backend",
        "bias",
        "children",
        "copies",
        "home",
        "is_input",
        "is_output",
        "name",
        "nb",
        "ne",
        "offset",
        "op",
        "owned",
        "pinned",
        "place",
        "root",
        "seen",
        "size",
        "src",
        "strict",
        "type",
        "views",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        op: str,
        kind: str,
        ne: Four,
        nb: Four,
        src: tuple[Tensor, ...] = (),
        root: Tensor | None = None,
        offset: int = 0,
    ) -> None:
        self.op = op
        self.type = kind
        self.ne = ne
        self.nb = nb
        self.src = src
        self.root = root
        self.offset = offset
        self.home: int | None = None
        self.weight = False
        self.is_input = False
        self.is_output = False
        self.bias = False
        self.seen = False
        self.backend = -1
        self.pinned: int | None = None
        self.children = 0
        self.views = 0
        self.owned = False
        self.place = 0
        self.address = 0
        self.copies: dict[int, list[Tensor]] | None = None
        self.size = -1
        self.name = ""
        self.strict = False

    @property
    def bytes(self) -> int:
        """ggml_nbytes: from the first to the last byte that the strides reach."""
        block, size = TYPES[self.type]
        ne, nb = self.ne, self.nb
        if not (ne[0] and ne[1] and ne[2] and ne[3]):
            return 0
        first = size + (ne[0] - 1) * nb[0] if block == 1 else ne[0] * nb[0] // block
        return first + (ne[1] - 1) * nb[1] + (ne[2] - 1) * nb[2] + (ne[3] - 1) * nb[3]

    @property
    def elements(self) -> int:
        ne = self.ne
        return ne[0] * ne[1] * ne[2] * ne[3]

    @property
    def quantized(self) -> bool:
        return TYPES[self.type][0] > 1

    @property
    def contiguous(self) -> bool:
        return self.rows_contiguous(0)

    def rows_contiguous(self, loose: int) -> bool:
        """ggml_is_contiguous_n: contiguous, but for strides of dimensions up to ``loose``."""
        block, size = TYPES[self.type]
        ne, nb = self.ne, self.nb
        following = size
        if ne[0] != block and nb[0] != following:
            return False
        following *= ne[0] // block
        for index in (1, 2, 3):
            if index > loose:
                if ne[index] != 1 and nb[index] != following:
                    return False
                following *= ne[index]
            else:
                following = ne[index] * nb[index]
        return True


def row_bytes(kind: str, elements: int) -> int:
    block, size = TYPES[kind]
    return elements // block * size


def strides(kind: str, ne: Four) -> Four:
    block, size = TYPES[kind]
    second = size * (ne[0] // block)
    third = second * ne[1]
    return (size, second, third, third * ne[2])


def tensor(kind: str, *ne: int) -> Tensor:
    """A tensor of its own without a source: a weight, a cache or an input."""
    shape = t.cast(Four, tuple(ne) + (1,) * (4 - len(ne)))
    return Tensor("NONE", kind, shape, strides(kind, shape))


def result(op: str, kind: str, ne: Four, *src: Tensor) -> Tensor:
    return Tensor(op, kind, ne, strides(kind, ne), src)


def like(op: str, first: Tensor, *others: Tensor) -> Tensor:
    """An element-wise result: the first source's shape, in memory of its own (ggml_dup_tensor is contiguous)."""
    return Tensor(op, first.type, first.ne, strides(first.type, first.ne), (first, *others))


def inplace(op: str, first: Tensor, *others: Tensor) -> Tensor:
    """An operation that writes over its first source."""
    return Tensor(op, first.type, first.ne, first.nb, (first, *others), first.root or first, first.offset)


def _must_fit(fits: bool, what: str, left: Tensor, right: object) -> None:
    """ggml asserts the same (ggml_can_mul_mat and others): a header whose numbers and tensors contradict each other.

    :raises ValueError: the shapes do not go together.
    """
    if not fits:
        shape = right.ne if isinstance(right, Tensor) else right
        raise ValueError(f"{what} of {left.name or left.op.lower()} {left.ne} and {shape}")


def mul_mat(weights: Tensor, right: Tensor) -> Tensor:
    """The sums run over both tensors' first dimension; the further ones of ``weights`` may repeat."""
    ours, theirs = weights.ne, right.ne
    fits = ours[0] == theirs[0] and not (theirs[2] % (ours[2] or 1) or theirs[3] % (ours[3] or 1))
    _must_fit(fits, "product", weights, right)
    return result("MUL_MAT", "f32", (weights.ne[1], right.ne[1], right.ne[2], right.ne[3]), weights, right)


def mul_mat_id(experts: Tensor, right: Tensor, ids: Tensor) -> Tensor:
    _must_fit(experts.ne[0] == right.ne[0], "product", experts, right)
    return result("MUL_MAT_ID", "f32", (experts.ne[1], ids.ne[0], right.ne[2], 1), experts, right, ids)


def get_rows(table: Tensor, ids: Tensor) -> Tensor:
    kind = table.type if table.type == "i32" else "f32"
    return result("GET_ROWS", kind, (table.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), table, ids)


def set_rows(target: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    return Tensor(
        "SET_ROWS", target.type, target.ne, target.nb, (rows, ids, target), target.root or target, target.offset
    )


def cpy(source: Tensor, target: Tensor) -> Tensor:
    return Tensor("CPY", target.type, target.ne, target.nb, (source, target), target.root or target, target.offset)


def cast(source: Tensor, kind: str) -> Tensor:
    made = result("CPY", kind, source.ne, source)
    made.src = (source, made)
    return made


def view(source: Tensor, ne: t.Sequence[int], nb: t.Sequence[int] = (), offset: int = 0) -> Tensor:
    """ggml_view_nd: ``nb`` from the second dimension on; dimensions that are not given follow contiguously."""
    shape = t.cast(Four, tuple(ne) + (1,) * (4 - len(ne)))
    block, size = TYPES[source.type]
    steps = [size, *nb]
    while len(steps) < 4:
        steps.append(steps[-1] * (shape[len(steps) - 1] // block if len(steps) == 1 else shape[len(steps) - 1]))
    return Tensor(
        "VIEW", source.type, shape, t.cast(Four, tuple(steps)), (source,), source.root or source, source.offset + offset
    )


def reshape(source: Tensor, *ne: int) -> Tensor:
    shape = t.cast(Four, tuple(ne) + (1,) * (4 - len(ne)))
    _must_fit(source.elements == shape[0] * shape[1] * shape[2] * shape[3], "reshape", source, shape)
    return Tensor(
        "RESHAPE", source.type, shape, strides(source.type, shape), (source,), source.root or source, source.offset
    )


def permute(source: Tensor, *axes: int) -> Tensor:
    """Dimension ``i`` of the source becomes dimension ``axes[i]``."""
    ne, nb = [1] * 4, [0] * 4
    for index, axis in enumerate(axes):
        ne[axis], nb[axis] = source.ne[index], source.nb[index]
    return Tensor(
        "PERMUTE", source.type, t.cast(Four, tuple(ne)), t.cast(Four, tuple(nb)), (source,), source.root or source,
        source.offset,
    )  # fmt: skip


def transpose(source: Tensor) -> Tensor:
    ne, nb = source.ne, source.nb
    return Tensor(
        "TRANSPOSE", source.type, (ne[1], ne[0], ne[2], ne[3]), (nb[1], nb[0], nb[2], nb[3]), (source,),
        source.root or source, source.offset,
    )  # fmt: skip


def cont(source: Tensor, *ne: int) -> Tensor:
    shape = t.cast(Four, tuple(ne) + (1,) * (4 - len(ne))) if ne else source.ne
    return result("CONT", source.type, shape, source)


def concat(left: Tensor, right: Tensor, axis: int) -> Tensor:
    ne = list(left.ne)
    fits = all(size == other for index, (size, other) in enumerate(zip(ne, right.ne)) if index != axis)
    _must_fit(fits, "concatenation", left, right)
    ne[axis] += right.ne[axis]
    return result("CONCAT", left.type, t.cast(Four, tuple(ne)), left, right)


def pad(source: Tensor, *more: int) -> Tensor:
    ne = tuple(have + extra for have, extra in zip(source.ne, more + (0,) * (4 - len(more))))
    return result("PAD", source.type, t.cast(Four, ne), source)


def glu(kind: str, gate: Tensor, up: Tensor | None = None) -> Tensor:
    """Gate and up in two tensors, or one after the other in one."""
    if up is not None:
        return Tensor(kind, gate.type, gate.ne, strides(gate.type, gate.ne), (gate, up))
    ne = (gate.ne[0] // 2, *gate.ne[1:])
    return result(kind, gate.type, ne, gate)


def im2col(kernel: Tensor, source: Tensor) -> Tensor:
    """What a kernel over one dimension meets at each place, as columns: stride 1, half of the kernel as padding."""
    _must_fit(kernel.ne[1] == source.ne[1], "convolution", kernel, source)
    length = kernel.ne[0]
    steps = source.ne[0] + 2 * (length // 2) - length + 1
    kind = "f32" if kernel.type == "bf16" else "f16"
    return result("IM2COL", kind, (length * kernel.ne[1], steps, source.ne[2], 1), kernel, source)


def sum_rows(source: Tensor) -> Tensor:
    return result("SUM_ROWS", source.type, (1, *source.ne[1:]), source)


def repeat(source: Tensor, *ne: int) -> Tensor:
    return result("REPEAT", source.type, t.cast(Four, tuple(ne) + (1,) * (4 - len(ne))), source)


def argsort(source: Tensor) -> Tensor:
    return result("ARGSORT", "i32", source.ne, source)


def argsort_top_k(source: Tensor, count: int) -> Tensor:
    order = argsort(source)
    return view(order, (count, *order.ne[1:]), order.nb[1:])


def flash_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *sinks: Tensor) -> Tensor:
    sources = (query, key, value) + ((mask,) if mask is not None else ()) + sinks
    return result("FLASH_ATTN_EXT", "f32", (value.ne[0], query.ne[2], query.ne[1], query.ne[3]), *sources)


class Graph:
    """Nodes and leaves in ggml's order of evaluation."""

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def expand(self, tensor_: Tensor) -> None:
        """ggml_build_forward_expand: everything that the tensor needs, then the tensor, once each."""
        if tensor_.seen:
            return
        stack: list[tuple[Tensor, int]] = [(tensor_, 0)]
        tensor_.seen = True
        while stack:
            node, index = stack.pop()
            sources = node.src
            while index < len(sources) and sources[index].seen:
                index += 1
            if index < len(sources):
                stack.append((node, index + 1))
                below = sources[index]
                below.seen = True
                stack.append((below, 0))
            elif node.op == "NONE":
                self.leaves.append(node)
            else:
                self.nodes.append(node)
