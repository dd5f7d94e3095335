# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that a change moves, by apt's own word, and the way back: the files of what was installed before, kept on
the host and installed from there alone."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

# apt-get(8), --simulate: "Inst NAME [INSTALLED] (NEW ARCHIVE [ARCHITECTURE]) [...]", and "Remv NAME [INSTALLED]".
_STEP = re.compile(r"(?m)^(?P<step>Inst|Remv) (?P<name>\S+)(?: \[(?P<old>[^]]+)\])?(?: \((?P<new>\S+) )?")
# A change of versions, whoever asks for it: nothing more than is needed, through holds, and never a question.
INSTALL = (
    "apt-get", "--quiet", "--yes", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages",
    "--option", "DPkg::Lock::Timeout=300", "--option", "Dpkg::Options::=--force-confdef",
    "--option", "Dpkg::Options::=--force-confold",
)  # fmt: skip
_FORMAT = "${Package}\\t${Version}\\t${Architecture}\\t${db:Status-Status}\\n"
_ARCHIVES = "/var/cache/apt/archives"
ENVIRONMENT = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


@dataclass(frozen=True)
class Move:
    """A package by its version before and after; one that comes has no ``old``, one that goes no ``new``."""

    name: str
    old: str
    new: str


def wanted(packages: t.Mapping[str, str]) -> list[str]:
    """What apt-get is asked to install.

    :param packages: by name the start of the version that is wanted, empty for what apt itself would choose.
    """
    return [f"{name}={start}*" if start else name for name, start in sorted(packages.items())]


def moves(simulated: str) -> list[Move]:
    """The packages that an ``apt-get --simulate install`` moves, by their names."""
    found: dict[str, Move] = {}
    for match in _STEP.finditer(simulated):
        new = match["new"] or "" if match["step"] == "Inst" else ""
        # One that is taken out of the way first and then installed is told twice.
        before = found.get(match["name"])
        found[match["name"]] = Move(match["name"], match["old"] or (before.old if before else ""), new)
    return [found[name] for name in sorted(found) if found[name].old != found[name].new]


def file_name(name: str, version: str, architecture: str) -> str:
    """As apt names the file of a package, in its cache and where it is downloaded."""
    return f"{name.partition(':')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"


def installed(
    run: t.Callable[[t.Sequence[str]], tuple[int, str, str]], names: t.Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Version and architecture by name; what is not installed, or only half, is left out.

    :param run: ``AnsibleModule.run_command``.
    """
    if not names:
        return {}
    found = {}
    for line in run(["dpkg-query", "--show", f"--showformat={_FORMAT}", *names])[1].splitlines():
        name, version, architecture, status = line.split("\t")
        if status == "installed":
            found[name] = (version, architecture)
    return found


def cached(name: str) -> str:
    """Path of a package's file in apt's cache, empty where it holds none of that name."""
    path = os.path.join(_ARCHIVES, name)
    return path if os.path.isfile(path) else ""


def without_sources(root: str) -> list[str]:
    """Options by which apt-get knows no repository, so that it takes files that it is given, and nothing else.

    :param root: a directory of its own, for what it writes down of that.
    """
    places = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": f"{root}/lists",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    return [part for name, value in places.items() for part in ("--option", f"{name}={value}")]
