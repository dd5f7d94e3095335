# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a bundle: what it takes is looked up by name and digest; then each piece is fetched that is not here yet.

What was looked up is data, so that a call which is bound in time can hand back, and the next goes on with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import typing as t
from contextlib import suppress
from dataclasses import dataclass, field

from ansible_collections.onprem.llm.plugins.module_utils import (
    _apt,
    _bundle,
    _digest,
    _mirror,
    _mirror_place,
    _nvidia_driver,
    _registry,
    _repository,
    _transfer,
    _turn,
)

_LOOPBACK = re.compile(r"(127\.[0-9.]+|localhost|\[::1\])(:[0-9]+)?")

Run = t.Callable[[t.Any], "tuple[int, str, str]"]


@dataclass(frozen=True)
class Piece:
    """One file that comes from elsewhere. ``source`` has ``repository`` (scheme, host, path), ``url`` or ``file``."""

    path: str
    digest: str
    size: int | None
    purpose: str
    source: dict[str, t.Any]


@dataclass
class Plan:
    """What a bundle will have. ``texts`` are files that are known already, Base64 by path."""

    by_path: dict[str, Piece] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    index: list[dict[str, t.Any]] = field(default_factory=list)
    models: list[_bundle.Model] = field(default_factory=list)
    images: list[_bundle.Image] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    distributions: list[_bundle.Distribution] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Note a piece, once for each path."""
        self.by_path.setdefault(piece.path, piece)

    @property
    def pieces(self) -> t.Collection[Piece]:
        """In the order in which they were noted."""
        return self.by_path.values()

    def write(self, path: str, data: bytes) -> None:
        """Note a file whose content is known."""
        self.texts[path] = base64.b64encode(data).decode()

    def paths(self) -> set[str]:
        """Every file that the bundle will have of these."""
        return set(self.by_path) | set(self.texts)

    def dump(self) -> bytes:
        """As JSON."""
        return json.dumps(self, default=lambda item: item.__dict__).encode()

    @classmethod
    def load(cls, data: bytes) -> Plan:
        """From what :meth:`dump` gave.

        :raises ValueError: it is something else.
        """
        found = json.loads(data)
        return cls(
            {path: Piece(**item) for path, item in found["by_path"].items()},
            found["texts"],
            found["index"],
            [_bundle.Model(**item) for item in found["models"]],
            [_bundle.Image(**item) for item in found["images"]],
            found["files"],
            [_bundle.Distribution(**item) for item in found["distributions"]],
        )


@dataclass(frozen=True)
class Registry:
    """Where the registry ``host`` is really asked, and how."""

    host: str
    url: str
    ca_path: str | None = None
    login: tuple[str, str] | None = None


def blob_path(digest: str) -> str:
    """Path of a blob in the bundle's image layout."""
    return "oci/blobs/" + digest.replace(":", "/")


