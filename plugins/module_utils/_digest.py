# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests as registries and Ollama write them: ``sha256:`` and 64 hexadecimal digits.

A file of 400 GB is read for its sha256 in many calls of a module, each in a process of its own. hashlib keeps the state
of a hash to itself, and the state of OpenSSL's, which Python's hashlib calls, is a plain structure.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import hashlib
import re
import sys
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


def of_stream(stream: t.IO[bytes], target: t.BinaryIO | None = None) -> str:
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


class _State(ctypes.Structure):
    """SHA256_CTX of openssl/sha.h; the same from OpenSSL 0.9.8 to 3."""

    _fields_ = [
        ("h", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("used", ctypes.c_uint),
        ("length", ctypes.c_uint),
    ]


@functools.cache
def _library() -> t.Any:
    """OpenSSL's libcrypto, or None where it does not do what is needed: its functions for SHA-256 are deprecated."""
    try:
        library = ctypes.CDLL("libcrypto.so.3")
        library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        state, result = _State(), ctypes.create_string_buffer(32)
        library.SHA256_Init(ctypes.byref(state))
        library.SHA256_Update(ctypes.byref(state), b"a" * 100, 100)
        again = _State.from_buffer_copy(bytes(state))
        library.SHA256_Update(ctypes.byref(again), b"b" * 100, 100)
        library.SHA256_Final(result, ctypes.byref(again))
    except (OSError, AttributeError):
        return None
    return library if result.raw == hashlib.sha256(b"a" * 100 + b"b" * 100).digest() else None


class Hasher:
    """A sha256 that is taken in several processes of one host, where its OpenSSL lets it.

    :param state: what :meth:`dump` gave; anything else begins anew.
    :ivar position: bytes that it has taken.
    """

    def __init__(self, state: str = "") -> None:
        self.position = 0
        self._library = _library()
        self._whole, self._state = hashlib.sha256(), _State()
        if self._library and not self._load(state):
            self._library.SHA256_Init(ctypes.byref(self._state))

    @property
    def can_rest(self) -> bool:
        """Whether another process can go on; else what was read would be read again."""
        return self._library is not None

    def _load(self, state: str) -> bool:
        try:
            position, order, text = state.split(":")
            data = base64.b64decode(text, validate=True)
            self._state = _State.from_buffer_copy(data)
            self.position = int(position)
        except ValueError:
            return False
        # OpenSSL trusts what it is given.
        good = (
            order == sys.byteorder
            and len(data) == ctypes.sizeof(_State)
            and self.position >= 0
            and (self._state.used, self._state.length) == (self.position % 64, 32)
        )
        self.position = self.position if good else 0
        return good

    def dump(self) -> str:
        """The state for another process of this host; empty where there is none."""
        if self._library is None:
            return ""
        return f"{self.position}:{sys.byteorder}:{base64.b64encode(bytes(self._state)).decode()}"

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._library is None:
            self._whole.update(data)
        else:
            self._library.SHA256_Update(ctypes.byref(self._state), data, len(data))
        self.position += len(data)

    @property
    def digest(self) -> str:
        """The digest of all that was taken."""
        if self._library is None:
            return "sha256:" + self._whole.hexdigest()
        copy, result = _State.from_buffer_copy(bytes(self._state)), ctypes.create_string_buffer(32)
        self._library.SHA256_Final(result, ctypes.byref(copy))
        return "sha256:" + result.raw.hex()

    def read(self, stream: t.BinaryIO, go_on: t.Callable[[], bool], target: t.BinaryIO | None = None) -> bool:
        """Take what a file has from where this one is; whether all of it was taken.

        :param go_on: asked after each MiB; not heard where another process could not go on.
        :param target: what is taken is written there, too.
        """
        stream.seek(self.position)
        while block := stream.read(_BLOCK_BYTES):
            self.update(block)
            if target:
                target.write(block)
            if self.can_rest and not go_on():
                return False
        return True
