# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of 1 to 400 GB, known by their sha256, brought into a directory of their own.

A file comes in parts, several at a time, each by a range of its own. What has come is journalled beside it, so that a
transfer that was interrupted at any byte goes on from there, in the same process or another. A file is called whole
when its sha256 is that of its name and it has been synced to the disk.

The supervisor, which is the caller's thread, takes every decision: who fetches what, what has stalled, when to pause.
The threads beside it read one answer each and write it where it belongs. A thread whose lease is revoked may be stuck
in a read for as long as its socket lets it; it writes nothing any more. Only monotonic clocks are read, except for the
age of abandoned files.

A server that knows no ranges sends the whole file from its start: one stream at a time, of which only what is not here
yet is written. Nothing that is here is lost by that, but its bytes come again after each interruption.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import http.client
import json
import os
import random
import re
import stat
import threading
import time
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.onprem.llm.plugins.module_utils import _http, _registry

MIB = 2**20
# The floor: a connection that brings less than this in ``stall_seconds`` has stalled, however evenly it drips, and an
# attempt that brought less has gained nothing. With 30 seconds, 2 KiB/s.
LEAST_BYTES = 2**16
# Retry-After is honoured up to here, and so is the time between two attempts.
MAX_RETRY_AFTER_SECONDS = 120.0
MAX_BACKOFF_SECONDS = 30.0
# An origin that has given out is not asked again for so long, as long as others are left.
PATIENCE_SECONDS = 900.0
WEEK_SECONDS = 7 * 24 * 3600.0

_VERSION = 1
_BLOCK_BYTES = 2**18
# What a kill may cost: the journal is behind by no more than this, or by half a second.
_JOURNAL_BYTES = MIB
_JOURNAL_SECONDS = 0.5
# What a power cut may cost: beyond it, the data itself may not have reached the disk.
_SYNC_SECONDS = 10.0
_TICK_SECONDS = 0.1
_REPORT_SECONDS = 0.5
# A part is divided between a connection and an idle one when it would take longer than this, down to this size.
_STEAL_SECONDS = 3.0
_STEAL_BYTES = 2 * MIB
# Reckoned for a pass of sha256 over a file; measured are 300 to 2000 MB/s. Decides only whether to hand back before it.
_HASH_BYTES_PER_SECOND = 250e6

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r"([0-9a-f]{64})\.part")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TransferError(Exception):
    """The file is not to be had as things stand. What has come of it stays and is gone on from."""


class Busy(TransferError):
    """Another process holds the lock of the same file."""


class Mismatch(TransferError):
    """What came, twice and from its start the second time, has another sha256. Nothing of it is kept."""

    def __init__(self, digest: str, found: str, labels: t.Sequence[str]) -> None:
        super().__init__(
            f"what {' and then '.join(dict.fromkeys(labels))} sent as {digest} has the digest {found}; "
            "it was asked for twice, and nothing of it is kept"
        )
        self.digest, self.found = digest, found


