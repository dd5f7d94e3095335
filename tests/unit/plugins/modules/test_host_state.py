# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_state: what is there and what is not, in one look, without a failure."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program first in PATH that prints a text."""

    def put(name: str, text: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return put


def test_files(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("text")
    there.chmod(0o640)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    files = run("host_state", files=[str(there), str(tmp_path / "gone"), str(dangling), str(tmp_path)])["files"]
    assert files[str(there)] == {"exists": True, "mode": "0640", "sha256": hashlib.sha256(b"text").hexdigest()}
    assert files[str(tmp_path / "gone")] == {"exists": False, "mode": None, "sha256": None}
    assert files[str(dangling)]["exists"] is True
    assert files[str(tmp_path)]["exists"] is True
    assert files[str(tmp_path)]["sha256"] is None


def test_packages_that_are_installed(run: Run, program: Callable[[str, str], None]) -> None:
    program("dpkg-query", "installed\tnginx\t1.26.3-3\nconfig-files\tufw\t0.36\nnot-installed\tdocker.io\t\n")
    assert run("host_state", packages=["nginx", "ufw", "docker.io"])["packages"] == {"nginx": "1.26.3-3"}


@pytest.mark.parametrize(
    ("said", "active", "enabled"),
    [
        ("ActiveState=active\nUnitFileState=enabled\n", True, True),
        ("ActiveState=inactive\nUnitFileState=disabled\n", False, False),
        ("ActiveState=failed\nUnitFileState=static\n", False, True),
        ("ActiveState=inactive\nUnitFileState=\n", False, False),
    ],
)
def test_units(run: Run, program: Callable[[str, str], None], said: str, active: bool, enabled: bool) -> None:
    program("systemctl", said)
    assert run("host_state", units=["x.service"])["units"] == {"x.service": {"active": active, "enabled": enabled}}


@pytest.mark.parametrize(("said", "running"), [("true\n", True), ("false\n", False)])
def test_containers(run: Run, program: Callable[[str, str], None], said: str, running: bool) -> None:
    program("docker", said)
    assert run("host_state", containers=["x"])["containers"] == {"x": {"running": running}}


def test_a_place_that_is_not_there_yet_is_its_parents(run: Run, tmp_path: Path) -> None:
    paths = [str(tmp_path), str(tmp_path / "not" / "yet")]
    found = run("host_state", filesystems=paths)["filesystems"]
    assert found[paths[0]]["device"] == found[paths[1]]["device"] == tmp_path.stat().st_dev
    assert 0 <= found[paths[1]]["free_bytes"] <= found[paths[1]]["total_bytes"]


def test_users(run: Run) -> None:
    me = pwd.getpwuid(os.getuid())
    assert run("host_state", users=[me.pw_name, "nobody-like-this"])["users"] == {
        me.pw_name: {"uid": me.pw_uid, "gid": me.pw_gid}
    }
