# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How bundle.yml signs a bundle and makes it one file: its own scripts, run as the play runs them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "onprem-llm-bundle"


def script(name: str) -> str:
    """The shell of the playbook's task of this name."""
    (play,) = yaml.safe_load((ROOT / "playbooks/bundle.yml").read_text(encoding="utf-8"))
    (found,) = (task["ansible.builtin.shell"]["cmd"] for task in play["tasks"] if task["name"] == name)
    return str(found)


class Bundle:
    """A bundle in the making, with two keys."""

    def __init__(self, place: Path) -> None:
        self.place, self.path, self.archive = place, place / "bundle", place / "bundle.tar"
        (self.path / "oci/blobs/sha256").mkdir(parents=True)
        (place / "bundle.staging").mkdir()
        self.write("oci/blobs/sha256/" + "a" * 64, "weights")
        self.write("bundle.json", "{}\n")
        for name in ("key", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(place / name)]
            subprocess.run(command, check=True)

    def write(self, path: str, text: str) -> None:
        (self.path / path).write_text(text)
        (self.path / path).chmod(0o600)

    def run(self, name: str, failing: bool = False, **environment: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script(name)], cwd=self.path, env=os.environ | environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert bool(done.returncode) is failing, done.stderr
        return done.stderr if failing else done.stdout.strip()

    def sign(self, key: str = "key", **more: Any) -> str:
        return self.run("Sign its list", KEY=str(self.place / key), **more)

    def pack(self, **more: Any) -> str:
        return self.run("Make it one file", ARCHIVE=str(self.archive), **more)

    def signed_by(self, key: str) -> bool:
        """Whether ssh-keygen(1) says so of the list as it is."""
        signers = self.place / "signers"
        signers.write_text("builder " + (self.place / f"{key}.pub").read_text())
        command = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-I", "builder", "-f", str(signers), "-s"]
        with (self.path / "bundle.json").open("rb") as data:
            done = subprocess.run(
                [*command, str(self.path / "bundle.json.sig")], stdin=data, capture_output=True, check=False
            )
        return done.returncode == 0

    def packed(self) -> str:
        return hashlib.sha256(self.archive.read_bytes()).hexdigest()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


def test_a_signature_stays_while_list_and_key_do(bundle: Bundle) -> None:
    assert bundle.sign().startswith("signed by SHA256:")
    assert bundle.signed_by("key")
    before = (bundle.path / "bundle.json.sig").stat()
    assert bundle.sign() == ""
    assert (bundle.path / "bundle.json.sig").stat().st_ino == before.st_ino
    assert sorted(path.name for path in bundle.path.iterdir()) == ["bundle.json", "bundle.json.sig", "oci"]


def test_another_key_and_another_list_are_signed_anew(bundle: Bundle) -> None:
    bundle.sign()
    assert bundle.sign("other").startswith("signed by")
    assert bundle.signed_by("other")
    assert not bundle.signed_by("key")
    bundle.write("bundle.json", '{"schema": 1}\n')
    assert not bundle.signed_by("other")
    assert bundle.sign("other").startswith("signed by")
    assert bundle.signed_by("other")


def test_a_key_in_the_home_directory(bundle: Bundle) -> None:
    assert bundle.run("Sign its list", KEY="~/key", HOME=str(bundle.place)).startswith("signed by")
    assert bundle.signed_by("key")


def test_a_key_that_cannot_sign_leaves_the_signature(bundle: Bundle) -> None:
    bundle.sign()
    assert "No such file" in bundle.sign("nobody", failing=True)
    assert bundle.signed_by("key")


def test_the_archive_begins_with_list_and_signature_and_is_readable_for_all(bundle: Bundle) -> None:
    bundle.sign()
    assert bundle.pack() == "made"
    with tarfile.open(bundle.archive) as tar:
        members = tar.getmembers()
        assert [member.name for member in members[:2]] == ["bundle.json", "bundle.json.sig"]
        assert {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*")} == set(tar.getnames())
        assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}
        assert {member.mode for member in members if member.isfile()} == {0o644}
        assert {member.mode for member in members if member.isdir()} == {0o755}


def test_the_same_bundle_is_the_same_archive_and_written_once(bundle: Bundle) -> None:
    bundle.pack()
    first, inode = bundle.packed(), bundle.archive.stat().st_ino
    os.utime(bundle.path / "bundle.json", (1, 1))
    assert bundle.pack() == ""
    assert bundle.archive.stat().st_ino == inode
    bundle.archive.unlink()
    bundle.pack()
    assert bundle.packed() == first


def test_another_list_or_signature_is_another_archive(bundle: Bundle) -> None:
    bundle.pack()
    bundle.sign()
    assert bundle.pack() == "made"
    bundle.sign("other")
    assert bundle.pack() == "made"
    bundle.write("bundle.json", '{"schema": 1}\n')
    assert bundle.pack() == "made"
    assert bundle.pack() == ""


@pytest.mark.parametrize("left", [b"", b"no tar", b"\0" * 10240])
def test_what_is_no_archive_is_written_over(bundle: Bundle, left: bytes) -> None:
    bundle.archive.write_bytes(left)
    bundle.archive.with_name("bundle.tar.new").write_bytes(b"half of one")
    assert bundle.pack() == "made"
    assert bundle.pack() == ""
    assert not bundle.archive.with_name("bundle.tar.new").exists()


def test_an_archive_that_does_not_fit_is_refused_and_the_old_one_stays(bundle: Bundle) -> None:
    bundle.pack()
    before = bundle.packed()
    bundle.write("bundle.json", '{"schema": 1}\n')
    tools = bundle.place / "tools"
    tools.mkdir()
    (tools / "df").write_text("#!/bin/sh\necho Avail; echo 10\n")
    (tools / "df").chmod(0o755)
    said = bundle.pack(failing=True, PATH=f"{tools}:{os.environ['PATH']}")
    assert f"bundle_archive is {bundle.archive}, which takes " in said
    assert f"bytes, and {bundle.place} has 10 free" in said
    assert bundle.packed() == before
