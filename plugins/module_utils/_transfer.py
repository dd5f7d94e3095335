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

import array
import errno
import fcntl
import functools
import hashlib
import http.client
import math
import os
import random
import re
import termios
import threading
import time
import typing as t
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _http, _registry, _repository
from ansible_collections.onprem.llm.plugins.module_utils._staging import (
    Busy,
    File,
    Journal,
    Patience,
    Segment,
    Staging,
    TransferError,
    hexadecimal,
)

__all__ = [
    "Busy",
    "Limits",
    "Mismatch",
    "NoSpace",
    "Origin",
    "Paused",
    "RegistryOrigin",
    "Staged",
    "Staging",
    "TransferError",
    "UrlOrigin",
    "fetch",
    "persistently",
    "told_size",
]

MIB = 2**20
# The floor: a connection that brings less than this in ``stall_seconds`` has stalled, however evenly it drips, and an
# attempt that brought less has gained nothing. With 30 seconds, 2 KiB/s.
LEAST_BYTES = 2**16
# Retry-After is honoured up to here, and so is the time between two attempts.
MAX_RETRY_AFTER_SECONDS = 120.0
MAX_BACKOFF_SECONDS = 30.0

_BLOCK_BYTES = 2**18
# What a kill may cost: the journal is behind by no more than this, or by half a second.
_JOURNAL_BYTES = MIB
_JOURNAL_SECONDS = 0.5
# What a power cut may cost: beyond it, the data itself may not have reached the disk.
_SYNC_SECONDS = 10.0
_TICK_SECONDS = 0.1
# When the time of a call is over, what is being read is read to its end, for so long at most, and for no longer than
# this share of the call. A connection that is closed earlier takes along what the kernels of both sides hold of it; so
# while bytes wait here to be read, it may take longer. They have stopped to wait when none did for a moment.
_ENDING_SECONDS, _ENDING_SHARE, _ENDING_WAITING_SECONDS, _DRY_SECONDS = 5.0, 0.5, 60.0, 0.5
_REPORT_SECONDS = 0.5
# A part is divided between a connection and an idle one when it would take longer than this, down to this size.
_STEAL_SECONDS = 3.0
_STEAL_BYTES = 2 * MIB
# Of a call with an end, the first request of a connection asks for no more, as long as nobody knows how fast it is.
_FIRST_BYTES = 4 * MIB
# Reckoned for a pass of sha256 over a file; measured are 300 to 2000 MB/s. Decides only whether to hand back before it
# where it cannot be taken in several calls.
_HASH_BYTES_PER_SECOND = 250e6

