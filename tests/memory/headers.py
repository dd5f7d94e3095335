"""GGUF headers as text that a reviewer can read, and back again to the byte.

A text has the metadata first, one ``key = type value`` a line, then the tensors in the file's order, one
``name type dimensions`` a line. Layers of the same tensors are written once, under ``layers 0-2,4-6``; where the type
of one differs in some layers, ``| type layers`` follows. Of a vocabulary, only the length is kept:
``[str] length 128256``. Offsets are not written: they follow from the sizes and the alignment.

GGUF's format is described in ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils._gguf import TENSOR_TYPES

# Value types of GGUF metadata: number, name in the text, and struct's code.
_SCALARS = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"), 5: ("i32", "i"),
    6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"), 12: ("f64", "d"),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_NUMBERS = {name: (number, code) for number, (name, code) in _SCALARS.items()}
_TYPE_IDS = {name: number for number, (name, _block, _size) in TENSOR_TYPES.items()}
# Longer arrays are vocabularies or their scores: only the length matters to an account.
_KEPT = 1024
_ALIGNMENT = 32


class HeaderError(Exception):
    """A header cannot be read, or its text is not of the form above; the text says where."""


@dataclass(frozen=True)
class Entry:
    """One metadata entry. ``kind`` is the text's name of the type; an array that is left out is its length alone."""

    key: str
    kind: str
    value: Any


@dataclass(frozen=True)
class Tensor:
    name: str
    type_name: str
    dimensions: tuple[int, ...]

    @property
    def bytes(self) -> int:
        _name, block, size = TENSOR_TYPES[_TYPE_IDS[self.type_name]]
        return math.prod(self.dimensions) // block * size


@dataclass(frozen=True)
class Contents:
    version: int
    metadata: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Length:
    """Stands for an array of so many elements whose values are left out."""

    count: int


# --- bytes -----------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> Any:
        value = struct.unpack_from(f"<{code}", self.data, self.at)[0]
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        data = self.data[self.at : self.at + length]
        self.at += length
        return data.decode("utf-8", "replace")

    def entry(self) -> Entry:
        key, kind = self.text(), self.number("I")
        if kind == _STRING:
            return Entry(key, "str", self.text())
        if kind != _ARRAY:
            name, code = _SCALARS[kind]
            return Entry(key, name, self.number(code))
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            values: Any = [self.text() for _index in range(count)]
            return Entry(key, "[str]", _Length(count) if count > _KEPT else values)
        name, code = _SCALARS[kind]
        values = [self.number(code) for _index in range(count)]
        return Entry(key, f"[{name}]", _Length(count) if count > _KEPT else values)

    def tensor(self) -> Tensor:
        name = self.text()
        dimensions = tuple(self.number("Q") for _index in range(self.number("I")))
        kind, _offset = self.number("I"), self.number("Q")
        return Tensor(name, TENSOR_TYPES[kind][0], dimensions)


def from_bytes(data: bytes) -> Contents:
    """What a GGUF file of a trusted origin says.

    :raises HeaderError: it is cut short or of an unknown type.
    """
    reader = _Reader(data)
    try:
        if reader.number("I") != int.from_bytes(b"GGUF", "little"):
            raise HeaderError("no GGUF file")
        version, tensors, entries = reader.number("I"), reader.number("Q"), reader.number("Q")
        metadata = tuple(reader.entry() for _index in range(entries))
        return Contents(version, metadata, tuple(reader.tensor() for _index in range(tensors)))
    except (struct.error, KeyError) as error:
        raise HeaderError(f"cut short, or of an unknown type: {error}") from error


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(entry: Entry) -> bytes:
    if entry.kind == "str":
        return struct.pack("<I", _STRING) + _text(entry.value)
    if not entry.kind.startswith("["):
        number, code = _NUMBERS[entry.kind]
        return struct.pack(f"<I{code}", number, entry.value)
    kind = entry.kind[1:-1]
    left_out = isinstance(entry.value, _Length)
    count = entry.value.count if left_out else len(entry.value)
    if kind == "str":
        body = _text("") * count if left_out else b"".join(map(_text, entry.value))
        return struct.pack("<IIQ", _ARRAY, _STRING, count) + body
    number, code = _NUMBERS[kind]
    return struct.pack("<IIQ", _ARRAY, number, count) + struct.pack(
        f"<{count}{code}", *([0] * count if left_out else entry.value)
    )


def to_bytes(contents: Contents) -> bytes:
    """The header as a GGUF file has it, up to where the tensors' data would begin."""
    parts = [b"GGUF", struct.pack("<IQQ", contents.version, len(contents.tensors), len(contents.metadata))]
    parts += [_text(entry.key) + _value(entry) for entry in contents.metadata]
    offset = 0
    for tensor in contents.tensors:
        count = len(tensor.dimensions)
        kind = _TYPE_IDS[tensor.type_name]
        parts.append(_text(tensor.name) + struct.pack(f"<I{count}QIQ", count, *tensor.dimensions, kind, offset))
        offset += -(-tensor.bytes // _ALIGNMENT) * _ALIGNMENT
    data = b"".join(parts)
    return data + bytes(-len(data) % _ALIGNMENT)


# --- text ------------------------------------------------------------------------------------------------------------


def _spans(layers: list[int]) -> str:
    """``0-3,7``"""
    runs = []
    for _shift, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _index, layer in group]
        runs.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
    return ",".join(runs)


