# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantizations by name, and which of two keeps more of a weight."""

from __future__ import annotations

import re

# Bits a weight, of Llama 3.1 8B: llama.cpp b10488, tools/quantize/README.md; of one block of the type where that table
# has none (Q4_0, Q4_1, Q5_0, Q5_1, MXFP4: ggml/src/ggml-common.h). Used for order alone, never for bytes.
BITS_A_WEIGHT = {
    "Q2_K": 3.16,
    "Q3_K_S": 3.64,
    "Q3_K_M": 4.00,
    "MXFP4": 4.25,
    "Q3_K_L": 4.30,
    "IQ4_XS": 4.46,
    "Q4_0": 4.50,
    "Q4_K_S": 4.67,
    "IQ4_NL": 4.68,
    "Q4_K_M": 4.89,
    "Q4_1": 5.00,
    "Q5_0": 5.50,
    "Q5_K_S": 5.57,
    "Q5_K_M": 5.70,
    "Q5_1": 6.00,
    "Q6_K": 6.56,
    "Q8_0": 8.50,
    "BF16": 16.0,
    "F16": 16.0,
    "F32": 32.0,
}
# In these, publishers release weights that they trained for them (gpt-oss's model card, arXiv 2508.10925, section 2.1):
# such a model was not reduced to its quantization, and the floor that nobody asked for is not meant for it.
NATIVE = frozenset({"MXFP4"})
_SUFFIX = re.compile(r"[-_.](i?q\d\w*|mxfp4|bf16|fp?16|fp?32)$", re.IGNORECASE)


def canonical(name: str) -> str | None:
    """The name as GGUF files have it, ``Q4_K_M`` or ``F16``; None where there is no such quantization."""
    word = name.upper().replace("FP", "F") if name.lower() in ("fp16", "fp32") else name.upper()
    return word if word in BITS_A_WEIGHT else None


def of_tag(tag: str) -> str | None:
    """What a tag such as ``8b-instruct-q8_0`` says of its quantization."""
    found = _SUFFIX.search(tag)
    return canonical(found.group(1)) if found else None


def bits(name: str | None) -> float:
    """Bits a weight; 0 where the quantization is not known."""
    return BITS_A_WEIGHT.get(name or "", 0.0)
