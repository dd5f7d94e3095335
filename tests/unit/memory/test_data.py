"""Reading headers and rows: what is taken, what is left out, what is refused."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from gguf_files import llama

from tests.memory import __main__ as command
from tests.memory import data

ROW: dict[str, Any] = {
    "model": "m", "ctx": 2048, "np": 2, "tk": "f16", "tv": "f16", "fa": 1, "ub": 512, "un": 0, "swa_full": 0, "nout": 2,
    "ng": 1, "ngl": 9999, "CUDA0": [10, 20, 30], "host": [1, 2, 3],
}  # fmt: skip


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    directory = tmp_path / "headers"
    directory.mkdir()
    (directory / "m.gguf").write_bytes(llama())
    return directory


def rows(tmp_path: Path, *items: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    text = "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items)
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as stream:
        stream.write(text)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.xz", "rows.jsonl.gz"])
def test_rows_are_read(tmp_path: Path, headers: Path, name: str) -> None:
    found = data.read(headers, [rows(tmp_path, ROW, "", ROW, name=name)])
    assert len(found.rows) == 2
    row = found.rows[0]
    assert (row.context, row.sequences, row.cells, row.truth, row.devices) == (2048, 2, 4096, (60,), ("CUDA0",))
    assert found.left_out == {}


@pytest.mark.parametrize(
    ("change", "truth", "devices"),
    [
        ({"ng": 2, "split": [3, 1], "CUDA1": [1, 1, 1]}, (60, 3), ("CUDA0", "CUDA1")),
        # A GPU that holds nothing may not be in the row.
        ({"ng": 2}, (60, 0), ("CUDA0", "CUDA1")),
        ({"ng": 0, "CUDA0": [0, 0, 0], "CPU_REPACK": [100, 0, 0]}, (106,), ("host",)),
    ],
)
def test_devices_to_compare(change: dict[str, Any], truth: tuple[int, ...], devices: tuple[str, ...]) -> None:
    row = data.row({**ROW, **change})
    assert (row.truth, row.devices) == (truth, devices)


@pytest.mark.parametrize(
    ("change", "all_on_gpus"),
    [
        ({}, True),
        ({"ngl": 5}, True),
        ({"ngl": 4}, False),
        ({"ngl": 0}, False),
        ({"cmoe": 1}, False),
        ({"ng": 0}, False),
    ],
)
def test_everything_on_the_gpus(change: dict[str, Any], all_on_gpus: bool) -> None:
    assert data.row({**ROW, **change}).on_gpus(layers=4) is all_on_gpus


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "rows.jsonl:2"),
        ([], "a mapping with a model"),
        ({"ctx": 1}, "a mapping with a model"),
        ({**ROW, "ctx": 0}, "ctx is 0"),
        ({**ROW, "ub": "512"}, "ub is '512'"),
        ({**ROW, "np": True}, "np is True"),
        ({**ROW, "fa": 2}, "fa is 2"),
        ({**ROW, "split": [1, 2]}, "one share for each of 1 GPUs"),
        ({**ROW, "split": [-1]}, "one share for each of 1 GPUs"),
        ({**ROW, "split": [0]}, "one share for each of 1 GPUs"),
        ({**ROW, "CUDA0": [1, 2]}, "CUDA0 is"),
        ({**ROW, "CUDA0": [1, 2, -3]}, "CUDA0 is"),
    ],
)
def test_wrong_row_is_refused_with_its_place(tmp_path: Path, headers: Path, line: Any, said: str) -> None:
    with pytest.raises(data.DataError, match=said) as error:
        data.read(headers, [rows(tmp_path, ROW, line)])
    assert "rows.jsonl:2" in str(error.value)


def test_what_cannot_be_compared_is_counted(tmp_path: Path, headers: Path) -> None:
    path = rows(
        tmp_path, ROW, {**ROW, "model": "other"}, {**ROW, "model": "other"}, {**ROW, "error": "abort"}, {**ROW, "un": 1}
    )
    found = data.read(headers, [path])
    assert len(found.rows) == 1
    assert sorted(found.left_out.values()) == [1, 1, 2]
    assert any("other has no header" in reason for reason in found.left_out)


def test_nothing_to_compare_is_an_error(tmp_path: Path, headers: Path) -> None:
    with pytest.raises(data.DataError, match="no row can be compared: other has no header"):
        data.read(headers, [rows(tmp_path, {**ROW, "model": "other"})])
    with pytest.raises(data.DataError, match="the files are empty"):
        data.read(headers, [rows(tmp_path)])
    with pytest.raises(data.DataError, match=r"no \*\.gguf header"):
        data.read(tmp_path / "none", [rows(tmp_path, ROW)])


@pytest.mark.parametrize("content", [b"GGUF", b"no header at all", llama()[:300]])
def test_broken_header_is_an_error(tmp_path: Path, headers: Path, content: bytes) -> None:
    (headers / "m.gguf").write_bytes(content)
    with pytest.raises(data.DataError, match=r"m\.gguf"):
        data.read(headers, [rows(tmp_path, ROW)])


def test_command_says_what_is_wrong(tmp_path: Path, headers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--headers", str(headers), "--truth", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_command_writes_figures(
    tmp_path: Path, headers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two files, as TRUTH names them; the estimators' names are the keys at the top."""
    monkeypatch.setattr(command, "RESULT", command.ROOT / "build" / "bench" / "test" / "memory.json")
    first, second = rows(tmp_path, ROW, name="a.jsonl"), rows(tmp_path, {**ROW, "ng": 0}, name="b.jsonl")
    assert command.main(["--headers", str(headers), "--truth", f"{first}, {second}"]) == 0
    found = json.loads(command.RESULT.read_text(encoding="utf-8"))
    assert {"onprem.llm", "Ollama 0.32", "Ollama 0.17", "llmfit", "gguf-parser-go", "whichllm"} <= set(found)
    assert found["onprem.llm"]["rows"] == 2
    assert list(found["onprem.llm"]["by_architecture"]) == ["llama"]
    assert capsys.readouterr().out.startswith("estimator")


def test_model_by_its_header() -> None:
    model = data.model("m", llama(layers=4, width=256, heads=4, kv_heads=2, feed_forward=512, vocabulary=1024))
    assert (model.layers, model.vocabulary, model.quantization) == (4, 1024, "Q4_K_M")
    # Embeddings; and in each layer q, k, v and output, three matrices of the feed-forward network, and a norm.
    attention, feed_forward = 256 * (256 + 128 + 128 + 256), 3 * 256 * 512
    assert model.parameters == 256 * 1024 + 256 + 4 * (attention + feed_forward + 256)
    assert (
        model.file_bytes == model.header_bytes + (256 * 1024 + 4 * (attention + feed_forward)) // 256 * 144 + 5 * 1024
    )
    assert not model.embeds
