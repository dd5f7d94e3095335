"""The models directory: manifests by name, blobs by digest, read from the disk anew by every request.

Layout and media types are Ollama's: ``manifests/<host>/<namespace>/<model>/<tag>`` and ``blobs/sha256-<hex>``. Files
that another program puts there are seen at once. A manifest's own bytes are kept, because their sha256 is the model's
digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import gguf

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image."
PRUNE_AGE = 3600.0
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,349}(:\d{1,5})?")


class InvalidName(ValueError):
    """A model name that cannot be one."""


class ModelNotFound(LookupError):
    """No manifest of this name."""


class DigestMismatch(ValueError):
    """The content of a blob is not what its digest says."""


@dataclass(frozen=True)
class Name:
    """A model's name in full."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """The shortest form that means the same."""
        text = f"{self.model}:{self.tag}"
        if self.host != "registry.ollama.ai":
            return f"{self.host}/{self.namespace}/{text}"
        return text if self.namespace == "library" else f"{self.namespace}/{text}"

    @property
    def repository(self) -> str:
        return f"{self.namespace}/{self.model}"


def parse_name(text: str) -> Name:
    """A name with its defaults filled in: host registry.ollama.ai, namespace library, tag latest. InvalidName."""
    rest = text.partition("://")[2] or text
    head, _, last = rest.rpartition("/")
    model, colon, tag = last.partition(":")
    host, _, namespace = head.rpartition("/") if "/" in head else ("", "", head)
    name = Name(host or "registry.ollama.ai", namespace or "library", model, tag if colon else "latest")
    parts = (name.namespace, name.model, name.tag)
    if not _HOST.fullmatch(name.host) or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidName("invalid model name")
    return name


@dataclass(frozen=True)
class Layer:
    """A reference to a blob in a manifest; ``origin`` is the name of the model that it was taken from."""

    media_type: str
    digest: str
    size: int
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return entry | {"from": self.origin} if self.origin else entry

    @classmethod
    def from_json(cls, entry: Any) -> Layer:
        digest = str(entry["digest"])
        if not _DIGEST.fullmatch(digest):
            raise ValueError("invalid digest format")
        return cls(str(entry["mediaType"]), digest, int(entry["size"]), str(entry.get("from", "")))