class NoSpace(TransferError):
    """The disk has no room. ``needed`` and ``free`` in bytes; the reserve is part of what is needed."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes are needed on the disk, the reserve among them, and {free} are free")
        self.needed, self.free = needed, free


class Paused(Exception):
    """The time of this call is over; the next goes on.

    :ivar done: bytes that are here.
    :ivar total: bytes of the file, or 0 where that is not known yet.
    :ivar phase: ``transfer``, or ``verify`` where all bytes are here and their sha256 is taken by the next call, which
        takes as long as it takes.
    """

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} bytes are here")
        self.done, self.total = done, total
        self.phase = "verify" if total and done == total else "transfer"


@dataclass(frozen=True)
class Limits:
    """
    :param connections: ranges that are fetched at a time.
    :param part_bytes: bytes that one request asks for at most.
    :param stall_seconds: a connection that brings no byte for so long, or less than ``LEAST_BYTES``, is given up.
    :param attempts: attempts in a row that gain nothing, after which an origin has given out.
    :param seconds: time of this call, 0 for no bound. Waiting counts; the pass of sha256 at the end does not.
    :param reserve_bytes: bytes of the disk that stay free.
    :param backoff_seconds: pause after the first attempt that gained nothing; it doubles, with jitter.
    """

    connections: int = 4
    part_bytes: int = 32 * MIB
    stall_seconds: float = 30
    attempts: int = 6
    seconds: float = 0
    reserve_bytes: int = 0
    backoff_seconds: float = 1


class Origin(t.Protocol):
    """Where a file can be had. ``label`` names it without a secret."""

    label: str

    def open(self, start: int, stop: int) -> t.Any:
        """The open answer for bytes ``start`` to ``stop``: of status 206, or 200 with the whole file.

        :raises _registry.RegistryError: Unreachable may be tried again, others are final.
        """


class RegistryOrigin:
    """A blob of a registry's repository."""

    def __init__(self, client: _registry.Client, repository: _registry.Repository, digest: str) -> None:
        self._client, self._repository, self._digest = client, repository, digest
        self.label = repository.host

    def open(self, start: int, stop: int) -> t.Any:
        return self._client.answer(self._repository, self._digest, start, stop)


class UrlOrigin:
    """A file at an address.

    :param login: user and password; without it, those that stand in the address.
    :param timeout: seconds that the server may be silent.
    :raises TransferError: it is no address of the web.
    """

    def __init__(
        self, url: str, ca_path: str | None = None, login: tuple[str, str] | None = None, timeout: float = 30
    ) -> None:
        parts = urlsplit(url)
        account, _at, host = parts.netloc.rpartition("@")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TransferError(f"{urlunsplit(parts._replace(netloc=host))[:200]!r} is no address of http or https")
        if login is None and account:
            user, _colon, password = account.partition(":")
            login = unquote(user), unquote(password)
        self._url = urlunsplit(parts._replace(netloc=host, fragment=""))
        self._http, self._login, self.label = _http.Http(timeout, ca_path), login, host

    def open(self, start: int, stop: int) -> t.Any:
        authorization = _registry.basic(*self._login) if self._login else ""
        try:
            return self._http.open(self._url, {"Range": f"bytes={start}-{stop - 1}"}, authorization)
        except _http.HttpError as error:
            raise _registry.told(error, f"the server {self.label}", self._login) from error


@dataclass(frozen=True)
class Staged:
    """A file that is whole, in the staging directory: to be renamed away, whereafter :meth:`Staging.discard` drops the
    rest. ``dir_fd`` is the staging directory's, open as long as the Staging is; ``name`` the file's in it.

    :ivar held_bytes: bytes that were here when the call began.
    :ivar fetched_bytes: bytes that came over the network in this call.
    :ivar origin: label of the origin that sent last, or "" where nothing came.
    """

    dir_fd: int
    name: str
    size: int
    fetched_bytes: int
    held_bytes: int = 0
    seconds: float = 0
    origin: str = ""
    hashed: bool = True


# --- the directory ---------------------------------------------------------------------------------------------------


