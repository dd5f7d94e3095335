# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory a compute graph takes on each device: ggml's scheduler and graph allocator, replayed.

Three rule books of upstream are followed: which backend computes a node and what is copied between backends
(ggml-backend.cpp, ggml_backend_sched_split_graph), when a node gets memory, takes over that of a source, and gives it
back (ggml-alloc.c), and what a CUDA device takes and adds to a tensor (ggml-cuda.cu, get_alloc_size and supports_op).
Backends are numbered by priority: the GPUs in order, then the CPU.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils._ggml import TYPES, VIEW_OPS, Graph, Tensor, row_bytes

# ggml-backend.cpp, GGML_SCHED_MAX_COPIES: inputs are kept so often where several GPUs work on batches in turn.
PIPELINE_COPIES = 4
# Alignment of a tensor in a buffer: ggml-cuda.cu 128, ggml-cpu 32.
GPU_ALIGNMENT, CPU_ALIGNMENT = 128, 32
# ggml-cuda.cu, offload_op: a weight in host memory is brought to the GPU for batches of so many rows.
OFFLOAD_ROWS = 32
# ggml-cuda.cu, MATRIX_ROW_PADDING.
ROW_PADDING = 512

# ggml-alloc.c, ggml_op_can_inplace; the unary operations are all of them.
_INPLACE = frozenset(
    [
        "FILL", "SCALE", "DIAG_MASK_ZERO", "DIAG_MASK_INF", "ADD", "ADD_ID", "ADD1", "SUB", "MUL", "DIV", "SQR", "SQRT",
        "LOG", "ROPE", "ROPE_BACK", "RMS_NORM", "SOFT_MAX", "CLAMP", "ABS", "SGN", "NEG", "STEP", "TANH", "ELU", "RELU",
        "SIGMOID", "GELU", "GELU_QUICK", "SILU", "HARDSWISH", "HARDSIGMOID", "EXP", "GELU_ERF", "XIELU", "SOFTPLUS",
        "EXPM1", "FLOOR", "CEIL", "ROUND", "TRUNC",
    ]
)  # fmt: skip
_UNARY = frozenset(
    [
        "ABS", "SGN", "NEG", "STEP", "TANH", "ELU", "RELU", "SIGMOID", "GELU", "GELU_QUICK", "SILU", "HARDSWISH",
        "HARDSIGMOID", "EXP", "GELU_ERF", "XIELU", "SOFTPLUS", "EXPM1", "FLOOR", "CEIL", "ROUND", "TRUNC",
    ]
)  # fmt: skip
_GLU = frozenset(["REGLU", "GEGLU", "SWIGLU", "SWIGLU_OAI", "GEGLU_ERF", "GEGLU_QUICK", "SWIGLU_CLAMP"])
_PLAIN = frozenset(["f32", "f16"])
_FLASH_CACHES = frozenset(["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
_FLASH_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 256])


def flash_attention_on_gpu(node: Tensor) -> bool:
    """Whether a CUDA kernel exists for this attention (fattn.cu, ggml_cuda_get_best_fattn_kernel)."""
    query, key, value = node.src[:3]
    mask = node.src[3] if len(node.src) > 3 else None
    ratio = query.ne[2] // key.ne[2]
    grouped = ratio >= 2 and mask is not None and not node.bias and key.ne[1] % 256 == 0
    for part in (query, key, value, mask):
        if part is not None and not part.quantized and any(step % 16 for step in part.nb[1:]):
            grouped = False
    if mask is not None and mask.ne[2] != 1:
        return False
    if key.type not in _FLASH_CACHES or value.type not in _FLASH_CACHES:
        return False
    length, wide = key.ne[0], value.ne[0]
    if length in _FLASH_HEADS:
        return wide == length
    if length == 192:
        return wide == 128 and grouped and ratio % 8 == 0
    if length == 320:
        return wide == 256 and grouped and ratio % 32 == 0
    return length in (512, 576) and wide == 512 and grouped


