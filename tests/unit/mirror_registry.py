# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real docker-registry on a socket, configured by the role's own template."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import jinja2
from ansible_collections.onprem.llm.plugins.module_utils import _mirror

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "cache" / "docker-registry"


def program() -> str:
    """The distribution's docker-registry: the one that is installed, else unpacked from its package, once."""
    installed = shutil.which("docker-registry")
    if installed:
        return installed
    unpacked = CACHE / "usr" / "bin" / "docker-registry"
    if not unpacked.exists():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
            subprocess.run(["apt-get", "download", "-qq", "docker-registry"], cwd=directory, check=True)
            (package,) = Path(directory).glob("docker-registry_*.deb")
            subprocess.run(["dpkg-deb", "--extract", package, CACHE], check=True)
    return str(unpacked)


class MirrorRegistry:
    """A mirror's registry in a directory, started and stopped as systemd would."""

    def __init__(self, directory: Path) -> None:
        self.data_dir, self.socket = directory / "mirror", directory / "registry.sock"
        self.root, self.staging = self.data_dir / "registry", self.data_dir / "staging"
        self.root.mkdir(parents=True)
        self.staging.mkdir(mode=0o700)
        template = (ROOT / "roles/model_mirror/templates/registry.yml.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=False)
        environment.filters["to_json"] = lambda value: f'"{value}"'
        self.config = directory / "registry.yml"
        self.config.write_text(
            environment.from_string(template).render(
                ansible_managed="test", __model_mirror_root=self.root, __model_mirror_socket=self.socket
            ),
            encoding="utf-8",
        )
        self.registry = _mirror.Registry(str(self.socket), str(self.root))
        self.mirror = _mirror.Mirror(self.registry, str(self.staging))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.config.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen([program(), "serve", self.config], stdout=log, stderr=log)
        self.registry.wait(20)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)

    def collect(self) -> None:
        """As the module does it, without systemd."""
        self.stop()
        subprocess.run([program(), "garbage-collect", self.config], check=True, capture_output=True)
        self.start()