class Looker:
    """Looks up what a bundle takes.

    :param directory: the bundle; a manifest that is there and has its digest is not asked for again.
    :param run: runs a command and gives status, output and error output.
    """

    def __init__(
        self, directory: str, staging: str, registries: t.Sequence[Registry], limits: _transfer.Limits, run: Run
    ) -> None:
        self._directory, self._staging, self._limits, self._run = directory, staging, limits, run
        self._registries = {registry.host: registry for registry in registries}
        self._clients: dict[str, _registry.Client] = {}
        self.plan = Plan()
        self._described: dict[tuple[str, str], dict[str, _apt.Package]] = {}
        try:
            self._before = _bundle.load(directory)[0]
        except _bundle.BundleError:
            self._before = _bundle.Bundle("")

    def look(self, wants: t.Mapping[str, t.Any]) -> Plan:
        """The plan of a bundle with all that is wanted.

        :raises BundleError, RegistryError, AptError: what cannot be had, and why.
        """
        for want in wants.get("images") or []:
            self.image(want["reference"], want["digest"])
        for want in wants.get("models") or []:
            self.model(want["name"], want.get("digest") or "")
        for want in wants.get("files") or []:
            self.file(want["name"], want["sha256"], want)
        for number, want in enumerate(wants.get("packages") or []):
            self.packages(number, want)
        self._repositories()
        return self.plan

    def client(self, host: str) -> _registry.Client:
        """What asks a registry."""
        if host not in self._clients:
            found = self._registries.get(host)
            self._clients[host] = _registry.Client(
                timeout=self._limits.stall_seconds,
                time_limit=None,
                ca_path=found.ca_path if found else None,
                login=found.login if found else None,
            )
        return self._clients[host]

    def place(self, host: str, path: str) -> _repository.Repository:
        """The repository that is really asked."""
        if host in self._registries:
            return _repository.Repository(*_repository.parse_address(self._registries[host].url), path)
        # As Docker does: https, but for a registry on this very host.
        return _repository.Repository(
            "http" if _LOOPBACK.fullmatch(host) else "https",
            _mirror_place.DOCKER_HUB_REGISTRY if host == _mirror_place.DOCKER_HUB else host,
            path,
        )

    def label(self, piece: Piece) -> str:
        """Where a piece comes from, for people."""
        if "file" in piece.source:
            return "this host"
        return self.origin(piece.source, piece.digest).label

    def origin(self, source: t.Mapping[str, t.Any], digest: str) -> _transfer.Origin:
        """Where a piece is fetched from."""
        if "url" in source:
            return _transfer.UrlOrigin(source["url"], timeout=self._limits.stall_seconds)
        return _transfer.RegistryOrigin(
            self.client(source["registry"]), _repository.Repository(*source["repository"]), digest
        )

    def image(self, reference: str, digest: str) -> None:
        """A container image, an index with all that it names."""
        parsed = _mirror_place.parse_image(reference)
        name = f"{parsed.host}/{parsed.path}:{parsed.tag}"
        data = self._manifests(parsed.host, parsed.path, digest, f"image {name}")
        describe(self.plan, data, digest, str(parsed.place))
        self.plan.images.append(_bundle.Image(name, digest))

    def model(self, name: str, digest: str) -> None:
        """A model by its full name, the digest of its weights if it is pinned."""
        full = _repository.parse_name(name)
        path = f"{full.namespace}/{full.model}"
        key = str(full)
        data = self._kept(key, digest)
        if data is None:
            repository = self.place(full.host, path)
            data = self._ask(full.host, repository, full.tag, _registry.MANIFEST_TYPE)
        weights = _registry.parse_manifest(data).weights.digest
        if digest and weights != digest:
            raise _bundle.BundleError(
                f"the model {key} has the weights {weights} at its registry, and {digest} is pinned: its tag was "
                "re-pointed"
            )
        manifest = _digest.of_bytes(data)
        self._blobs(full.host, path, data, f"model {key}")
        self.plan.write(blob_path(manifest), data)
        describe(self.plan, data, manifest, str(_mirror_place.model_place(key)))
        self.plan.models.append(_bundle.Model(key, weights, manifest))

    def file(self, name: str, sha256: str, source: t.Mapping[str, t.Any]) -> None:
        """A GGUF file as an artifact of one layer, from a URL or from the controller.

        A controller that is another host has copied it to its place before, so it is not looked for here.
        """
        digest = f"sha256:{sha256}"
        if sha256 in self.plan.files:
            return
        where = {"url": source["url"]} if source.get("url") else {"file": source.get("path")}
        size = source.get("size")
        self.plan.add(Piece(blob_path(digest), digest, size, f"file of {name}", where))
        self.plan.files.append(sha256)

    def packages(self, number: int, want: t.Mapping[str, t.Any]) -> None:
        """The packages of one kind of host with all that they depend on.

        :raises AptError: apt cannot find or read them.
        """
        release, architecture = want["release"], want["architecture"]
        root = os.path.join(self._staging, f"apt-{release}-{architecture}-{number}")
        sources = dict(want["sources"])
        for repository in want.get("repositories") or []:
            sources[repository["name"] + ".sources"] = self._source(repository, release, root)
        for path in re.findall(r"(?m)^Signed-By: (/\S+)$", "\n".join(sources.values())):
            if not os.path.isfile(path):
                # Ubuntu's package has another name than its file; Debian, from release 13 on, has it by both.
                package = os.path.basename(path).replace(".gpg", "").replace("ubuntu-archive-", "ubuntu-")
                raise _apt.AptError(
                    f"{path} is not on this host, so nothing from the archives of {release} can be trusted; install "
                    f"the package {package}"
                )
        _apt.prepare(root, sources, want.get("preferences") or "")
        options = _apt.options(root, architecture)
        self._said(["apt-get", *options, "-qq", "-o", "APT::Update::Error-Mode=any", "update"], release)
        names = [f"{name}={start}*" if start else name for name, start in sorted(want["packages"].items())]
        listing = self._said(["apt-get", *options, "-qq", "-y", "--print-uris", "install", *names], release)
        chosen = _apt.chosen(listing)
        shown = self._said(
            ["apt-cache", *options, "show", *(f"{name}={version}" for name, version, _kind in chosen)], release
        )
        place = f"apt/{release}"
        for package in _apt.described(shown, chosen):
            path, digest = f"{place}/{package.file_name}", f"sha256:{package.sha256}"
            self.plan.add(Piece(path, digest, package.size, f"package for {release}", {"url": package.url}))
            self._described.setdefault((release, architecture), {})[package.file_name] = package

    def _source(self, repository: t.Mapping[str, str], release: str, root: str) -> str:
        """The source entry of a repository whose key lies in it, and is believed by its fingerprint.

        :raises AptError: the key cannot be had, or is another.
        """
        key = repository["key"]
        if not key:
            os.makedirs(root, exist_ok=True)
            place = os.path.join(root, repository["name"] + ".key")
            self._said(["/usr/lib/apt/apt-helper", "download-file", repository["key_url"], place], release)
            with open(place, encoding="utf-8", errors="replace") as stream:
                key = stream.read()
        try:
            return _nvidia_driver.trusted_source(repository["url"], key, repository["fingerprint"])
        except ValueError as error:
            raise _apt.AptError(str(error)) from error

    def _repositories(self) -> None:
        for (release, architecture), packages in sorted(self._described.items()):
            listed = [packages[name] for name in sorted(packages)]
            index = _apt.index(listed)
            self.plan.write(f"apt/{release}/Packages", index)
            self.plan.write(f"apt/{release}/Release", _apt.release(release, architecture, {"Packages": index}))
            versions = {package.name: package.version for package in listed}
            self.plan.distributions.append(_bundle.Distribution(release, architecture, versions))

    def _said(self, command: list[str], release: str) -> str:
        code, output, error = self._run(command)
        if code:
            lines = [line for line in (error or output).splitlines() if line.strip()]
            raise _apt.AptError(f"{command[0]} for {release}: {' '.join(lines[:6]) or f'status {code}'}")
        return output

    def _kept(self, name: str, digest: str) -> bytes | None:
        """The manifest of a pinned model that the bundle has already."""
        for model in self._before.models:
            if digest and model.name == name and model.digest == digest:
                return self._read(model.manifest_digest)
        return None

    def _read(self, digest: str) -> bytes | None:
        """A small blob that is in the bundle already and has its digest."""
        with suppress(OSError), open(os.path.join(self._directory, blob_path(digest)), "rb") as stream:
            data = stream.read(_registry.MAX_MANIFEST_BYTES + 1)
            if _digest.of_bytes(data) == digest:
                return data
        return None

    def _ask(self, host: str, repository: _repository.Repository, reference: str, accept: str) -> bytes:
        client = self.client(host)
        return _transfer.persistently(lambda: client.manifest(repository, reference, accept), self._limits)

    def _manifests(self, host: str, path: str, digest: str, purpose: str) -> bytes:
        """A manifest by its digest with all below it noted; its own bytes."""
        data = self._read(digest)
        if data is None:
            data = self._ask(host, self.place(host, path), digest, _registry.ANY_MANIFEST)
        self.plan.write(blob_path(digest), data)
        below = _registry.children(data)
        for child in below:
            self._manifests(host, path, child.digest, purpose)
        if not below:
            self._blobs(host, path, data, purpose)
        return data

    def _blobs(self, host: str, path: str, manifest: bytes, purpose: str) -> None:
        place = self.place(host, path)
        source = {"registry": host, "repository": [place.scheme, place.host, place.path]}
        for layer in _registry.layers(manifest):
            self.plan.add(Piece(blob_path(layer.digest), layer.digest, layer.size, purpose, source))