def supported_on_gpu(node: Tensor) -> bool:
    """ggml-cuda.cu, ggml_backend_cuda_device_supports_op."""
    op, src = node.op, node.src
    if op == "FLASH_ATTN_EXT":
        return flash_attention_on_gpu(node)
    if op in ("MUL_MAT", "MUL_MAT_ID"):
        left, right = src[0], src[1]
        if left.nb[0] != TYPES[left.type][1] or right.nb[0] != TYPES[right.type][1]:
            return False
        if right.type == "f16" and left.type != "f16":
            return False
        return not (op == "MUL_MAT_ID" and node.strict)
    if op in ("ADD", "SUB", "MUL", "DIV"):
        return src[0].type in _PLAIN and src[1].type in _PLAIN and node.type in _PLAIN
    if op == "REPEAT":
        return src[0].type in _PLAIN
    if op in ("NORM", "RMS_NORM", "L2_NORM", "SUM_ROWS", "MEAN"):
        return src[0].ne[0] == TYPES[src[0].type][0] or src[0].nb[0] == TYPES[src[0].type][1]
    if op == "IM2COL":
        return src[0].contiguous and src[1].contiguous
    if op == "GROUP_NORM" or op in _UNARY:
        return src[0].contiguous
    if op in _GLU:
        return src[0].rows_contiguous(1)
    if op in ("ROPE", "ROPE_BACK"):
        return src[0].nb[0] == TYPES[src[0].type][1] and src[0].rows_contiguous(2)
    if op == "SSM_CONV":
        return src[0].ne[1] % 128 == 0
    if op == "SSM_SCAN":
        first = src[0]
        if src[3].ne[0] == 1:
            return first.ne[0] in (128, 256) and first.ne[1] % 16 == 0
        return first.ne[0] == 16 and first.ne[1] == 1 and first.ne[2] % 128 == 0 and src[4].ne[1] == 1
    if op == "CONCAT":
        return src[0].type == src[1].type
    return True


def supported_on_cpu(node: Tensor) -> bool:
    """ggml-cpu.cpp, ggml_backend_cpu_device_supports_op, for what occurs in these graphs."""
    if node.op == "MUL_MAT":  # of other types than float32, only the left side's own
        right = node.src[1].type
        return right in ("f32", node.src[0].type)
    return True


def _rows(node: Tensor) -> int:
    op = node.op
    if op == "GET_ROWS":
        return 0
    if op == "MUL_MAT":
        return node.ne[1]
    if op in ("MUL_MAT_ID", "ROPE"):
        return node.ne[2]
    return node.ne[1] * node.ne[2] * node.ne[3]


