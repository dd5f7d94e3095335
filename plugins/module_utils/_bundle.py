# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle: one directory with everything that a site without a way out needs, and the list that it is held against.

::

    bundle.json          what is in it, and every file with its size in bytes and its SHA-256
    bundle.json.sig      a signature of that, if there was a key (``ssh-keygen -Y``)
    oci/                 an OCI image layout: container images, models and model files alike
    apt/<release>/       a flat package repository for each release of a distribution
    python/              wheels for the controller, the collections that this one depends on among them
    collections/         this collection

``bundle.json`` holds no time and no place, so the same content has the same SHA-256 whenever and wherever it was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _disk

SCHEMA = 1
LIST = "bundle.json"
SIGNATURE = "bundle.json.sig"
# What a signature is for, by the word of ssh-keygen(1): one for something else is none for a bundle.
SIGNATURE_NAMESPACE = "onprem-llm-bundle"

# Distribution and version of each release that the collection knows, as Ansible's facts have them.
RELEASES = {
    "bookworm": ("Debian", "12"),
    "trixie": ("Debian", "13"),
    "forky": ("Debian", "14"),
    "jammy": ("Ubuntu", "22.04"),
    "noble": ("Ubuntu", "24.04"),
    "resolute": ("Ubuntu", "26.04"),
}

# A list of a few thousand packages takes half a MiB.
MAX_LIST_BYTES = 64 * 2**20
_HEX = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_+~.-]+")


class BundleError(Exception):
    """There is no bundle, or one that cannot be used; the text says why."""


