# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a host goes into a backup, and how it comes back.

A backup is a gzip'd tar whose first member, ``manifest.json``, says what the others are; each is ``files/PLACE/PATH``.
A place is a name for a file or directory of the host, so that what it leads to may differ where it comes back.
"""

from __future__ import annotations

import grp
import io
import json
import os
import pwd
import re
import shutil
import stat
import tarfile
import typing as t
from contextlib import suppress
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _disk

SCHEMA = 1
MANIFEST = "manifest.json"

_MAX_MANIFEST_BYTES = 2**24
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Room for what the host itself writes meanwhile.
RESERVE_BYTES = 64 * 2**20


class BackupError(Exception):
    """The backup cannot be made or taken in; the message says why and what would be right."""


@dataclass(frozen=True)
class Place:
    """A file or directory that is backed up under a name.

    :arg match: of a directory, only what lies at a path (relative to it) that this pattern finds.
    """

    name: str
    path: str
    match: str = ""


# A place as modules take it.
PLACE: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "match": {"type": "str", "default": ""},
}


@dataclass(frozen=True)
class Entry:
    """One file as the manifest has it. ``path`` is relative to the place, and empty where that is a file itself."""

    place: str
    path: str
    size: int
    sha256: str
    mode: int
    owner: str
    group: str
    mtime: int

    @property
    def member(self) -> str:
        return "/".join(part for part in ("files", self.place, self.path) if part)


def _named(number: int, lookup: t.Callable[[int], t.Any]) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def files(places: t.Iterable[Place]) -> t.Iterator[tuple[Place, str, str]]:
    """Every regular file of the places: place, path below it, path on the host. Links are left where they are.

    :raises BackupError: a place cannot be read.
    """
    for place in places:
        if os.path.isfile(place.path) and not os.path.islink(place.path):
            yield place, "", place.path
            continue

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise BackupError(f"{error.filename} cannot be read: {error.strerror}") from error

        for directory, below, names in os.walk(place.path, onerror=refuse):
            below.sort()
            for name in sorted(names):
                full = os.path.join(directory, name)
                relative = os.path.relpath(full, place.path)
                with suppress(FileNotFoundError):
                    if stat.S_ISREG(os.lstat(full).st_mode) and re.search(place.match, relative):
                        yield place, relative, full


def sizes(places: t.Sequence[Place]) -> dict[str, int]:
    """Bytes by place, of those that hold anything."""
    found: dict[str, int] = {}
    for place, _relative, full in files(places):
        found[place.name] = found.get(place.name, 0) + os.path.getsize(full)
    return found


def pack(path: str, places: t.Sequence[Place], about: t.Mapping[str, t.Any]) -> list[Entry]:
    """Write an archive that its owner alone can read.

    :param about: what the manifest says beside the files, such as host and version.
    :raises BackupError: there is no room for it.
    :raises OSError: a file cannot be read or written.
    """
    # The files once as they are, and at worst as much again in the archive.
    short = _shortage({os.path.dirname(path): 2 * sum(sizes(places).values())})
    if short:
        raise BackupError(short)
    entries: list[Entry] = []
    work = path + ".part"
    try:
        # Files may change while they are read, so each is read once, for its content and its digest.
        with open(os.open(work, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as body:
            offsets: list[int] = []
            for place, relative, full in files(places):
                with open(full, "rb") as source:
                    state = os.fstat(source.fileno())
                    offsets.append(body.tell())
                    digest = _digest.of_stream(source, body)
                entries.append(
                    Entry(
                        place.name,
                        relative,
                        body.tell() - offsets[-1],
                        digest[7:],
                        stat.S_IMODE(state.st_mode),
                        _named(state.st_uid, pwd.getpwuid),
                        _named(state.st_gid, grp.getgrgid),
                        int(state.st_mtime),
                    )
                )
            _bind(path, body, offsets, entries, about)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(work)
    return entries


def _bind(
    path: str, body: t.BinaryIO, offsets: t.Sequence[int], entries: t.Sequence[Entry], about: t.Mapping[str, t.Any]
) -> None:
    manifest = {**about, "schema": SCHEMA, "files": [vars(entry) for entry in entries]}
    text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(target, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        first = tarfile.TarInfo(MANIFEST)
        first.size, first.mode = len(text), 0o600
        archive.addfile(first, io.BytesIO(text))
        for offset, entry in zip(offsets, entries):
            member = tarfile.TarInfo(entry.member)
            member.size, member.mode, member.mtime = entry.size, 0o600, entry.mtime
            body.seek(offset)
            archive.addfile(member, body)


# --- back ------------------------------------------------------------------------------------------------------------


def _entry(raw: t.Mapping[str, t.Any]) -> Entry:
    entry = Entry(**raw)
    parts = entry.path.split("/") if entry.path else []
    good = (
        all(isinstance(text, str) for text in (entry.place, entry.path, entry.owner, entry.group))
        and all(part not in ("", ".", "..") for part in [entry.place, *parts])
        and "/" not in entry.place
        and all(isinstance(number, int) and number >= 0 for number in (entry.size, entry.mode, entry.mtime))
        and entry.mode & ~0o777 == 0
        and isinstance(entry.sha256, str)
        and _DIGEST.fullmatch(entry.sha256)
    )
    if not good:
        raise BackupError(f"its manifest has an entry that no backup has: {str(dict(raw))[:200]}")
    return entry


class Backup:
    """An archive that was read and held against its manifest.

    :raises BackupError: it is none, is damaged, or another schema's.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:gz") as archive:
                first = archive.next()
                stream = archive.extractfile(first) if first and first.isreg() and first.name == MANIFEST else None
                if stream is None or first is None or first.size > _MAX_MANIFEST_BYTES:
                    raise BackupError("it does not begin with manifest.json, so it is no backup of backup.yml")
                self.about: dict[str, t.Any] = json.loads(stream.read())
                schema = self.about.get("schema") if isinstance(self.about, dict) else None
                if schema != SCHEMA:
                    raise BackupError(
                        f"its schema is {schema}, and this collection reads {SCHEMA}; restore it with the version "
                        f"that made it"
                    )
                self.entries = [_entry(raw) for raw in self.about["files"]]
                wanted = {entry.member: entry for entry in self.entries}
                for member in list(archive)[1:]:
                    entry = wanted.pop(member.name, None)
                    content = archive.extractfile(member) if entry and member.isreg() else None
                    if entry is None or content is None:
                        raise BackupError(f"it holds {member.name}, which its manifest does not name")
                    if _digest.of_stream(content)[7:] != entry.sha256:
                        raise BackupError(f"it is damaged: {member.name} does not have the sha256 of its manifest")
                if wanted:
                    raise BackupError(f"it is damaged: {', '.join(sorted(wanted)[:5])} is missing")
        except (OSError, EOFError, tarfile.TarError, ValueError, TypeError, KeyError) as error:
            raise BackupError(f"it is damaged, or no backup of backup.yml: {error}") from error

    def refusal(self, host: str, version: str, other_version: bool) -> str:
        """Why this host must not take it in, or an empty text. ``host`` is the one that it is to be of."""
        if self.about.get("host") != host:
            return (
                f"it is {self.about.get('host')}'s, and {host}'s is wanted; restore_from names the host whose backup "
                f"is meant"
            )
        if self.about.get("version") != version and not other_version:
            return (
                f"version {self.about.get('version')} of the collection made it, and this is {version}; use that "
                f"version, or give restore_other_version=true after reading the changelog between the two"
            )
        return ""


