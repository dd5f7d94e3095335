# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast one user's answer can come at most: every token reads the active weights once, at the memory's bandwidth.

A bound, and no estimate: decoding reads all active weights for each token of a sequence (Pope et al., "Efficiently
Scaling Transformer Inference", arXiv:2211.05102, section 2), so bandwidth over bytes cannot be passed without
speculative decoding, and what is reached is less. Layers on several devices follow one another, so their times add.
"""

from __future__ import annotations

import typing as t

# Words a second that adults read, 238 a minute (Brysbaert, "How many words do we read per minute?", Journal of Memory
# and Language 109, 2019). A token is a word at most, so fewer tokens a second come slower than they are read.
READING = 238 / 60
# Bytes a second of a desktop's memory: two channels of DDR5-5600, 8 bytes a transfer (JEDEC JESD79-5).
DESKTOP = 2 * 5600e6 * 8


def bound(parts: t.Iterable[tuple[int, float]]) -> float:
    """Tokens a second at most, from (bytes read a token, bytes a second) of each device; 0 where one is not known."""
    seconds = 0.0
    for size, bandwidth in parts:
        if size <= 0:
            continue
        if bandwidth <= 0:
            return 0.0
        seconds += size / bandwidth
    return 1 / seconds if seconds else 0.0


def of_model(active: int, weights: t.Mapping[str, int], bandwidth: t.Mapping[str, float]) -> float:
    """The bound of a model whose ``active`` bytes lie on devices in proportion to its ``weights`` there."""
    total = sum(weights.values())
    if active <= 0 or total <= 0:
        return 0.0
    return bound((active * size // total, bandwidth.get(device, 0.0)) for device, size in weights.items())
