# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role monitoring installs a GPU exporter: from a mirror of the test's, into a directory of the test's."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import plays

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Have the GPU exporter
      ansible.builtin.include_role:
        name: onprem.llm.monitoring
        tasks_from: gpu_exporter
        rolespec_validate: false
"""
PROGRAM = b"#!/bin/sh\necho an exporter\n"


def release(path: Path, program: bytes) -> str:
    """An archive as the project makes them; its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content, mode in (("LICENSE", b"MIT", 0o644), ("nvidia_gpu_exporter", program, 0o755)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Mirror:
    def __init__(self, place: Path) -> None:
        self.files, self.installed = place / "mirror", place / "installed"
        self.files.mkdir()
        (place / "play.yml").write_text(PLAY, encoding="utf-8")
        self._play = place / "play.yml"

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=str(self.files))
        )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def install(self, sha256: str, *more: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "monitoring_gpu_exporter": "nvidia_gpu_exporter", "group_names": ["llm_nodes", "gpu_nodes"],
            "monitoring_gpu_exporter_url": f"http://127.0.0.1:{self.server.server_port}/release.tar.gz",
            "monitoring_gpu_exporter_sha256": sha256, "__monitoring_gpu_exporter_directory": str(self.installed),
            "__monitoring_beside": {"stdout_lines": []}, **plays.local(),
        }  # fmt: skip
        return plays.run(self._play, *more, inventory="gpu1,", variables=variables, timeout=120)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_it_is_installed_once_and_a_new_version_takes_its_place(mirror: Mirror) -> None:
    sha256 = release(mirror.files / "release.tar.gz", PROGRAM)
    checked = mirror.install(sha256, "--check")
    assert checked.returncode == 0, checked.stdout
    assert not mirror.installed.exists()
    for changed in (True, False):
        done = mirror.install(sha256)
        assert done.returncode == 0, done.stdout
        assert (" changed=0 " not in done.stdout) is changed, done.stdout
    program = mirror.installed / "nvidia_gpu_exporter"
    assert program.read_bytes() == PROGRAM
    assert program.stat().st_mode & 0o777 == 0o755
    assert not (mirror.installed / "LICENSE").exists()
    done = mirror.install(release(mirror.files / "release.tar.gz", PROGRAM + b"# newer\n"))
    assert done.returncode == 0, done.stdout
    assert program.read_bytes() == PROGRAM + b"# newer\n"


def test_other_bytes_are_refused(mirror: Mirror) -> None:
    release(mirror.files / "release.tar.gz", PROGRAM)
    done = mirror.install("0" * 64)
    assert done.returncode == 2
    assert "did not match" in done.stdout
    assert not (mirror.installed / "nvidia_gpu_exporter").exists()
    assert not (mirror.installed / "release.tar.gz").exists()
