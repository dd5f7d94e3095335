# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror takes from other mirrors what they have, and from upstream the rest."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _mirror as mirror
from ansible_collections.onprem.llm.plugins.module_utils import (
    _mirror_peers,
    _mirror_place,
    _ollama_pull,
    _repository,
    _transfer,
    _turn,
)
from ansible_collections.onprem.llm.plugins.modules import model_mirror
from mirror_registry import MirrorRegistry
from registry_fake import State, digest

WEIGHTS = os.urandom(3 * 2**20)
OTHER = WEIGHTS[::-1]
LIMITS = _transfer.Limits(attempts=2, stall_seconds=5, backoff_seconds=0.05)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[MirrorRegistry]:
    made = MirrorRegistry(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def peer() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as served:
        yield served


@pytest.fixture
def upstream() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as served:
        yield served


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mirror_peers, "_PATIENCE", LIMITS)


def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def told(address: str) -> dict[str, Any]:
    return {"url": address, "ca_path": None, "client_cert": None, "client_key": None}


def wanted(registry: str, *peers: str, **given: Any) -> list[mirror.Wanted]:
    nothing = {"models": [], "images": [], "files": [], "layout": None, "username": None, "password": None}
    parameters = {"ca_path": None, "stall_timeout": 5, "update": False, "peers_only": False, "registry": registry}
    return model_mirror.wanted({**nothing, **parameters, "peers": [told(address) for address in peers], **given})


def model(name: str = "tiny:1", pin: str = "") -> dict[str, str]:
    return {"name": name, "digest": pin, "manifest_digest": ""}


def fill(host: MirrorRegistry, items: list[mirror.Wanted], update: bool = False) -> _turn.Account:
    turn = _turn.Turn(LIMITS)
    host.mirror.fill([host.mirror.resolve(item, update) for item in items], turn)
    return turn.account


def test_what_a_peer_has_is_not_asked_upstream(
    host: MirrorRegistry, peer: tuple[State, str], upstream: tuple[State, str]
) -> None:
    pin = peer[0].put("tiny:1", WEIGHTS)
    upstream[0].put("tiny:1", WEIGHTS)
    account = fill(host, wanted(upstream[1], peer[1], models=[model(pin=pin)]))
    assert account.origin == peer[1][7:]
    assert not host.mirror.lacks(wanted(upstream[1], models=[model(pin=pin)])[0])
    assert upstream[0].requests == []


def test_what_no_peer_has_comes_from_upstream(
    host: MirrorRegistry, peer: tuple[State, str], upstream: tuple[State, str]
) -> None:
    pin = upstream[0].put("tiny:1", WEIGHTS)
    # It has another under the name, whose bytes nobody wants.
    peer[0].put("tiny:1", OTHER)
    account = fill(host, wanted(upstream[1], nobody(), peer[1], models=[model(pin=pin)]))
    assert account.origin == upstream[1][7:]
    assert peer[0].sent < 1000


