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


def test_a_hash_is_put_down_and_taken_up_again(tmp_path: Path) -> None:
    """At every edge of SHA-256's blocks of 64 bytes, and at many in the middle."""
    assert _digest.Hasher().can_rest
    right = _digest.of_bytes(DATA)
    for cut in [0, 1, 55, 56, 63, 64, 65, 127, 128, 999_999, len(DATA)]:
        hasher = _digest.Hasher()
        hasher.update(DATA[:cut])
        assert hasher.digest == _digest.of_bytes(DATA[:cut])
        other = _digest.Hasher(hasher.dump())
        assert other.position == cut
        other.update(DATA[cut:])
        assert (other.digest, hasher.digest) == (right, _digest.of_bytes(DATA[:cut]))


def test_beyond_32_bits_of_length() -> None:
    """Bits are counted in two words of 32."""
    block = bytes(2**24)
    one, other = hashlib.sha256(), _digest.Hasher()
    for _number in range(33):
        one.update(block)
        other.update(block)
        other = _digest.Hasher(other.dump())
    assert other.position == 33 * 2**24
    assert other.digest == "sha256:" + one.hexdigest()


def test_a_file_is_read_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA * 3)
    state, turns = "", 0
    while True:
        hasher = _digest.Hasher(state)
        with open(path, "rb") as stream:
            if hasher.read(stream, lambda: False):
                break
        state, turns = hasher.dump(), turns + 1
    assert (hasher.digest, turns) == (_digest.of_bytes(DATA * 3), 4)


def test_without_openssl_a_file_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_digest, "_library", lambda: None)
    path = tmp_path / "file"
    path.write_bytes(DATA * 3)
    hasher = _digest.Hasher("5:little:AAAA")
    assert not hasher.can_rest
    with open(path, "rb") as stream:
        assert hasher.read(stream, lambda: False)
    assert (hasher.digest, hasher.dump()) == (_digest.of_bytes(DATA * 3), "")


@pytest.mark.parametrize("wrong", ["", "x", "5:little:AAAA", "-1:little:", "1:2:3:4", "position", "order", "longer"])
def test_a_state_that_cannot_be_is_not_taken_up(wrong: str) -> None:
    """OpenSSL would write beyond its buffer."""
    hasher = _digest.Hasher()
    hasher.update(DATA[:100])
    position, order, text = hasher.dump().split(":")
    states = {
        "position": f"{int(position) + 1}:{order}:{text}",
        "order": f"{position}:{'big' if order == 'little' else 'little'}:{text}",
        "longer": f"{position}:{order}:{text}AAAA",
    }
    other = _digest.Hasher(states.get(wrong, wrong))
    assert other.position == 0
    other.update(DATA)
    assert other.digest == _digest.of_bytes(DATA)
