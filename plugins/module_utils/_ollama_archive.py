# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models as one file that travels by hand: a plain tar of ``SHA256SUMS``, ``manifests/…`` and ``blobs/sha256-<hex>``.

The same models give the same bytes. Nothing is ever in memory whole. What is read is believed when every file has the
sha256 that the list says, and not before.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import typing as t
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import _model_name
from ansible_collections.onprem.llm.plugins.module_utils._ollama_store import Store, blob_name, blobs
from ansible_collections.onprem.llm.plugins.module_utils._transfer import Staging

SUMS = "SHA256SUMS"
_BLOCK_BYTES = 2**20
_MAX_TEXT_BYTES = 2**24
_BLOB_PATH = re.compile(r"blobs/sha256-([0-9a-f]{64})")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(\S.*)")


class ArchiveError(Exception):
    """The archive, or what was to go into it, is not what it should be; the text says which file, and why."""


@dataclass(frozen=True)
class _Staged:
    dir_fd: int
    name: str


@dataclass
class Content:
    """What an archive has: sha256 by path, the models with their manifests, and the sizes of blobs by digest."""

    sums: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())


# --- Writing ---------------------------------------------------------------------------------------------------------


def content(store: Store, names: t.Sequence[str]) -> Content:
    """What an archive of these models would have.

    :raises ArchiveError: a model is not there, or a file of it.
    """
    found = Content()
    for name in names:
        manifest = store.manifest(name)
        if manifest is None:
            raise ArchiveError(f"{name} is not installed in {store.path}")
        path = "/".join(["manifests", *_model_name.parts(name)])
        found.manifests[path] = manifest
        found.sums[path] = hashlib.sha256(manifest).hexdigest()
        for blob in blobs(manifest):
            size = store.size(blob.digest)
            if size is None:
                raise ArchiveError(f"{name} has the file {blob.digest}, which is not in {store.path}")
            found.sizes[blob.digest] = size
            found.sums[f"blobs/{blob_name(blob.digest)}"] = blob.digest[7:]
    return found


def sums_text(wanted: Content) -> bytes:
    """``SHA256SUMS`` as ``sha256sum --check`` reads it."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(wanted.sums.items())).encode()


def write(store: Store, wanted: Content, path: str) -> None:
    """Write an archive, in place of one of that name when it is whole.

    :raises ArchiveError: a file of the store is damaged.
    :raises OSError: it cannot be written.
    """
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as target, tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, SUMS, sums_text(wanted))
            for member in sorted(wanted.sums):
                if member in wanted.manifests:
                    _add(tar, member, wanted.manifests[member])
                    continue
                digest = "sha256:" + wanted.sums[member]
                with store.opened(digest) as stream:
                    reader = _Hashed(stream)
                    tar.addfile(_member(member, os.fstat(stream.fileno()).st_size), t.cast("t.IO[bytes]", reader))
                if reader.digest != wanted.sums[member]:
                    raise ArchiveError(f"{store.path}/{member} is damaged: its sha256 is {reader.digest}")
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _member(path: str, size: int) -> tarfile.TarInfo:
    """A file of nobody, of no time: the same models give the same bytes."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    tar.addfile(_member(path, len(data)), io.BytesIO(data))


class _Hashed:
    """A stream whose sha256 is known when it has been read."""

    def __init__(self, stream: t.IO[bytes]) -> None:
        self._stream, self._hash = stream, hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self._hash.update(data)
        return data


# --- Reading ---------------------------------------------------------------------------------------------------------


def look(path: str) -> Content:
    """What an archive says that it has, its manifests checked, no blob read yet.

    :raises ArchiveError: it is no archive of models, or has what such a one does not have.
    """
    found = Content()
    listed = None
    for tar, member, name in _members(path):
        if name == SUMS:
            listed = _text(tar, member)
        elif name.startswith("manifests/"):
            found.manifests[name] = _text(tar, member)
        else:
            found.sizes["sha256:" + name[-64:]] = member.size
        if name != SUMS:
            found.sums[name] = ""
    if listed is None:
        raise ArchiveError(f"{path} has no {SUMS}; without it nothing says what its files should be")
    for line in listed.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match or match[2] not in found.sums:
            raise ArchiveError(f"{path}: {SUMS} has the line {line[:200]!r}, and there is no such file in it")
        found.sums[match[2]] = match[1]
    for name, digest in found.sums.items():
        if not digest:
            raise ArchiveError(f"{path}: {name} is not in its {SUMS}")
        if name.startswith("blobs/") and name[-64:] != digest:
            raise ArchiveError(f"{path}: {SUMS} gives {name} the sha256 {digest}")
        if name in found.manifests and hashlib.sha256(found.manifests[name]).hexdigest() != digest:
            raise ArchiveError(f"{path}: {name} is damaged: its sha256 is not {digest}")
    return found


