"""What the bench compares on: models' headers and rows of truth.

A row of truth says what llama.cpp would allocate for a model in one setting and placement; its fields are explained in
data/README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _gguf
from ansible_collections.onprem.llm.plugins.module_utils._llama_cpp import V0_5_0

from tests.memory import headers

HERE = Path(__file__).resolve().parent
HEADERS = HERE / "data" / "headers"
TRUTH = (HERE / "data" / "truth.jsonl.xz", HERE / "data" / "placement.jsonl.xz")
ALL_LAYERS = 9999


class DataError(Exception):
    """The input cannot be used; the text names the file, the line and what would be right."""


def _padded(size: int) -> int:
    """Up to GGUF's alignment."""
    return -(-size // 32) * 32


@dataclass(frozen=True, eq=False)
class Model:
    """A model by its header. ``header_bytes`` is where the tensors' data begin: the length of metadata (with a
    vocabulary if there is one) and tensor table, padded to 32 bytes."""

    name: str
    header: _gguf.Header
    header_bytes: int

    @cached_property
    def values(self) -> dict[str, Any]:
        """Metadata of the architecture, without its prefix."""
        prefix = f"{self.header.architecture}."
        return {
            key.removeprefix(prefix): value for key, value in self.header.metadata.items() if key.startswith(prefix)
        }

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of the architecture's metadata; of an array, its largest."""
        value = self.values.get(key)
        if isinstance(value, list):
            value = max(value, default=None)
        return default if value is None else int(value)

    def by_layer(self, key: str, default: int = 0) -> list[int]:
        """The same for each layer."""
        value = self.values.get(key, default)
        values = value if isinstance(value, list) else [value] * self.layers
        return [*map(int, values[: self.layers]), *[default] * (self.layers - len(values))]

    @cached_property
    def layers(self) -> int:
        return self.number("block_count")

    @cached_property
    def vocabulary(self) -> int:
        """Entries of the vocabulary."""
        return self.header.lengths.get("tokenizer.ggml.tokens") or self.number("vocab_size")

    @cached_property
    def parameters(self) -> int:
        """Weights of all tensors together."""
        return sum(math.prod(tensor.dimensions) for tensor in self.header.tensors)

    @cached_property
    def quantization(self) -> str:
        """The name that people know a file by whose weights are mostly of this type."""
        weights: dict[str, int] = {}
        for tensor in self.header.tensors:
            weights[tensor.type_name] = weights.get(tensor.type_name, 0) + tensor.elements
        main = max(weights, key=lambda name: weights[name], default="")
        return f"{main}_M" if main in ("Q3_K", "Q4_K", "Q5_K") else main

    @cached_property
    def file_bytes(self) -> int:
        """Length of the whole file: header and tensors, each padded to 32 bytes."""
        return self.header_bytes + sum(_padded(tensor.bytes) for tensor in self.header.tensors)

    @cached_property
    def embeds(self) -> bool:
        """Whether it is an embedding model, which has a pooling type."""
        return "pooling_type" in self.values


@dataclass(frozen=True)
class Row:
    """One setting and placement. Context in tokens a sequence; ``truth`` is the bytes of each device to compare."""

    place: str
    model: str
    context: int
    sequences: int
    key_type: str
    value_type: str
    flash_attention: bool | None
    ubatch: int
    logits_rows: int
    gpus: int
    gpu_layers: int
    split: tuple[float, ...]
    expert_layers_on_host: int
    truth: tuple[int, ...]
    # The release of llama.cpp that it is the truth of.
    llama_cpp: str = V0_5_0.release

    @property
    def cells(self) -> int:
        """Tokens of context of all sequences together."""
        return self.context * self.sequences

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each GPU, as fractions of 1."""
        shares = self.split or (1.0,) * self.gpus
        return tuple(share / sum(shares) for share in shares)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(f"CUDA{index}" for index in range(self.gpus)) or ("host",)

    def on_gpus(self, layers: int) -> bool:
        """Whether all of a model of so many layers, and its output layer, is on the GPUs."""
        return self.gpus > 0 and self.gpu_layers > layers and not self.expert_layers_on_host

    def describe(self) -> str:
        text = f"{self.model} {self.context}x{self.sequences} {self.key_type}"
        text += "" if self.value_type == self.key_type else f"/{self.value_type}"
        text += {True: " fa", False: " no-fa", None: " auto-fa"}[self.flash_attention]
        text += f" ub{self.ubatch} out{self.logits_rows} gpus{self.gpus}"
        text += f" layers{self.gpu_layers}" if self.gpus and self.gpu_layers != ALL_LAYERS else ""
        text += f" split{','.join(f'{share:g}' for share in self.split)}" if self.split else ""
        return text + (f" cmoe{self.expert_layers_on_host}" if self.expert_layers_on_host else "")


@dataclass
class Data:
    """Models and the rows that can be compared on, and what was left out, with its reason."""

    models: dict[str, Model]
    rows: list[Row]
    left_out: dict[str, int] = field(default_factory=dict)


def model(name: str, data: bytes) -> Model:
    """:raises _gguf.GgufError: no header that can be read."""
    stream = io.BytesIO(data)
    header = _gguf.read_header(stream, len(data))
    return Model(name, header, _padded(stream.tell()))


def read_model(path: Path) -> Model:
    try:
        if path.suffix == ".txt":
            data = headers.to_bytes(headers.from_text(path.read_text(encoding="utf-8")))
            return model(path.stem, data)
        with path.open("rb") as stream:
            header = _gguf.read_header(stream, path.stat().st_size)
            return Model(path.stem, header, _padded(stream.tell()))
    except (_gguf.GgufError, headers.HeaderError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def _open(path: Path) -> Any:
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")


def _whole(item: dict[str, Any], key: str, least: int, default: int | None = None) -> int:
    value = item.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} is {value!r}; a whole number of {least} or more is needed")
    return value


def _truth(item: dict[str, Any], gpus: int) -> tuple[int, ...]:
    buffers: dict[str, int] = {}
    for key, value in item.items():
        if isinstance(value, list) and key != "split":
            if len(value) != 3 or not all(isinstance(part, int) and part >= 0 for part in value):
                raise ValueError(f"{key} is {value!r}; bytes of model, KV cache and compute are needed")
            buffers[key] = sum(value)
    if not gpus:
        return (sum(buffers.values()),)
    return tuple(buffers.get(f"CUDA{index}", 0) for index in range(gpus))


def row(item: Any, place: str = "") -> Row:
    """:raises ValueError: saying which field is wrong."""
    if not isinstance(item, dict) or not isinstance(item.get("model"), str):
        raise ValueError("a mapping with a model is needed")
    gpus = _whole(item, "ng", 0)
    split = item.get("split", [])
    if not isinstance(split, list) or len(split) not in (0, gpus) or not all(
        isinstance(share, (int, float)) and share >= 0 for share in split
    ) or (split and sum(split) <= 0):  # fmt: skip
        raise ValueError(f"split is {split!r}; one share for each of {gpus} GPUs is needed")
    if item.get("fa") not in (-1, 0, 1):
        raise ValueError(f"fa is {item.get('fa')!r}; 1, 0 or -1 is needed")
    return Row(
        place=place,
        model=item["model"],
        context=_whole(item, "ctx", 1),
        sequences=_whole(item, "np", 1),
        key_type=str(item.get("tk")),
        value_type=str(item.get("tv")),
        flash_attention={1: True, 0: False, -1: None}[item["fa"]],
        ubatch=_whole(item, "ub", 1),
        logits_rows=_whole(item, "nout", 0),
        gpus=gpus,
        gpu_layers=_whole(item, "ngl", 0, ALL_LAYERS),
        split=tuple(map(float, split)),
        expert_layers_on_host=_whole(item, "cmoe", 0, 0),
        truth=_truth(item, gpus),
    )


def _rows(path: Path, left_out: dict[str, int]) -> Iterator[Row]:
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                place = f"{path.name}:{number}"
                try:
                    item = json.loads(line)
                    if isinstance(item, dict) and "error" in item:
                        _count(left_out, "llama.cpp refused the setting, so there is no truth")
                        continue
                    if isinstance(item, dict) and (item.get("un") or item.get("swa_full")):
                        _count(left_out, "a unified or full-size window cache, which Ollama does not use")
                        continue
                    yield row(item, place)
                except ValueError as error:
                    raise DataError(f"{place}: {error}") from error
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


def read(directory: Path = HEADERS, truth: Sequence[Path] = TRUTH, llama_cpp: str = V0_5_0.release) -> Data:
    """Read all headers of a directory (``*.gguf``, or the repository's ``*.txt``) that rows ask for, and the rows, the
    truth of this release of llama.cpp.

    A row whose model has no header is left out and counted.

    :raises DataError: nothing can be compared, or a file is not what it should be.
    """
    files = {path.stem: path for suffix in ("*.txt", "*.gguf") for path in sorted(directory.glob(suffix))}
    if not files:
        raise DataError(f"{directory}: no *.gguf header lies there")
    found = Data({}, [])
    for path in truth:
        for item in _rows(path, found.left_out):
            if item.model not in files:
                _count(found.left_out, f"{item.model} has no header in {directory}")
                continue
            if item.model not in found.models:
                found.models[item.model] = read_model(files[item.model])
            found.rows.append(replace(item, llama_cpp=llama_cpp))
    if not found.rows:
        reasons = "; ".join(found.left_out) or "the files are empty"
        raise DataError(f"{', '.join(map(str, truth))}: no row can be compared: {reasons}")
    return found
