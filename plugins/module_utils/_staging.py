# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory for files that are not whole yet, and the journal beside each of what is here of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import threading
import time
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _digest

# An origin that has given out is not asked again for so long, as long as others are left.
PATIENCE_SECONDS = 900.0
WEEK_SECONDS = 7 * 24 * 3600.0

_VERSION = 1
_MAX_JOURNAL_BYTES = 2**20
_PART = re.compile(r"([0-9a-f]{64})\.part")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TransferError(Exception):
    """The file is not to be had as things stand. What has come of it stays and is gone on from."""


class Busy(TransferError):
    """Another process holds the lock of the same file."""


# --- the directory ---------------------------------------------------------------------------------------------------


def hexadecimal(digest: str) -> str:
    """The digits of a digest.

    :raises TransferError: it is none.
    """
    if not _digest.PATTERN.fullmatch(digest):
        raise TransferError(f"{digest[:100]!r} is no sha256 digest; one such as 'sha256:' and 64 hex digits is")
    return digest[7:]


class Staging:
    """A directory for files that are not whole yet, on the file system of the store that they are for.

    It is made where it lacks. It has to be a directory and no link, the caller's own, and closed to all others, because
    another user may own the directory around it. All work is relative to its descriptor.

    :raises TransferError: on entering, it is none of that.
    """

    def __init__(self, path: str) -> None:
        self.path, self.descriptor = path, -1
        self._locks: dict[str, int] = {}

    def __enter__(self) -> Staging:
        try:
            with suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            self.descriptor = os.open(self.path, _DIRECTORY)
        except OSError as error:
            raise TransferError(f"the staging directory {self.path}: {error.strerror}") from error
        about = os.fstat(self.descriptor)
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            self.__exit__()
            raise TransferError(
                f"the staging directory {self.path} has the owner {about.st_uid} and the mode "
                f"{stat.S_IMODE(about.st_mode):04o}; it has to be {os.geteuid()}'s alone, with the mode 0700"
            )
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self.descriptor)
        self.descriptor = -1

    @property
    def free_bytes(self) -> int:
        room = os.fstatvfs(self.descriptor)
        return room.f_bavail * room.f_frsize

    @contextmanager
    def lock(self, digest: str, seconds: float = 0) -> t.Iterator[None]:
        """Hold a file for this process alone; a process that dies lets go of it.

        :param seconds: how long to wait for another that holds it.
        :raises Busy: it is held for longer.
        """
        name = f"{hexadecimal(digest)}.lock"
        if digest in self._locks:
            raise Busy(f"{digest} is being transferred by this process")
        end = time.monotonic() + seconds
        while True:
            handle = self._try_lock(name)
            if handle is not None:
                break
            if time.monotonic() >= end:
                raise Busy(f"{digest} is being transferred by another process, for longer than {seconds:g} seconds")
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))
        self._locks[digest] = handle
        try:
            yield
        finally:
            del self._locks[digest]
            # Gone before it is let go, so that whoever waited for it finds that it is another file's.
            with suppress(OSError):
                os.unlink(name, dir_fd=self.descriptor)
            os.close(handle)

    def locked(self, digest: str) -> bool:
        """Whether this object holds the lock."""
        return digest in self._locks

    def _try_lock(self, name: str) -> int | None:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(handle)):
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def held(self, digest: str) -> int:
        """Bytes of a file that are here and need not come again, by its journal."""
        journal = Journal.read(self.descriptor, hexadecimal(digest))
        return journal.done if journal else 0

    def remember(self, digest: str, note: t.Mapping[str, t.Any]) -> None:
        """Keep a note with a file, for whoever goes on with it.

        :raises TransferError: the disk does not take it.
        """
        name, data = hexadecimal(digest), json.dumps(dict(note)).encode()
        try:
            _put(self.descriptor, f"{name}.note.json", f"{name}.note.new", data, sync=False)
        except OSError as error:
            raise TransferError(f"the staging directory {self.path}: {error.strerror}") from error

    def note(self, digest: str) -> dict[str, t.Any]:
        """What was remembered of a file; nothing where that cannot be read."""
        try:
            handle = os.open(f"{hexadecimal(digest)}.note.json", _READ, dir_fd=self.descriptor)
            with open(handle, "rb") as stream:
                found = json.loads(stream.read(_MAX_JOURNAL_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def discard(self, digest: str) -> None:
        """Drop what is here of a file, its journal and note."""
        for suffix in (".json", ".synced.json", ".part", ".new", ".synced.new", ".note.json", ".note.new"):
            with suppress(FileNotFoundError):
                os.unlink(hexadecimal(digest) + suffix, dir_fd=self.descriptor)

    def stale(self) -> list[str]:
        """Digests of the files that nobody holds and nobody has written to for a week."""
        found = []
        for name in sorted(os.listdir(self.descriptor)):
            match = _PART.fullmatch(name)
            if not match:
                continue
            with suppress(FileNotFoundError, Busy):
                if time.time() - os.stat(name, dir_fd=self.descriptor).st_mtime > WEEK_SECONDS:
                    with self.lock(f"sha256:{match[1]}"):
                        found.append(f"sha256:{match[1]}")
        return found


# --- the journal -----------------------------------------------------------------------------------------------------


class Segment:
    """Bytes ``start`` to ``end`` of the file, of which those before ``position`` are here."""

    __slots__ = ("end", "position", "start", "taken")

    def __init__(self, start: int, position: int, end: int) -> None:
        self.start, self.position, self.end = start, position, end
        # Whether a connection lost it to another, being too slow.
        self.taken = False

    @property
    def left(self) -> int:
        return self.end - self.position


@dataclass
class Patience:
    """Of one origin: attempts in a row that gained nothing; the monotonic second before which it is left alone; of the
    current ``stall_seconds``, those that have passed and the bytes that came in them; and when this was noted."""

    failures: float = 0
    not_before: float = 0
    elapsed: float = 0
    received: float = 0
    noted: float = 0

    @property
    def numbers(self) -> list[float]:
        return [self.failures, self.not_before, self.elapsed, self.received, self.noted]

    @property
    def recent(self) -> bool:
        return 0 <= time.monotonic() - self.noted < PATIENCE_SECONDS


def _boot() -> str:
    """What tells this run of the kernel from another: its page cache has all that was written to it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


class Journal:
    """What is here of a file: ``<hex>.json`` beside ``<hex>.part``.

    A killed process leaves its writes in the kernel's page cache, so ``<hex>.json`` is true as long as the host runs.
    After a crash of the host it may tell of bytes that never reached the disk. Then ``<hex>.synced.json`` counts, which
    is written after a sync of the data, and synced itself. A journal that cannot be read, or that is of another
    version or size than the file, is not trusted: the transfer starts over.

    :ivar sender: the label of the origin that sent last; "" before.
    :ivar hashed: the state of the file's sha256 where it is whole, as of :meth:`_digest.Hasher.dump`; "" before.
    :ivar wrong: the digest that the file had when it was whole and wrong, once; "" before.
    :ivar wrong_from: the label of the origin that it came from then.
    :ivar patience: by an origin's label, what it has taken of the caller's patience so far. It goes over from call to
        call: a call may be shorter than the time after which an origin has stalled.
    """

    def __init__(self, size: int, segments: list[Segment], wrong: str = "", wrong_from: str = "") -> None:
        self.size, self.segments, self.wrong, self.wrong_from = size, segments, wrong, wrong_from
        self.sender = self.hashed = ""
        self.patience: dict[str, Patience] = {}

    @property
    def done(self) -> int:
        return self.size - sum(segment.left for segment in self.segments)

    @classmethod
    def fresh(cls, size: int) -> Journal:
        return cls(size, [Segment(0, 0, size)])

    @classmethod
    def read(cls, directory: int, name: str) -> Journal | None:
        """None where nothing is here that can be trusted."""
        try:
            size = os.stat(f"{name}.part", dir_fd=directory, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        boot = _boot()
        journal = cls._load(directory, f"{name}.json", size, boot) if boot else None
        return journal or cls._load(directory, f"{name}.synced.json", size, None)

    @classmethod
    def _load(cls, directory: int, name: str, size: int, boot: str | None) -> Journal | None:
        """:param boot: the only run of the kernel that it may be of, or None for any."""
        try:
            handle = os.open(name, _READ, dir_fd=directory)
            with open(handle, "rb") as stream:
                found = json.loads(stream.read(_MAX_JOURNAL_BYTES))
            if found["version"] != _VERSION or found["size"] != size or boot not in (None, found["boot"]):
                return None
            segments = [Segment(start, position, end) for start, position, end in found["segments"]]
            edges = [0, *(segment.end for segment in segments)]
            numbers = [number for segment in found["segments"] for number in segment]
            wrong, wrong_from = found["wrong"], str(found["wrong_from"])
            if (
                any(isinstance(number, bool) or not isinstance(number, int) for number in numbers)
                or [segment.start for segment in segments] != edges[:-1]
                or any(not segment.start <= segment.position <= segment.end for segment in segments)
                or edges[-1] != size
                or not (wrong == "" or _digest.PATTERN.fullmatch(wrong))
            ):
                return None
            journal = cls(size, segments, wrong, wrong_from)
            journal.sender = str(found.get("sender", ""))
            if boot is not None:
                # What was hashed may not have reached the disk, and monotonic clocks begin anew at each boot.
                journal.hashed = str(found.get("hashed", ""))
                told = {str(label): Patience(*map(float, taken)) for label, taken in found["patience"].items()}
                journal.patience = {label: taken for label, taken in told.items() if taken.recent}
            return journal
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def text(self) -> bytes:
        """The journal as it is now. What is here and adjacent becomes one segment."""
        merged: list[list[int]] = []
        for segment in self.segments:
            # One look at the position: a thread may move it.
            start, position, end = segment.start, segment.position, segment.end
            if merged and merged[-1][1] == merged[-1][2] and start == merged[-1][2]:
                merged[-1][1:] = [position, end]
            else:
                merged.append([start, position, end])
        told = {
            "version": _VERSION,
            "size": self.size,
            "boot": _boot(),
            "sender": self.sender,
            "hashed": self.hashed,
            "wrong": self.wrong,
            "wrong_from": self.wrong_from,
            "patience": {label: taken.numbers for label, taken in self.patience.items()},
            "segments": merged,
        }
        return json.dumps(told).encode()


def _put(directory: int, name: str, temporary: str, data: bytes, sync: bool) -> None:
    """Replace a file whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    if sync:
        os.fsync(directory)


# --- one file ---------------------------------------------------------------------------------------------------------


class File:
    """``<hex>.part``, sparse at its full size, and its journal.

    It is not allocated beforehand: on file systems that cannot, that would write all of it once more, and another
    program may fill the disk anyway. A disk that fills up is a fault that loses nothing.
    """

    def __init__(self, staging: Staging, digest: str, size: int) -> None:
        self._directory, self._name = staging.descriptor, hexadecimal(digest)
        journal = Journal.read(self._directory, self._name)
        if journal is None or journal.size != size:
            staging.discard(digest)
            journal = Journal.fresh(size)
        self.journal = journal
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.handle = os.open(f"{self._name}.part", flags, 0o600, dir_fd=self._directory)
        os.ftruncate(self.handle, size)
        self._syncing: threading.Thread | None = None
        self.frontier = 0
        self.look()

    def close(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
        os.close(self.handle)

    def write_journal(self) -> None:
        _put(self._directory, f"{self._name}.json", f"{self._name}.new", self.journal.text(), sync=False)

    def start_sync(self) -> None:
        """Let the data reach the disk, and then say so. In a thread, since a slow disk takes its time."""
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Thread(target=self._sync, args=(self.journal.text(),), daemon=True)
            self._syncing.start()

    def _sync(self, text: bytes) -> None:
        with suppress(OSError):
            os.fdatasync(self.handle)
            _put(self._directory, f"{self._name}.synced.json", f"{self._name}.synced.new", text, sync=True)

    def look(self) -> None:
        """Note how many bytes from the beginning are here without a gap, for the hasher."""
        gaps = [segment.position for segment in self.journal.segments if segment.left]
        self.frontier = gaps[0] if gaps else self.journal.size
