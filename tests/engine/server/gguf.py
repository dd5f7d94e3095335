"""The header of a GGUF file: metadata and tensor directory, as /api/show and /api/tags report them.

Format: ggml/docs/gguf.md of ggml-org/ggml, versions 2 and 3, little endian.
"""

from __future__ import annotations

import functools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
    39: "MXFP4",
}  # fmt: skip
# general.file_type, enum llama_ftype in llama.h of ggml-org/llama.cpp
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16", 38: "MXFP4",
}  # fmt: skip


class NotGGUF(ValueError):
    """The file is not a GGUF that can be read."""


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor directory."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Metadata (arrays as None, as Ollama shows them unless asked to be verbose) and tensors of one file."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def quantization(self) -> str:
        return _FILE_TYPES.get(self.metadata.get("general.file_type", -1), "unknown")

    @property
    def parameter_count(self) -> int:
        total = 0
        for tensor in self.tensors:
            elements = 1
            for dimension in tensor.shape:
                elements *= dimension
            total += elements
        return total

    @property
    def parameter_size(self) -> str:
        count = self.parameter_count
        for unit, letter, places in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
            if count >= unit:
                return f"{count / unit:.{0 if places == 2 and count % unit == 0 else places}f}{letter}"
        return str(count)

    def of_architecture(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def is_embedding(self) -> bool:
        """Whether the file can embed and not complete: it carries a pooling type (Ollama's own criterion)."""
        return self.of_architecture("pooling_type") is not None


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32, which is how Go prints one (1e-06, not 9.99e-07)."""
    exact = struct.pack("<f", value)
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == exact:
            return candidate
    return value


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        value = struct.unpack_from(f"<{code}", self.data, self.at)[0]
        self.at += struct.calcsize(code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        if self.at + length > len(self.data):
            raise NotGGUF("a string runs past the end of the file")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise NotGGUF(f"unknown value type {kind}")
            value = self.scalar(_SCALARS[kind])
            return _shortest(value) if kind == 6 else value
        element, count = self.scalar("I"), self.scalar("Q")
        if element in _SCALARS:
            self.at += count * struct.calcsize(_SCALARS[element])
        elif element == _STRING:
            at, data, unpack = self.at, self.data, struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self.at = at
        else:
            raise NotGGUF(f"unknown array element type {element}")
        return None


@functools.lru_cache(maxsize=64)
def _read(path: str, _size: int, _modified: int) -> Header:
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise NotGGUF("the file is empty") from error
    with data:
        if data[:4] != b"GGUF":
            raise NotGGUF("the file has no GGUF magic")
        reader = _Reader(data)
        reader.at = 4
        try:
            if reader.scalar("I") not in (2, 3):
                raise NotGGUF("unknown GGUF version")
            tensors, pairs = reader.scalar("Q"), reader.scalar("Q")
            metadata = {reader.string(): reader.value(reader.scalar("I")) for _ in range(pairs)}
            directory = []
            for _ in range(tensors):
                name = reader.string()
                shape = tuple(reader.scalar("Q") for _ in range(reader.scalar("I")))
                kind = reader.scalar("I")
                reader.at += 8
                directory.append(Tensor(name, _TENSOR_TYPES.get(kind, f"type {kind}"), shape))
        except struct.error as error:
            raise NotGGUF("the header runs past the end of the file") from error
    return Header(metadata, tuple(directory))


def read(path: Path) -> Header:
    """Header of a GGUF file, kept in memory while the file stays the same. NotGGUF, OSError."""
    status = path.stat()
    return _read(str(path), status.st_size, status.st_mtime_ns)
