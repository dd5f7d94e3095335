"""Headers as text: exact both ways, and what the reader makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import F32, Q4_K, gguf_header, llama

from tests.memory import headers, pack
from tests.memory.data import HEADERS, read_model

TEXT = """\
GGUF version 3
general.architecture = str llama
llama.block_count = u32 3
llama.rope.freq_base = f32 1e-06
llama.attention.causal = bool false
llama.sections = [i32] 11 -1 0
general.name = str two\\x20words
tokenizer.ggml.tokens = [str] length 2000
token_embd.weight Q4_K 256 2000
layers 0,2
  attn_v.weight Q4_K 256 256 | Q6_K 2
layers 1
  ssm_a F32 48
output.weight Q6_K 256 2000
"""


def test_text_is_read_and_written_back() -> None:
    contents = headers.from_text(TEXT)
    assert [(tensor.name, tensor.type_name, tensor.dimensions) for tensor in contents.tensors] == [
        ("token_embd.weight", "Q4_K", (256, 2000)),
        ("blk.0.attn_v.weight", "Q4_K", (256, 256)),
        ("blk.1.ssm_a", "F32", (48,)),
        ("blk.2.attn_v.weight", "Q6_K", (256, 256)),
        ("output.weight", "Q6_K", (256, 2000)),
    ]
    assert contents.metadata[-2].value == "two words"
    assert headers.to_text(contents) == TEXT


def test_bytes_and_text_say_the_same() -> None:
    contents = headers.from_text(TEXT)
    assert headers.to_text(headers.from_bytes(headers.to_bytes(contents))) == TEXT


def test_written_bytes_are_what_another_writer_writes() -> None:
    """All but the tensors' offsets, which that writer leaves at 0; the alignment at the end comes on top."""
    original = gguf_header({"general.architecture": "x", "x.block_count": 1}, [("blk.0.a", (256, 2), Q4_K)])
    assert headers.to_bytes(headers.from_bytes(original)).rstrip(b"\0") == original.rstrip(b"\0")


def test_offsets_follow_from_the_sizes() -> None:
    data = gguf_header({}, [("a", (3,), F32), ("b", (256, 2), Q4_K), ("c", (1,), F32)])
    written = headers.to_bytes(headers.from_bytes(data))
    # 12 bytes and 288 bytes, each up to a multiple of 32.
    for name, offset in ((b"a", 0), (b"b", 32), (b"c", 320)):
        at = written.index((1).to_bytes(8, "little") + name) + 9
        dimensions = int.from_bytes(written[at : at + 4], "little")
        assert int.from_bytes(written[at + 4 + 8 * dimensions + 4 :][:8], "little") == offset


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GGUF version three\n", "line 1"),
        ("GGUF version 3\na = u99 1\n", "line 2"),
        ("GGUF version 3\na = u32 one\n", "line 2"),
        ("GGUF version 3\nx.weight Q9_K 256\n", "line 2"),
        ("GGUF version 3\nx.weight Q4_K\n", "line 2"),
        ("GGUF version 3\nlayers 0-1\n  a Q4_K 256 | F32 2\n", "line 3"),
    ],
)
def test_wrong_text_is_refused_by_line(text: str, said: str) -> None:
    with pytest.raises(headers.HeaderError, match=said):
        headers.from_text(text)


@pytest.mark.parametrize("length", [3, 20, 100])
def test_short_bytes_are_refused(length: int) -> None:
    with pytest.raises(headers.HeaderError):
        headers.from_bytes(llama()[:length])


def test_repository_headers_are_whole() -> None:
    """Each has the layers that its metadata announces, and its text is the one that its contents give."""
    paths = sorted(HEADERS.glob("*.txt"))
    assert len(paths) >= 41
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert headers.to_text(headers.from_text(text)) == text, path.name
        model = read_model(path)
        layers = {tensor.name.split(".")[1] for tensor in model.header.tensors if tensor.name.startswith("blk.")}
        assert len(layers) == model.layers, path.name
        assert model.header.get("embedding_length"), path.name


def test_pack_and_unpack_are_inverse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack.unpack(tmp_path / "gguf")
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.setattr(pack, "HEADERS", again)
    pack.pack(tmp_path / "gguf", [])
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in HEADERS.glob("*.txt"))
    for path in again.iterdir():
        assert path.read_text(encoding="utf-8") == (HEADERS / path.name).read_text(encoding="utf-8"), path.name
