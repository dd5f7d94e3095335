# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_kept_releases: what is kept comes back byte by byte, weights too; what is damaged is told first."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils._kept_releases import Kept, KeptError

OLD, NEW = "20261122T120000Z-0.32.15", "20261122T130000Z-0.32.16"
IMAGE = "sha256:" + "a" * 64


class Host:
    """A node's files and its engine's store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {"compose.yml": str(root / "opt/compose.yml"), "warm.py": str(root / "opt/warm.py")}
        (root / "opt").mkdir()
        self.models = root / "models"
        (self.models / "blobs").mkdir(parents=True)
        self.kept = Kept(str(root / "releases"), str(self.models), str(root / "kept"))
        self.put("one")

    def put(self, text: str) -> None:
        """Another release: its files, and other weights of the same model."""
        for path in self.files.values():
            Path(path).write_text(text, encoding="utf-8")
        os.chmod(self.files["warm.py"], 0o755)
        self.digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        self.blob(self.digest).write_text(text, encoding="utf-8")
        manifest = self.models / "manifests/registry.ollama.ai/library/chat/1"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        layer = {"digest": self.digest, "size": len(text), "mediaType": "application/vnd.ollama.image.model"}
        manifest.write_text(json.dumps({"layers": [layer]}), encoding="utf-8")
        self.manifest = manifest

    def blob(self, digest: str) -> Path:
        return self.models / "blobs" / digest.replace(":", "-")

    def save(self, name: str, **more: Any) -> tuple[str, bool]:
        about = {"version": name[17:], "image_id": IMAGE, "models": {"chat:1": self.digest}, **more}
        return self.kept.save(name, self.files, about)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_was_kept_comes_back(host: Host) -> None:
    first = host.digest
    host.manifest.write_bytes(host.manifest.read_bytes().replace(b"{", '{ "of": "Zoë", '.encode(), 1))
    manifest = host.manifest.read_bytes()
    assert host.save(OLD) == (OLD, True)
    host.put("two")
    # The engine removes weights that no manifest names when it starts.
    host.blob(first).unlink()
    assert host.save(NEW) == (NEW, True)
    assert host.kept.names() == [OLD, NEW]
    assert host.kept.fault(OLD, [IMAGE]) == ""
    changed = host.kept.restore(OLD)
    assert Path(host.files["compose.yml"]).read_text(encoding="utf-8") == "one"
    assert os.stat(host.files["warm.py"]).st_mode & 0o777 == 0o755
    assert host.blob(first).read_text(encoding="utf-8") == "one"
    assert host.manifest.read_bytes() == manifest
    assert "chat:1" in changed
    assert host.kept.restore(OLD) == []


def test_the_same_release_is_kept_once_and_learns(host: Host) -> None:
    host.save(OLD, probe={"chat:1": {"tokens_per_second": 5.0}})
    assert host.save(NEW, version="0.32.15") == (OLD, False)
    assert host.save(NEW, version="0.32.15", times={"out_seconds": 9}) == (OLD, True)
    record = host.kept.record(OLD)
    assert (record["probe"], record["times"]) == ({"chat:1": {"tokens_per_second": 5.0}}, {"out_seconds": 9})


def test_packages_that_moved_make_no_other_release(host: Host) -> None:
    host.files["release.json"] = str(host.root / "opt/release.json")
    release = Path(host.files["release.json"])
    release.write_text('{"packages": {"nvidia_driver": "580.82.07"}}', encoding="utf-8")
    host.save(OLD)
    release.write_text('{"packages": {"nvidia_driver": "595.71.05"}}', encoding="utf-8")
    assert host.save(NEW, version="0.32.15") == (OLD, False)
    assert host.save(NEW, derived={"clerk": "chat:1"}) == (NEW, True)


def test_weights_take_no_room_twice(host: Host) -> None:
    host.save(OLD)
    assert os.stat(host.blob(host.digest)).st_nlink == 2


def test_weights_go_with_the_last_release_that_has_them(host: Host) -> None:
    host.save(OLD)
    first = host.digest
    host.put("two")
    host.save(NEW)
    host.kept.drop([OLD])
    kept = os.listdir(host.root / "kept/blobs")
    assert kept == [host.digest.replace(":", "-")]
    assert first not in kept
    assert host.kept.names() == [NEW]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda host: (host.root / "releases" / OLD / "compose.yml").write_text("x"), "compose.yml is damaged"),
        (lambda host: (host.root / "releases" / OLD / "compose.yml").unlink(), "compose.yml cannot be read"),
        (lambda host: (host.root / "releases" / OLD / "record.json").write_text("{"), "record.json cannot be read"),
        (lambda host: (host.root / "releases" / OLD / "record.json").write_text("{}"), "no record of schema 1"),
        (lambda host: [path.unlink() for path in host.root.glob("*/blobs/*")], "weights"),
    ],
)
def test_what_is_damaged_is_told_and_nothing_changes(host: Host, spoil: Any, told: str) -> None:
    host.save(OLD)
    host.put("two")
    spoil(host)
    if told != "weights":
        assert told in host.kept.fault(OLD, [IMAGE])
    with pytest.raises(KeptError, match=told):
        host.kept.restore(OLD)
    assert Path(host.files["compose.yml"]).read_text(encoding="utf-8") == "two"


def test_an_image_that_was_pruned_is_told(host: Host) -> None:
    host.save(OLD)
    assert f"its image {IMAGE} is not on this host any more" in host.kept.fault(OLD, [])


def test_what_is_not_there_cannot_be_kept(host: Host) -> None:
    Path(host.files["compose.yml"]).unlink()
    with pytest.raises(KeptError, match=r"compose\.yml is not there"):
        host.save(OLD)
    assert host.kept.names() == []


def test_no_name_leads_out_of_the_directory(host: Host) -> None:
    with pytest.raises(KeptError, match="no name of a kept release"):
        host.kept.restore("../../etc")
