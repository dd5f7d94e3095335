# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ollama's models directory as files: ``blobs/sha256-<hex>``, and manifests by host, namespace, model and tag.

A running server reads a manifest anew at each request, so what is changed here counts at once (manifest/manifest.go and
server/images.go of Ollama 0.17 to 0.32). The engine's user may write here while root works: every step goes by a
descriptor of the directory before it, and no link is followed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _model_name

WEIGHTS_TYPE = "application/vnd.ollama.image.model"
MAX_MANIFEST_BYTES = 2**20
# What the server gives an unreferenced blob before it deletes it at its start (server/images.go of 0.32.15).
GRACE_SECONDS = 3600
_TEMPORARY = ".onprem-llm-"
_BLOB = re.compile(r"sha256[:-]([0-9a-f]{64})")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# Without O_NONBLOCK a pipe of the engine's making would be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class StoreError(Exception):
    """The directory does not hold what the server says that it has."""


class Staged(t.Protocol):
    """A whole file, its sha256 checked, in a directory of the store's file system."""

    @property
    def dir_fd(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Blob:
    """A blob that a manifest names, its size in bytes."""

    digest: str
    size: int
    media_type: str = ""


@dataclass
class Adoption:
    """What came from another store. Sizes in bytes; ``skipped`` is a model's name and the reason."""

    adopted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    linked_bytes: int = 0
    copied_bytes: int = 0


class AdoptionPaused(Exception):
    """The turn is over in the middle; bytes are those of all files that are to come.

    :ivar resume: what the next call of :func:`adopt` goes on from.
    """

    def __init__(self, done_bytes: int, total_bytes: int, resume: dict[str, t.Any]) -> None:
        super().__init__(f"{done_bytes} of {total_bytes} bytes are here")
        self.done_bytes, self.total_bytes, self.resume = done_bytes, total_bytes, resume


def manifest_path(models: str, name: str) -> str:
    """Path of a model's manifest, for a name such as ``gemma3:270m`` or ``host/namespace/model:tag``.

    :raises StoreError: it is no model's name.
    """
    try:
        return os.path.join(models, "manifests", *_model_name.parts(name))
    except ValueError as error:
        raise StoreError(str(error)) from error


def blob_path(models: str, digest: str) -> str:
    """Path of the blob ``sha256:<hex>``."""
    return os.path.join(models, "blobs", blob_name(digest))


def blob_name(digest: str) -> str:
    """Name of the blob's file.

    :raises StoreError: it is no digest.
    """
    found = _BLOB.fullmatch(digest)
    if not found:
        raise StoreError(f"its manifest names {digest[:100]!r}, which is no digest")
    return "sha256-" + found[1]


def blobs(manifest: bytes) -> tuple[Blob, ...]:
    """The blobs that a manifest names: the configuration, where there is one, then the layers.

    :raises StoreError: it is no manifest.
    """
    try:
        found = json.loads(manifest.decode())
        parts = [part for part in [found.get("config") or {}, *found["layers"]] if part]
        named = [Blob(str(part["digest"]), int(part.get("size", 0)), str(part.get("mediaType", ""))) for part in parts]
        if isinstance(found["layers"], list) and named:
            return tuple(dict.fromkeys(named))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise StoreError("it is no manifest")


class Store:
    """A models directory, held open while it is worked with. It need not be there; what is written makes it.

    :param models: its path. ``foreign``: another's store, which is only read, and in which links may lead on.
    :raises StoreError: it is a link or no directory.
    """

    def __init__(self, models: str, foreign: bool = False) -> None:
        self.path = models
        self._directory = _DIRECTORY | (0 if foreign else os.O_NOFOLLOW)
        self._root: int | None = None
        with suppress(FileNotFoundError):
            self._root = self._enter(models, None)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._root is not None:
            os.close(self._root)
            self._root = None

    # --- Ways into it

    def _enter(self, part: str, parent: int | None) -> int:
        try:
            return os.open(part, self._directory, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                place = part if parent is None else f"{self.path}: {part}"
                raise StoreError(f"{place} is a symbolic link or no directory") from error
            raise

    def _make(self, part: str, parent: int) -> int:
        """A directory inside another, and its owner's."""
        with suppress(FileNotFoundError):
            return self._enter(part, parent)
        with suppress(FileExistsError):
            os.mkdir(part, 0o750, dir_fd=parent)
        made = self._enter(part, parent)
        _give(made, os.fstat(parent), 0o750)
        return made

    def _open_root(self) -> int:
        if self._root is None:
            parent = os.open(os.path.dirname(os.path.abspath(self.path)), _DIRECTORY)
            try:
                self._root = self._make(os.path.basename(os.path.abspath(self.path)), parent)
            finally:
                os.close(parent)
        return self._root

    @contextmanager
    def _at(self, *path: str, make: bool = False) -> t.Iterator[int]:
        """Descriptor of a directory inside.

        :raises FileNotFoundError: it is not there, without ``make``.
        """
        if self._root is None and not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        current = os.dup(self._open_root())
        try:
            for part in path:
                inner = self._make(part, current) if make else self._enter(part, current)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)

    def make(self) -> None:
        """Have the directory, with its place for blobs.

        :raises StoreError: one of them is a link.
        """
        with self._at("blobs", make=True):
            pass

    @property
    def free_bytes(self) -> int | None:
        """Bytes that are free for blobs, or None where the directory is not there yet."""
        try:
            with self._at() as directory:
                room = os.fstatvfs(directory)
        except FileNotFoundError:
            return None
        return room.f_bavail * room.f_frsize

    # --- Blobs

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is there, with that many bytes where they are known."""
        found = self.size(digest)
        return found is not None and size in (None, found)

    def size(self, digest: str) -> int | None:
        """Bytes of the blob, or None where it is no file."""
        try:
            with self._at("blobs") as directory:
                about = os.stat(blob_name(digest), dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    def identity(self, digest: str) -> tuple[int, int] | None:
        """What tells one file of that name from another that is put in its place, or None where there is none."""
        with suppress(FileNotFoundError), self._at("blobs") as directory:
            about = os.stat(blob_name(digest), dir_fd=directory, follow_symlinks=False)
            return about.st_ino, about.st_mtime_ns
        return None

    @contextmanager
    def opened(self, digest: str) -> t.Iterator[t.BinaryIO]:
        """The blob, to be read.

        :raises FileNotFoundError: it is not there.
        :raises StoreError: it is no file.
        """
        with self._at("blobs") as directory, _opened(blob_name(digest), directory, self.path + "/blobs") as stream:
            yield stream

    def install(self, staged: Staged, digest: str) -> None:
        """Put a staged file in place as the blob ``digest``; a damaged one that lies there is replaced at that moment.

        :raises StoreError: the staging directory is on another file system.
        """
        with self._at("blobs", make=True) as directory:
            handle = os.open(staged.name, _FILE, dir_fd=staged.dir_fd)
            try:
                _give(handle, os.fstat(self._open_root()), 0o640)
                # The server deletes what is older than its grace and not referenced yet.
                os.utime(handle)
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.rename(staged.name, blob_name(digest), src_dir_fd=staged.dir_fd, dst_dir_fd=directory)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise StoreError(
                        f"the staging directory is on another file system than {self.path}; it has to be on the same"
                    ) from error
                raise
            os.fsync(directory)

    def linkable(self, stream: t.BinaryIO) -> bool:
        """Whether an open file can be a blob by another name: on this file system, for anybody to read, and of the
        directory's type, where SELinux has one."""
        about = os.fstat(stream.fileno())
        with self._at("blobs", make=True) as directory:
            same = about.st_dev == os.fstat(directory).st_dev and _selinux_type(stream.fileno()) == _selinux_type(
                directory
            )
        return same and bool(about.st_mode & stat.S_IROTH)

    def link(self, stream: t.BinaryIO, digest: str, found: str = "") -> None:
        """Have an open file as a blob by another name. It takes no room twice, and remains its owner's, who may change
        it: a verification finds that.

        :param found: its sha256 where that was taken already.
        :raises StoreError: its sha256 is not ``digest``.
        """
        _hold(found or _digest.of_stream(stream), digest)
        with self._at("blobs", make=True) as directory:
            self._link(stream, blob_name(digest), directory)

    def copy(
        self,
        stream: t.BinaryIO,
        digest: str,
        go_on: t.Callable[[], bool] = lambda: True,
        begun: t.Sequence[t.Any] = (),
    ) -> list[t.Any]:
        """Copy an open file as a blob.

        :param go_on: asked now and then; where it says no, the copy is left as it is for another call.
        :param begun: what the call before returned.
        :returns: nothing where the copy is in place, else what tells the begun one from any other file, and the state
            of its sha256.
        :raises StoreError: its sha256 is not ``digest``, or there is no room.
        """
        size = os.fstat(stream.fileno()).st_size
        name, root = f"{_TEMPORARY}copy-{blob_name(digest)}", self._open_root()
        with self._at("blobs", make=True) as directory:
            handle, hasher = self._begun(name, begun)
            try:
                with open(handle, "r+b") as target:
                    room = os.fstatvfs(directory)
                    rest = size - hasher.position
                    if rest > room.f_bavail * room.f_frsize:
                        raise StoreError(
                            f"its {rest} bytes have to be copied, and {room.f_bavail * room.f_frsize} are free"
                        )
                    target.seek(hasher.position)
                    whole = hasher.read(stream, go_on, target)
                    target.flush()
                    if not whole:
                        return [os.fstat(handle).st_ino, hasher.dump()]
                    _hold(hasher.digest, digest)
                    _give(handle, os.fstat(root), 0o640)
                    os.fsync(handle)
                os.rename(name, blob_name(digest), src_dir_fd=root, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)
                raise
        return []

    def _begun(self, name: str, begun: t.Sequence[t.Any]) -> tuple[int, _digest.Hasher]:
        """A copy that was begun, open for writing, and how far it is; a new one where there is none. It is locked while
        it is open, so that nobody else has it put away or in place.

        The directory's owner may put another file there. Only one that is nobody else's, and has no other name, is what
        this user wrote.

        :raises StoreError: another process works at it.
        """
        root = self._open_root()
        try:
            handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
        except FileNotFoundError:
            pass
        except OSError:
            os.unlink(name, dir_fd=root)  # A link or the like, which nobody copies to.
        else:
            self._lock(handle, name)
            about, hasher = os.fstat(handle), _digest.Hasher(begun[1] if len(begun) > 1 else "")
            same = (about.st_ino, about.st_uid, about.st_nlink) == (begun[0] if begun else 0, os.geteuid(), 1)
            if same and stat.S_IMODE(about.st_mode) == 0o600 and about.st_size == hasher.position:
                return handle, hasher
            os.unlink(name, dir_fd=root)
            os.close(handle)
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=root)
        self._lock(handle, name)
        return handle, _digest.Hasher()

    def _lock(self, handle: int, name: str) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.stat(name, dir_fd=self._open_root(), follow_symlinks=False).st_ino == os.fstat(handle).st_ino
        except OSError:
            ours = False
        if not ours:
            os.close(handle)
            raise StoreError(f"another process works at {self.path}/{name}")

    def _link(self, stream: t.BinaryIO, name: str, directory: int) -> None:
        root, temporary = self._open_root(), f"{_TEMPORARY}{os.getpid()}-{name}"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=root)
        # By its descriptor: the path may lead to another file by now.
        os.link(f"/proc/self/fd/{stream.fileno()}", temporary, dst_dir_fd=root, follow_symlinks=True)
        os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=directory)
        # Two names of one file are left as they are by rename.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=root)

    def remove_blob(self, name: str) -> None:
        """Remove a file of ``blobs/``, by its name."""
        with suppress(FileNotFoundError), self._at("blobs") as directory:
            os.unlink(os.path.basename(name), dir_fd=directory)

    def unreferenced(self, older_than: float = GRACE_SECONDS) -> dict[str, int]:
        """Files of ``blobs/`` that no manifest names, by name, and their sizes in bytes.

        :param older_than: seconds since the last change; a younger one may belong to a model that is being made.
        :raises StoreError: a manifest cannot be read, so that nobody knows what it names.
        """
        wanted = {blob_name(digest) for digests in self.names().values() for digest in digests}
        found = {}
        with suppress(FileNotFoundError), self._at("blobs") as directory:
            for name in sorted(os.listdir(directory)):
                about = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if name not in wanted and not stat.S_ISDIR(about.st_mode) and time.time() - about.st_mtime > older_than:
                    found[name] = about.st_size
        return found

    # --- Manifests

    def manifest(self, name: str) -> bytes | None:
        """A model's manifest, byte by byte, or None where there is none.

        :raises StoreError: it is no file, or the name is none.
        """
        place = manifest_path(self.path, name)
        *path, tag = os.path.relpath(place, self.path).split(os.sep)
        try:
            with self._at(*path) as directory, _opened(tag, directory, os.path.dirname(place)) as stream:
                return stream.read(MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return None

    def write_manifest(self, name: str, content: bytes) -> None:
        """Give a model this manifest, in one step; its blobs are there already."""
        *path, tag = os.path.relpath(manifest_path(self.path, name), self.path).split(os.sep)
        with self._at(*path, make=True) as directory:
            with self._replaced(tag, directory) as stream:
                stream.write(content)
            os.fsync(directory)

    def models(self) -> dict[str, str]:
        """The models: name as the server lists it → path of its manifest."""
        found = {}
        for path in self._manifests("manifests", depth=4):
            parts = path.split(os.sep)[1:]
            found[_model_name.shown(*t.cast("tuple[str, str, str, str]", tuple(parts)))] = os.path.join(self.path, path)
        return found

    def names(self) -> dict[str, tuple[str, ...]]:
        """The models: name as the server lists it → the digests of its blobs.

        :raises StoreError: a manifest cannot be read.
        """
        return {name: tuple(blob.digest for blob in self.blobs(name)) for name in self.models()}

    def blobs(self, name: str) -> tuple[Blob, ...]:
        """The blobs of an installed model.

        :raises StoreError: its manifest cannot be read.
        """
        try:
            return blobs(self.manifest(name) or b"")
        except StoreError as error:
            raise StoreError(f"{manifest_path(self.path, name)}: {error}") from error

    def _manifests(self, path: str, depth: int) -> t.Iterator[str]:
        with suppress(FileNotFoundError, StoreError), self._at(*path.split(os.sep)) as directory:
            entries = sorted(os.listdir(directory))
            for entry in entries:
                inner = os.path.join(path, entry)
                if depth > 1:
                    yield from self._manifests(inner, depth - 1)
                elif stat.S_ISREG(os.stat(entry, dir_fd=directory, follow_symlinks=False).st_mode):
                    yield inner

    @contextmanager
    def _replaced(self, name: str, directory: int) -> t.Iterator[t.BinaryIO]:
        """A new file, put in place whole. It is written outside the directories that the server lists or prunes."""
        root = self._open_root()
        temporary = f"{_TEMPORARY}{os.getpid()}-{name[:100]}"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=root)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=root)
        try:
            with open(handle, "wb") as stream:
                yield stream
                stream.flush()
                _give(handle, os.fstat(root), 0o640)
                os.fsync(handle)
            os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=root)
            raise