@dataclass(frozen=True)
class Change:
    """A file that differs from the backup's: where it lies, and whether there is one already."""

    entry: Entry
    path: str
    there: bool


def _owner(name: str, lookup: t.Callable[[str], t.Any]) -> int | None:
    try:
        return int(lookup(name)[2])
    except KeyError:
        return None


def _ownership(entry: Entry) -> tuple[int, int, int]:
    """User, group and mode. What would belong to somebody whom the host does not have is root's alone."""
    user, group = _owner(entry.owner, pwd.getpwnam), _owner(entry.group, grp.getgrnam)
    return user or 0, group or 0, entry.mode if user is not None and group is not None else entry.mode & 0o700


def changes(backup: Backup, places: t.Iterable[Place]) -> list[Change]:
    """What a restore would write. Places that are not asked for stay as they are."""
    known = {place.name: place for place in places}
    found = []
    for entry in backup.entries:
        if entry.place not in known:
            continue
        path = os.path.join(known[entry.place].path, entry.path) if entry.path else known[entry.place].path
        there = os.path.lexists(path)
        if there and stat.S_ISREG(os.lstat(path).st_mode) and _digest.of_file(path)[7:] == entry.sha256:
            continue
        found.append(Change(entry, path, there))
    return found


def _shortage(needed: t.Mapping[str, int]) -> str:
    """Which of the directories lies on a file system without so many bytes, or an empty text."""
    by_device: dict[int, tuple[_disk.Room, int]] = {}
    for wanted, size in needed.items():
        room = _disk.room(wanted)
        total = by_device[room.device][1] if room.device in by_device else 0
        by_device[room.device] = (room, total + size)
    for room, total in by_device.values():
        if total + RESERVE_BYTES > room.free_bytes:
            return (
                f"the file system of {room.path} has {room.free_bytes} bytes free; {total} and {RESERVE_BYTES} to "
                f"spare are needed"
            )
    return ""


def shortage(wanted: t.Iterable[Change]) -> str:
    """Which file system lacks room for the files, or an empty text."""
    needed: dict[str, int] = {}
    for change in wanted:
        directory = os.path.dirname(change.path)
        needed[directory] = needed.get(directory, 0) + change.entry.size
    return _shortage(needed)


def unpack(backup: Backup, wanted: t.Sequence[Change]) -> None:
    """Put files in their places, each whole. Directories that lack are made as closed as what lies in them allows.

    :raises BackupError: one cannot be written.
    """
    by_member = {change.entry.member: change for change in wanted}
    with tarfile.open(backup.path, "r:gz") as archive:
        for member in archive:
            change = by_member.get(member.name)
            content = archive.extractfile(member) if change else None
            if change is None or content is None:
                continue
            try:
                _place(change, content)
            except OSError as error:
                raise BackupError(f"{change.path} cannot be written: {error.strerror}") from error


def _place(change: Change, content: t.IO[bytes]) -> None:
    user, group, mode = _ownership(change.entry)
    os.makedirs(os.path.dirname(change.path), mode=0o755, exist_ok=True)
    # What one that was killed left goes with the next: of some places whatever lies there is read.
    with _disk.replacing(change.path, mode, temporary=f"{change.path}.restored") as stream:
        shutil.copyfileobj(content, stream)
        if os.geteuid() == 0:
            os.fchown(stream.fileno(), user, group)
        # The order of a key's and its certificate's times is what tells that they belong together.
        stream.flush()
        os.utime(stream.fileno(), (change.entry.mtime, change.entry.mtime))
