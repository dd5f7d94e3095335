# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that a node keeps, to go back to: a directory each with copies of the files that configure the engine, and
``record.json`` about them. The models' manifests are in the record; their blobs are kept by further names, which take
no room as long as the engine's store has them too."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _disk, _ollama_store, _upgrade

RECORD = "record.json"
SCHEMA = 1


class KeptError(Exception):
    """A release cannot be kept, or not come back; the message says why."""


def read_json(path: str) -> dict[str, t.Any] | None:
    """A JSON object of a file, or None where there is no file.

    :raises KeptError: it is damaged.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KeptError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise KeptError(f"{path} is no JSON object")
    return found


def files_as_they_are(files: t.Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the host's files are now, by the name that they are kept under; one that is not there is left out."""
    found = {}
    for name, path in files.items():
        try:
            with open(path, "rb") as stream:
                mode = format(stat.S_IMODE(os.fstat(stream.fileno()).st_mode), "04o")
                found[name] = {"path": path, "mode": mode, "sha256": hashlib.sha256(stream.read()).hexdigest()}
        except FileNotFoundError:
            continue
    return found


def _manifests(record: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, bytes]]:
    """Name and manifest of each of a release's models, byte by byte as the engine's store had it."""
    for name, text in (record.get("manifests") or {}).items():
        yield name, text.encode("utf-8", "surrogateescape")


