# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ollama's models directory as files: ``blobs/sha256-<hex>``, and manifests by host, namespace, model and tag.

A running server reads a manifest anew at each request, so what is changed here counts at once (manifest/manifest.go and
server/images.go of Ollama 0.17 to 0.32).
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import stat
import tempfile
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name

WEIGHTS_TYPE = "application/vnd.ollama.image.model"
_DEFAULTS = ("registry.ollama.ai", "library")


class StoreError(Exception):
    """The directory does not hold what the server says that it has."""


@dataclass
class Adoption:
    """What came from another store. Sizes in bytes; ``skipped`` is a model's name and the reason."""

    adopted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    linked_bytes: int = 0
    copied_bytes: int = 0


def manifest_path(models: str, name: str) -> str:
    """Path of a model's manifest, for a name such as ``gemma3:270m`` or ``host/namespace/model:tag``.

    :raises StoreError: it is no model's name.
    """
    path, tag = local_name(name).rsplit(":", 1)
    parts = path.split("/")
    parts = [*_DEFAULTS[: 3 - len(parts)], *parts, tag]
    if len(parts) != 4 or not all(re.match(r"^\w[\w.:-]*$", part) for part in parts):
        raise StoreError(f"{name!r} is no model's name")
    return os.path.join(models, "manifests", *parts)


def blob_path(models: str, digest: str) -> str:
    """Path of the blob ``sha256:<hex>``."""
    return os.path.join(models, "blobs", digest.replace(":", "-"))


def put_weights_back(models: str, name: str, rewritten: str, digest: str) -> None:
    """Let a model have the weights ``digest``, whose blob the server holds, in place of ``rewritten``.

    The blob of ``rewritten`` is removed where no other model has it.

    :param models: the models directory.
    :raises StoreError: the manifest or the blob is not there, or the manifest does not name ``rewritten``.
    :raises OSError: the directory cannot be read or written.
    """
    # The engine may write here, and a link of its making must not lead root elsewhere.
    with _as_owner_of(models):
        path = manifest_path(models, name)
        try:
            manifest = _read(path)
            size = os.stat(blob_path(models, digest)).st_size
        except FileNotFoundError as error:
            raise StoreError(f"{error.filename} is not there; is {models} the server's models directory?") from error
        layers = [layer for layer in manifest["layers"] if layer.get("mediaType") == WEIGHTS_TYPE]
        if [layer.get("digest") for layer in layers] != [rewritten]:
            raise StoreError(f"{path} does not name the weights {rewritten} alone")
        layers[0].update(digest=digest, size=size)
        _replace(models, path, json.dumps(manifest, separators=(",", ":")))
        manifests = glob.glob(os.path.join(models, "manifests", "*", "*", "*", "*"))
        if not any(rewritten in _digests(other) for other in manifests):
            os.unlink(blob_path(models, rewritten))


def drop_layers(models: str, name: str, media_types: t.Collection[str]) -> None:
    """Take layers of these media types out of a model's manifest. Their blobs stay: the base has them.

    :param models: the models directory.
    :raises StoreError: there is no such manifest.
    :raises OSError: the directory cannot be read or written.
    """
    with _as_owner_of(models):
        path = manifest_path(models, name)
        try:
            manifest = _read(path)
        except FileNotFoundError as error:
            raise StoreError(f"{path} is not there; is {models} the server's models directory?") from error
        manifest["layers"] = [layer for layer in manifest["layers"] if layer.get("mediaType") not in media_types]
        _replace(models, path, json.dumps(manifest, separators=(",", ":")))


def models_of(models: str) -> dict[str, str]:
    """The models of a store: name as the server lists it → path of its manifest."""
    found = {}
    for path in sorted(glob.glob(os.path.join(models, "manifests", "*", "*", "*", "*"))):
        host, namespace, model, tag = os.path.relpath(path, os.path.join(models, "manifests")).split(os.sep)
        parts = [model] if (host, namespace) == _DEFAULTS else [namespace, model]
        found["/".join(parts if host == _DEFAULTS[0] else [host, namespace, model]) + ":" + tag] = path
    return found