def gpu_bytes(node: Tensor) -> int:
    """What a CUDA device sets aside for a tensor: its bytes, the last quantized row's padding, and for attention the
    f16 copies of K and V where the kernel cannot read the cache as it is."""
    size = node.bytes
    if node.op == "FLASH_ATTN_EXT" and flash_attention_on_gpu(node):
        query, key, value = node.src[:3]
        vector = (
            query.ne[1] <= 2
            and query.ne[0] <= 256
            and query.ne[0] % 64 == 0
            and query.ne[0] != 192
            and key.ne[1] % 256 == 0
            and key.type == value.type
        )
        if not vector:
            same = value.root is not None and (
                value.root is key or (value.root is key.root and value.offset == key.offset)
            )
            if key.type != "f16":
                size = -(-size // 128) * 128 + key.elements * 2
            if value.type != "f16" and not same:
                size = -(-size // 128) * 128 + value.elements * 2
    if TYPES[node.type][0] > 1 and node.ne[0] % ROW_PADDING:
        size += row_bytes(node.type, ROW_PADDING - node.ne[0] % ROW_PADDING)
    return size


class _Pool:
    """ggml-alloc.c, ggml_dyn_tallocr: the best-fitting hole, else the end; neighbours that are free become one."""

    __slots__ = ("alignment", "offsets", "peak", "sizes")

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.offsets = [0]
        self.sizes = [1 << 62]
        self.peak = 0

    def take(self, size: int) -> int:
        unit = self.alignment
        size = (size + unit - 1) // unit * unit
        sizes = self.sizes
        best, best_size = -1, 1 << 63
        last = len(sizes) - 1
        for index in range(last):
            have = sizes[index]
            if size <= have <= best_size:
                best, best_size = index, have
        if best < 0:
            best = last
        offset = self.offsets[best]
        if sizes[best] == size:
            del sizes[best]
            del self.offsets[best]
        else:
            self.offsets[best] = offset + size
            sizes[best] -= size
        if offset + size > self.peak:
            self.peak = offset + size
        return offset

    def give(self, offset: int, size: int) -> None:
        unit = self.alignment
        size = (size + unit - 1) // unit * unit
        offsets, sizes = self.offsets, self.sizes
        for index, start in enumerate(offsets):
            if start + sizes[index] == offset:
                sizes[index] += size
                if index < len(offsets) - 1 and start + sizes[index] == offsets[index + 1]:
                    sizes[index] += sizes[index + 1]
                    del offsets[index + 1]
                    del sizes[index + 1]
                return
            if offset + size == start:
                offsets[index] = offset
                sizes[index] += size
                if index > 0 and offsets[index - 1] + sizes[index - 1] == offset:
                    sizes[index - 1] += sizes[index]
                    del offsets[index]
                    del sizes[index]
                return
        place = 0
        while place < len(offsets) and offsets[place] < offset:
            place += 1
        offsets.insert(place, offset)
        sizes.insert(place, size)


class Planner:
    """The memory of one graph on ``gpus`` GPUs and the CPU. ``copies``: how often inputs are kept (several GPUs
    that hold all layers). ``split_inputs``: with so many inputs a part ends (0: there is no limit)."""

    def __init__(self, graph: Graph, gpus: int, copies: int = 1, split_inputs: int = 0) -> None:
        self.graph = graph
        self.cpu = gpus
        self.copies = copies
        self.split_inputs = split_inputs
        # Node counts at which the memory's state is to be noted, and the states: free and taken places in order.
        self.marks: list[int] = []
        self.states: list[tuple[object, ...]] = []
        self.splits = 1
        self.handed = 0
        self._live: dict[Tensor, None] = {}
        self.pools = [_Pool(GPU_ALIGNMENT) for _index in range(gpus)] + [_Pool(CPU_ALIGNMENT)]

    def run(self) -> list[int]:
        """Bytes of the compute buffer by backend, the CPU's last."""
        self.assign()
        self._split()
        self._allocate()
        return [pool.peak for pool in self.pools]

    # --- which backend computes what --------------------------------------------------------------------------------

    def _takes(self, node: Tensor, backend: int) -> bool:
        return supported_on_cpu(node) if backend == self.cpu else supported_on_gpu(node)

    def _home_backend(self, tensor: Tensor, op: Tensor) -> int:
        """The first backend that can read where the tensor lies and compute the operation."""
        root = tensor.root or tensor
        if root.home is None:
            return -1
        return root.home if self._takes(op, root.home) else -1

    def _current(self, tensor: Tensor) -> int:
        backend = self._home_backend(tensor, tensor)
        if backend != -1:
            return backend
        if tensor.is_input:
            return self.cpu
        if tensor.op in ("ROPE", "FLASH_ATTN_EXT"):
            return -1
        for source in tensor.src:
            if source.weight and source.home is not None:
                backend = self._home_backend(source, tensor)
                if backend == self.cpu and _rows(tensor) >= OFFLOAD_ROWS and self.cpu > 0 and supported_on_gpu(tensor):
                    return 0
                return backend
        return -1

    def assign(self) -> None:
        graph, cpu = self.graph, self.cpu
        for leaf in graph.leaves:
            leaf.backend = self._current(leaf)
        for node in graph.nodes:
            node.backend = self._current(node) if node.pinned is None else node.pinned
        nodes = [node for node in graph.nodes if node.op not in VIEW_OPS]
        if cpu == 0:
            for tensor in graph.nodes + graph.leaves:
                tensor.backend = 0
            return
        for order, all_backends in ((nodes, False), (nodes[::-1], False), (nodes, True), (nodes[::-1], True)):
            current = -1
            for node in order:
                if node.backend != -1:
                    current = node.backend if all_backends or node.backend != cpu else -1
                elif current != -1 and self._takes(node, current):
                    node.backend = current
        for node in nodes:
            if node.backend == -1:
                best = -1
                for backend in range(cpu + 1):
                    if self._takes(node, backend):
                        count = sum(
                            1
                            for source in node.src
                            if (source.backend != -1 or (source.root is not None and source.root.backend != -1))
                            and self._reads(source, backend)
                        )
                        if count > best:
                            best, node.backend = count, backend
        for node in graph.nodes:
            if node.root is not None and node.backend == -1:
                node.backend = node.root.backend
            for source in node.src:
                if source.backend == -1:
                    source.backend = source.root.backend if source.root is not None else node.backend
            if node.backend == -1:
                node.backend = next(backend for backend in range(cpu + 1) if self._takes(node, backend))

    def _reads(self, tensor: Tensor, backend: int) -> bool:
        """Whether the backend can read the tensor where it lies."""
        root = tensor.root or tensor
        where = root.home
        if where is None:
            where = tensor.backend
            if where == -1 and tensor.root is not None:
                where = tensor.root.backend
        return where == backend

    # --- parts by backend, and what each must copy first -------------------------------------------------------------

    def _split(self) -> None:
        """Fills ``order``, nodes and backends with the copies where they happen, and ``first``, what comes before."""
        cpu, copies = self.cpu, self.copies
        graph = self.graph
        self.order: list[tuple[Tensor, int]] = []
        self.first: list[tuple[Tensor, int]] = []
        if cpu == 0:
            self.order = [(node, 0) for node in graph.nodes]
            self.first = [(leaf, 0) for leaf in graph.leaves]
            return
        splits: list[tuple[int, int, list[Tensor]]] = []
        kept: list[Tensor] = []
        current = -1
        inputs: list[Tensor] = []
        room = self.split_inputs
        for index, node in enumerate(graph.nodes):
            if node.op in VIEW_OPS:
                continue
            backend = node.backend
            fresh = backend != current
            if not fresh and inputs:
                full = 0 < room <= len(inputs)
                for source in node.src:
                    if (
                        (source.weight or (full and current not in _copies(source)))
                        and source.backend != current
                        and not self._reads(source, current)
                    ):
                        fresh = True
                        break
            if fresh:
                inputs = []
                room = self.split_inputs
                splits.append((backend, index if splits else 0, inputs))
                current = backend
            sources = node.src
            for position, source in enumerate(sources):
                if source.is_input and copies > 1:
                    if source.copies is None:
                        source.copies = {}
                    if source.backend not in source.copies:
                        made = [source] + [_twin(source, True) for _index in range(copies - 1)]
                        source.is_output = True
                        source.copies[source.backend] = made
                        kept.append(source)
                if source.backend != current and not self._reads(source, current):
                    if source.copies is None:
                        source.copies = {}
                    if current not in source.copies:
                        source.copies[current] = [_twin(source, copies > 1) for _index in range(copies)]
                        if 0 < room <= len(inputs):
                            room *= 2
                        inputs.append(source)
                    node.src = (*node.src[:position], source.copies[current][0], *node.src[position + 1 :])
        for number, (backend, start, needs) in enumerate(splits):
            end = splits[number + 1][1] if number + 1 < len(splits) else len(graph.nodes)
            for source in needs:
                wait = Tensor("NONE", source.type, source.ne, source.nb, (source,), source.root or source)
                self.order.append((wait, source.backend))
                self.order.append((_copies(source)[backend][0], backend))
            self.order.extend((node, node.backend) for node in graph.nodes[start:end])
        # Parts that run on one backend, and the most results of others that one of them reads.
        self.splits = len(splits)
        self.handed = max((sum(not source.is_input for source in needs) for _b, _s, needs in splits), default=0)
        if copies > 1:
            for source in kept:
                self.first.extend((twin, source.backend) for twin in _copies(source)[source.backend])
            for backend, _start, needs in splits:
                for source in needs:
                    self.first.extend((twin, backend) for twin in _copies(source)[backend])
        self.first.extend((leaf, leaf.backend) for leaf in graph.leaves)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _bytes(self, tensor: Tensor, backend: int) -> int:
        if backend == self.cpu:
            return tensor.bytes
        if tensor.size < 0:
            tensor.size = gpu_bytes(tensor)
        return tensor.size

    def _give_memory(self, tensor: Tensor, backend: int) -> None:
        if tensor.owned or tensor.home is not None or tensor.root is not None:
            return
        tensor.owned = True
        self._live[tensor] = None
        if tensor.op in _INPLACE:
            for parent in tensor.src:
                if (
                    parent.owned
                    and parent.root is None
                    and not parent.is_output
                    and parent.children == 1
                    and parent.views == 0
                    and parent.ne == tensor.ne
                    and parent.nb == tensor.nb
                    and parent.type == tensor.type
                ):
                    tensor.place, tensor.address = parent.place, parent.address
                    parent.owned = False
                    self._live.pop(parent, None)
                    pool = self.pools[parent.place]
                    unit = pool.alignment
                    had = -(-self._bytes(parent, parent.place) // unit) * unit
                    need = -(-self._bytes(tensor, tensor.place) // unit) * unit
                    if had > need:
                        pool.give(parent.address + need, had - need)
                    return
        tensor.place = backend
        tensor.address = self.pools[backend].take(self._bytes(tensor, backend))

    def _take_back(self, tensor: Tensor) -> None:
        if tensor.is_output:
            return
        self.pools[tensor.place].give(tensor.address, self._bytes(tensor, tensor.place))
        tensor.owned = False
        self._live.pop(tensor, None)

    def _allocate(self) -> None:
        for leaf, backend in self.first:
            self._give_memory(leaf, backend)
        self._live.clear()
        marked = {id(self.graph.nodes[mark]) for mark in self.marks if mark < len(self.graph.nodes)}
        for node, backend in self.order:
            if node.root is not None and node.op != "NONE":
                node.root.views += 1
            if node.is_input:
                self._give_memory(node, backend)
            for source in node.src:
                source.children += 1
                if source.is_input:
                    self._give_memory(source, backend)
        for node, backend in self.order:
            if id(node) in marked:
                taken = tuple((tensor.place, tensor.address, tensor.ne) for tensor in self._live)
                free = tuple((tuple(pool.offsets), tuple(pool.sizes)) for pool in self.pools)
                self.states.append((taken, free))
            for source in node.src:
                self._give_memory(source, backend)
            self._give_memory(node, backend)
            for source in node.src:
                source.children -= 1
                if source.children == 0 and source.views == 0:
                    root = source.root
                    if root is not None:
                        root.views -= 1
                        if root.views == 0 and root.children == 0 and root.owned:
                            self._take_back(root)
                    elif source.owned:
                        self._take_back(source)


def _copies(source: Tensor) -> dict[int, list[Tensor]]:
    """What stands for a tensor on each backend that reads it from another."""
    return source.copies or {}


def _twin(source: Tensor, kept: bool) -> Tensor:
    made = Tensor("NONE", source.type, source.ne, source.nb)
    made.is_input = made.is_output = kept
    return made