def models(found: Content) -> dict[str, bytes]:
    """Name of each model → its manifest."""
    names = {}
    for path, manifest in found.manifests.items():
        parts = path.split("/")[1:]
        names[_model_name.shown(*t.cast("tuple[str, str, str, str]", tuple(parts)))] = manifest
    return names


def install(path: str, found: Content, store: Store, staging_dir: str, reserve_bytes: int = 0) -> int:
    """Have what an archive has. Every blob is read and checked before the first is put in place, manifests come last.

    :returns: bytes of the blobs that the store did not have.
    :raises ArchiveError: a file is damaged or missing, or there is no room.
    """
    store.make()
    for name, manifest in models(found).items():
        for blob in blobs(manifest):
            if blob.digest not in found.sizes and not store.has(blob.digest, blob.size):
                raise ArchiveError(f"{path}: {name} has the file {blob.digest}, which is not in it")
    lacking = {digest for digest, size in found.sizes.items() if not store.has(digest, size)}
    needed = sum(found.sizes[digest] for digest in lacking)
    with Staging(staging_dir) as staging, ExitStack() as locks:
        if needed and needed + reserve_bytes > staging.free_bytes:
            raise ArchiveError(
                f"{needed} bytes are to come, {staging.free_bytes} are free at {staging_dir}, and {reserve_bytes} are "
                "to stay so"
            )
        staged: dict[str, _Staged] = {}
        try:
            for digest in sorted(lacking):
                locks.enter_context(staging.lock(digest))
            for tar, member, name in _members(path):
                digest = "sha256:" + name[-64:]
                if digest in lacking and digest not in staged:
                    staged[digest] = _Staged(staging.descriptor, f"{digest[7:]}.import")
                    _unpack(path, tar, member, staged[digest])
            for digest, file in staged.items():
                store.install(file, digest)
            for name, manifest in models(found).items():
                store.write_manifest(name, manifest)
        finally:
            for file in staged.values():
                with suppress(FileNotFoundError):
                    os.unlink(file.name, dir_fd=file.dir_fd)
    return needed


def _members(path: str) -> t.Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str]]:
    """The files of an archive, one after the other, with their names.

    :raises ArchiveError: it cannot be read, or has a link, a device or a name that models do not have.
    """
    seen = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = member.name[2:] if member.name.startswith("./") else member.name
                if member.isdir() and re.fullmatch(r"\.|(manifests|blobs)(/[^/]+){0,3}", name) and ".." not in name:
                    continue
                if not member.isreg():
                    raise ArchiveError(f"{path} has {member.name[:200]!r}, which is no plain file")
                if name in seen or not _known(name):
                    raise ArchiveError(
                        f"{path} has {member.name[:200]!r}, which is no file of a model, or has it twice"
                    )
                seen.add(name)
                yield tar, member, name
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{path} is no whole tar archive: {error}") from error


def _known(name: str) -> bool:
    if name == SUMS or _BLOB_PATH.fullmatch(name):
        return True
    first, *parts = name.split("/")
    if first != "manifests" or len(parts) != len(_model_name.PARTS):
        return False
    return all(pattern.fullmatch(part) for part, pattern in zip(parts, _model_name.PARTS.values()))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_TEXT_BYTES:
        raise ArchiveError(f"{member.name} has {member.size} bytes; such files have a few KiB")
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _unpack(path: str, tar: tarfile.TarFile, member: tarfile.TarInfo, file: _Staged) -> None:
    stream = tar.extractfile(member)
    if stream is None:
        raise ArchiveError(f"{path}: {member.name} cannot be read")
    reader = _Hashed(stream)
    with suppress(FileNotFoundError):
        os.unlink(file.name, dir_fd=file.dir_fd)
    handle = os.open(file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=file.dir_fd)
    with open(handle, "wb") as target:
        while block := reader.read(_BLOCK_BYTES):
            target.write(block)
    if reader.digest != member.name[-64:]:
        raise ArchiveError(f"{path}: {member.name} is damaged: its sha256 is {reader.digest}")