def adopt(source: str, destination: str, check: bool = False) -> Adoption:
    """Take over the models of another store, which stays as it is.

    Each blob is read and must have the sha256 of its name. On one file system it is linked, so that it takes no room
    twice; else, or where others may not read it, it is copied. A name that the destination has already is left alone.

    :param source: a models directory.
    :param destination: a models directory, whose parent is there and belongs to the server's user.
    :param check: change nothing, and read no blob.
    :raises OSError: the destination cannot be written.
    """
    result = Adoption()
    own = models_of(destination)
    with _store_opened(destination, check) as (root, blobs):
        for name, path in models_of(source).items():
            if name in own:
                result.kept.append(name)
                continue
            try:
                with open(path, "rb") as stream:
                    content = stream.read()
                manifest = _read(path)
                digests = [str(part.get("digest")) for part in [manifest.get("config") or {}, *manifest["layers"]]]
                if not check:
                    for digest in dict.fromkeys(digests):
                        _adopt_blob(source, digest, root, blobs, result)
                    _write_manifest(destination, os.path.relpath(path, source), content)
            except StoreError as error:
                result.skipped.append((name, str(error)))
            except FileNotFoundError as error:
                result.skipped.append((name, f"{error.filename} is not there"))
            else:
                result.adopted.append(name)
    return result


@contextmanager
def _store_opened(models: str, check: bool) -> t.Iterator[tuple[int, int]]:
    """Descriptors of a models directory and of its blobs, both made where they lack. Neither may be a link, since the
    engine may write beside them, and root links into them. In check mode, both are -1."""
    if check:
        yield -1, -1
        return
    blobs = os.path.join(models, "blobs")
    with _as_owner_of(os.path.dirname(models)):
        os.makedirs(blobs, mode=0o750, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    root = os.open(models, flags)
    try:
        directory = os.open("blobs", flags, dir_fd=root)
        try:
            yield root, directory
        finally:
            os.close(directory)
    finally:
        os.close(root)


def _adopt_blob(source: str, digest: str, root: int, blobs: int, result: Adoption) -> None:
    if not re.match(r"^sha256:[0-9a-f]{64}$", digest):
        raise StoreError(f"its manifest names {digest!r}, which is no digest")
    path, name = blob_path(source, digest), digest.replace(":", "-")
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=blobs, follow_symlinks=False)
        return
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path} is a symbolic link") from error
        raise
    with open(opened, "rb") as stream:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            raise StoreError(f"{path} is no file")
        actual = hashlib.sha256()
        while chunk := stream.read(2**20):
            actual.update(chunk)
        if actual.hexdigest() != digest[7:]:
            raise StoreError(f"{path} is damaged: its sha256 is {actual.hexdigest()}")
        if about.st_dev == os.fstat(blobs).st_dev and about.st_mode & stat.S_IROTH:
            os.link(path, name, dst_dir_fd=blobs, follow_symlinks=False)
            result.linked_bytes += about.st_size
            return
        stream.seek(0)
        _copy_blob(stream, name, about.st_size, root, blobs)
        result.copied_bytes += about.st_size


def _copy_blob(stream: t.BinaryIO, name: str, size: int, root: int, blobs: int) -> None:
    """Copy a blob beside the directory that the server prunes, and put it in place whole."""
    owner, room = os.fstat(root), os.fstatvfs(root)
    if size > room.f_bavail * room.f_frsize:
        raise StoreError(f"its {size} bytes have to be copied, and {room.f_bavail * room.f_frsize} are free")
    temporary = f".onprem-llm-{name}"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=root)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640, dir_fd=root)
    with open(handle, "wb") as target:
        while chunk := stream.read(2**20):
            target.write(chunk)
        target.flush()
        os.fsync(handle)
        os.fchown(handle, owner.st_uid, owner.st_gid)
    os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=blobs)


def _write_manifest(models: str, relative: str, content: bytes) -> None:
    with _as_owner_of(models):
        path = os.path.join(models, relative)
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".onprem-llm-", dir=models)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o640)
        os.replace(temporary, path)


def _read(path: str) -> dict[str, t.Any]:
    """A manifest. StoreError where it is none."""
    with open(path, encoding="utf-8") as stream:
        try:
            manifest = json.load(stream)
            if isinstance(manifest["layers"], list) and all(isinstance(layer, dict) for layer in manifest["layers"]):
                return t.cast("dict[str, t.Any]", manifest)
        except (ValueError, TypeError, KeyError):
            pass
    raise StoreError(f"{path} is no manifest")


def _digests(path: str) -> set[str]:
    """The digests of a manifest's layers; none where the file is gone or no manifest."""
    try:
        return {str(layer.get("digest")) for layer in _read(path)["layers"]}
    except (FileNotFoundError, StoreError):
        return set()


def _replace(models: str, path: str, content: str) -> None:
    """Put a file in place whole; it is written outside the directories whose files the server lists or prunes."""
    handle, temporary = tempfile.mkstemp(prefix=".onprem-llm-", dir=models)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), os.stat(path).st_mode & 0o777)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _as_owner_of(directory: str) -> t.Iterator[None]:
    """Do what follows with the rights of the directory's owner, where this process is root."""
    owner = os.stat(directory)
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
