# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems and what is written to them."""

from __future__ import annotations

import os
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
