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


# What these need in turn where they are another release's, and this machine's libraries are older.
LIBRARIES = ("libc6", "libcrypt1", "libgcc-s1", "libssl3t64", "libzstd1", "zlib1g")


@dataclass(frozen=True)
class Nginx:
    """An unpacked nginx: the directory that stands for ``/``."""

    root: Path

    @property
    def command(self) -> list[str | Path]:
        """The program; by its own release's loader where there is one."""
        binary = self.root / "usr/sbin/nginx"
        for loader in sorted(self.root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")):
            return [loader, "--library-path", loader.parent, binary]
        return [binary]

    @property
    def modules(self) -> list[Path]:
        """In the order in which they must be loaded."""
        return [
            self.root / "usr/lib/nginx/modules" / f"{name}.so" for name in ("ndk_http_module", "ngx_http_lua_module")
        ]

    @property
    def environment(self) -> dict[str, str]:
        if len(self.command) > 1:
            # This machine's own programs must not find them.
            return dict(os.environ)
        return os.environ | {"LD_LIBRARY_PATH": ":".join(str(path) for path in self.root.glob("**/lib/*-linux-gnu"))}

    @property
    def version(self) -> str:
        said = subprocess.run([*self.command, "-v"], env=self.environment, capture_output=True, text=True, check=True)
        return said.stderr.strip().rpartition("/")[2]

    @property
    def lua_paths(self) -> tuple[str, str]:
        """Where Lua finds modules of Lua and of C."""
        library = next((self.root / "usr/lib").glob("*-linux-gnu"))
        return f"{self.root}/usr/share/lua/5.1/?.lua;;", f"{library}/lua/5.1/?.so;;"


def unpack(release: str = "") -> Nginx:
    """Of this machine's own release, or of another by its name, by apt; again only where it is not there yet."""
    build = BUILD.with_name(f"nginx-{release}") if release else BUILD
    root = build / "root"
    if not (root / "complete").exists():
        shutil.rmtree(build, ignore_errors=True)
        options = packages.of_release(release) if release else []
        if not release:
            packages.know()
        listed = subprocess.run(["apt-cache", *options, "pkgnames"], capture_output=True, text=True, check=True).stdout
        known = set(listed.split())
        names = [name for name in PACKAGES + (LIBRARIES if release else ()) if name in known]
        if "libnginx-mod-http-lua" not in names:
            sys.exit("apt knows no libnginx-mod-http-lua here, also after apt-get update")
        packages.unpack(names, root, options)
        (root / "complete").touch()
    return Nginx(root)
