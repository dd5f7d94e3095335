# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution's nginx with its Lua module, unpacked below build/ and installed nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import packages

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "nginx"
# What libnginx-mod-http-lua and the role's other packages need, of either release; names that a release does not have
# are left out.
PACKAGES = (
    "nginx", "libnginx-mod-http-lua", "libnginx-mod-http-ndk", "lua-cjson", "lua-resty-core", "lua-resty-lrucache",
    "libluajit-5.1-2", "libluajit2-5.1-2", "libpcre3", "libpcre2-8-0",
)  # fmt: skip


@dataclass(frozen=True)
class Nginx:
    """An unpacked nginx: the directory that stands for ``/``."""

    root: Path

    @property
    def binary(self) -> Path:
        return self.root / "usr/sbin/nginx"

    @property
    def modules(self) -> list[Path]:
        """In the order in which they must be loaded."""
        return [
            self.root / "usr/lib/nginx/modules" / f"{name}.so" for name in ("ndk_http_module", "ngx_http_lua_module")
        ]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"LD_LIBRARY_PATH": ":".join(str(path) for path in self.root.glob("**/lib/*-linux-gnu"))}

    @property
    def version(self) -> str:
        said = subprocess.run([self.binary, "-v"], env=self.environment, capture_output=True, text=True, check=True)
        return said.stderr.strip().rpartition("/")[2]

    @property
    def lua_paths(self) -> tuple[str, str]:
        """Where Lua finds modules of Lua and of C."""
        library = next((self.root / "usr/lib").glob("*-linux-gnu"))
        return f"{self.root}/usr/share/lua/5.1/?.lua;;", f"{library}/lua/5.1/?.so;;"


def unpack() -> Nginx:
    """This machine's own release, by apt; again only where it is not there yet."""
    root = BUILD / "root"
    if not (root / "complete").exists():
        shutil.rmtree(BUILD, ignore_errors=True)
        packages.know()
        known = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True).stdout.split()
        names = [name for name in PACKAGES if name in set(known)]
        if "libnginx-mod-http-lua" not in names:
            sys.exit("apt knows no libnginx-mod-http-lua here, also after apt-get update")
        packages.unpack(names, root)
        (root / "complete").touch()
    return Nginx(root)
