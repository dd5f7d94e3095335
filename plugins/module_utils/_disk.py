# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems, and files that are written whole."""

from __future__ import annotations

import os
import tempfile
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """A file system's device, size and what ordinary users may still write, in bytes.

    :ivar path: what it was asked by: the path itself, or its nearest parent that is there.
    """

    path: str
    device: int
    free_bytes: int
    total_bytes: int


def room(path: str) -> Room:
    """The file system that holds a path, or will.

    :raises OSError: it does not answer.
    """
    place = os.path.abspath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    state = os.statvfs(place)
    return Room(place, os.stat(place).st_dev, state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize)


@contextmanager
def replacing(path: str, mode: int = 0o600, temporary: str = "") -> t.Iterator[t.BinaryIO]:
    """A file that takes a path's place when it is whole and on the disk. Whoever is killed meanwhile leaves the old one
    or the new one; where the block fails, the old one stays. Directories that lack are made.

    :param mode: of the new file, whatever the umask says. Until it is whole, it is its owner's alone.
    :param temporary: the path that it is written at, if only one writes it at a time: what one that was killed left
        there is taken away. Otherwise each has one of its own, next to ``path``.
    :raises OSError: it cannot be written.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory or ".", exist_ok=True)
    if temporary:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    else:
        # A name has at most 255 bytes, and a character up to four.
        handle, temporary = tempfile.mkstemp(dir=directory or ".", prefix=f".{name[:50]}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write(path: str, data: bytes, mode: int = 0o600, temporary: str = "") -> None:
    """Write a file whole or not at all, as :func:`replacing` does."""
    with replacing(path, mode, temporary) as stream:
        stream.write(data)
