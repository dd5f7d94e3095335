# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages with all that they depend on, by apt's own word, and a flat repository of them.

apt is asked in a root of its own (apt.conf(5), ``Dir::State::status``), in which nothing is installed: so the answer is
for a bare host of any release, whatever the asking host is. A flat repository is a directory with the packages, their
index ``Packages`` and a ``Release`` that has the index's SHA-256 (Debian's wiki, DebianRepository/Format).
"""

from __future__ import annotations

import hashlib
import os
import re
import typing as t
from dataclasses import dataclass
from urllib.parse import unquote

_URI = re.compile(r"^'(?P<url>[^']+)' (?P<file>\S+_\S+_\S+\.deb) \d+")


class AptError(Exception):
    """What apt said cannot be used; the text says why."""


@dataclass(frozen=True)
class Package:
    """A package by its place in the world, its size in bytes, and its paragraph of the index."""

    name: str
    version: str
    architecture: str
    url: str
    size: int
    sha256: str
    paragraph: str

    @property
    def file_name(self) -> str:
        """As archives name it: without the epoch, which cannot stand in a URL as it is."""
        return f"{self.name}_{self.version.rsplit(':', 1)[-1]}_{self.architecture}.deb"


def options(root: str, architecture: str) -> list[str]:
    """What apt-get and apt-cache are called with to work in a root of their own.

    Proxies and logins stay those of the host's apt.
    """
    places = {
        "Dir::State": f"{root}/state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": f"{root}/cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{root}/sources",
        "Dir::Etc::preferences": f"{root}/preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Get::List-Cleanup": "true",
        "Acquire::Languages": "none",
        # A release in preparation may carry a file past its date; it is signed all the same.
        "Acquire::Check-Valid-Until": "false",
    }
    return [part for name, value in places.items() for part in ("-o", f"{name}={value}")]


def prepare(root: str, sources: t.Mapping[str, str], preferences: str = "") -> None:
    """Make a root with these sources, by file name, and no others.

    :arg preferences: which versions are to be preferred, as apt_preferences(5) has it.
    """
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    # apt's own unprivileged user fetches the lists.
    os.chmod(root, 0o755)
    with open(os.path.join(root, "preferences"), "w", encoding="utf-8") as stream:
        stream.write(preferences)
    place = os.path.join(root, "sources")
    for name in os.listdir(place):
        if name not in sources:
            os.unlink(os.path.join(place, name))
    for name, text in sources.items():
        with open(os.path.join(place, name), "w", encoding="utf-8") as stream:
            stream.write(text)


def chosen(listing: str) -> dict[tuple[str, str, str], str]:
    """From ``apt-get --print-uris install``: (name, version, architecture) → URL of each package that would come."""
    found = {}
    for line in listing.splitlines():
        match = _URI.match(line)
        if match:
            name, version, architecture = unquote(match["file"])[: -len(".deb")].split("_")
            found[name, version, architecture] = match["url"]
    return found


def described(paragraphs: str, wanted: t.Mapping[tuple[str, str, str], str]) -> list[Package]:
    """The packages that were chosen, with what ``apt-cache show`` says of them.

    :raises AptError: of one it says nothing, or no SHA-256.
    """
    found: dict[tuple[str, str, str], Package] = {}
    for text in re.split(r"\n\s*\n", paragraphs):
        fields = dict(re.findall(r"(?m)^([A-Za-z0-9-]+):[ \t]*(.*)$", text))
        key = (fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""))
        if key not in wanted or key in found or not re.fullmatch("[0-9a-f]{64}", fields.get("SHA256", "")):
            continue
        # Where two archives have one version, the file is the one that apt would fetch.
        if unquote(wanted[key]).endswith("/" + fields.get("Filename", "").lstrip("./")):
            found[key] = Package(*key, wanted[key], int(fields["Size"]), fields["SHA256"], text.strip("\n"))
    missing = sorted("_".join(key) for key in wanted if key not in found)
    if missing:
        raise AptError(f"apt says no SHA-256 of {', '.join(missing[:5])}")
    return [found[key] for key in sorted(found)]


def index(packages: t.Iterable[Package]) -> bytes:
    """The file ``Packages`` of a flat repository: the archive's own paragraphs, each with its place here."""
    paragraphs = []
    for package in packages:
        lines = [line for line in package.paragraph.splitlines() if not line.startswith("Filename:")]
        paragraphs.append("\n".join([*lines, f"Filename: ./{package.file_name}"]) + "\n")
    return "\n".join(paragraphs).encode()


def release(codename: str, architecture: str, indexes: t.Mapping[str, bytes]) -> bytes:
    """The file ``Release`` of a flat repository. apt warns where there is no date; this one is always the same, so that
    the same packages give the same bytes."""
    lines = [
        "Origin: onprem.llm",
        "Label: onprem.llm bundle",
        f"Suite: {codename}",
        f"Codename: {codename}",
        f"Architectures: {architecture} all",
        "Date: Sat, 01 Jan 2000 00:00:00 UTC",
        "SHA256:",
        *(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in sorted(indexes.items())),
    ]
    return ("\n".join(lines) + "\n").encode()