def models_of(models: str) -> dict[str, str]:
    """The models of another's store: name as the server lists it → path of its manifest."""
    with Store(models, foreign=True) as store:
        return store.models()


def put_weights_back(models: str, name: str, rewritten: str, digest: str) -> None:
    """Let a model have the weights ``digest``, whose blob the server holds, in place of ``rewritten``.

    The blob of ``rewritten`` is removed where no other model has it.

    :param models: the models directory.
    :raises StoreError: the manifest or the blob is not there, or the manifest does not name ``rewritten``.
    :raises OSError: the directory cannot be read or written.
    """
    with Store(models) as store:
        path, content, size = manifest_path(models, name), store.manifest(name), store.size(digest)
        if content is None or size is None:
            missing = path if content is None else blob_path(models, digest)
            raise StoreError(f"{missing} is not there; is {models} the server's models directory?")
        try:
            named = blobs(content)
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from error
        if [blob.digest for blob in named if blob.media_type == WEIGHTS_TYPE] != [rewritten]:
            raise StoreError(f"{path} does not name the weights {rewritten} alone")
        manifest = json.loads(content)
        for layer in manifest["layers"]:
            if layer.get("mediaType") == WEIGHTS_TYPE:
                layer.update(digest=digest, size=size)
        store.write_manifest(name, json.dumps(manifest, separators=(",", ":")).encode())
        with suppress(StoreError):
            if not any(rewritten in digests for digests in store.names().values()):
                store.remove_blob(blob_name(rewritten))


