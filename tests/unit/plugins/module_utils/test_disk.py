# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_disk: the file system of what is not there yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _disk


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", ""),
        ("there", "there"),
        ("there/file", "there/file"),
        ("there/not/yet", "there"),
        ("there/file/x", "there/file"),
    ],
)
def test_room_is_that_of_the_nearest_parent(tmp_path: Path, path: str, asked: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    found = _disk.room(str(tmp_path / path))
    assert found.path == str(tmp_path / asked)
    assert found.device == os.stat(tmp_path).st_dev
    assert 0 <= found.free_bytes <= found.total_bytes


def test_room_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that only root may still write are none."""
    state = os.statvfs_result((512, 4096, 1000, 100, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(_disk.os, "statvfs", lambda path: state)
    found = _disk.room(str(tmp_path))
    assert (found.free_bytes, found.total_bytes) == (10 * 4096, 1000 * 4096)


@pytest.mark.parametrize("path", ["", "not/yet"])
def test_room_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert _disk.room(path).path == str(tmp_path)