@dataclass(frozen=True)
class File:
    """One file of a bundle, its path relative to the bundle and its size in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Image:
    """A container image by its full reference with the tag, and the digest of its manifest or index."""

    reference: str
    digest: str


@dataclass(frozen=True)
class Model:
    """A model by its full name, the digest of its weights and that of its manifest."""

    name: str
    digest: str
    manifest_digest: str


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file by the SHA-256 of its content."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Distribution:
    """Packages for one release on one architecture: name → version."""

    release: str
    architecture: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """What ``bundle.json`` says."""

    version: str
    distributions: tuple[Distribution, ...] = ()
    images: tuple[Image, ...] = ()
    models: tuple[Model, ...] = ()
    files: tuple[ModelFile, ...] = ()
    contents: tuple[File, ...] = ()

    def text(self) -> bytes:
        """The bytes of ``bundle.json``; the same for the same content."""
        data: dict[str, t.Any] = {"schema": SCHEMA, "collection": {"name": "onprem.llm", "version": self.version}}
        for name in ("distributions", "images", "models", "files", "contents"):
            items = [asdict(item) for item in getattr(self, name)]
            data[name] = sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.contents)


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Bundle:
    """What a ``bundle.json`` says.

    :raises BundleError: it is none, of another schema, or names what cannot be.
    """
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{LIST} is no JSON: {error}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise BundleError(f"{LIST} is not a bundle's: it names no schema")
    if found["schema"] != SCHEMA:
        raise BundleError(
            f"{LIST} has the schema {str(found['schema'])[:40]}; this version of the collection reads {SCHEMA}. Use "
            "the collection that lies in the bundle"
        )
    collection = found.get("collection")
    version = collection.get("version") if isinstance(collection, dict) else None
    if not isinstance(version, str):
        raise BundleError(f"{LIST}: collection has no version")
    bundle = Bundle(
        version,
        tuple(_item(Distribution, "distributions", item) for item in _list(found, "distributions")),
        tuple(_item(Image, "images", item) for item in _list(found, "images")),
        tuple(_item(Model, "models", item) for item in _list(found, "models")),
        tuple(_item(ModelFile, "files", item) for item in _list(found, "files")),
        tuple(_item(File, "contents", item) for item in _list(found, "contents")),
    )
    paths = [file.path for file in bundle.contents]
    if len(set(paths)) != len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise BundleError(f"{LIST}: contents names {twice[0]} twice")
    return bundle


def _list(found: dict[str, t.Any], name: str) -> list[t.Any]:
    value = found.get(name)
    if not isinstance(value, list):
        raise BundleError(f"{LIST}: {name} is no list")
    return value


_T = t.TypeVar("_T")


def _item(kind: type[_T], place: str, item: t.Any) -> _T:
    """One entry of a list, each of its fields of the form that its name stands for."""
    names = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    if not isinstance(item, dict) or sorted(item) != sorted(names):
        raise BundleError(f"{LIST}: an entry of {place} is {str(item)[:200]}; it must have {', '.join(names)}")
    for name, value in item.items():
        if name == "path":
            good = isinstance(value, str) and safe(value)
        elif name == "size":
            good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        elif name == "sha256":
            good = isinstance(value, str) and bool(_HEX.fullmatch(value))
        elif name in ("digest", "manifest_digest"):
            good = isinstance(value, str) and bool(_digest.PATTERN.fullmatch(value))
        elif name == "packages":
            good = isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
        else:
            good = isinstance(value, str) and value.isprintable() and value != ""
        if not good:
            raise BundleError(f"{LIST}: {name} of an entry of {place} is {str(value)[:200]!r}, which cannot be")
    return kind(**item)


def safe(path: str) -> bool:
    """Whether a path stays inside of the bundle on every system."""
    return all(_PART.fullmatch(part) and part not in (".", "..") for part in path.split("/"))


def load(directory: str, sha256: str = "") -> tuple[Bundle, str]:
    """The bundle in a directory and the SHA-256 of its list.

    :param sha256: what that must be; nothing is held against an empty one.
    :raises BundleError: there is none, it has another SHA-256, or see :func:`parse`.
    """
    path = os.path.join(directory, LIST)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"there is no bundle in {directory}: {path}: {error.strerror}") from error
    if len(data) > MAX_LIST_BYTES:
        raise BundleError(f"{path} has more than {MAX_LIST_BYTES} bytes")
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise BundleError(
            f"{path} has the sha256 {found}, and {sha256} is wanted: it is another bundle, or was changed"
        )
    return parse(data), found


# --- checking --------------------------------------------------------------------------------------------------------


class Paused(Exception):
    """The time of a call is over; what was read is stamped."""


class Reader:
    """Reads files for their SHA-256, none twice that is as it was.

    :param stamps: by path relative to the directory, what :attr:`stamps` was before: size, times and SHA-256; in its
        place, of a file that is being read, nothing and the state of :class:`_digest.Hasher`.
    :param report: called with the bytes read since the last call.
    :param go_on: asked after each MiB; where it says no, reading raises :class:`Paused`. Something is read in any case.
    """

    def __init__(
        self,
        directory: str,
        stamps: t.Mapping[str, t.Any],
        report: t.Callable[[int], None] | None = None,
        go_on: t.Callable[[], bool] | None = None,
    ) -> None:
        self.directory = os.path.realpath(directory)
        self.stamps: dict[str, list[t.Any]] = {
            path: list(stamp) for path, stamp in stamps.items() if isinstance(stamp, list)
        }
        self._report = report or (lambda count: None)
        self._go_on = go_on or (lambda: True)
        self._read_any = False

    def state(self, path: str) -> os.stat_result:
        """The file's state.

        :raises OSError: it is not there.
        :raises BundleError: it is no file, or a link leads to it.
        """
        whole = os.path.join(self.directory, path)
        found = os.lstat(whole)
        if os.path.realpath(whole) != whole or not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{path} is no file of the bundle's own, but a link or something else")
        return found

    def read_already(self, path: str, found: os.stat_result) -> str:
        """The SHA-256 that the file had when it was read, if nothing has written to it since; else nothing."""
        stamp = self.stamps.get(path) or []
        # ctime beside mtime: `touch` and `cp --preserve` set the one and not the other.
        return str(stamp[3]) if len(stamp) == 4 and stamp[:3] == self._times(found) else ""

    def read(self, path: str) -> str:
        """The SHA-256 of a file's content, and a stamp of it.

        :raises OSError: it cannot be read.
        :raises Paused: the time is over; the next reader goes on in the middle, where the host lets it.
        """
        if self._read_any and not self._go_on():
            raise Paused
        self._read_any = True
        with open(os.path.join(self.directory, path), "rb") as stream:
            times, stamp = self._times(os.fstat(stream.fileno())), self.stamps.get(path) or []
            hasher = _digest.Hasher(str(stamp[4]) if len(stamp) == 5 and stamp[:3] == times else "")
            before = hasher.position
            whole = hasher.read(stream, self._go_on)
        self._report(hasher.position - before)
        self.stamps[path] = [*times, hasher.digest[7:]] if whole else [*times, "", hasher.dump()]
        if not whole:
            raise Paused
        return hasher.digest[7:]

    def progress(self, paths: t.Iterable[str]) -> tuple[int, int]:
        """Bytes that were read of these files, and bytes of those that are there."""
        done = total = 0
        for path in paths:
            try:
                found = self.state(path)
            except (OSError, BundleError):
                continue
            total += found.st_size
            stamp = self.stamps.get(path) or []
            if stamp[:3] == self._times(found):
                done += found.st_size if len(stamp) == 4 else _digest.Hasher(str(stamp[4])).position
        return done, total

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file, read only if need be.

        :raises OSError: it is not there.
        :raises BundleError: it is no file.
        :raises Paused: see :meth:`read`.
        """
        return self.read_already(path, self.state(path)) or self.read(path)

    def stamp(self, path: str, sha256: str) -> None:
        """Note the SHA-256 of a file that was just written, and hashed on its way.

        :raises OSError: it is not there.
        """
        self.stamps[path] = [*self._times(self.state(path)), sha256]

    @staticmethod
    def _times(found: os.stat_result) -> list[int]:
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def check(reader: Reader, bundle: Bundle) -> list[str]:
    """What of the bundle's files is missing, of another size or changed: a sentence a file.

    :raises Paused: the reader's time is over; its stamps have what was read so far.
    """
    faults = []
    unread = []
    for file in bundle.contents:
        try:
            found = reader.state(file.path)
        except BundleError as error:
            faults.append(str(error))
            continue
        except OSError as error:
            faults.append(f"{file.path} is missing ({error.strerror})")
            continue
        if found.st_size != file.size:
            faults.append(
                f"{file.path} has {found.st_size} bytes, and {LIST} says {file.size}: it was cut off or changed"
            )
        elif reader.read_already(file.path, found) != file.sha256:
            unread.append(file)
    for file in unread:
        try:
            digest = reader.read(file.path)
        except OSError as error:
            faults.append(f"{file.path} cannot be read ({error.strerror})")
            continue
        if digest != file.sha256:
            faults.append(
                f"{file.path} has the sha256 {digest}, and {LIST} says {file.sha256}: a byte of it was changed"
            )
    return faults


