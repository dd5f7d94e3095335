# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ollama's models directory as files: ``blobs/sha256-<hex>``, and manifests by host, namespace, model and tag.

A running server reads a manifest anew at each request, so what is changed here counts at once (manifest/manifest.go and
server/images.go of Ollama 0.17 to 0.32).
"""

from __future__ import annotations

import glob
import json
import os
import re
import tempfile
import typing as t
from contextlib import contextmanager

from ansible_collections.onprem.llm.plugins.module_utils._catalog import canonical_name

WEIGHTS_TYPE = "application/vnd.ollama.image.model"
_DEFAULTS = ("registry.ollama.ai", "library")


class StoreError(Exception):
    """The directory does not hold what the server says that it has."""


def manifest_path(models: str, name: str) -> str:
    """Path of a model's manifest, for a name such as ``gemma3:270m`` or ``host/namespace/model:tag``.

    :raises StoreError: it is no model's name.
    """
    path, tag = canonical_name(name).rsplit(":", 1)
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
