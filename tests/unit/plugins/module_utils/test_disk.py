# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_disk: the file system of what is not there yet, and files that are there whole or not at all."""

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


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were brought to the disk."""
    found: list[int] = []
    monkeypatch.setattr(_disk.os, "fsync", lambda handle: found.append(os.fstat(handle).st_size))
    return found


@pytest.mark.parametrize("temporary", ["", ".part"])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_file_is_written_whole(tmp_path: Path, synced: list[int], mode: int, temporary: str) -> None:
    path = tmp_path / "not" / "yet" / "file"
    for data in (b"one", b"two and more"):
        _disk.write(str(path), data, mode, temporary and f"{path}{temporary}")
        assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (data, mode)
    assert synced == [3, 12]
    assert os.listdir(path.parent) == ["file"]


def test_a_written_file_is_its_owners_alone_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o666)
    _disk.write(str(path), b"")
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85])
def test_the_longest_names(tmp_path: Path, name: str) -> None:
    _disk.write(str(tmp_path / name), b"one")
    assert os.listdir(tmp_path) == [name]


def test_a_name_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _disk.write("file", b"one")
    assert os.listdir(tmp_path) == ["file"]


def test_until_it_is_whole_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with _disk.replacing(str(path), 0o644) as stream:
        stream.write(b"new")
        stream.flush()
        (other,) = [entry for entry in tmp_path.iterdir() if entry != path]
        # Services that read a directory leave out what is hidden.
        assert other.name.startswith(".file-")
        assert (other.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"old")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("temporary", ["", ".part"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], temporary: str
) -> None:
    def fail(_handle: int) -> None:
        raise error

    monkeypatch.setattr(_disk.os, "fsync", fail)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error):
        _disk.write(str(path), b"new", 0o644, temporary and f"{path}{temporary}")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_one_that_was_killed_left(tmp_path: Path) -> None:
    """A link there is not followed."""
    path, part = tmp_path / "file", tmp_path / "file.part"
    (tmp_path / "other").write_bytes(b"other")
    part.symlink_to("other")
    _disk.write(str(path), b"new", temporary=str(part))
    assert (path.read_bytes(), (tmp_path / "other").read_bytes()) == (b"new", b"other")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_a_link_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "other").write_bytes(b"other")
    path.symlink_to("other")
    _disk.write(str(path), b"new")
    assert not path.is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"