def drop_layers(models: str, name: str, media_types: t.Collection[str]) -> None:
    """Take layers of these media types out of a model's manifest. Their blobs stay: the base has them.

    :param models: the models directory.
    :raises StoreError: there is no such manifest.
    :raises OSError: the directory cannot be read or written.
    """
    with Store(models) as store:
        content = store.manifest(name)
        if content is None:
            raise StoreError(f"{manifest_path(models, name)} is not there; is {models} the server's models directory?")
        blobs(content)
        manifest = json.loads(content)
        manifest["layers"] = [layer for layer in manifest["layers"] if layer.get("mediaType") not in media_types]
        store.write_manifest(name, json.dumps(manifest, separators=(",", ":")).encode())


def adopt(
    source: str,
    destination: str,
    check: bool = False,
    go_on: t.Callable[[], bool] = lambda: True,
    resume: t.Mapping[str, t.Any] | None = None,
) -> Adoption:
    """Take over the models of another store, which stays as it is.

    Each blob is read and must have the sha256 of its name. On one file system it is linked, so that it takes no room
    twice; else, or where others may not read it, it is copied. A name that the destination has already is left alone.

    :param source: a models directory.
    :param destination: a models directory, whose parent is there and belongs to the server's user.
    :param check: change nothing, and read no blob.
    :param go_on: asked after each MiB; where it says no, the turn is over.
    :param resume: that of the call before.
    :raises OSError: the destination cannot be written.
    :raises StoreError: it is a link.
    :raises AdoptionPaused: the turn is over.
    """
    known = resume or {}
    result = Adoption(
        list(known.get("adopted") or ()),
        [],
        [(str(name), str(reason)) for name, reason in known.get("skipped") or ()],
        known.get("linked_bytes") or 0,
        known.get("copied_bytes") or 0,
    )
    settled = {*result.adopted, *(name for name, _reason in result.skipped)}
    with Store(source, foreign=True) as theirs, Store(destination) as own:
        kept = own.models()
        if not check:
            own.make()
        for name in theirs.models():
            if name in settled:
                continue
            if name in kept:
                result.kept.append(name)
                continue
            try:
                content = theirs.manifest(name) or b""
                digests = [blob.digest for blob in blobs(content)]
                if not check:
                    for digest in digests:
                        begun = _adopt_blob(theirs, digest, own, result, go_on, known.get("begun") or [])
                        if begun:
                            raise _paused(theirs, own, result, begun)
                    own.write_manifest(name, content)
            except StoreError as error:
                result.skipped.append((name, str(error)))
            else:
                result.adopted.append(name)
    return result


