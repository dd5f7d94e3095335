# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real docker-registry on a socket, configured by the role's own template."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ansible_collections.onprem.llm.plugins.module_utils import _mirror

from tests.packages import docker_registry
from tests.unit.role_templates import rendered


class MirrorRegistry:
    """A mirror's registry in a directory, started and stopped as systemd would.

    :param runtime: directory of its socket, which may not have as long a path as others; ``directory`` without it.
    """

    def __init__(self, directory: Path, runtime: Path | None = None) -> None:
        self.data_dir, self.socket = directory / "mirror", (runtime or directory) / "registry.sock"
        self.root, self.staging = self.data_dir / "registry", self.data_dir / "staging"
        self.root.mkdir(parents=True)
        self.staging.mkdir(mode=0o700)
        self.variables = {"model_mirror_data_dir": str(self.data_dir), "__model_mirror_socket": str(self.socket)}
        self.config = directory / "registry.yml"
        self.config.write_text(rendered("model_mirror", "registry.yml.j2", **self.variables), encoding="utf-8")
        self.registry = _mirror.Registry(str(self.socket), str(self.root))
        self.mirror = _mirror.Mirror(self.registry, str(self.staging))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # As its unit has it: nginx is let in by the group, and nobody else is.
        group = "www-data" if os.getuid() == 0 else None
        # Of tracing, which nothing here receives, it would tell at length.
        quiet = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
        with open(self.config.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(
                [docker_registry(), "serve", self.config], stdout=log, stderr=log, env=quiet, group=group, umask=0o007
            )
        self.registry.wait(20)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)

    def collect(self) -> None:
        """As the module does it, without systemd."""
        self.stop()
        subprocess.run([docker_registry(), "garbage-collect", self.config], check=True, capture_output=True)
        self.start()
