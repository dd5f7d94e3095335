# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The header reader: what it reads, and what it refuses. The independent writer is PyPI's gguf."""

from __future__ import annotations

import contextlib
import io
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gguf
from gguf_files import Q4_K, gguf_header, llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def read(data: bytes) -> _gguf.Header:
    return _gguf.read_header(io.BytesIO(data), len(data))


def test_reads_what_was_written() -> None:
    header = read(llama(layers=3, vocabulary=5000))
    assert header.version == 3
    assert header.architecture == "llama"
    assert header.quantization == "Q4_K_M"
    assert header.get("block_count") == 3
    assert header.metadata["tokenizer.ggml.tokens"] is None, "a long array is not kept"
    assert header.lengths["tokenizer.ggml.tokens"] == 5000
    assert len(header.tensors) == 2 + 3 * 8
    # 256 x 5000 elements in blocks of 256 elements and 144 bytes.
    assert header.tensors[0].bytes == 5000 * 144


def test_reads_a_file_of_the_reference_writer(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "reference.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(4096)
    writer.add_head_count_kv([2, 1])
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("token_embd.weight", numpy.zeros((3, 64), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = _gguf.read_file(str(path))
    assert header.get("block_count") == 2
    assert header.get("attention.head_count_kv") == [2, 1]
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "b", "c"]
    assert [(tensor.name, tensor.dimensions, tensor.bytes) for tensor in header.tensors] == [
        ("token_embd.weight", (64, 3), 384)
    ]


@pytest.mark.parametrize("number", sorted(_gguf.TENSOR_TYPES))
def test_tensor_type_sizes_agree_with_the_reference(number: int) -> None:
    constants = pytest.importorskip("gguf").constants
    name, block, size = _gguf.TENSOR_TYPES[number]
    if name == "Q8_1":
        pytest.skip("gguf counts two floats, ggml two halves; no file holds this type")
    kind = constants.GGMLQuantizationType(number)
    assert (kind.name, constants.GGML_QUANT_SIZES[kind]) == (name, (block, size))


def test_row_padding_is_for_quantized_rows_that_are_no_multiple_of_512() -> None:
    assert _gguf.Tensor("a", (256, 10), Q4_K).row_padding_bytes == 144
    assert _gguf.Tensor("a", (512, 10), Q4_K).row_padding_bytes == 0
    assert _gguf.Tensor("a", (256, 10), 1).row_padding_bytes == 0


def test_reads_bytes_as_a_file() -> None:
    data = llama(layers=3, vocabulary=300000)
    assert _gguf.read_bytes(data + bytes(2**22)) == read(data)


class Endless(io.RawIOBase):
    """A file that begins with some bytes, and after them has zeros."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self.left = start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = len(buffer)
        piece, self.left = self.left[:count], self.left[count:]
        buffer[:] = piece.ljust(count, b"\0")
        return count


def test_an_endless_header_is_given_up() -> None:
    """A string list that never ends: 8 bytes each, as many as fit into what a header may have."""
    start = START + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**24)
    began = time.monotonic()
    with pytest.raises(_gguf.GgufError, match="strings to more than"):
        _gguf.read_header(io.BufferedReader(Endless(start)), 2**40)
    assert time.monotonic() - began < 20


def test_small_arrays_without_number_are_given_up() -> None:
    values = {f"k{index}": [index] * 4096 for index in range(300)}
    with pytest.raises(_gguf.GgufError, match="elements of arrays to more than"):
        read(gguf_header({**ONE, **values}))


ONE: dict[str, Any] = {"general.architecture": "llama"}
START = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "does not begin", id="empty"),
        pytest.param(b"PK\x03\x04" + bytes(40), "does not begin", id="another format"),
        pytest.param(gguf_header(ONE, version=1), "version 1", id="version 1"),
        pytest.param(b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian", id="big-endian"),
        pytest.param(gguf_header(ONE)[:-1], "ends inside", id="one byte short"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0) + bytes(64), "which no model has", id="too many tensors"
        ),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(64), "which no model has", id="too much metadata"
        ),
        pytest.param(START + struct.pack("<Q", 2**62) + bytes(64), "a string of", id="endless key"),
        pytest.param(
            START + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60) + bytes(64), "more than fit",
            id="endless array of strings",
        ),
        pytest.param(
            START + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**60) + bytes(64), "more than fit",
            id="endless array of numbers",
        ),
        pytest.param(
            START + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) + bytes(64), "unsupported value type 9",
            id="array of arrays",
        ),
        pytest.param(
            START + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99) + bytes(64), "unknown value type 99",
            id="unknown value type",
        ),
        pytest.param(gguf_header(ONE, [("t", (256,), 99)]), "unknown type 99", id="unknown tensor type"),
        pytest.param(gguf_header(ONE, [("t", (2**40, 2**40), 1)]), "2^63", id="tensor larger than any memory"),
        pytest.param(gguf_header(ONE, [("t", (100,), Q4_K)]), "rows of 100", id="row that is no whole block"),
        pytest.param(gguf_header(ONE, [("t", (0,), 0)]), "rows of 0", id="tensor without elements"),
        pytest.param(gguf_header(ONE, [("t", (), 0)]), "0 dimensions", id="tensor without dimensions"),
        pytest.param(gguf_header(ONE, [("t", (1,) * 5, 0)]), "5 dimensions", id="tensor with five dimensions"),
        pytest.param(gguf_header(ONE, [("t", (1,), 0), ("t", (1,), 0)]), "twice", id="tensor name twice"),
    ],
)  # fmt: skip
def test_refuses(data: bytes, says: str) -> None:
    with pytest.raises(_gguf.GgufError, match=says.replace("^", r"\^")):
        read(data)


def test_refuses_one_part_of_a_split_model(tmp_path: Path) -> None:
    path = tmp_path / "part.gguf"
    path.write_bytes(gguf_header({**ONE, "split.count": 3}))
    with pytest.raises(_gguf.GgufError, match="one of 3 parts"):
        _gguf.read_file(str(path))


WHOLE = llama(layers=1, vocabulary=64)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_header_cut_anywhere_is_an_error_of_ours(length: int) -> None:
    with pytest.raises(_gguf.GgufError):
        read(WHOLE[:length])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(4, len(WHOLE) - 9), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_read_or_refused_and_never_anything_else(place: int, damage: bytes) -> None:
    data = WHOLE[:place] + damage + WHOLE[place + len(damage) :]
    start = time.monotonic()
    try:
        header = read(data)
    except _gguf.GgufError:
        pass
    else:
        assert all(tensor.bytes >= 0 for tensor in header.tensors)
    assert time.monotonic() - start < 20


@given(st.binary(max_size=300))
def test_anything_after_the_magic_is_read_or_refused(tail: bytes) -> None:
    with contextlib.suppress(_gguf.GgufError):
        read(b"GGUF\x03\x00\x00\x00" + tail)