def encode(document: object) -> bytes:
    """JSON as Go writes it: compact and with ``<``, ``>`` and ``&`` escaped."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


def manifest_bytes(config: Layer, layers: list[Layer]) -> bytes:
    """A manifest without the final line feed that Ollama puts after those it makes itself."""
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
    )


@dataclass(frozen=True)
class Model:
    """A model as its manifest and small layers tell it."""

    name: Name
    digest: str
    modified: int
    config: Layer
    layers: tuple[Layer, ...]
    details: dict[str, Any]
    weights: Path
    adapters: tuple[Path, ...]
    template: str
    system: str
    license: tuple[str, ...]
    parameters: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    requires: str

    @property
    def size(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def header(self) -> gguf.Header:
        return gguf.read(self.weights)

    @property
    def capabilities(self) -> list[str]:
        return ["embedding"] if self.header.is_embedding else ["completion"]


class Store:
    """The directory ``root``, made with its two subdirectories where they are missing."""

    def __init__(self, root: Path) -> None:
        self.manifests, self.blobs = root / "manifests", root / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)

    # Blobs

    def blob(self, digest: str) -> Path:
        """Path of a blob. ValueError if the digest is none."""
        match = _DIGEST.fullmatch(digest)
        if not match:
            raise ValueError("invalid digest format")
        return self.blobs / f"sha256-{match[1]}"

    def write_blob(self, content: Callable[[], bytes], digest: str | None = None) -> tuple[str, int, bool]:
        """Store what ``content`` yields until it is empty; digest, size and whether it was new. DigestMismatch."""
        partial = self.blobs / f"sha256-{secrets.token_hex(8)}-incoming"
        total, state = 0, hashlib.sha256()
        try:
            with open(partial, "wb") as file:
                while chunk := content():
                    file.write(chunk)
                    state.update(chunk)
                    total += len(chunk)
            found = f"sha256:{state.hexdigest()}"
            if digest is not None and found != digest:
                raise DigestMismatch(f'digest mismatch, expected "{digest}", got "{found}"')
            new = not self.blob(found).exists()
            if new:
                os.replace(partial, self.blob(found))
            return found, total, new
        finally:
            partial.unlink(missing_ok=True)

    def write_layer(self, kind: str, content: bytes) -> tuple[Layer, bool]:
        """A small layer and whether its blob was new."""
        chunks = iter((content, b""))
        digest, size, new = self.write_blob(lambda: next(chunks))
        return Layer(kind, digest, size), new

    def open_blob(self, digest: str) -> IO[bytes]:
        return open(self.blob(digest), "rb")

    # Manifests

    def path(self, name: Name) -> Path:
        return self.manifests / name.host / name.namespace / name.model / name.tag

    def find(self, name: Name) -> Name:
        """The name as it is written on the disk: Ollama's names differ in case alone from no other."""
        if self.path(name).is_file():
            return name
        wanted = self.path(name).relative_to(self.manifests).as_posix().lower()
        for present in self.names():
            if self.path(present).relative_to(self.manifests).as_posix().lower() == wanted:
                return present
        raise ModelNotFound(str(name))

    def names(self) -> Iterator[Name]:
        for path in sorted(self.manifests.glob("*/*/*/*")):
            if path.is_file():
                yield Name(*path.relative_to(self.manifests).parts)

    def manifest(self, name: Name) -> bytes:
        try:
            return self.path(self.find(name)).read_bytes()
        except FileNotFoundError as error:
            raise ModelNotFound(str(name)) from error

    def write_manifest(self, name: Name, content: bytes) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not beside the manifest: whatever lies at that depth is read as one.
        partial = self.blobs / f"sha256-{secrets.token_hex(8)}-incoming"
        partial.write_bytes(content)
        os.replace(partial, path)

    @staticmethod
    def parse_manifest(content: bytes) -> tuple[Layer, list[Layer]]:
        """Configuration and layers of a manifest. ValueError if it is none."""
        try:
            document = json.loads(content)
            return Layer.from_json(document["config"]), [Layer.from_json(entry) for entry in document["layers"]]
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError("bad manifest") from error

    def _text(self, layers: list[Layer], kind: str) -> list[str]:
        wanted = [layer for layer in layers if layer.media_type == LAYER + kind]
        return [self.blob(layer.digest).read_text(encoding="utf-8") for layer in wanted]

    def model(self, name: Name) -> Model:
        """A model by name. ModelNotFound; ValueError or OSError where its files are not what they should be."""
        name = self.find(name)
        content = self.manifest(name)
        config, layers = self.parse_manifest(content)
        about = json.loads(self.blob(config.digest).read_bytes())
        weights = next((layer for layer in layers if layer.media_type == LAYER + "model"), None)
        if weights is None:
            raise ValueError("the manifest names no model layer")
        parameters = self._text(layers, "params")
        messages = self._text(layers, "messages")
        return Model(
            name=name,
            digest=hashlib.sha256(content).hexdigest(),
            modified=self.path(name).stat().st_mtime_ns,
            config=config,
            layers=tuple(layers),
            details={
                "parent_model": weights.origin,
                "format": about.get("model_format", ""),
                "family": about.get("model_family", ""),
                "families": about.get("model_families"),
                "parameter_size": about.get("model_type", ""),
                "quantization_level": about.get("file_type", ""),
            },
            weights=self.blob(weights.digest),
            adapters=tuple(self.blob(layer.digest) for layer in layers if layer.media_type == LAYER + "adapter"),
            template="".join(self._text(layers, "template")) or "{{ .Prompt }}",
            system="".join(self._text(layers, "system")),
            license=tuple(self._text(layers, "license")),
            parameters=json.loads(parameters[0]) if parameters else {},
            messages=tuple(json.loads(messages[0])) if messages else (),
            requires=about.get("requires", ""),
        )

    def models(self) -> list[Model]:
        """Every readable model, the youngest first (to the second, as Ollama sorts)."""
        found = []
        for name in self.names():
            with contextlib.suppress(ValueError, OSError, LookupError):
                found.append(self.model(name))
        return sorted(found, key=lambda model: -(model.modified // 10**9))

    def copy(self, source: Name, destination: Name) -> None:
        self.write_manifest(destination, self.manifest(source))

    def delete(self, name: Name) -> None:
        """Remove a manifest and the blobs that no other manifest needs."""
        name = self.find(name)
        config, layers = self.parse_manifest(self.manifest(name))
        path = self.path(name)
        path.unlink()
        for directory in list(path.parents)[:3]:
            with contextlib.suppress(OSError):
                directory.rmdir()
        needed = self._referenced()
        for layer in (config, *layers):
            if layer.digest not in needed:
                self.blob(layer.digest).unlink(missing_ok=True)

    def _referenced(self) -> set[str]:
        needed: set[str] = set()
        for name in self.names():
            with contextlib.suppress(ValueError, OSError, LookupError):
                config, layers = self.parse_manifest(self.manifest(name))
                needed |= {layer.digest for layer in (config, *layers)}
        return needed

    def prune(self) -> int:
        """Delete what is older than an hour in ``blobs/`` and either unreferenced or not named as a blob; how many."""
        needed, deleted = self._referenced(), 0
        for path in list(self.blobs.iterdir()):
            if not path.is_file() or time.time() - path.stat().st_mtime < PRUNE_AGE:
                continue
            match = _DIGEST.fullmatch(path.name)
            if not match or f"sha256:{match[1]}" not in needed:
                path.unlink(missing_ok=True)
                deleted += 1
        return deleted