def lacking(bundle: Bundle, wants: t.Mapping[str, t.Any]) -> list[str]:
    """What hosts want and the bundle does not have, a sentence each.

    :param wants: as the module ``bundle_wants`` returns it.
    """
    faults = []
    digests: dict[str, list[str]] = {}
    for model in bundle.models:
        digests.setdefault(model.name, []).append(model.digest)
    for want in wants.get("models") or []:
        found = digests.get(want["name"]) or []
        if not found:
            faults.append(f"it has no model {want['name']}, which {_hosts(want)}")
        elif want.get("digest") and want["digest"] not in found:
            faults.append(
                f"it has the model {want['name']} with the weights {', '.join(found)}, and "
                f"{_hosts(want, want['digest'])}"
            )
    references = {image.digest: image.reference for image in bundle.images}
    for want in wants.get("images") or []:
        if want["digest"] not in references:
            faults.append(f"it has no image {want['reference']}@{want['digest']}, which {_hosts(want)}")
    files = {file.sha256 for file in bundle.files}
    for want in wants.get("files") or []:
        if want["sha256"] not in files:
            faults.append(f"it has no file of {want['name']} with the sha256 {want['sha256']}, which {_hosts(want)}")
    distributions = {(one.release, one.architecture): one.packages for one in bundle.distributions}
    for want in wants.get("packages") or []:
        place = (want["release"], want["architecture"])
        if place not in distributions:
            known = ", ".join(" ".join(one) for one in sorted(distributions)) or "none"
            faults.append(f"it has no packages for {' '.join(place)}, which {_hosts(want)}; it has some for: {known}")
            continue
        for name, version in sorted(want["packages"].items()):
            there = distributions[place].get(name)
            if there is None:
                faults.append(f"it has no package {name} for {want['release']}, which {_hosts(want)}")
            elif not there.startswith(version):
                faults.append(
                    f"it has the package {name} {there} for {want['release']}, and {_hosts(want, version + '*')}"
                )
    return faults


def _hosts(want: t.Mapping[str, t.Any], what: str = "") -> str:
    names = want.get("hosts") or []
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown or 'a host'} {'wants' if len(names) < 2 else 'want'}" + (f" {what}" if what else "")


# --- writing ---------------------------------------------------------------------------------------------------------


def contents(reader: Reader) -> tuple[File, ...]:
    """Every file below the reader's directory but the list and its signature.

    :raises BundleError: something there is no file, or has a name that no bundle may have.
    """
    found = []
    for place, _directories, names in os.walk(reader.directory):
        for name in names:
            path = os.path.relpath(os.path.join(place, name), reader.directory)
            if path in (LIST, SIGNATURE):
                continue
            if not safe(path):
                raise BundleError(f"{path} cannot be in a bundle: its name has other characters than A-Za-z0-9_+~.-")
            found.append(File(path, reader.state(path).st_size, reader.sha256(path)))
    return tuple(sorted(found, key=lambda file: file.path))


def write(path: str, data: bytes) -> bool:
    """Write a file whole or not at all, and not if it is so already. Whether it was written."""
    try:
        with open(path, "rb") as stream:
            if stream.read() == data:
                return False
    except OSError:
        pass
    # What one that was killed left goes with the next: whatever lies in a bundle is listed.
    _disk.write(path, data, 0o644, temporary=path + ".new")
    return True