def _hex(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
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
        name = f"{_hex(digest)}.lock"
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
        journal = _Journal.read(self.descriptor, _hex(digest))
        return journal.done if journal else 0

    def discard(self, digest: str) -> None:
        """Drop what is here of a file, and its journal."""
        for suffix in (".json", ".synced.json", ".part", ".new", ".synced.new"):
            with suppress(FileNotFoundError):
                os.unlink(_hex(digest) + suffix, dir_fd=self.descriptor)

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


class _Segment:
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
class _Patience:
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


class _Journal:
    """What is here of a file: ``<hex>.json`` beside ``<hex>.part``.

    A killed process leaves its writes in the kernel's page cache, so ``<hex>.json`` is true as long as the host runs.
    After a crash of the host it may tell of bytes that never reached the disk. Then ``<hex>.synced.json`` counts, which
    is written after a sync of the data, and synced itself. A journal that cannot be read, or that is of another
    version or size than the file, is not trusted: the transfer starts over.

    :ivar wrong: the digest that the file had when it was whole and wrong, once; "" before.
    :ivar wrong_from: the label of the origin that it came from then.
    :ivar patience: by an origin's label, what it has taken of the caller's patience so far. It goes over from call to
        call: a call may be shorter than the time after which an origin has stalled.
    """

    def __init__(self, size: int, segments: list[_Segment], wrong: str = "", wrong_from: str = "") -> None:
        self.size, self.segments, self.wrong, self.wrong_from = size, segments, wrong, wrong_from
        self.patience: dict[str, _Patience] = {}

    @property
    def done(self) -> int:
        return self.size - sum(segment.left for segment in self.segments)

    @classmethod
    def fresh(cls, size: int) -> _Journal:
        return cls(size, [_Segment(0, 0, size)])

    @classmethod
    def read(cls, directory: int, name: str) -> _Journal | None:
        """None where nothing is here that can be trusted."""
        try:
            size = os.stat(f"{name}.part", dir_fd=directory, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        boot = _boot()
        journal = cls._load(directory, f"{name}.json", size, boot) if boot else None
        return journal or cls._load(directory, f"{name}.synced.json", size, None)

    @classmethod
    def _load(cls, directory: int, name: str, size: int, boot: str | None) -> _Journal | None:
        """:param boot: the only run of the kernel that it may be of, or None for any."""
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            with open(handle, "rb") as stream:
                found = json.loads(stream.read(MIB))
            if found["version"] != _VERSION or found["size"] != size or boot not in (None, found["boot"]):
                return None
            segments = [_Segment(start, position, end) for start, position, end in found["segments"]]
            edges = [0, *(segment.end for segment in segments)]
            numbers = [number for segment in found["segments"] for number in segment]
            wrong, wrong_from = found["wrong"], str(found["wrong_from"])
            if (
                any(isinstance(number, bool) or not isinstance(number, int) for number in numbers)
                or [segment.start for segment in segments] != edges[:-1]
                or any(not segment.start <= segment.position <= segment.end for segment in segments)
                or edges[-1] != size
                or not (wrong == "" or _DIGEST.fullmatch(wrong))
            ):
                return None
            journal = cls(size, segments, wrong, wrong_from)
            if boot is not None:
                # Monotonic clocks begin anew at each boot.
                told = {str(label): _Patience(*map(float, taken)) for label, taken in found["patience"].items()}
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


# --- one file --------------------------------------------------------------------------------------------------------


class _GaveOut(Exception):
    """An origin that is asked no more in this call."""


class _Final(Exception):
    """A fault of one answer that would be the same the next time."""


class _File:
    """``<hex>.part``, sparse at its full size, and its journal.

    It is not allocated beforehand: on file systems that cannot, that would write all of it once more, and another
    program may fill the disk anyway. A disk that fills up is a fault that loses nothing.
    """

    def __init__(self, staging: Staging, digest: str, size: int) -> None:
        self._directory, self._name = staging.descriptor, _hex(digest)
        journal = _Journal.read(self._directory, self._name)
        if journal is None or journal.size != size:
            staging.discard(digest)
            journal = _Journal.fresh(size)
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


class _Hasher(threading.Thread):
    """Reads the file behind the frontier, so that its sha256 is there soon after its last byte is."""

    def __init__(self, file: _File) -> None:
        super().__init__(daemon=True)
        self._file, self._sha, self._ended = file, hashlib.sha256(), threading.Event()
        self.digest, self.error = "", t.cast("OSError | None", None)
        self.start()

    def run(self) -> None:
        position, size = 0, self._file.journal.size
        try:
            while position < size and not self._ended.is_set():
                count = min(self._file.frontier - position, MIB)
                if count <= 0:
                    self._ended.wait(_TICK_SECONDS)
                    continue
                data = os.pread(self._file.handle, count, position)
                if not data:
                    raise OSError(errno.EIO, "the staged file has become shorter")
                self._sha.update(data)
                position += len(data)
            self.digest = "sha256:" + self._sha.hexdigest() if position == size else ""
        except OSError as error:
            self.error = error

    def end(self) -> None:
        self._ended.set()
        self.join()


class _Lease:
    """One answer, and the thread that reads it. ``segment`` is None for the whole file from its start.

    :ivar alone: whether no other answer is being read, so that one without ranges may be read from its start.
    """

    def __init__(self, run: _Run, segment: _Segment, alone: bool) -> None:
        self.segment, self.alone = segment, alone
        self.guard = threading.Lock()
        self.revoked = False
        self.ended = False
        self.error: BaseException | None = None
        self.received = self.gained = 0
        self.began = self.last = self.window = self.marked = time.monotonic()
        self.window_received = self.marked_received = 0
        # Bytes per second, lately.
        self.rate = 0.0
        self.round = run.failures_counted
        self.thread = threading.Thread(target=self._read, args=(run,), daemon=True)
        self.thread.start()

    def revoke(self) -> None:
        with self.guard:
            self.revoked = True

    def _read(self, run: _Run) -> None:
        try:
            self._take(run)
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            run.wake.set()

    def _take(self, run: _Run) -> None:
        segment, size = self.segment, run.size
        start, stop = segment.position, segment.end
        response = run.origin.open(start, stop)
        try:
            if response.status == 206:
                told, last = _content_range(response, run.origin.label, start, stop)
                if told is not None and told != size:
                    raise _Final(f"it has {told} bytes there, and should have {size}")
                run.ranged = True
                run.wake.set()
                self._copy(run, response, start, last + 1, segment)
            else:
                length = response.headers.get("Content-Length") or ""
                if re.fullmatch("[0-9]{1,18}", length) and int(length) != size:
                    raise _Final(f"it has {length} bytes there, and should have {size}")
                run.ranged = False
                if not self.alone:
                    raise _registry.Unreachable("a range was answered with the whole file")
                self._copy(run, response, 0, size, None)
        finally:
            response.close()

    def _copy(self, run: _Run, response: t.Any, offset: int, stop: int, segment: _Segment | None) -> None:
        while offset < stop:
            data = response.read1(min(_BLOCK_BYTES, stop - offset))
            if not data:
                raise _registry.Unreachable(f"its answer broke off at byte {offset}, {stop - offset} before its end")
            with self.guard:
                if self.revoked:
                    return
                self.received += len(data)
                self.last = time.monotonic()
                gained = run.keep(offset, data, [segment] if segment else run.file.journal.segments)
                self.gained += gained
            offset += len(data)
            # The end of a segment may have been given to another meanwhile.
            if not any(left.left for left in ([segment] if segment else run.file.journal.segments)):
                return


def _content_range(response: t.Any, label: str, start: int, stop: int) -> tuple[int | None, int]:
    try:
        return _registry.content_range(response, label, start, stop)
    except _registry.RegistryError as error:
        raise _Final(str(error)) from error


class _Run:
    """One origin's part in a transfer: until all is here, it gives out, or the time is over."""

    def __init__(self, file: _File, origin: Origin, limits: Limits, clock: _Clock, report: _Report) -> None:
        self.file, self.origin, self._limits, self._clock, self._report = file, origin, limits, clock, report
        self.size = file.journal.size
        self.wake = threading.Event()
        # None until the first answer has told.
        self.ranged: bool | None = None
        self.failures_counted = 0
        self._taken = file.journal.patience.setdefault(origin.label, _Patience())
        self._looked = time.monotonic()
        self._allowed = limits.connections
        self._leases: list[_Lease] = []
        self._last_rate = 0.0
        self._unwritten = 0
        self.fetched = self._counted = self._gained = 0
        pieces = -(-self.size // max(1, limits.connections))
        self._part_bytes = max(MIB, min(limits.part_bytes, pieces))

    def keep(self, offset: int, data: bytes, segments: t.Sequence[_Segment]) -> int:
        """Write what is not here yet of ``data``, which lies at ``offset``; its bytes."""
        gained = 0
        for segment in segments:
            first, last = max(segment.position, offset), min(segment.end, offset + len(data))
            if first == segment.position and first < last:
                view = memoryview(data)[first - offset : last - offset]
                while view:
                    written = os.pwrite(self.file.handle, view, first)
                    view, first, gained = view[written:], first + written, gained + written
                    segment.position = first
        self._unwritten += gained
        self._gained += gained
        if self._unwritten >= _JOURNAL_BYTES:
            self.wake.set()
        return gained

    def go(self) -> None:
        """:raises _GaveOut: :raises Paused: :raises NoSpace: see :func:`fetch`."""
        journalled = synced = time.monotonic()
        leftover: list[_Lease] = []
        try:
            while self.file.journal.done < self.size:
                self._gather()
                now = time.monotonic()
                self._revoke_stalled(now)
                self._wait_for_the_origin(now)
                if self._clock.over(now):
                    raise Paused(self.file.journal.done, self.size)
                self._check_room()
                if self._unwritten >= _JOURNAL_BYTES or (self._unwritten and now - journalled > _JOURNAL_SECONDS):
                    self._journal()
                    journalled = now
                if now - synced > _SYNC_SECONDS:
                    self.file.start_sync()
                    synced = now
                self._report(self.file.journal.done, self.size)
                self.file.look()
                if now >= min(self._taken.not_before, now + MAX_RETRY_AFTER_SECONDS):
                    while self._start():
                        pass
                self.wake.wait(_TICK_SECONDS)
                self.wake.clear()
        finally:
            for lease in list(self._leases):
                lease.revoke()
                self._drop(lease)
                leftover.append(lease)
            self._taken.noted = time.monotonic()
            with suppress(OSError, NoSpace):
                self._journal()
            self.file.look()
            # Threads that are not stuck in a read end by themselves.
            for lease in leftover:
                lease.thread.join(0.05)

    def _journal(self) -> None:
        self._unwritten = 0
        try:
            self.file.write_journal()
        except OSError as error:
            self._full(error)
            raise

    def _full(self, error: BaseException | None) -> None:
        if isinstance(error, OSError) and error.errno in _FULL:
            left = self.size - self.file.journal.done
            raise NoSpace(left + self._limits.reserve_bytes, self._clock.staging.free_bytes) from error

    def _check_room(self) -> None:
        free = self._clock.staging.free_bytes
        if self._limits.reserve_bytes and free < self._limits.reserve_bytes:
            raise NoSpace(self.size - self.file.journal.done + self._limits.reserve_bytes, free)

    # --- leases ---

    def _start(self) -> bool:
        """Let one more connection begin, where one is allowed and something is left for it."""
        alone = not self._leases
        if len(self._leases) >= (self._allowed if self.ranged else 1):
            return False
        segment = self._unowned()
        if segment is None:
            return False
        self._leases.append(_Lease(self, segment, alone))
        return True

    def _unowned(self) -> _Segment | None:
        owned = {id(lease.segment) for lease in self._leases}
        segments = self.file.journal.segments
        for index, segment in enumerate(segments):
            if segment.left and id(segment) not in owned:
                if segment.left > self._part_bytes:
                    middle = segment.position + self._part_bytes
                    segments.insert(index + 1, _Segment(middle, middle, segment.end))
                    segment.end = middle
                return segment
        return self._stolen()

    def _stolen(self) -> _Segment | None:
        """The end of the part that would be here last, as much of it as the idle connection is faster."""
        if not self.ranged:
            return None
        lease = max(self._leases, key=lambda one: one.segment.left / max(one.rate, 1), default=None)
        if lease is None:
            return None
        age = time.monotonic() - lease.began
        with lease.guard:
            segment, rate = lease.segment, max(lease.rate, 1.0)
            if lease.revoked or lease.ended or segment.left < _STEAL_BYTES or segment.left / rate < _STEAL_SECONDS:
                return None
            kept = int(segment.left * rate / (rate + max(self._last_rate, rate)))
            if kept < LEAST_BYTES:
                # Once: where every answer takes long to begin, connections would take it from each other for ever.
                if segment.taken or age < self._limits.stall_seconds / 3:
                    return None
                segment.taken = lease.revoked = True
                self._drop(lease)
                return segment
            if age < _STEAL_SECONDS / 2:
                return None
            middle = segment.position + kept
            segments = self.file.journal.segments
            stolen = _Segment(middle, middle, segment.end)
            segments.insert(next(i for i, one in enumerate(segments) if one is segment) + 1, stolen)
            segment.end = middle
            return stolen

    def _drop(self, lease: _Lease) -> None:
        self._leases.remove(lease)
        self.fetched += lease.received

    def _gather(self) -> None:
        """What the connections that have ended leave behind."""
        for lease in [lease for lease in self._leases if lease.ended]:
            self._last_rate = lease.received / max(time.monotonic() - lease.began, 0.05)
            self._drop(lease)
            if lease.error is None or lease.gained >= LEAST_BYTES:
                self._taken.failures = 0
            if lease.error is not None:
                self._failed(lease, lease.error)

    def _revoke_stalled(self, now: float) -> None:
        """Give up single connections that are silent or too slow."""
        stall = self._limits.stall_seconds
        for lease in list(self._leases):
            with lease.guard:
                if lease.ended:
                    continue
                if now - lease.marked >= 1:
                    lease.rate = (lease.received - lease.marked_received) / (now - lease.marked)
                    lease.marked, lease.marked_received = now, lease.received
                slow = now - lease.last >= stall
                if now - lease.window >= stall:
                    slow = slow or lease.received - lease.window_received < LEAST_BYTES
                    lease.window, lease.window_received = now, lease.received
                lease.revoked = lease.revoked or slow
            if slow:
                self._drop(lease)
                self._taken.elapsed = self._taken.received = 0
                self._failed(lease, _registry.Unreachable(self._slow()))

    def _wait_for_the_origin(self, now: float) -> None:
        """The same for all connections together, over as many calls as it takes."""
        taken, passed = self._taken, now - self._looked
        self._looked = now
        if self._leases:
            taken.elapsed += passed
        received = self.fetched + sum(lease.received for lease in self._leases)
        taken.received += received - self._counted
        self._counted = received
        if self._gained >= LEAST_BYTES:
            # Bytes that came again, of a server that knows no ranges, are none gained.
            self._gained = taken.failures = 0
        if taken.received >= LEAST_BYTES:
            taken.elapsed = taken.received = 0
        elif taken.elapsed >= self._limits.stall_seconds:
            taken.elapsed = taken.received = 0
            leases = list(self._leases)
            for lease in leases:
                lease.revoke()
                self._drop(lease)
            # The first counts for all of them.
            for lease in leases:
                self._failed(lease, _registry.Unreachable(self._slow()))

    def _slow(self) -> str:
        return f"it sent less than {LEAST_BYTES} bytes in {self._limits.stall_seconds:g} seconds"

    def _failed(self, lease: _Lease, error: BaseException) -> None:
        self._full(error)
        if isinstance(error, (_registry.Unreachable, OSError, http.client.HTTPException, ValueError)):
            final = isinstance(error, _registry.Untrusted)
        elif isinstance(error, (_Final, _registry.RegistryError)):
            final = True
        else:
            raise error
        reason = str(error) or type(error).__name__
        if final:
            raise _GaveOut(reason) from error
        wait = getattr(error, "retry_after", None)
        if wait is not None and self._leases:
            # It serves the others: it may bound connections, and fewer will do.
            self._allowed = len(self._leases)
            return
        if lease.gained < LEAST_BYTES and lease.round == self.failures_counted:
            # Connections that fail together have failed once.
            self.failures_counted += 1
            self._taken.failures += 1
            self._taken.elapsed = self._taken.received = 0
            if self._taken.failures >= self._limits.attempts:
                raise _GaveOut(f"{reason}; {self._taken.failures:.0f} attempts in a row gained nothing") from error
        self._taken.not_before = time.monotonic() + _pause(self._limits, int(self._taken.failures), wait)


def _pause(limits: Limits, failures: int, retry_after: float | None) -> float:
    """Seconds before the next attempt, after so many in a row that gained nothing."""
    delay = min(MAX_BACKOFF_SECONDS, limits.backoff_seconds * 2.0 ** max(0, min(failures, 20) - 1))
    return max(delay * random.uniform(0.5, 1), min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))


class _Clock:
    """The time of a call, and the disk that it has."""

    def __init__(self, staging: Staging, seconds: float) -> None:
        self.staging, self.began = staging, time.monotonic()
        self._end = self.began + seconds if seconds else None

    def over(self, now: float) -> bool:
        return self._end is not None and now >= self._end

    @property
    def left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()


class _Report:
    """Tells the caller at most every half second."""

    def __init__(self, told: t.Callable[[int, int], None] | None) -> None:
        self._told, self._last = told, 0.0

    def __call__(self, done: int, total: int, now: bool = False) -> None:
        if self._told and (now or time.monotonic() - self._last >= _REPORT_SECONDS):
            self._last = time.monotonic()
            self._told(done, total)


def fetch(
    digest: str,
    size: int | None,
    origins: t.Sequence[Origin],
    staging: Staging,
    limits: Limits,
    report: t.Callable[[int, int], None] | None = None,
) -> Staged:
    """Bring a file into ``staging``, from where an earlier call left it.

    Origins are asked in order: the next one when one has given out. What is whole and has another sha256 is discarded,
    and asked for once more from its start, of the next origin where there is one. The lock of the file is taken unless
    the caller holds it.

    :param size: its bytes, or None where they are to be asked of an origin.
    :param report: told the bytes that are here and the file's, every half second while they come.
    :raises Paused: ``limits.seconds`` are over.
    :raises Mismatch: the second time had another sha256, too.
    :raises NoSpace: before the first byte, or when the disk fills up or its reserve is reached.
    :raises Busy: another process is at it.
    :raises TransferError: no origin gives it; each is named with its reason.
    """
    _hex(digest)
    if not staging.locked(digest):
        with staging.lock(digest):
            return fetch(digest, size, origins, staging, limits, report)
    if not origins:
        raise TransferError(f"{digest}: nothing is named where it could be had")
    clock = _Clock(staging, limits.seconds)
    if size is None:
        journal = _Journal.read(staging.descriptor, _hex(digest))
        if journal and journal.done == journal.size:
            size = journal.size
        else:
            size, origins = _size(digest, origins, limits)
    try:
        return _fetched(digest, size, origins, staging, limits, clock, report)
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(size - staging.held(digest) + limits.reserve_bytes, staging.free_bytes) from error
        raise TransferError(f"{digest}: {staging.path} cannot be used: {error.strerror}") from error


def _fetched(
    digest: str,
    size: int,
    origins: t.Sequence[Origin],
    staging: Staging,
    limits: Limits,
    clock: _Clock,
    report: t.Callable[[int, int], None] | None,
) -> Staged:
    """:func:`fetch`, with the lock held and the size known."""
    fetched, first = 0, staging.held(digest)
    while True:
        held = staging.held(digest)
        free = staging.free_bytes
        if size - held + limits.reserve_bytes > free and held < size:
            raise NoSpace(size - held + limits.reserve_bytes, free)
        file = _File(staging, digest, size)
        hasher: _Hasher | None = None
        try:
            # Across calls that are bounded, the file would be read once for each.
            hasher = _Hasher(file) if not limits.seconds else None
            wrong, wrong_from = file.journal.wrong, file.journal.wrong_from
            came, label = _bring(digest, file, _rotated(origins, wrong_from), limits, clock, _Report(report))
            fetched += came
            os.fsync(file.handle)
            file.start_sync()
            left = clock.left
            if came and left is not None and size / _HASH_BYTES_PER_SECOND > max(left, 0.0):
                raise Paused(size, size)
            hasher = hasher or _Hasher(file)
            while hasher.is_alive():
                hasher.join(_REPORT_SECONDS)
                if report:
                    report(size, size)
            if hasher.error is not None:
                raise TransferError(f"{digest}: what is here of it cannot be read: {hasher.error.strerror}")
            if hasher.digest == digest:
                seconds = time.monotonic() - clock.began
                return Staged(staging.descriptor, f"{_hex(digest)}.part", size, fetched, first, seconds, label)
        finally:
            if hasher is not None:
                hasher.end()
            file.close()
        staging.discard(digest)
        if wrong:
            raise Mismatch(digest, hasher.digest, [wrong_from, label])
        # A call that is paused in the second round must not begin a third.
        again = _File(staging, digest, size)
        again.journal.wrong, again.journal.wrong_from = hasher.digest, label
        again.write_journal()
        again.close()


def _rotated(origins: t.Sequence[Origin], last: str) -> list[Origin]:
    """The origins, from the one after ``last``."""
    labels = [origin.label for origin in origins]
    start = labels.index(last) + 1 if last in labels else 0
    return [*origins[start:], *origins[:start]]


def _bring(
    digest: str, file: _File, origins: t.Sequence[Origin], limits: Limits, clock: _Clock, report: _Report
) -> tuple[int, str]:
    """Fetch what is not here, from one origin after the other; the bytes that came, and the last origin's label."""
    reasons, fetched, label = [], 0, ""
    # Before the first byte comes, so that a file without a journal means nothing here.
    file.write_journal()
    for origin in origins:
        if file.journal.done == file.journal.size:
            break
        taken = file.journal.patience.get(origin.label)
        if taken and taken.failures >= limits.attempts:
            reasons.append(f"{origin.label}: it gave out before")
            continue
        label = origin.label
        run = _Run(file, origin, limits, clock, report)
        try:
            run.go()
        except _GaveOut as error:
            reasons.append(f"{origin.label}: {error}")
            file.journal.patience[origin.label].failures = limits.attempts
        finally:
            fetched += run.fetched
    if file.journal.done < file.journal.size:
        # The next call is somebody's wish to try again.
        file.journal.patience.clear()
        file.write_journal()
        raise TransferError(
            f"{digest}: {file.journal.done} of {file.journal.size} bytes are here and stay. " + "; ".join(reasons)
        )
    report(file.journal.done, file.journal.size, now=True)
    return fetched, label


def _size(digest: str, origins: t.Sequence[Origin], limits: Limits) -> tuple[int, t.Sequence[Origin]]:
    """The size that the first origin tells that tells one; and that one with those after it. None is waited for long
    where others are left."""
    reasons = []
    for index, origin in enumerate(origins):
        attempts = limits.attempts if index == len(origins) - 1 else min(limits.attempts, 2)
        try:
            size = persistently(functools.partial(_told_size, origin), replace(limits, attempts=attempts))
            return size, origins[index:]
        except _registry.RegistryError as error:
            reasons.append(f"{origin.label}: {error}")
    raise TransferError(f"{digest}: its size is not known. " + "; ".join(reasons))


def _told_size(origin: Origin) -> int:
    response = origin.open(0, 1)
    try:
        if response.status == 206:
            size = _registry.content_range(response, origin.label, 0, 1)[0]
            if size is not None:
                return size
        length = response.headers.get("Content-Length") or ""
        if response.status == 200 and re.fullmatch("[0-9]{1,18}", length):
            return int(length)
    finally:
        response.close()
    raise _registry.RegistryError("it does not tell the size")


_T = t.TypeVar("_T")


def persistently(act: t.Callable[[], _T], limits: Limits) -> _T:
    """What ``act`` gives, asked again while it raises :class:`_registry.Unreachable`, with the pauses and the attempts
    of a transfer, whatever the time of the call. For a manifest, say.

    :raises _registry.RegistryError: what ``act`` raised last.
    """
    attempt = 1
    while True:
        try:
            return act()
        except _registry.Unreachable as error:
            if isinstance(error, _registry.Untrusted) or attempt >= limits.attempts:
                raise
            time.sleep(_pause(limits, attempt, error.retry_after))
        attempt += 1
