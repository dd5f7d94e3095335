# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of several mirrors: one takes from the others what they have, so that upstream sends each byte once."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.onprem.llm.plugins.module_utils import (
    _mirror,
    _mirror_place,
    _registry,
    _repository,
    _transfer,
)

# A mirror that is restarted is there again in seconds, and there are others.
_PATIENCE = _transfer.Limits(attempts=2)

_T = t.TypeVar("_T")


class Peer:
    """Another mirror of the fleet.

    :param url: its address, with or without scheme.
    :param client: who asks it.
    :ivar silent: why it is asked no more, once it has not answered.
    :raises _repository.RegistryError: ``url`` is no address.
    """

    def __init__(self, url: str, client: _registry.Client) -> None:
        self.scheme, self.host = _repository.parse_address(url)
        self.client, self.silent = client, ""


class _Share:
    """What a peer may have of something: a :class:`_mirror.Source`."""

    def __init__(self, peer: Peer, place: _mirror_place.Place, fits: t.Callable[[bytes], bool]) -> None:
        self.peer, self.label = peer, peer.host
        self._place, self._fits = place, fits
        self._repository = _repository.Repository(peer.scheme, peer.host, place.path)

    def manifest(self, reference: str) -> bytes:
        if self.peer.silent:
            raise _mirror_place.MirrorError(self.peer.silent)
        ask = partial(self.peer.client.manifest, self._repository, reference, accept=_registry.ANY_MANIFEST)
        try:
            found = _transfer.persistently(ask, _PATIENCE)
        except _repository.RegistryError as error:
            told = f"{self._repository}:{reference}: {error}"
            if isinstance(error, _registry.Unreachable):
                self.peer.silent = told
            raise _mirror_place.MirrorError(told) from error
        if not self._fits(found):
            raise _mirror_place.MirrorError(f"{self._repository}:{reference}: it has other weights there")
        return found

    def path(self, digest: str) -> str | None:
        return None

    def origins(self, digest: str) -> list[t.Any]:
        return [_transfer.RegistryOrigin(self.peer.client, self._repository, digest)]

    def size(self, digest: str) -> int:
        try:
            return next(of.size for of in _registry.layers(self.manifest(self._place.tag)) if of.digest == digest)
        except (_repository.RegistryError, StopIteration) as error:
            raise _mirror_place.MirrorError(f"{self._repository} has no {digest}") from error


class Shared:
    """Something that other mirrors may have: a :class:`_mirror.Source`.

    The first that has its manifest has its blobs, too, for a mirror's manifest comes last. Those after it stand by for
    a blob that breaks off; those before it are asked no more.

    :param peers: the other mirrors, in order.
    :param place: where it lies on each of them.
    :param fits: whether a manifest is that of what is wanted.
    :param then: who is asked after all of them, or None.
    """

    def __init__(
        self,
        peers: t.Iterable[Peer],
        place: _mirror_place.Place,
        fits: t.Callable[[bytes], bool],
        then: _mirror.Source | None,
    ) -> None:
        self._place = place
        self._asked: list[_mirror.Source] = [_Share(peer, place, fits) for peer in peers]
        self._asked += [then] if then else []

    def _first(self, ask: t.Callable[[_mirror.Source], _T]) -> _T:
        """:raises MirrorError: nobody gives it; each is named with its reason."""
        told = []
        for index, source in enumerate(self._asked):
            try:
                found = ask(source)
            except _mirror_place.MirrorError as error:
                told.append(str(error))
            else:
                self._asked = self._asked[index:]
                return found
        raise _mirror_place.MirrorError(f"nobody gives {self._place}: {'; '.join(told)}")

    @property
    def label(self) -> str:
        return self._asked[0].label

    def manifest(self, reference: str) -> bytes:
        return self._first(lambda source: source.manifest(reference))

    def path(self, digest: str) -> str | None:
        return self._asked[0].path(digest)

    def origins(self, digest: str) -> list[t.Any]:
        return [origin for source in self._asked for origin in source.origins(digest)]

    def size(self, digest: str) -> int:
        return self._first(lambda source: source.size(digest))