def _adopt_blob(
    theirs: Store,
    digest: str,
    own: Store,
    result: Adoption,
    go_on: t.Callable[[], bool],
    begun: t.Sequence[t.Any],
) -> list[t.Any]:
    """Take over a blob, and return nothing; where the turn is over, what the next call goes on from: the digest, what
    tells its file from another, and how far it is, at the end of which is the state of its sha256.
    """
    if own.has(digest):
        return []
    try:
        with theirs.opened(digest) as stream:
            about = os.fstat(stream.fileno())
            identity = [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns]
            so_far = begun[2] if begun[:2] == [digest, identity] else []
            if own.linkable(stream):
                hasher = _digest.Hasher(so_far[-1] if so_far else "")
                if not hasher.read(stream, go_on):
                    return [digest, identity, [hasher.dump()]]
                own.link(stream, digest, hasher.digest)
                result.linked_bytes += about.st_size
            else:
                so_far = own.copy(stream, digest, go_on, so_far)
                if so_far:
                    return [digest, identity, so_far]
                result.copied_bytes += about.st_size
    except FileNotFoundError as error:
        raise StoreError(f"{blob_path(theirs.path, digest)} is not there") from error
    return []


def _paused(theirs: Store, own: Store, result: Adoption, begun: list[t.Any]) -> AdoptionPaused:
    settled = {*own.models(), *(name for name, _reason in result.skipped)}
    digests: set[str] = set()
    for name in theirs.models():
        with suppress(StoreError):  # Told when it is its turn.
            digests.update(blob.digest for blob in theirs.blobs(name) if name not in settled)
    here = result.linked_bytes + result.copied_bytes
    resume = {
        "adopted": result.adopted,
        "skipped": result.skipped,
        "linked_bytes": result.linked_bytes,
        "copied_bytes": result.copied_bytes,
        "begun": begun,
    }
    lacking = 0
    for digest in digests:
        with suppress(StoreError):
            lacking += 0 if own.has(digest) else theirs.size(digest) or 0
    return AdoptionPaused(here + _digest.Hasher(begun[2][-1]).position, here + lacking, resume)


@contextmanager
def _opened(name: str, directory: int, place: str) -> t.Iterator[t.BinaryIO]:
    try:
        handle = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{place}/{name} is a symbolic link") from error
        raise
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"{place}/{name} is no file")
        yield stream


def _give(handle: int, owner: os.stat_result, mode: int) -> None:
    """Have a file be the owner's, with this mode."""
    about = os.fstat(handle)
    if (about.st_uid, about.st_gid) != (owner.st_uid, owner.st_gid):
        os.fchown(handle, owner.st_uid, owner.st_gid)
    os.fchmod(handle, mode)


def _selinux_type(handle: int) -> str:
    try:
        return os.getxattr(handle, "security.selinux").decode().split(":")[2]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def _hold(found: str, digest: str) -> None:
    if found != digest:
        raise StoreError(f"the file of the blob {digest} is damaged: its sha256 is {found}")
