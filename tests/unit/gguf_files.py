# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small GGUF headers, written independently of the reader."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from typing import Any

# Value types of GGUF metadata: the Python form chooses among them.
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 4, 5, 6, 7, 8, 9, 10


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value) if value < 2**32 else struct.pack("<IQ", _UINT64, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", _ARRAY, _INT32, len(value)) + struct.pack(f"<{len(value)}i", *value)


def gguf_header(
    metadata: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...], int]] = (), version: int = 3
) -> bytes:
    """The bytes of a GGUF header; a tensor is its name, its dimensions and its type's number."""
    tensors = list(tensors)
    stream = io.BytesIO()
    stream.write(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        stream.write(_text(key) + _value(value))
    for name, dimensions, kind in tensors:
        stream.write(_text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, 0))
    return stream.getvalue()


F32, F16, Q8_0, Q4_K = 0, 1, 8, 12


def llama(
    layers: int = 4,
    width: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 512,
    vocabulary: int = 1024,
    context: int = 32768,
    kind: int = Q4_K,
    architecture: str = "llama",
    **more: Any,
) -> bytes:
    """A model of llama's form: every tensor that the account has to see, few and small."""
    head = width // heads
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "general.file_type": 15,
        f"{architecture}.block_count": layers,
        f"{architecture}.context_length": context,
        f"{architecture}.embedding_length": width,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.feed_forward_length": feed_forward,
        "tokenizer.ggml.tokens": [f"t{index}" for index in range(vocabulary)],
    }
    metadata.update({key.replace("__", "."): value for key, value in more.items()})
    tensors = [("token_embd.weight", (width, vocabulary), kind), ("output_norm.weight", (width,), F32)]
    for layer in range(layers):
        tensors += [
            (f"blk.{layer}.attn_q.weight", (width, heads * head), kind),
            (f"blk.{layer}.attn_k.weight", (width, kv_heads * head), kind),
            (f"blk.{layer}.attn_v.weight", (width, kv_heads * head), kind),
            (f"blk.{layer}.attn_output.weight", (heads * head, width), kind),
            (f"blk.{layer}.ffn_gate.weight", (width, feed_forward), kind),
            (f"blk.{layer}.ffn_up.weight", (width, feed_forward), kind),
            (f"blk.{layer}.ffn_down.weight", (feed_forward, width), kind),
            (f"blk.{layer}.attn_norm.weight", (width,), F32),
        ]
    return gguf_header(metadata, tensors)
