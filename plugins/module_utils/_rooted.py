# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a system that lies below some directory: of the running one, of one mounted for rescue, of a test's."""

from __future__ import annotations

import os
import re
import typing as t


def below(root: str, path: str) -> str:
    """Where ``path`` of the system at ``root`` lies, with the symbolic links on its way resolved within that system."""
    if root == "/":
        return os.path.join(root, path)
    parts = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    links = 0
    while parts:
        part = parts.pop()
        if part in (".", ".."):
            del done[len(done) - (part == "..") :]
            continue
        here = os.path.join(root, *done, part)
        # A loop of links is left as it is: reading it fails.
        if os.path.islink(here) and links < 40:
            links += 1
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            parts += [step for step in target.split("/") if step][::-1]
        else:
            done.append(part)
    return os.path.join(root, *done)


def read_bytes(root: str, path: str) -> bytes | None:
    """A file's content, or None where it cannot be read."""
    try:
        with open(below(root, path), "rb") as stream:
            return stream.read()
    except OSError:
        return None


def read(root: str, path: str) -> str | None:
    """A text file's content, or None where it cannot be read."""
    content = read_bytes(root, path)
    return None if content is None else content.decode("utf-8", "replace")


def exists(root: str, path: str) -> bool:
    return os.path.exists(below(root, path))


def names(root: str, path: str) -> list[str]:
    """What a directory holds, in order; nothing where it cannot be read."""
    try:
        return sorted(os.listdir(below(root, path)))
    except OSError:
        return []


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Orders versions by their numbers: ``6.1.0-9`` before ``6.1.0-25``."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"[0-9]+|[a-zA-Z]+", version)]


def first(values: t.Iterable[str | None]) -> str | None:
    """The first that is there and not empty."""
    return next((value for value in values if value), None)