def _as_json(value: t.Mapping[str, t.Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


class Kept:
    """The kept releases of a host.

    :param directory: has one directory a release.
    :param models_dir: the engine's models directory.
    :param blobs_dir: where further names of the models' blobs are, on the same file system.
    """

    def __init__(self, directory: str, models_dir: str, blobs_dir: str) -> None:
        self._directory, self._models, self._blobs = directory, models_dir, blobs_dir

    def names(self) -> list[str]:
        """The oldest first."""
        try:
            return sorted(name for name in os.listdir(self._directory) if _upgrade.is_entry_name(name))
        except FileNotFoundError:
            return []

    def record(self, name: str) -> dict[str, t.Any]:
        """:raises KeptError: there is none such, or it is damaged."""
        if not _upgrade.is_entry_name(name):
            raise KeptError(f"{name!r} is no name of a kept release")
        found = read_json(os.path.join(self._directory, name, RECORD))
        if found is None:
            raise KeptError(f"{self._directory}/{name} has no {RECORD}")
        if found.get("schema") != SCHEMA or not isinstance(found.get("files"), dict) or "image_id" not in found:
            raise KeptError(f"{self._directory}/{name}/{RECORD} is no record of schema {SCHEMA}")
        return found

    def fault(self, name: str, images: t.Container[str]) -> str:
        """Why a release cannot come back, or nothing.

        :param images: IDs of the images that Docker has.
        """
        try:
            record = self.record(name)
            for file, about in record["files"].items():
                self._copy_of(name, file, about)
            lost = self._lost(record)
        except (KeptError, _ollama_store.StoreError) as error:
            return str(error)
        if record["image_id"] not in images:
            return f"its image {record['image_id']} is not on this host any more; did docker image prune -a remove it?"
        return f"weights are gone: {', '.join(lost)}" if lost else ""

    def save(self, name: str, files: t.Mapping[str, str], about: t.Mapping[str, t.Any]) -> tuple[str, bool]:
        """Keep what runs now as a release; one that says the same already is it, and learns what is new.

        :param about: ``version``, ``image_id``, ``models`` (digests of weights by name), and what else is to be known.
        :return: its name, and whether anything changed.
        :raises KeptError: a file is not there.
        """
        now = files_as_they_are(files)
        missing = sorted(set(files) - set(now))
        if missing:
            raise KeptError(f"{files[missing[0]]} is not there, so what runs cannot be kept")
        record: dict[str, t.Any] = {"schema": SCHEMA, "name": name, **about, "files": now}
        for known in reversed(self.names()):
            try:
                before = self.record(known)
            except KeptError:
                continue
            if _upgrade.same_release(before, record):
                merged = {**before, **{key: value for key, value in about.items() if value is not None}}
                self._keep_models(merged)
                if merged != before:
                    _disk.write(os.path.join(self._directory, known, RECORD), _as_json(merged), 0o644)
                return known, merged != before
        self._keep_models(record)
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        # Under a name that is none, until all of it is there.
        place = tempfile.mkdtemp(dir=self._directory, prefix=".new-")
        for file, told in now.items():
            with open(told["path"], "rb") as stream:
                _disk.write(os.path.join(place, file), stream.read(), 0o644)
        _disk.write(os.path.join(place, RECORD), _as_json(record), 0o644)
        os.chmod(place, 0o755)
        os.replace(place, os.path.join(self._directory, name))
        return name, True

    def restore(self, name: str) -> list[str]:
        """Put a release's files and models back; what changed is returned.

        :raises KeptError: not all of it is there, and then nothing was changed.
        """
        record = self.record(name)
        contents = {file: self._copy_of(name, file, about) for file, about in record["files"].items()}
        lost = self._lost(record)
        if lost:
            raise KeptError(f"weights of the release {name} are gone: {', '.join(lost)}")
        changed = self._restore_models(record)
        for file, content in contents.items():
            about = record["files"][file]
            if files_as_they_are({file: about["path"]}).get(file) != about:
                _disk.write(about["path"], content, int(about["mode"], 8))
                changed.append(about["path"])
        return changed

    def drop(self, names: t.Iterable[str]) -> None:
        """Forget releases, and the weights that no other has."""
        for name in names:
            if _upgrade.is_entry_name(name):
                shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)
        needed: set[str] = set()
        for name in self.names():
            try:
                for _model, manifest in _manifests(self.record(name)):
                    needed.update(_ollama_store.blob_name(blob.digest) for blob in _ollama_store.blobs(manifest))
            except (KeptError, _ollama_store.StoreError):
                return  # Nobody knows what that one needs.
        place = os.path.join(self._blobs, "blobs")
        for file in os.listdir(place) if os.path.isdir(place) else []:
            if file not in needed:
                os.unlink(os.path.join(place, file))

    # --- Models

    def _keep_models(self, record: dict[str, t.Any]) -> None:
        """Note the manifests of a release's models, and give their blobs a further name."""
        manifests: dict[str, str] = {}
        with _ollama_store.Store(self._models) as store, _ollama_store.Store(self._blobs) as kept:
            for name in record.get("models") or {}:
                content = store.manifest(name)
                if content is None:
                    continue
                manifests[name] = content.decode("utf-8", "surrogateescape")
                for blob in _ollama_store.blobs(content):
                    if not kept.has(blob.digest, blob.size or None) and store.has(blob.digest):
                        with store.opened(blob.digest) as stream:
                            # Its bytes are the engine's affair; a name more neither reads nor copies them.
                            kept.link(stream, blob.digest, blob.digest)
        record["manifests"] = manifests

    def _lost(self, record: t.Mapping[str, t.Any]) -> list[str]:
        """Models of which a blob is nowhere any more."""
        with _ollama_store.Store(self._models) as store, _ollama_store.Store(self._blobs) as kept:
            return [
                name
                for name, manifest in _manifests(record)
                for blob in _ollama_store.blobs(manifest)
                if not store.has(blob.digest) and not kept.has(blob.digest)
            ]

    def _restore_models(self, record: t.Mapping[str, t.Any]) -> list[str]:
        changed = []
        with _ollama_store.Store(self._models) as store, _ollama_store.Store(self._blobs) as kept:
            for name, manifest in _manifests(record):
                for blob in _ollama_store.blobs(manifest):
                    if not store.has(blob.digest):
                        with kept.opened(blob.digest) as stream:
                            store.link(stream, blob.digest, blob.digest)
                        changed.append(f"{name}: {blob.digest}")
                if store.manifest(name) != manifest:
                    store.write_manifest(name, manifest)
                    changed.append(name)
        return changed

    # --- Files

    def _copy_of(self, name: str, file: str, about: t.Mapping[str, str]) -> bytes:
        """:raises KeptError: the copy is gone, or is not what was kept."""
        path = os.path.join(self._directory, name, os.path.basename(file))
        try:
            with open(path, "rb") as stream:
                content = stream.read()
        except OSError as error:
            raise KeptError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != about.get("sha256"):
            raise KeptError(f"{path} is damaged: its SHA-256 is not the one in {RECORD}")
        return content