def test_a_peer_that_is_silent_is_asked_once(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    pins = [upstream[0].put(f"tiny:{tag}", WEIGHTS[tag:]) for tag in range(3)]
    items = wanted(upstream[1], nobody(), models=[model(f"tiny:{tag}", pin) for tag, pin in enumerate(pins)])
    asked: list[str] = []
    client = items[0].source._asked[0].peer.client  # type: ignore[union-attr]
    manifest = client.manifest
    client.manifest = lambda *given, **more: (asked.append("once"), manifest(*given, **more))[1]
    fill(host, items)
    assert len(asked) == LIMITS.attempts


def test_a_blob_that_breaks_off_goes_on_at_the_next(
    host: MirrorRegistry, peer: tuple[State, str], upstream: tuple[State, str]
) -> None:
    pin = peer[0].put("tiny:1", WEIGHTS)
    upstream[0].put("tiny:1", WEIGHTS)
    # The manifest and a part of each answer come; then nothing more does.
    peer[0].fault, peer[0].after = "cut", 2**18
    fill(host, wanted(upstream[1], peer[1], models=[model(pin=pin)]))
    assert peer[0].sent + upstream[0].sent <= 1.05 * len(WEIGHTS) + 8 * 2**18
    assert not host.mirror.lacks(wanted(upstream[1], models=[model(pin=pin)])[0])


def test_peers_only_asks_nobody_else(
    host: MirrorRegistry, peer: tuple[State, str], upstream: tuple[State, str]
) -> None:
    pin = upstream[0].put("tiny:1", WEIGHTS)
    silent = nobody()
    (item,) = wanted(upstream[1], silent, peer[1], models=[model(pin=pin)], peers_only=True, update=True)
    with pytest.raises(_mirror_place.MirrorError, match="nobody gives library/tiny:1: ") as refused:
        host.mirror.resolve(item, update=True)
    for address in (silent, peer[1]):
        assert address[7:] in str(refused.value)
    assert upstream[0].requests == []


def test_a_tag_that_moves_is_asked_where_it_is_known(
    host: MirrorRegistry, peer: tuple[State, str], upstream: tuple[State, str]
) -> None:
    peer[0].put("tiny:1", OTHER)
    upstream[0].put("tiny:1", WEIGHTS)
    # Upstream alone can tell what it is now; the mirrors after the first take what that one has.
    for peers_only, weights in ((False, WEIGHTS), (True, OTHER)):
        fill(host, wanted(upstream[1], peer[1], models=[model()], update=True, peers_only=peers_only), update=True)
        held = host.registry.manifest("library/tiny", "1")
        assert held is not None
        assert mirror.weights(held, "tiny:1") == digest(weights)


def test_a_file_has_its_size_from_the_peer_s_manifest(host: MirrorRegistry, peer: tuple[State, str]) -> None:
    pin = digest(WEIGHTS)
    place = _mirror_place.file_place(pin)
    (item,) = wanted("", peer[1], files=[{"sha256": pin[7:], "path": None, "url": None}], peers_only=True)
    with pytest.raises(_mirror_place.MirrorError, match="nobody gives onprem-llm/files:"):
        host.mirror.resolve(item, update=False)
    peer[0].blobs.update({pin: WEIGHTS, digest(mirror.EMPTY): mirror.EMPTY})
    peer[0].manifests[f"/v2/{place.path}/manifests/{place.tag}"] = mirror.file_manifest(pin, len(WEIGHTS))
    account = fill(host, wanted("", peer[1], files=[{"sha256": pin[7:], "path": None, "url": None}], peers_only=True))
    assert account.total_bytes == len(WEIGHTS) + len(mirror.EMPTY)


def test_an_index_comes_whole_from_a_peer(host: MirrorRegistry, peer: tuple[State, str]) -> None:
    layer, config = WEIGHTS[:5000], b"{}"
    kind = "application/vnd.oci.image"
    peer[0].blobs.update({digest(layer): layer, digest(config): config})
    child = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": digest(layer), "size": len(layer)}],
        }
    ).encode()
    entry = {"mediaType": f"{kind}.manifest.v1+json", "digest": digest(child), "size": len(child)}
    index = json.dumps({"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]}).encode()
    for data in (child, index):
        peer[0].manifests[f"/v2/ollama/ollama/manifests/{digest(data)}"] = data
    items = wanted("", peer[1], images=[{"reference": "ollama/ollama:1", "digest": digest(index)}], peers_only=True)
    fill(host, items)
    assert host.registry.manifest("ollama/ollama", digest(index)) == index


# --- what a node asks


def test_a_node_goes_on_to_the_next_mirror_for_a_file(peer: tuple[State, str], upstream: tuple[State, str]) -> None:
    pin = digest(WEIGHTS)
    first, second = ({"url": address, "kind": "mirror"} for address in (nobody(), peer[1]))
    url = f"{first['url']}/v2/onprem-llm/files/blobs/{pin}"
    labels = [
        origin.label for origin in _ollama_pull.file_origins(url, pin, [first, second], 5, upstream[1] + "/x.gguf")
    ]
    assert labels == [first["url"][7:], second["url"][7:], upstream[1][7:]]
    # One that the inventory's address leads to is asked alone, and so is a registry.
    assert len(_ollama_pull.file_origins(upstream[1], pin, [first, second], 5)) == 1
    assert len(_ollama_pull.file_origins(url, pin, [dict(first, kind="registry"), second], 5)) == 1


def test_the_size_is_asked_of_the_next_where_one_is_silent(peer: tuple[State, str], tmp_path: Path) -> None:
    pin = digest(WEIGHTS)
    peer[0].blobs[pin] = WEIGHTS
    asked = [{"url": address, "kind": "mirror"} for address in (nobody(), peer[1])]
    origins = _ollama_pull.file_origins(f"{asked[0]['url']}/v2/onprem-llm/files/blobs/{pin}", pin, asked, 5)
    with _transfer.Staging(str(tmp_path / "staging")) as staging:
        whole = _transfer.fetch(pin, None, origins, staging, _transfer.Limits(stall_seconds=5, backoff_seconds=0.05))
    assert (whole.size, whole.origin) == (len(WEIGHTS), peer[1][7:])


@pytest.mark.parametrize(
    ("kinds", "part"),
    [
        (["mirror"], ". Bring this mirror up (playbooks/site.yml"),
        (["mirror", "mirror"], ". Bring one of these mirrors up"),
        (["mirror", "registry"], None),
    ],
)
def test_mirrors_that_are_down_are_told_with_what_to_do(kinds: list[str], part: str | None) -> None:
    origins = [{"url": nobody(), "kind": kind} for kind in kinds]
    with pytest.raises(_ollama_pull.PullError) as refused:
        _ollama_pull.offer(_ollama_pull.sources("tiny:1", origins, 5), LIMITS)
    for origin in origins:
        assert origin["url"][7:] in str(refused.value)
    assert (part or "models_mirror_fallback") in str(refused.value) if part else "fallback" not in str(refused.value)


def test_a_mirror_is_not_waited_for_where_another_stands_beside_it(
    peer: tuple[State, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer[0].put("tiny:1", WEIGHTS)
    pauses: list[float] = []
    monkeypatch.setattr(_transfer.time, "sleep", pauses.append)
    limits = _transfer.Limits(attempts=5, stall_seconds=5, backoff_seconds=0.05)
    silent = {"url": nobody(), "kind": "mirror"}
    for others, count in (([{"url": peer[1], "kind": "mirror"}], 1), ([{"url": peer[1], "kind": "registry"}], 4)):
        pauses.clear()
        offer = _ollama_pull.offer(_ollama_pull.sources("tiny:1", [silent, *others], 5), limits)
        assert offer.sources[0].host == peer[1][7:]
        assert len(pauses) == count


def test_a_peer_s_address_has_to_be_one() -> None:
    with pytest.raises(_repository.RegistryError, match="is no registry's address"):
        wanted("", "ftp://x", models=[model()])
