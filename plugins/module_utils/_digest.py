# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests as registries and Ollama write them: ``sha256:`` and 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
import re
import typing as t

PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
_LOOSE = re.compile(r"(?:sha256[:-])?([0-9a-fA-F]{64})")
_BLOCK_BYTES = 2**20


def parse(text: str) -> str:
    """A digest in its full form, of one that may lack its algorithm.

    :raises ValueError: it is no sha256 digest.
    """
    found = _LOOSE.fullmatch(text)
    if not found:
        raise ValueError(f"{text[:100]!r} is no sha256 digest (64 hexadecimal digits)")
    return "sha256:" + found[1].lower()


def of_bytes(data: bytes) -> str:
    """The digest of these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_stream(stream: t.BinaryIO, target: t.BinaryIO | None = None) -> str:
    """The digest of what a stream has left, which is copied to ``target`` where there is one."""
    found = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        found.update(block)
        if target:
            target.write(block)
    return "sha256:" + found.hexdigest()


def of_file(path: str) -> str:
    """The digest of a file.

    :raises OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return of_stream(stream)
