# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _backup, _disk
from ansible_collections.onprem.llm.plugins.module_utils._backup import Backup, BackupError, Place

ABOUT = {"host": "node1", "version": "1.2.0", "made": 1}


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    (tmp_path / "pki/deeper").mkdir(parents=True)
    (tmp_path / "pki/host.key").write_bytes(b"secret")
    (tmp_path / "pki/host.key").chmod(0o640)
    (tmp_path / "pki/deeper/host.crt").write_bytes(b"certificate")
    (tmp_path / "pki/link").symlink_to("host.key")
    (tmp_path / "plan.json").write_bytes(b"{}")
    (tmp_path / "series/01ARZ3NDEKTSV4RRFFQ69G5FAV").mkdir(parents=True)
    (tmp_path / "series/01ARZ3NDEKTSV4RRFFQ69G5FAV/index").write_bytes(b"block")
    (tmp_path / "series/wal").mkdir()
    (tmp_path / "series/wal/00000001").write_bytes(b"open")
    return [
        Place("pki", str(tmp_path / "pki")),
        Place("plan", str(tmp_path / "plan.json")),
        Place("series", str(tmp_path / "series"), "^[0-9A-HJKMNP-TV-Z]{26}/"),
        Place("drained", str(tmp_path / "drained")),
    ]


@pytest.fixture
def archive(tmp_path: Path, places: list[Place]) -> Path:
    path = tmp_path / "packed"
    _backup.pack(str(path), places, ABOUT)
    return path


def elsewhere(tmp_path: Path, places: list[Place]) -> list[Place]:
    return [Place(place.name, place.path.replace(str(tmp_path), str(tmp_path / "back"))) for place in places]


def test_what_is_packed_comes_back(tmp_path: Path, places: list[Place], archive: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    assert _backup.sizes(places) == {"pki": 17, "plan": 2, "series": 5}
    assert not archive.with_name("packed.part").exists()
    backup = Backup(str(archive))
    assert sorted(entry.member for entry in backup.entries) == [
        "files/pki/deeper/host.crt",
        "files/pki/host.key",
        "files/plan",
        "files/series/01ARZ3NDEKTSV4RRFFQ69G5FAV/index",
    ]
    back = elsewhere(tmp_path, places)
    wanted = _backup.changes(backup, back)
    assert _backup.shortage(wanted) == ""
    _backup.unpack(backup, wanted)
    key = tmp_path / "back/pki/host.key"
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (b"secret", 0o640)
    assert int(key.stat().st_mtime) == int((tmp_path / "pki/host.key").stat().st_mtime)
    assert _backup.changes(backup, back) == []
    key.write_bytes(b"another")
    assert [(change.path, change.there) for change in _backup.changes(backup, back)] == [(str(key), True)]
    # A link in the place of a file is replaced, not followed; what a restore that was killed left goes.
    key.unlink()
    key.symlink_to(tmp_path / "plan.json")
    key.with_name("host.key.restored").write_bytes(b"sec")
    _backup.unpack(backup, _backup.changes(backup, back))
    assert (tmp_path / "plan.json").read_bytes() == b"{}"
    assert sorted(os.listdir(key.parent)) == ["deeper", "host.key"]


def test_only_what_is_asked_for(archive: Path, tmp_path: Path) -> None:
    wanted = _backup.changes(Backup(str(archive)), [Place("plan", str(tmp_path / "back/plan.json"))])
    assert [change.entry.place for change in wanted] == ["plan"]


@pytest.mark.parametrize(
    ("host", "version", "other_version", "said"),
    [
        ("node1", "1.2.0", False, ""),
        ("node2", "1.2.0", False, "it is node1's, and node2's is wanted"),
        ("node1", "2.0.0", False, "version 1.2.0 of the collection made it, and this is 2.0.0"),
        ("node1", "2.0.0", True, ""),
    ],
)
def test_whose_it_is(archive: Path, host: str, version: str, other_version: bool, said: str) -> None:
    refusal = Backup(str(archive)).refusal(host, version, other_version)
    assert refusal.startswith(said)
    assert bool(refusal) == bool(said)


def rewritten(archive: Path, change: Any) -> None:
    """The archive with its members as ``change`` makes them of name → bytes."""
    with tarfile.open(archive) as stream:
        members = {m.name: stream.extractfile(m).read() for m in stream}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(archive, "w:gz") as stream:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content))


def manifest(members: dict[str, bytes], **change: Any) -> None:
    text = json.loads(members["manifest.json"])
    for key, value in change.items():
        if key == "first":
            text["files"][0].update(value)
        else:
            text[key] = value
    members["manifest.json"] = json.dumps(text).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update({"files/plan": b"[]"}), "files/plan does not have the sha256"),
        (lambda m: m.pop("files/plan"), "files/plan is missing"),
        (lambda m: m.update({"files/more": b""}), "files/more, which its manifest does not name"),
        (lambda m: manifest(m, schema=2), "its schema is 2, and this collection reads 1"),
        (lambda m: manifest(m, first={"path": "../../etc/shadow"}), "an entry that no backup has"),
        (lambda m: manifest(m, first={"mode": 0o4755}), "an entry that no backup has"),
        (lambda m: manifest(m, files=7), "is damaged, or no backup"),
        (lambda m: m.pop("manifest.json"), "does not begin with manifest.json"),
    ],
)
def test_what_is_no_whole_backup(archive: Path, change: Any, said: str) -> None:
    rewritten(archive, change)
    with pytest.raises(BackupError, match=said):
        Backup(str(archive))


def test_cut_off_and_foreign_files(archive: Path) -> None:
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", b"", gzip.compress(b"no tar")):
        archive.write_bytes(content)
        with pytest.raises(BackupError):
            Backup(str(archive))


def test_no_room(archive: Path, tmp_path: Path, places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs(tmp_path)
    full = os.statvfs_result((*room[:4], 10, *room[5:]))
    monkeypatch.setattr(_disk.os, "statvfs", lambda path: full)
    wanted = _backup.changes(Backup(str(archive)), elsewhere(tmp_path, places))
    assert "bytes free; 24 and 67108864 to spare are needed" in _backup.shortage(wanted)
    with pytest.raises(BackupError, match="bytes free; 48 and"):
        _backup.pack(str(tmp_path / "again"), places, ABOUT)
    assert not (tmp_path / "again").exists()


def test_users_that_the_host_does_not_have(archive: Path, tmp_path: Path, places: list[Place]) -> None:
    rewritten(archive, lambda m: manifest(m, first={"group": "nobody-has-this-group", "mode": 0o640}))
    backup = Backup(str(archive))
    first = backup.entries[0]
    _backup.unpack(backup, _backup.changes(backup, elsewhere(tmp_path, places)))
    path = tmp_path / "back/pki" / first.path
    assert path.stat().st_mode & 0o777 == 0o600