# A call that is over goes on with the pass for so long, so that small files are read in one.
_HASH_SECONDS = 1.0

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    :ivar phase: ``transfer``, or ``verify`` where all bytes are here and their sha256 is being taken.
    :ivar hashed: bytes of which it is taken.
    :ivar fetched: bytes that came over the network in this call.
    """

    def __init__(self, done: int, total: int, hashed: int = 0) -> None:
        super().__init__(f"{done} of {total} bytes are here, and the sha256 of {hashed} is taken")
        self.done, self.total, self.hashed, self.fetched = done, total, hashed, 0
        self.phase = "verify" if total and done == total else "transfer"


@dataclass(frozen=True)
class Limits:
    """
    :param connections: ranges that are fetched at a time.
    :param part_bytes: bytes that one request asks for at most.
    :param stall_seconds: a connection that brings no byte for so long, or less than ``LEAST_BYTES``, is given up.
    :param attempts: attempts in a row that gain nothing, after which an origin has given out.
    :param seconds: time of this call, 0 for no bound. Waiting counts. What is being read then is read to its end where
        that takes no more than half as long, and 5 s; and as long as it takes to read what has come already.
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

        :raises _repository.RegistryError: Unreachable may be tried again, others are final.
        """


class RegistryOrigin:
    """A blob of a registry's repository."""

    def __init__(self, client: _registry.Client, repository: _repository.Repository, digest: str) -> None:
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
    :ivar origin: label of the origin that sent last.
    """

    dir_fd: int
    name: str
    size: int
    fetched_bytes: int
    held_bytes: int = 0
    seconds: float = 0
    origin: str = ""
    hashed: bool = True


# --- one file --------------------------------------------------------------------------------------------------------


class _GaveOut(Exception):
    """An origin that is asked no more in this call."""


class _Final(Exception):
    """A fault of one answer that would be the same the next time."""


class _Hasher(threading.Thread):
    """Reads the file behind the frontier, so that its sha256 is there soon after its last byte is."""

    def __init__(self, file: File) -> None:
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

    def __init__(self, run: _Run, segment: Segment, alone: bool) -> None:
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
        self._response: t.Any = None
        self._piled_up = -math.inf
        self.thread = threading.Thread(target=self._read, args=(run,), daemon=True)
        self.thread.start()

    def revoke(self) -> None:
        with self.guard:
            self.revoked = True

    def look(self, now: float) -> int:
        """Bytes that have come and were not read yet, as the kernel counts them."""
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._response.fileno(), termios.FIONREAD, count)
        except (AttributeError, OSError, ValueError):
            # There is no answer yet, or none any more.
            return 0
        if count[0] >= LEAST_BYTES:
            self._piled_up = now
        return count[0]

    @property
    def read_slowly(self) -> bool:
        """Whether more comes than is read. One look may meet the moment after a read, when nothing waits."""
        now = time.monotonic()
        return self.look(now) >= LEAST_BYTES or now - self._piled_up < 3 * _TICK_SECONDS

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
        response = self._response = run.origin.open(start, stop)
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

    def _copy(self, run: _Run, response: t.Any, offset: int, stop: int, segment: Segment | None) -> None:
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
    except _repository.RegistryError as error:
        raise _Final(str(error)) from error


class _Run:
    """One origin's part in a transfer: until all is here, it gives out, or the time is over."""

    def __init__(self, file: File, origin: Origin, limits: Limits, clock: _Clock, report: _Report) -> None:
        self.file, self.origin, self._limits, self._clock, self._report = file, origin, limits, clock, report
        self.size = file.journal.size
        self.wake = threading.Event()
        # None until the first answer has told.
        self.ranged: bool | None = None
        self.failures_counted = 0
        self._taken = file.journal.patience.setdefault(origin.label, Patience())
        self._looked = time.monotonic()
        self._allowed = limits.connections
        self._leases: list[_Lease] = []
        self._last_rate = 0.0
        self._unwritten = 0
        self.fetched = self._counted = self._gained = 0
        pieces = -(-self.size // max(1, limits.connections))
        self._part_bytes = max(MIB, min(limits.part_bytes, pieces))

    def keep(self, offset: int, data: bytes, segments: t.Sequence[Segment]) -> int:
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
        came = -_DRY_SECONDS
        leftover: list[_Lease] = []
        try:
            while self.file.journal.done < self.size:
                self._gather()
                now = time.monotonic()
                self._revoke_stalled(now)
                self._wait_for_the_origin(now)
                ending = self._clock.over(now)
                waiting = [lease.look(now) for lease in self._leases]
                if ending and any(waiting):
                    came = now
                if ending and (not self._leases or self._clock.ended(now, now - came < _DRY_SECONDS)):
                    break
                self._check_room()
                if self._unwritten >= _JOURNAL_BYTES or (self._unwritten and now - journalled > _JOURNAL_SECONDS):
                    self._journal()
                    journalled = now
                if now - synced > _SYNC_SECONDS:
                    self.file.start_sync()
                    synced = now
                self._report(self.file.journal.done, self.size)
                self.file.look()
                if not ending and now >= min(self._taken.not_before, now + MAX_RETRY_AFTER_SECONDS):
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
        # Counted now, since connections bring bytes until they are revoked.
        if self.file.journal.done < self.size:
            raise Paused(self.file.journal.done, self.size)

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

    def _unowned(self) -> Segment | None:
        owned = {id(lease.segment) for lease in self._leases}
        segments = self.file.journal.segments
        for index, segment in enumerate(segments):
            if segment.left and id(segment) not in owned:
                wanted = self._worth_asking()
                if segment.left > wanted:
                    middle = segment.position + wanted
                    segments.insert(index + 1, Segment(middle, middle, segment.end))
                    segment.end = middle
                return segment
        return self._stolen()

    def _worth_asking(self) -> int:
        """Bytes of the next request: a part, or what a connection brings in the time that the call still has."""
        left = self._clock.left
        if left is None:
            return self._part_bytes
        in_time = int(left * self._last_rate) if self._last_rate else _FIRST_BYTES
        return max(MIB, min(self._part_bytes, in_time))

    def _stolen(self) -> Segment | None:
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
            if lease.read_slowly:
                # Another connection would bring the same bytes once more.
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
            stolen = Segment(middle, middle, segment.end)
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
        elif isinstance(error, (_Final, _repository.RegistryError)):
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

    def ended(self, now: float, waiting: bool) -> bool:
        """Whether what is being read has had its time, too.

        :param waiting: whether bytes of it have come and wait to be read.
        """
        if self._end is None:
            return False
        usual = min(_ENDING_SECONDS, _ENDING_SHARE * (self._end - self.began))
        return now >= self._end + (_ENDING_WAITING_SECONDS if waiting else usual)

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
    hexadecimal(digest)
    if not staging.locked(digest):
        with staging.lock(digest):
            return fetch(digest, size, origins, staging, limits, report)
    if not origins:
        raise TransferError(f"{digest}: nothing is named where it could be had")
    clock = _Clock(staging, limits.seconds)
    if size is None:
        journal = Journal.read(staging.descriptor, hexadecimal(digest))
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
        file = File(staging, digest, size)
        hasher: _Hasher | None = None
        try:
            # Across calls that are bounded, the file would be read once for each.
            hasher = _Hasher(file) if not limits.seconds else None
            wrong, wrong_from = file.journal.wrong, file.journal.wrong_from
            came, label = _bring(digest, file, _rotated(origins, wrong_from), limits, clock, _Report(report))
            fetched += came
            os.fsync(file.handle)
            file.start_sync()
            found = _awaited(hasher, digest, size, report) if hasher else _hashed(file, digest, clock, came > 0)
            if found == digest:
                seconds = time.monotonic() - clock.began
                return Staged(staging.descriptor, f"{hexadecimal(digest)}.part", size, fetched, first, seconds, label)
        except Paused as paused:
            paused.fetched += fetched
            raise
        finally:
            if hasher is not None:
                hasher.end()
            file.close()
        staging.discard(digest)
        if wrong:
            raise Mismatch(digest, found, [wrong_from, label])
        # A call that is paused in the second round must not begin a third.
        again = File(staging, digest, size)
        again.journal.wrong, again.journal.wrong_from = found, label
        again.write_journal()
        again.close()


def _awaited(hasher: _Hasher, digest: str, size: int, report: t.Callable[[int, int], None] | None) -> str:
    """The file's digest, when the thread that reads behind the transfer has read all of it."""
    while hasher.is_alive():
        hasher.join(_REPORT_SECONDS)
        if report:
            report(size, size)
    if hasher.error is not None:
        raise _unreadable(digest, hasher.error)
    return hasher.digest


def _hashed(file: File, digest: str, clock: _Clock, came: bool) -> str:
    """The digest of a file that is whole, taken in as many calls as it takes. Nothing is read before all is here: what
    the disk lost meanwhile would not be found.

    :param came: whether this call brought bytes of it.
    :raises Paused: the time is over.
    """
    size, journal = file.journal.size, file.journal
    hasher = _digest.Hasher(journal.hashed)
    left = clock.left
    if not hasher.can_rest and came and left is not None and size / _HASH_BYTES_PER_SECOND > max(left, 0.0):
        raise Paused(size, size)
    least = time.monotonic() + _HASH_SECONDS
    try:
        with open(os.dup(file.handle), "rb") as stream:
            done = hasher.read(stream, lambda: time.monotonic() < least or not clock.over(time.monotonic()))
    except OSError as error:
        raise _unreadable(digest, error) from error
    journal.hashed = hasher.dump()
    file.write_journal()
    if not done:
        raise Paused(size, size, hasher.position)
    return hasher.digest


def _unreadable(digest: str, error: OSError) -> TransferError:
    return TransferError(f"{digest}: what is here of it cannot be read: {error.strerror}")


def _rotated(origins: t.Sequence[Origin], last: str) -> list[Origin]:
    """The origins, from the one after ``last``."""
    labels = [origin.label for origin in origins]
    start = labels.index(last) + 1 if last in labels else 0
    return [*origins[start:], *origins[:start]]


def _bring(
    digest: str, file: File, origins: t.Sequence[Origin], limits: Limits, clock: _Clock, report: _Report
) -> tuple[int, str]:
    """Fetch what is not here, from one origin after the other; the bytes that came, and the last origin's label.

    :raises Paused: :raises NoSpace: :raises TransferError: see :func:`fetch`.
    """
    reasons, fetched = [], 0
    # Before the first byte comes, so that a file without a journal means nothing here.
    file.write_journal()
    for origin in origins:
        if file.journal.done == file.journal.size:
            break
        taken = file.journal.patience.get(origin.label)
        if taken and taken.failures >= limits.attempts:
            reasons.append(f"{origin.label}: it gave out before")
            continue
        file.journal.sender = origin.label
        run = _Run(file, origin, limits, clock, report)
        try:
            run.go()
        except _GaveOut as error:
            reasons.append(f"{origin.label}: {error}")
            file.journal.patience[origin.label].failures = limits.attempts
        except Paused as paused:
            paused.fetched = fetched + run.fetched
            raise
        fetched += run.fetched
    if file.journal.done < file.journal.size:
        # The next call is somebody's wish to try again.
        file.journal.patience.clear()
        file.write_journal()
        raise TransferError(
            f"{digest}: {file.journal.done} of {file.journal.size} bytes are here and stay. " + "; ".join(reasons)
        )
    report(file.journal.done, file.journal.size, now=True)
    return fetched, file.journal.sender


def _size(digest: str, origins: t.Sequence[Origin], limits: Limits) -> tuple[int, t.Sequence[Origin]]:
    """The size that the first origin tells that tells one; and that one with those after it. None is waited for long
    where others are left."""
    reasons = []
    for index, origin in enumerate(origins):
        attempts = limits.attempts if index == len(origins) - 1 else min(limits.attempts, 2)
        try:
            size = persistently(functools.partial(told_size, origin), replace(limits, attempts=attempts))
            return size, origins[index:]
        except _repository.RegistryError as error:
            reasons.append(f"{origin.label}: {error}")
    raise TransferError(f"{digest}: its size is not known. " + "; ".join(reasons))


def told_size(origin: Origin) -> int:
    """Bytes of the file, as the origin tells them.

    :raises _repository.RegistryError: it does not, or is not reached.
    """
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
    raise _repository.RegistryError("it does not tell the size")


_T = t.TypeVar("_T")


def persistently(act: t.Callable[[], _T], limits: Limits) -> _T:
    """What ``act`` gives, asked again while it raises :class:`_registry.Unreachable`, with the pauses and the attempts
    of a transfer, whatever the time of the call. For a manifest, say.

    :raises _repository.RegistryError: what ``act`` raised last.
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
