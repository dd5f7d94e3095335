# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a header reads as the header itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _gguf, _headers
from gguf_files import gguf_header, llama
from hypothesis import given, settings
from hypothesis import strategies as st


def read(data: bytes) -> _gguf.Header:
    return _gguf.read_header(io.BytesIO(data), len(data))


def test_token_lists_are_kept_as_their_length() -> None:
    data = llama(vocabulary=150_000, llama__sections=[1, -2, 3], llama__scale=0.3, flag=True, big=2**63)
    short = _headers.shortened(read(data), data)
    assert len(short) < len(data) / 10
    assert read(short) == read(data)
    assert read(short).lengths["tokenizer.ggml.tokens"] == 150_000


def test_a_short_header_is_kept_as_it_is() -> None:
    data = llama()
    assert _headers.shortened(read(data), data) is data


def test_what_would_read_otherwise_is_kept_as_it_is() -> None:
    data = llama(vocabulary=5000, odd=float("nan"))
    assert _headers.shortened(read(data), data) is data


VALUES = st.one_of(
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.floats(width=32),
    st.text(max_size=5),
    st.lists(st.text(max_size=3), min_size=1, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=8))
def test_any_metadata_survives(metadata: dict[str, Any]) -> None:
    data = gguf_header({**metadata, "long": ["x"] * 5000}, [("a", (256, 3), 12)])
    kept = _headers.shortened(read(data), data)
    # Compared by their text: a float that is no number equals nothing.
    assert repr(read(kept)) == repr(read(data))
    assert read(kept).tensors == read(data).tensors


def test_what_is_kept_is_its_owners_alone(tmp_path: Path) -> None:
    data = llama()
    kept = _headers.Cache(str(tmp_path / "cache")).keep_header("sha256:" + "a" * 64, 5, read(data), data)
    assert [str(path) for path in (tmp_path / "cache").iterdir()] == [kept.path]
    assert Path(kept.path).stat().st_mode & 0o777 == 0o600