def _numbers(spans: str) -> list[int]:
    found: list[int] = []
    for span in spans.split(","):
        first, _dash, last = span.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _shown(kind: str, value: Any) -> str:
    if isinstance(value, _Length):
        return f"length {value.count}"
    if kind.startswith("["):
        return " ".join(_shown(kind[1:-1], item) for item in value)
    if kind == "str":
        return str(value).encode("unicode_escape").decode().replace(" ", r"\x20") if value else '""'
    if kind == "f32":
        # The shortest decimal that is the same 32-bit number.
        return next(
            text
            for text in (f"{value:.{digits}g}" for digits in range(1, 18))
            if struct.pack("<f", float(text)) == struct.pack("<f", value)
        )
    return str(value).lower() if kind == "bool" else repr(value)


def _read(kind: str, text: str) -> Any:
    if kind.strip("[]") not in _NUMBERS and kind.strip("[]") != "str":
        raise ValueError(f"there is no type {kind}")
    if kind.startswith("["):
        if text.startswith("length "):
            return _Length(int(text.removeprefix("length ")))
        return [_read(kind[1:-1], item) for item in text.split()]
    if kind == "str":
        return "" if text == '""' else text.encode().decode("unicode_escape")
    if kind == "bool":
        return {"true": True, "false": False}[text]
    return float(text) if kind in ("f32", "f64") else int(text)


_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def _stretches(tensors: Iterable[Tensor]) -> Iterator[Tensor | dict[int, list[Tensor]]]:
    """The file's order: tensors of no layer one by one, and layers with their tensors, named without it."""
    for of_layer, stretch in groupby(tensors, lambda tensor: bool(_LAYER.match(tensor.name))):
        if not of_layer:
            yield from stretch
            continue
        layers: dict[int, list[Tensor]] = {}
        for tensor in stretch:
            _blk, layer, name = tensor.name.split(".", 2)
            layers.setdefault(int(layer), []).append(Tensor(name, tensor.type_name, tensor.dimensions))
        yield layers


def _line(same: list[Tensor], layers: list[int]) -> str:
    """One tensor, in each of the layers."""
    types = [tensor.type_name for tensor in same]
    # The commonest first; among equals, that of the first layer.
    main = max(types, key=types.count)
    line = f"{same[0].name} {main} {' '.join(map(str, same[0].dimensions))}"
    for other in sorted(set(types) - {main}):
        line += f" | {other} {_spans([layer for layer, kind in zip(layers, types) if kind == other])}"
    return line


def to_text(contents: Contents) -> str:
    """Layers are written in ascending order, which is that of every file that llama.cpp's converter made."""
    lines = [f"GGUF version {contents.version}"]
    lines += [f"{entry.key} = {entry.kind} {_shown(entry.kind, entry.value)}" for entry in contents.metadata]
    for part in _stretches(contents.tensors):
        if isinstance(part, Tensor):
            lines.append(_line([part], [0]))
            continue
        alike: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
        for layer in sorted(part):
            alike.setdefault(tuple((tensor.name, tensor.dimensions) for tensor in part[layer]), []).append(layer)
        for layers in alike.values():
            lines.append(f"layers {_spans(layers)}")
            lines += [f"  {_line(list(same), layers)}" for same in zip(*(part[layer] for layer in layers))]
    return "\n".join(lines) + "\n"


def _tensor_line(line: str, layers: list[int]) -> list[Tensor]:
    """The tensor of a line, in each of the layers."""
    first, *others = (part.split() for part in line.split("|"))
    name, main, *dimensions = first
    types = {layer: kind for kind, spans in others for layer in _numbers(spans)}
    if not set(types) <= set(layers):
        raise ValueError("a type of a layer that is not in the group")
    kinds = [types.get(layer, main) for layer in layers]
    if not set(kinds) <= set(_TYPE_IDS) or not dimensions:
        raise ValueError("an unknown type, or no dimensions")
    return [Tensor(name, kind, tuple(map(int, dimensions))) for kind in kinds]


def from_text(text: str) -> Contents:
    """:raises HeaderError: naming the line."""
    version = 0
    metadata: list[Entry] = []
    tensors: list[Tensor] = []
    stretch: dict[int, list[Tensor]] = {}
    layers: list[int] = []

    def close() -> None:
        for layer in sorted(stretch):
            tensors.extend(Tensor(f"blk.{layer}.{row.name}", row.type_name, row.dimensions) for row in stretch[layer])
        stretch.clear()

    for number, line in enumerate(text.splitlines(), 1):
        try:
            if number == 1:
                version = int(line.removeprefix("GGUF version "))
            elif " = " in line:
                key, rest = line.split(" = ", 1)
                kind, value = rest.split(" ", 1)
                metadata.append(Entry(key, kind, _read(kind, value)))
            elif line.startswith("layers "):
                layers = _numbers(line.removeprefix("layers "))
            elif line.startswith("  "):
                for layer, tensor in zip(layers, _tensor_line(line, layers)):
                    stretch.setdefault(layer, []).append(tensor)
            else:
                close()
                tensors += _tensor_line(line, [0])
        except (ValueError, KeyError) as error:
            raise HeaderError(f"line {number}: {line!r}: {error}") from error
    close()
    return Contents(version, tuple(metadata), tuple(tensors))
