# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's turn at long work: how long it may last, what it brought, and where the work stands when it is over.

The action plugins of ``plugin_utils/_turns.py`` call a module until nothing is pending. What a turn brought stays, and
the next goes on from there.
"""

from __future__ import annotations

import time
import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ansible_collections.onprem.llm.plugins.module_utils import _transfer

# A turn that is over asks for so many seconds still, so that whoever transfers tells how far it is.
_LEAST_SECONDS = 0.1


class Pending(Exception):
    """The turn is over, or the work is announced before its first byte; bytes are those of all of it.

    :ivar phase: ``announced``, ``transfer``, ``verify``, ``push``, or what is waited for.
    """

    def __init__(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        super().__init__(f"{phase}: {done_bytes} of {total_bytes} bytes are here")
        self.phase, self.done_bytes, self.total_bytes = phase, done_bytes, total_bytes

    def result(self, resume: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """As a module returns it.

        :param resume: what the next call is to be given.
        """
        return {
            "phase": self.phase,
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
            "resume": dict(resume),
        }


@dataclass
class Account:
    """What was, or would be, transferred. Sizes in bytes; held is what was here before.

    Fetched is what was read of the network, so it is more than the rest where something came twice: of a server that
    knows no ranges, or after wrong bytes. What was on its way to a connection that was closed is in nobody's account.
    """

    total_bytes: int = 0
    held_bytes: int = 0
    fetched_bytes: int = 0
    free_bytes: int | None = None
    seconds: float = 0.0
    origin: str | None = None

    def result(self) -> dict[str, t.Any]:
        return dict(vars(self), seconds=round(self.seconds, 3))


@dataclass
class Turn:
    """How long this call may last (``limits.seconds``, 0 for ever) from now on, and how it is made.

    :ivar announce: whether to hand back before the first byte.
    """

    limits: _transfer.Limits
    announce: bool = False
    account: Account = field(default_factory=Account)
    _start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds; infinite without a bound."""
        if not self.limits.seconds:
            return float("inf")
        return max(0.0, self.limits.seconds - (time.monotonic() - self._start))

    def bounded(self) -> _transfer.Limits:
        """The limits of a transfer in what is left of the turn."""
        return self.limits if not self.limits.seconds else replace(self.limits, seconds=max(_LEAST_SECONDS, self.left))

    @contextmanager
    def timed(self) -> t.Iterator[None]:
        """Put the time of what is done inside down to the account."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.account.seconds += time.monotonic() - start

    def fetch(
        self,
        digest: str,
        size: int | None,
        origins: t.Sequence[_transfer.Origin],
        staging: _transfer.Staging,
        done: int,
        total: int | None,
    ) -> _transfer.Staged:
        """:func:`_transfer.fetch` in what is left of the turn, put down to the account.

        :param done: bytes of the work that are done without this file, of ``total``. The pass of sha256 is told by the
            file's own bytes.
        :raises Pending: the turn is over.
        :raises TransferError: see there.
        """
        try:
            staged = _transfer.fetch(digest, size, origins, staging, self.bounded())
        except _transfer.Paused as paused:
            self.account.fetched_bytes += paused.fetched
            if paused.phase == "verify":
                raise Pending("verify", paused.hashed, paused.total) from None
            raise Pending("transfer", done + paused.done, total or paused.total) from None
        self.account.fetched_bytes += staged.fetched_bytes
        return staged
