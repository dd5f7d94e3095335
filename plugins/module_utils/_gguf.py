# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the header of a GGUF file: metadata and tensor table, never the weights.

The format is described in ggml's docs/gguf.md; versions 2 and 3, little-endian, are read. A model file comes from
elsewhere, so everything in it is checked against a bound before memory or time is spent on it.
"""

from __future__ import annotations

import io
import math
import os
import struct
import typing as t
from dataclasses import dataclass, field

MAGIC = b"GGUF"

# Bounds. The largest real headers seen (vocabulary of 262,144, its merges, 1,100 tensors) stay under a tenth of each.
MAX_HEADER_BYTES = 256 * 2**20
MAX_STRING_BYTES = 16 * 2**20
MAX_NAME_BYTES = 65535
MAX_METADATA = 65536
MAX_TENSORS = 65536
MAX_DIMENSIONS = 4
# Longer arrays (token lists) are skipped, and only their length is kept.
MAX_KEPT_ARRAY = 4096
# Elements kept of all arrays together, and strings read, kept or not.
MAX_KEPT = 1 << 20
MAX_STRINGS = 1 << 23

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# ggml.c, type_traits: id -> (name, elements a block, bytes a block).
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}

# llama.h, enum llama_ftype: general.file_type -> the name people know.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
}  # fmt: skip


class GgufError(Exception):
    """The file is no GGUF header that can be trusted; the text says why."""


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table. ``dimensions`` run from the fastest (the row) to the slowest."""

    name: str
    dimensions: tuple[int, ...]
    type_id: int

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type_id][0]

    @property
    def elements(self) -> int:
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        """Bytes of the tensor's data in the file."""
        _name, block, size = TENSOR_TYPES[self.type_id]
        return self.elements // block * size

    @property
    def row_padding_bytes(self) -> int:
        """Bytes that the CUDA backend adds to the last row of a quantized tensor, up to a multiple of 512 elements
        (llama.cpp, ggml-cuda.cu, MATRIX_ROW_PADDING)."""
        _name, block, size = TENSOR_TYPES[self.type_id]
        rest = self.dimensions[0] % 512
        return (512 - rest) // block * size if block > 1 and rest else 0


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself. ``lengths`` has the element counts of arrays, kept or skipped."""

    version: int
    metadata: dict[str, t.Any]
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...] = field(repr=False)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def quantization(self) -> str | None:
        """The file's quantization as llama.cpp names it (``Q4_K_M``), or None where the file does not say."""
        return _FILE_TYPES.get(t.cast(int, self.metadata.get("general.file_type")))

    def get(self, key: str, default: t.Any = None) -> t.Any:
        """The value of ``<architecture>.<key>``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


class _Cursor:
    """A bounded reader over a stream."""

    def __init__(self, stream: t.BinaryIO, size: int) -> None:
        self._stream = stream
        self._kept = self._strings = 0
        self._left = min(size, MAX_HEADER_BYTES)
        self._short = (
            f"the header goes on past {MAX_HEADER_BYTES} bytes"
            if size > MAX_HEADER_BYTES
            else "the file ends inside its header"
        )

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise GgufError(self._short)
        data = self._stream.read(count)
        if len(data) != count:
            raise GgufError("the file ends inside its header")
        self._left -= count
        return data

    def skip(self, count: int) -> None:
        if count > self._left:
            raise GgufError(self._short)
        self._stream.seek(count, os.SEEK_CUR)
        self._left -= count

    def number(self, form: str) -> t.Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > limit:
            raise GgufError(f"a string of {length} bytes, more than the {limit} allowed here")
        return self.take(length).decode("utf-8", "replace")

    def value(self, key: str) -> tuple[t.Any, int | None]:
        """One metadata value, and its length where it is an array."""
        kind = self.number("I")
        if kind == _STRING:
            return self.text(MAX_STRING_BYTES), None
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise GgufError(f"{key} has the unknown value type {kind}")
            return self.number(_SCALARS[kind]), None
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            # Each string takes at least its own length field.
            if count * 8 > self._left:
                raise GgufError(f"{key} announces {count} strings, more than fit into the file")
            kept = count <= MAX_KEPT_ARRAY
            strings = []
            self._strings += count
            if self._strings > MAX_STRINGS:
                raise GgufError(f"{key} brings the strings to more than {MAX_STRINGS}")
            self._keep(key, count if kept else 0)
            for _index in range(count):
                length = self.number("Q")
                if length > MAX_STRING_BYTES:
                    raise GgufError(f"{key} holds a string of {length} bytes")
                data = self.take(length)
                if kept:
                    strings.append(data.decode("utf-8", "replace"))
            return strings if kept else None, count
        if kind not in _SCALARS:
            raise GgufError(f"{key} is an array of the unsupported value type {kind}")
        size = struct.calcsize("<" + _SCALARS[kind])
        if count * size > self._left:
            raise GgufError(f"{key} announces {count} numbers, more than fit into the file")
        if count > MAX_KEPT_ARRAY:
            self.skip(count * size)
            return None, count
        self._keep(key, count)
        return list(struct.unpack(f"<{count}{_SCALARS[kind]}", self.take(count * size))), count

    def _keep(self, key: str, count: int) -> None:
        self._kept += count
        if self._kept > MAX_KEPT:
            raise GgufError(f"{key} brings the elements of arrays to more than {MAX_KEPT}")


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(MAX_NAME_BYTES)
    count = cursor.number("I")
    if not 1 <= count <= MAX_DIMENSIONS:
        raise GgufError(f"tensor {name!r} has {count} dimensions, 1 to {MAX_DIMENSIONS} are possible")
    dimensions = tuple(cursor.number("Q") for _index in range(count))
    type_id = cursor.number("I")
    cursor.number("Q")
    if type_id not in TENSOR_TYPES:
        raise GgufError(f"tensor {name!r} has the unknown type {type_id}")
    if math.prod(dimensions) >= 2**63:
        raise GgufError(f"tensor {name!r} has more than 2^63 elements")
    if min(dimensions) < 1 or dimensions[0] % TENSOR_TYPES[type_id][1]:
        raise GgufError(f"tensor {name!r} of type {TENSOR_TYPES[type_id][0]} has rows of {dimensions[0]} elements")
    return Tensor(name, dimensions, type_id)


def read_header(stream: t.BinaryIO, size: int) -> Header:
    """Read the header at the start of a seekable ``stream`` of ``size`` bytes.

    :raises GgufError: no GGUF, a version or byte order that is not read here, cut short, or beyond a bound.
    """
    cursor = _Cursor(stream, size)
    if size < 24 or cursor.take(4) != MAGIC:
        raise GgufError("no GGUF file: it does not begin with the letters GGUF")
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        raise GgufError("a big-endian GGUF file, which Ollama does not load")
    if version not in (2, 3):
        raise GgufError(f"GGUF version {version}; versions 2 and 3 are read")
    tensor_count, metadata_count = cursor.number("Q"), cursor.number("Q")
    if tensor_count > MAX_TENSORS or metadata_count > MAX_METADATA:
        raise GgufError(
            f"{tensor_count} tensors and {metadata_count} metadata entries are announced, which no model has"
        )
    metadata: dict[str, t.Any] = {}
    lengths: dict[str, int] = {}
    for _index in range(metadata_count):
        key = cursor.text(MAX_NAME_BYTES)
        value, length = cursor.value(key)
        if key in metadata:
            raise GgufError(f"the metadata key {key!r} stands twice")
        metadata[key] = value
        if length is not None:
            lengths[key] = length
    tensors = tuple(_tensor(cursor) for _index in range(tensor_count))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise GgufError("a tensor name stands twice")
    return Header(version, metadata, lengths, tensors)


def read_bytes(data: bytes) -> Header:
    """Read the header out of the first bytes of a file, which must hold all of it.

    :raises GgufError: as :func:`read_header`.
    """
    return read_header(io.BytesIO(data), len(data))


def read_file(path: str) -> Header:
    """Read the header of the file at ``path``.

    :raises GgufError: as :func:`read_header`, or one part of a split model, whose header tells of that part alone.
    :raises OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as stream:
        header = read_header(stream, os.fstat(stream.fileno()).st_size)
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise GgufError(f"one of {parts} parts of a split model; merge them with `llama-gguf-split --merge` first")
    return header