def describe(plan: Plan, manifest: bytes, digest: str, place: str) -> None:
    """Name a manifest in the layout's index by its repository and tag on a mirror."""
    entry = {"mediaType": _mirror.media_type(manifest), "digest": digest, "size": len(manifest)}
    plan.index.append({**entry, "annotations": {_mirror.REF_NAME: place}})


def describe_file(plan: Plan, sha256: str, size: int) -> None:
    """Note a GGUF file, whose size is known by now, as an artifact of the image layout."""
    digest = f"sha256:{sha256}"
    manifest = _mirror.file_manifest(digest, size)
    plan.write(blob_path(_digest.of_bytes(_mirror.EMPTY)), _mirror.EMPTY)
    plan.write(blob_path(_digest.of_bytes(manifest)), manifest)
    describe(plan, manifest, _digest.of_bytes(manifest), str(_mirror_place.file_place(digest)))


def describe_layout(plan: Plan) -> None:
    """The files that make ``oci/`` an image layout (OCI image-layout.md, 1.0.0)."""
    index = sorted(plan.index, key=lambda item: str(item["annotations"][_mirror.REF_NAME]))
    text = {"schemaVersion": 2, "mediaType": _mirror.OCI_INDEX, "manifests": index}
    plan.write("oci/index.json", (json.dumps(text, indent=1, sort_keys=True) + "\n").encode())
    plan.write("oci/oci-layout", b'{"imageLayoutVersion": "1.0.0"}\n')


