# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests: their forms, and what has them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _digest

HEX = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
DATA = bytes(range(256)) * 5000


@pytest.mark.parametrize("text", [HEX, "sha256:" + HEX, "sha256-" + HEX, HEX.upper()])
def test_full_digest(text: str) -> None:
    assert _digest.parse(text) == "sha256:" + HEX


@pytest.mark.parametrize("text", ["a5fd", "", HEX + "0", HEX + "\n", "sha512:" + HEX, "x" + HEX[1:]])
def test_refuses_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        _digest.parse(text)


def test_bytes_a_stream_and_a_file_have_the_same(tmp_path: Path) -> None:
    path, copy = tmp_path / "file", io.BytesIO()
    path.write_bytes(DATA)
    right = "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert _digest.of_bytes(DATA) == right
    assert _digest.of_file(str(path)) == right
    assert _digest.of_stream(io.BytesIO(DATA), copy) == right
    assert copy.getvalue() == DATA
    assert _digest.PATTERN.fullmatch(right)
