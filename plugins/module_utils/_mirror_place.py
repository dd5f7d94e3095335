# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models, images and files lie in the mirror's registry. Nothing here asks it.

==================================== ==================================== ==============================
what                                 repository                           tag
==================================== ==================================== ==============================
the model ``qwen3:8b``               ``library/qwen3``                    ``8b``
the model ``example.com/team/a:1``   ``example.com/team/a``               ``1``
the image ``ollama/ollama:0.32.15``  ``ollama/ollama``                    ``0.32.15``, and by its digest
the image ``example.com/team/b:2``   ``example.com/team/b``               ``2``, and by its digest
a GGUF file                          ``onprem-llm/files``                 ``sha256-<hex>``, one layer
==================================== ==================================== ==============================
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _digest, _repository

FILES = "onprem-llm/files"
DOCKER_HUB, DOCKER_HUB_REGISTRY = "docker.io", "registry-1.docker.io"

# distribution/reference: a repository's path.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class MirrorError(Exception):
    """The mirror cannot be filled or cleaned; the text says why, and what would be right."""


@dataclass(frozen=True)
class Place:
    """Where something lies in the mirror's registry."""

    path: str
    tag: str

    def __str__(self) -> str:
        return f"{self.path}:{self.tag}"


def model_place(name: str) -> Place:
    """Where a model lies. It does not depend on the registry that it comes from.

    :raises MirrorError: the name is none.
    """
    try:
        parsed = _repository.parse_name(name)
        return Place(_repository.mirrored(parsed, "mirror.invalid").path, parsed.tag)
    except _repository.RegistryError as error:
        raise MirrorError(str(error)) from error


@dataclass(frozen=True)
class Reference:
    """A container image's name in its parts, as Docker completes it."""

    host: str
    path: str
    tag: str

    @property
    def repository(self) -> _repository.Repository:
        """Where it comes from."""
        return _repository.Repository("https", DOCKER_HUB_REGISTRY if self.host == DOCKER_HUB else self.host, self.path)

    @property
    def place(self) -> Place:
        """Where it lies in the mirror."""
        if self.host == DOCKER_HUB:
            return Place(self.path, self.tag)
        original = f"{self.host}/{self.path}"
        path = re.sub(r"[^a-z0-9/._-]+", "-", original.lower())
        if path != original:
            path += "-" + hashlib.sha256(original.encode()).hexdigest()[:8]
        return Place(path, self.tag)


def parse_image(reference: str) -> Reference:
    """The parts of a container image's reference, with its tag and without a digest.

    :raises MirrorError: it is none.
    """
    rest, _at, _digest = reference.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, "latest"
    first, slash, remainder = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, remainder
    else:
        host, path = DOCKER_HUB, path if slash else f"library/{path}"
    if host in ("index.docker.io", DOCKER_HUB_REGISTRY):
        host = DOCKER_HUB
    good = _PATH.fullmatch(path) and re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", host)
    if not good or not _TAG.fullmatch(tag):
        raise MirrorError(f"{reference!r} is no image's name; one such as 'ollama/ollama:0.32.15' is")
    return Reference(host, path, tag)


def parse_digest(text: str, name: str) -> str:
    """``sha256:`` and 64 hexadecimal digits, of a text that may lack the former.

    :raises MirrorError: it is no digest.
    """
    try:
        return _digest.parse(text)
    except ValueError:
        raise MirrorError(f"{name} has the digest {text!r}; it must be sha256: and 64 hexadecimal digits") from None


def file_place(digest: str) -> Place:
    return Place(FILES, digest.replace(":", "-"))
