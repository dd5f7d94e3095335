# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading files for their sha256 in turns: the blobs of a store, each held against its name, and other files."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _digest
from ansible_collections.onprem.llm.plugins.module_utils._ollama_store import Blob, Store, StoreError
from ansible_collections.onprem.llm.plugins.module_utils._turn import Pending, Turn


class Verification:
    """What is known of the blobs of a store.

    :param resume: what :meth:`resume` gave at the end of the turn before.
    :ivar good: digests of the blobs that have the sha256 of their name.
    :ivar damaged: digests of the others, and the sha256 that they have, None where they are no file.
    """

    def __init__(self, store: Store, turn: Turn, resume: t.Mapping[str, t.Any]) -> None:
        self._store, self._turn = store, turn
        self.good: set[str] = set(resume.get("verified") or ())
        self.damaged: dict[str, str | None] = dict(resume.get("damaged") or {})
        # The blob that is being read: its digest, what tells its file from another, and the state of its sha256.
        self._reading: list[t.Any] = list(resume.get("reading") or ())

    def resume(self) -> dict[str, t.Any]:
        """What the next turn need not find out again."""
        return {"verified": sorted(self.good), "damaged": self.damaged, "reading": self._reading}

    def mended(self, digests: t.Iterable[str]) -> None:
        """Note the blobs that were put in place, their sha256 checked."""
        for digest in digests:
            self.good.add(digest)
            self.damaged.pop(digest, None)

    def read(self, blobs: t.Iterable[Blob]) -> None:
        """Read those that are not known yet.

        :raises Pending: the turn is over.
        """
        sizes = {blob.digest: blob.size for blob in blobs}
        unread = [digest for digest in sizes if digest not in self.good and digest not in self.damaged]
        total = sum(sizes.values())
        done = total - sum(sizes[digest] for digest in unread)
        if unread and self._turn.announce:
            raise Pending("verify", done, total)
        for digest in unread:
            found, taken = self._hashed(digest)
            if taken is not None:
                raise Pending("verify", done + taken, total)
            if found == digest:
                self.good.add(digest)
            else:
                self.damaged[digest] = found
            done += sizes[digest]

    def _hashed(self, digest: str) -> tuple[str | None, int | None]:
        """A blob's sha256, or how many of its bytes were taken when the turn was over."""
        identity = list(self._store.identity(digest) or ())
        goes_on = self._reading[:2] == [digest, identity]
        hasher = _digest.Hasher(self._reading[2] if goes_on else "")
        self._reading = []
        try:
            with self._store.opened(digest) as stream:
                if hasher.read(stream, lambda: self._turn.left > 0):
                    return hasher.digest, None
        except (FileNotFoundError, StoreError):
            return None, None
        self._reading = [digest, identity, hasher.dump()]
        return None, hasher.position


class FileDigests:
    """The sha256 of files of this host that are no blobs, taken once of each.

    :param known: what :attr:`known` was at the end of the turn before.
    :ivar known: by path, what tells the file from another or from what it becomes, its digest, and where that is not
        taken yet the state of the hash.
    """

    def __init__(self, turn: Turn, known: t.Mapping[str, t.Any]) -> None:
        self._turn, self.known = turn, dict(known)

    def of(self, path: str, stream: t.BinaryIO) -> str:
        """The digest of the file that is open.

        :raises Pending: the turn is over.
        :raises OSError: it cannot be read.
        """
        about = os.fstat(stream.fileno())
        identity = [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        before, digest, state = self.known.get(path) or ([], "", "")
        if before == identity and digest:
            return str(digest)
        hasher = _digest.Hasher(str(state) if before == identity else "")
        if not hasher.read(stream, lambda: self._turn.left > 0):
            self.known[path] = [identity, "", hasher.dump()]
            raise Pending("verify", hasher.position, about.st_size)
        self.known[path] = [identity, hasher.digest, ""]
        return hasher.digest
