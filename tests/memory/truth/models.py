"""Models by their hyper-parameters: models.yml read, and written as GGUF files of metadata only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import yaml

HERE = Path(__file__).resolve().parent
WITHOUT_PREFIX = ("general.", "tokenizer.", "xielu.")
# Lists that the loader takes as 64-bit numbers alone (qwen4exp.cpp, load_arch_hparams).
WIDE_LISTS = ("ple.layer_multipliers", "ple.head_offsets", "ple.head_vocab_sizes")
QUANTIZATIONS = (
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL",
    "IQ4_XS",
)  # fmt: skip
FILE_TYPES = {name: int(getattr(gguf.LlamaFileType, f"MOSTLY_{name}")) for name in QUANTIZATIONS}


@dataclass(frozen=True)
class Model:
    """An entry of models.yml, whose head explains the fields."""

    name: str
    architecture: str
    quantization: str
    metadata: dict[str, Any]
    optional_tensors: tuple[str, ...] = ()
    integer_tensors: tuple[str, ...] = ()
    prediction_layer: bool = False
    embeddings: bool = False
    note: str = ""

    @property
    def layers(self) -> int:
        return int(self.metadata["block_count"])

    @property
    def experts(self) -> int:
        return int(self.metadata.get("expert_count", 0))

    @property
    def runs_for_embeddings(self) -> bool:
        """Every token of one batch attends to every other, and there is no sampling."""
        return self.embeddings or self.metadata.get("attention.causal") is False

    @property
    def file_type(self) -> int:
        return FILE_TYPES[self.quantization]

    def directives(self, final_metadata: Path) -> Iterator[str]:
        """Lines for ``planner header``."""
        for pattern in self.optional_tensors:
            yield from (f"with {name}" for name in expand(pattern, self.layers))
        for pattern in self.integer_tensors:
            yield from (f"integer {name}" for name in expand(pattern, self.layers))
        if self.prediction_layer:
            width, layer = self.metadata["embedding_length"], self.layers
            yield f"repeat {layer - 1} {layer}"
            yield f"also blk.{layer}.nextn.eh_proj.weight {2 * width} {width}"
            for norm in ("enorm", "hnorm", "shared_head_norm"):
                yield f"also blk.{layer}.nextn.{norm}.weight {width}"
            yield f"final {final_metadata}"


def expand(pattern: str, layers: int) -> list[str]:
    """Tensor names of a pattern: ``blk.*.x`` for every layer, ``blk.[1-3,5].x`` for some."""
    found = re.search(r"\*|\[([\d,-]+)\]", pattern)
    if not found:
        return [pattern]
    numbers: list[int] = []
    for part in (found[1] or f"0-{layers - 1}").split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return [f"{pattern[: found.start()]}{number}{pattern[found.end() :]}" for number in numbers]


def read(path: Path = HERE / "models.yml") -> dict[str, Model]:
    """The models by name. Raises TypeError on an unknown field, ValueError on a name that is there twice."""
    models: dict[str, Model] = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times as fast, where PyYAML has it
    for entry in yaml.load(path.read_text(encoding="utf-8"), loader):
        for field in ("optional_tensors", "integer_tensors"):
            entry[field] = tuple(entry.get(field, ()))
        model = Model(**entry)
        if model.name in models:
            raise ValueError(f"{path.name}: {model.name} is there twice")
        models[model.name] = model
    return models


def write_metadata(model: Model, path: Path, **changes: Any) -> None:
    """A GGUF of the model's metadata and no tensors. Its vocabulary is a size only."""
    writer = gguf.GGUFWriter(path, model.architecture)
    for key, value in {**model.metadata, **changes}.items():
        _put(writer, key if key.startswith(WITHOUT_PREFIX) else f"{model.architecture}.{key}", value)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    writer.add_file_type(model.file_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = gguf.GGUFValueType
    if isinstance(value, list):
        kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32}[type(value[0])]
        kind = kinds.UINT64 if key.endswith(WIDE_LISTS) else kind
        writer.add_key_value(key, value, kinds.ARRAY, kind)
    else:
        kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}[type(value)]
        writer.add_key_value(key, value, kind)
