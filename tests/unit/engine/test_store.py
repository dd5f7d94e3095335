"""Names, manifests and GGUF headers, as the engine stand-in reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine import models
from tests.engine.server import gguf, store


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("gemma3", "registry.ollama.ai/library/gemma3/latest", "gemma3:latest"),
        ("gemma3:270m", "registry.ollama.ai/library/gemma3/270m", "gemma3:270m"),
        ("someone/m:t", "registry.ollama.ai/someone/m/t", "someone/m:t"),
        ("127.0.0.1:5055/library/m:t", "127.0.0.1:5055/library/m/t", "127.0.0.1:5055/library/m:t"),
        ("https://mirror/library/m", "mirror/library/m/latest", "mirror/library/m:latest"),
    ],
)
def test_name(text: str, full: str, short: str) -> None:
    name = store.parse_name(text)
    assert "/".join((name.host, name.namespace, name.model, name.tag)) == full
    assert str(name) == short
    assert store.parse_name(short) == name


@pytest.mark.parametrize("text", ["", "a b c", "m:", ":t", "../m", "../../x/m", "a/b/c/d/m", "m:..", "x/.hidden"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(store.InvalidName, match="invalid model name"):
        store.parse_name(text)


@given(st.text(max_size=40))
def test_no_name_leaves_the_directory(text: str) -> None:
    try:
        name = store.parse_name(text)
    except store.InvalidName:
        return
    root = Path("/models/manifests")
    path = root / name.host / name.namespace / name.model / name.tag
    assert ".." not in path.parts
    assert len(path.relative_to(root).parts) == 4


def test_blob_of_another_digest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    models_directory = store.Store(tmp_path)
    chunks = iter((b"abc", b""))
    with pytest.raises(store.DigestMismatch):
        models_directory.write_blob(lambda: next(chunks), "sha256:" + "0" * 64)
    assert not list(models_directory.blobs.iterdir())


@pytest.mark.parametrize("quantization", models.QUANTIZATIONS)
@pytest.mark.parametrize("write", [models.write_generative, models.write_embedding])
def test_header_of_a_written_model(tmp_path: Path, write: Callable[..., Path], quantization: str) -> None:
    path = write(tmp_path / "model.gguf", quantization=quantization)
    header = gguf.read(path)
    assert header.quantization == quantization
    assert header.is_embedding == (write is models.write_embedding)
    assert header.of_architecture("block_count") == models.SIZES["tiny"].layers
    assert {tensor.type for tensor in header.tensors} <= {quantization, "F32"}
    assert header.metadata["tokenizer.ggml.tokens"] is None


def test_written_bytes_depend_on_the_arguments_alone(tmp_path: Path) -> None:
    first, again, other = (
        hashlib.sha256(models.write_generative(tmp_path / name, seed=seed).read_bytes()).hexdigest()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


def test_cut_header_is_no_gguf(tmp_path: Path) -> None:
    content = models.write_generative(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    # Every length in the first metadata, then now and then to the last tensors' rows.
    for cut in (*range(400), *range(400, 20_000, 487)):
        path.write_bytes(content[:cut])
        with pytest.raises(gguf.NotGGUF):
            gguf.read(path)