def missing(plan: Plan, reader: _bundle.Reader) -> list[Piece]:
    """The pieces that are not in the bundle, or have another content there.

    :raises Paused: the reader's time is over.
    """
    found = []
    for piece in plan.pieces:
        try:
            there = reader.state(piece.path)
            good = piece.size in (None, there.st_size) and f"sha256:{reader.sha256(piece.path)}" == piece.digest
        except (OSError, _bundle.BundleError):
            good = False
        if not good:
            found.append(piece)
    return found


def here(piece: Piece, staging: _transfer.Staging) -> int:
    """Bytes of a missing piece that need not come again."""
    return staging.held(piece.digest) + _digest.Hasher(str(staging.note(piece.digest).get("state"))).position


def bring(
    piece: Piece,
    looker: Looker,
    staging: _transfer.Staging,
    reader: _bundle.Reader,
    turn: _turn.Turn,
    done: int,
    total: int,
) -> None:
    """Put a piece into the bundle, of which ``done`` bytes of ``total`` are there.

    :raises Pending: the turn is over.
    :raises TransferError: see :func:`_transfer.fetch`.
    :raises BundleError: a file of this host has another SHA-256.
    """
    place = os.path.join(reader.directory, piece.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if "file" in piece.source:
        _copy(str(piece.source["file"]), place, piece, reader, staging, lambda: turn.left > 0, done, total)
        return
    origins = [looker.origin(piece.source, piece.digest)]
    staged = turn.fetch(piece.digest, piece.size, origins, staging, done, total)
    os.chmod(staged.name, 0o644, dir_fd=staged.dir_fd)
    os.rename(staged.name, place, src_dir_fd=staged.dir_fd)
    staging.discard(piece.digest)
    # It was hashed on its way in.
    reader.stamp(piece.path, piece.digest[7:])


def _copy(
    source: str,
    place: str,
    piece: Piece,
    reader: _bundle.Reader,
    staging: _transfer.Staging,
    go_on: t.Callable[[], bool],
    done: int,
    total: int,
) -> None:
    if not os.path.exists(source):
        there = f", and {piece.path} has the sha256 {reader.sha256(piece.path)}" if os.path.exists(place) else ""
        raise _bundle.BundleError(
            f"{source}, the {piece.purpose}, should have the sha256 {piece.digest[7:]}; it is not on this host{there}"
        )
    fresh = place + ".new"
    with open(source, "rb") as stream, open(os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as copy:
        about, note = os.fstat(stream.fileno()), staging.note(piece.digest)
        origin = [source, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns]
        hasher = _digest.Hasher(str(note.get("state")) if note.get("origin") == origin else "")
        if os.fstat(copy.fileno()).st_size < hasher.position:
            hasher = _digest.Hasher()
        copy.truncate(hasher.position)
        copy.seek(hasher.position)
        whole = hasher.read(stream, go_on, copy)
        copy.flush()
        # Before the note says so: nobody reads the copy again.
        os.fsync(copy.fileno())
    if not whole:
        staging.remember(piece.digest, {"origin": origin, "state": hasher.dump()})
        raise _turn.Pending("transfer", done + hasher.position, total)
    staging.discard(piece.digest)
    if hasher.digest != piece.digest:
        os.unlink(fresh)
        raise _bundle.BundleError(
            f"{source}, the {piece.purpose}, has the sha256 {hasher.digest[7:]}, not {piece.digest[7:]}"
        )
    os.chmod(fresh, 0o644)
    os.replace(fresh, place)
    reader.stamp(piece.path, piece.digest[7:])


def seal(plan: Plan, reader: _bundle.Reader, version: str) -> tuple[_bundle.Bundle, str, bool]:
    """Write what is known, take away what is no longer wanted, and list everything: the bundle, its SHA-256, whether
    anything but the list's own stamps changed.

    :raises BundleError: something there can be in no bundle.
    :raises Paused: the reader's time is over.
    """
    sizes = {piece.path: reader.state(piece.path).st_size for piece in plan.pieces}
    for sha256 in plan.files:
        describe_file(plan, sha256, sizes[blob_path(f"sha256:{sha256}")])
    describe_layout(plan)
    changed = False
    for path, text in sorted(plan.texts.items()):
        changed |= _bundle.write(os.path.join(reader.directory, path), base64.b64decode(text))
    for path in stale(plan, reader.directory):
        os.unlink(os.path.join(reader.directory, path))
        changed = True
    files = tuple(_bundle.ModelFile(sha256, sizes[blob_path(f"sha256:{sha256}")]) for sha256 in sorted(plan.files))
    bundle = _bundle.Bundle(
        version,
        tuple(plan.distributions),
        tuple(plan.images),
        tuple(plan.models),
        files,
        _bundle.contents(reader),
    )
    data = bundle.text()
    if _bundle.write(os.path.join(reader.directory, _bundle.LIST), data):
        changed = True
        # A signature of what the list was is worth nothing.
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(reader.directory, _bundle.SIGNATURE))
    return bundle, hashlib.sha256(data).hexdigest(), changed


def stale(plan: Plan, directory: str) -> list[str]:
    """Images, models and packages in the bundle that nobody wants any more."""
    wanted = plan.paths()
    found = []
    for part in ("oci", "apt"):
        for place, _directories, names in os.walk(os.path.join(directory, part)):
            paths = [os.path.relpath(os.path.join(place, name), directory) for name in names]
            found += [path for path in paths if path not in wanted]
    return found
