# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of models, and the repositories of registries that they lie in. Nothing here asks a registry."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils import _catalog, _model_name

# distribution/reference: a component of a repository's path, and the length of the whole.
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_MAX_PATH = 255


class RegistryError(Exception):
    """An answer of the registry that cannot be used; the text says of what, and why."""


@dataclass(frozen=True)
class Repository:
    """Where a registry keeps one model, image or file."""

    scheme: str
    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"

    def url(self, *parts: str) -> str:
        return "/".join([f"{self.scheme}://{self.host}/v2/{self.path}", *parts])


@dataclass(frozen=True)
class Name:
    """A model's name in all its parts."""

    scheme: str
    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def repository(self) -> Repository:
        return Repository(self.scheme, self.host, f"{self.namespace}/{self.model}")

    def url(self, *parts: str) -> str:
        return self.repository.url(*parts)


def parse_name(name: str, registry: str = "") -> Name:
    """The parts of a model's name. One without a host is ``registry``'s, and without that the public one's.

    :raises RegistryError: it is no name, or its scheme is neither http nor https.
    """
    full = _catalog.canonical_name(_catalog.registry_name(name, registry))
    scheme, separator, rest = full.partition("://")
    scheme, rest = (scheme, rest) if separator else ("https", full)
    try:
        parts = _model_name.parts(rest)
    except ValueError as error:
        raise RegistryError(str(error)) from error
    if scheme not in ("http", "https"):
        raise RegistryError(f"{full!r} is to be read by {scheme}; registries are read by https")
    return Name(scheme, *parts)


def parse_address(address: str) -> tuple[str, str]:
    """Scheme and host of a registry's address; https where it names none.

    :raises RegistryError: it is none.
    """
    scheme, separator, host = address.rstrip("/").partition("://")
    scheme, host = (scheme, host) if separator else ("https", scheme)
    if scheme not in ("http", "https") or not _model_name.PARTS["host"].fullmatch(host):
        raise RegistryError(f"{address!r} is no registry's address; one such as 'https://mirror.example.com:8444' is")
    return scheme, host


def mirrored(name: Name, mirror: str) -> Repository:
    """Where a mirror keeps a model: the public library's as ``library/<model>``, others under their host's name.

    A repository's path has lower-case letters, digits and single separators. Where a name has more than that, the first
    8 hex digits of its SHA-256 keep apart what would else be one.

    :param mirror: its address, with or without scheme.
    :raises RegistryError: ``mirror`` is no address.
    """
    scheme, host = parse_address(mirror)
    library = (name.host, name.namespace) == (_model_name.HOST, _model_name.NAMESPACE)
    original = "/".join([*([] if library else [name.host]), name.namespace, name.model])
    components = [
        component if _COMPONENT.fullmatch(component) else "-".join(re.findall("[a-z0-9]+", component)) or "x"
        for component in original.lower().split("/")
    ]
    path = "/".join(components)
    if path != original or len(path) > _MAX_PATH:
        path = f"{path[: _MAX_PATH - 9].rstrip('/._-')}-{hashlib.sha256(original.encode()).hexdigest()[:8]}"
    return Repository(scheme, host, path)
