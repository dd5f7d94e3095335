# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute graph of WavTokenizer's decoder, which makes spectra of audio tokens: convolutions over time.

Source: llama.cpp, src/models/wavtokenizer-dec.cpp. Time is the fastest dimension inside of the convolutions' parts,
channels are it for the norms and products between them.
"""

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.module_utils import _ggml as ggml
from ansible_collections.onprem.llm.plugins.module_utils._blocks import Builder, there
from ansible_collections.onprem.llm.plugins.module_utils._ggml import Tensor

# Of the six parts of the positional network the third attends, the last is a norm, the others are residual.
_ATTENDING, _NORMING = 2, 5


def _weight(b: Builder, layer: int, name: str, part: str = "weight") -> Tensor:
    """A tensor of a layer, or with the first one, under its full name."""
    full = f"{name}.{part}"
    return there(b.top(full, layer) if layer < b.hyper.layers else None, full)


def _turned(source: Tensor) -> Tensor:
    return ggml.cont(ggml.transpose(source))


def _convolution(b: Builder, layer: int, name: str, source: Tensor) -> Tensor:
    kernel = _weight(b, layer, name)
    columns = ggml.im2col(kernel, source)
    flat = ggml.reshape(columns, columns.ne[0], columns.ne[1] * columns.ne[2])
    made = ggml.mul_mat(flat, ggml.reshape(kernel, kernel.ne[0] * kernel.ne[1], kernel.ne[2]))
    return ggml.reshape(made, columns.ne[1], kernel.ne[2], columns.ne[2])


def _biased(b: Builder, layer: int, name: str, source: Tensor) -> Tensor:
    return ggml.like("ADD", source, _weight(b, layer, name, "bias"))


def _group_norm(b: Builder, layer: int, name: str, source: Tensor) -> Tensor:
    made = ggml.like("GROUP_NORM", ggml.reshape(source, source.ne[0], 1, source.ne[1]))
    made = ggml.reshape(made, made.ne[0], made.ne[2])
    return _biased(b, layer, name, ggml.like("MUL", made, _weight(b, layer, name)))


def _norm(b: Builder, layer: int, name: str, source: Tensor) -> Tensor:
    return b.norm(source, _weight(b, layer, name), _weight(b, layer, name, "bias"), "NORM")


def wavtokenizer(b: Builder) -> None:
    hyper = b.hyper
    current = _turned(b.embedding())
    current = _biased(b, 0, "conv1d", _convolution(b, 0, "conv1d", current))
    for number in range(hyper.whole("posnet.block_count")):
        current = _positional(b, number, current)
    current = _turned(_norm(b, 0, "token_embd_norm", _turned(current)))
    for number in range(hyper.whole("convnext.block_count")):
        current = _depthwise(b, number, current)
    current = b.norm(_turned(current), b.top("output_norm.weight"), b.top("output_norm.bias"), "NORM")
    b.finish(b.head(current), None)


def _positional(b: Builder, number: int, source: Tensor) -> Tensor:
    prefix = f"posnet.{number}."
    if number == _NORMING:
        return _group_norm(b, number, prefix + "attn_norm", source)
    if number == _ATTENDING:
        return ggml.like("ADD", _attention(b, number, prefix, source), source)
    made = source
    for norm, convolution in (("norm1", "conv1"), ("norm2", "conv2")):
        made = _group_norm(b, number, prefix + norm, made)
        made = ggml.like("MUL", ggml.like("SIGMOID", made), made)
        made = _biased(b, number, prefix + convolution, _convolution(b, number, prefix + convolution, made))
    return ggml.like("ADD", made, source)


def _attention(b: Builder, number: int, prefix: str, source: Tensor) -> Tensor:
    """One head over all of the batch, its projections written as convolutions of one step."""
    normed = _group_norm(b, number, prefix + "attn_norm", source)
    query, key, value = (
        _biased(b, number, prefix + name, _convolution(b, number, prefix + name, normed))
        for name in ("attn_q", "attn_k", "attn_v")
    )
    query, key = _turned(query), _turned(key)
    made = ggml.mul_mat(ggml.like("SOFT_MAX", ggml.mul_mat(key, query)), value)
    return _biased(b, number, prefix + "attn_output", _convolution(b, number, prefix + "attn_output", made))


def _depthwise(b: Builder, number: int, source: Tensor) -> Tensor:
    """A convolution of each channel by itself, and a network over the channels."""
    prefix = f"convnext.{number}."
    kernel = _weight(b, number, prefix + "dw")
    columns = ggml.im2col(kernel, ggml.reshape(source, source.ne[0], 1, source.ne[1], source.ne[2]))
    made = ggml.mul_mat(columns, kernel)
    made = _biased(b, number, prefix + "dw", ggml.reshape(made, made.ne[0], made.ne[2]))
    made = _norm(b, number, prefix + "norm", _turned(made))
    made = ggml.mul_mat(_weight(b, number, prefix + "pw1"), made)
    made = ggml.like("GELU", _biased(b, number, prefix + "pw1", made))
    made = _biased(b, number, prefix + "pw2", ggml.mul_mat(_weight(b, number, prefix + "pw2"), made))
    made = ggml.like("MUL", made, _weight(b, number, prefix + "gamma"))
    return ggml.like("ADD", _turned(made), source)
