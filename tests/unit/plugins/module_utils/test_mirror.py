# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror is filled from a registry that counts, and holds what came, in a real docker-registry."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _mirror as mirror
from ansible_collections.onprem.llm.plugins.module_utils import (
    _mirror_place,
    _ollama_pull,
    _registry,
    _repository,
    _transfer,
    _turn,
)
from mirror_registry import MirrorRegistry
from registry_fake import State, digest

WEIGHTS = os.urandom(3 * 2**20)
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIMITS = _transfer.Limits(attempts=2, stall_seconds=5, backoff_seconds=0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorRegistry]:
    host = MirrorRegistry(tmp_path_factory.mktemp("mirror"))
    host.start()
    yield host
    host.stop()


@pytest.fixture
def host(running: MirrorRegistry) -> MirrorRegistry:
    """A mirror with nothing on it."""
    unwanted = running.mirror.unwanted([])
    if unwanted:
        running.mirror.clean(unwanted, lambda: forget(running))
    assert running.registry.manifests() == {}
    assert running.registry.blobs() == {}
    return running


def forget(host: MirrorRegistry) -> None:
    repositories = list(host.registry.manifests())
    host.collect()
    for path in repositories:
        host.registry.forget(path)


@pytest.fixture
def upstream() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as served:
        yield served


def repository(address: str, path: str) -> mirror.Upstream:
    scheme, _separator, name = address.partition("://")
    return mirror.Upstream(_registry.Client(time_limit=None), _repository.Repository(scheme, name, path))


def model(address: str, name: str = "tiny:1", pin: str | None = None) -> mirror.Wanted:
    place = _mirror_place.model_place(name)
    return mirror.Wanted("models", name, place, pin, repository(address, place.path))


def image(state: State, path: str, tag: str, *platforms: bytes) -> tuple[str, list[dict[str, Any]]]:
    """Have upstream hold an index of images of one layer each; its digest, and its entries."""
    entries = []
    for layer in platforms:
        config = json.dumps({"os": "linux", "n": layer[:4].hex()}).encode()
        state.blobs.update({digest(layer): layer, digest(config): config})
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest(config),
                           "size": len(config)},
                "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest(layer),
                            "size": len(layer)}],
            }
        ).encode()  # fmt: skip
        state.manifests[f"/v2/{path}/manifests/{digest(manifest)}"] = manifest
        entries.append({"mediaType": MANIFEST, "digest": digest(manifest), "size": len(manifest)})
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    state.manifests[f"/v2/{path}/manifests/{digest(index)}"] = index
    return digest(index), entries


def fill(
    host: MirrorRegistry, *wanted: mirror.Wanted, update: bool = False, limits: _transfer.Limits = LIMITS
) -> tuple[bool, _turn.Account]:
    turn = _turn.Turn(limits)
    resolved = [host.mirror.resolve(item, update) for item in wanted]
    return host.mirror.fill(resolved, turn), turn.account


def read(host: MirrorRegistry, path: str, blob: str) -> bytes:
    status, _headers, data = host.registry._ask("GET", f"/v2/{path}/blobs/{blob}")
    assert status == 200
    return data


# --- names


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("qwen3:8b", "library/qwen3:8b"),
        ("qwen3", "library/qwen3:latest"),
        ("team/qwen3:1", "registry.ollama.ai/team/qwen3:1"),
        ("registry.example.com/team/a:1", "registry.example.com/team/a:1"),
    ],
)
def test_place_of_a_model(name: str, place: str) -> None:
    assert str(_mirror_place.model_place(name)) == place


@pytest.mark.parametrize(
    ("reference", "upstream", "place"),
    [
        ("ollama/ollama:0.32.15", "https://registry-1.docker.io/v2/ollama/ollama", "ollama/ollama:0.32.15"),
        ("docker.io/ollama/ollama:1", "https://registry-1.docker.io/v2/ollama/ollama", "ollama/ollama:1"),
        ("debian:13", "https://registry-1.docker.io/v2/library/debian", "library/debian:13"),
        ("ghcr.io/a/b:2", "https://ghcr.io/v2/a/b", "ghcr.io/a/b:2"),
        ("r.example.com:5000/a/b:2", "https://r.example.com:5000/v2/a/b", None),
    ],
)
def test_place_of_an_image(reference: str, upstream: str, place: str | None) -> None:
    parsed = _mirror_place.parse_image(reference)
    assert parsed.repository.url() == upstream
    if place:
        assert str(parsed.place) == place
    else:
        # A colon cannot stand in a repository's path, and two names must not become one.
        assert parsed.place != _mirror_place.parse_image("r.example.com-5000/a/b:2").place
        assert ":" not in parsed.place.path


@pytest.mark.parametrize("reference", ["", "A/b:1", "a/../b:1", "a:b:c/d:", "a b:1", "a/b:" + "x" * 129])
def test_no_name_of_an_image(reference: str) -> None:
    with pytest.raises(_mirror_place.MirrorError, match="is no image's name"):
        _mirror_place.parse_image(reference)


# --- filling


def test_a_model_comes_once_and_byte_by_byte(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    assert fill(host, model(address, pin=pin))[0]
    assert host.registry.manifest("library/tiny", "1") == state.manifests["/v2/library/tiny/manifests/1"]
    assert read(host, "library/tiny", pin) == WEIGHTS
    assert state.sent <= len(WEIGHTS) * 1.01 + 1000
    before = len(state.requests)
    changed, account = fill(host, model(address, pin=pin), update=True)
    assert (changed, account.fetched_bytes) == (False, 0)
    assert len(state.requests) == before
    assert os.listdir(host.staging) in ([], [".mirror.lock"])


def test_an_unpinned_model_stays_until_update(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    first = state.put("tiny:1", WEIGHTS)
    fill(host, model(address))
    second = state.put("tiny:1", WEIGHTS + b"more")
    assert not fill(host, model(address))[0]
    assert fill(host, model(address), update=True)[0]
    manifest = host.registry.manifest("library/tiny", "1")
    assert manifest
    assert mirror.weights(manifest, "tiny:1") == second != first


def test_a_tag_that_was_pointed_elsewhere_names_both_digests(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    found = state.put("tiny:1", WEIGHTS)
    pin = digest(b"other")
    with pytest.raises(_mirror_place.MirrorError, match=f"{found}.*{pin}"):
        fill(host, model(address, pin=pin))
    assert host.registry.manifests() == {}


def test_another_pin_takes_the_place_of_the_old_one(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    fill(host, model(address, pin=state.put("tiny:1", WEIGHTS)))
    pin = state.put("tiny:1", WEIGHTS[::-1])
    assert host.mirror.lacks(model(address, pin=pin))
    assert fill(host, model(address, pin=pin))[0]
    assert not host.mirror.lacks(model(address, pin=pin))


def test_an_index_comes_with_all_platforms(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin, entries = image(state, "ollama/ollama", "1", b"amd64" * 1000, b"arm64" * 1000)
    reference = _mirror_place.parse_image("ollama/ollama:1")
    wanted = mirror.Wanted("images", "ollama/ollama:1", reference.place, pin, repository(address, "ollama/ollama"))
    assert fill(host, wanted)[0]
    for name in (pin, "1"):
        data = host.registry.manifest("ollama/ollama", name)
        assert data
        assert digest(data) == pin
    for entry in entries:
        assert host.registry.manifest("ollama/ollama", entry["digest"])
    assert not fill(host, wanted)[0]


def test_one_platform_s_manifest_comes_alone(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    _pin, entries = image(state, "ollama/ollama", "1", b"amd64" * 1000, b"arm64" * 1000)
    reference = _mirror_place.parse_image("ollama/ollama:1")
    pin = entries[0]["digest"]
    wanted = mirror.Wanted("images", "ollama/ollama:1", reference.place, pin, repository(address, "ollama/ollama"))
    fill(host, wanted)
    assert host.registry.manifests() == {"ollama/ollama": {pin}}
    assert digest(b"arm64" * 1000) not in host.registry.blobs()


def file(tmp_path: Path, content: bytes = WEIGHTS) -> mirror.Wanted:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    pin = digest(WEIGHTS)
    return mirror.Wanted("files", pin[7:], _mirror_place.file_place(pin), pin, mirror.LocalFile(str(path)))


def test_a_file_has_a_tag_by_its_digest(host: MirrorRegistry, tmp_path: Path) -> None:
    wanted = file(tmp_path)
    assert host.mirror.lacks(wanted)
    assert fill(host, wanted)[0]
    manifest = host.registry.manifest("onprem-llm/files", f"sha256-{wanted.name}")
    assert manifest
    assert _registry.layers(manifest)[1] == _registry.Layer(f"sha256:{wanted.name}", len(WEIGHTS))
    assert not fill(host, wanted)[0]


def test_a_changed_file_is_named_and_nothing_of_it_stays(host: MirrorRegistry, tmp_path: Path) -> None:
    with pytest.raises(_mirror_place.MirrorError, match=r"model\.gguf has changed: its sha256 is not"):
        fill(host, file(tmp_path, WEIGHTS[:-1] + b"x"))
    assert host.registry.manifests().get("onprem-llm/files", set()) == set()
    assert digest(WEIGHTS) not in host.registry.blobs()


def test_weights_under_two_names_come_once(host: MirrorRegistry, upstream: tuple[State, str], tmp_path: Path) -> None:
    state, address = upstream
    fill(host, file(tmp_path))
    pin = state.put("tiny:1", WEIGHTS)
    assert fill(host, model(address, pin=pin))[0]
    assert state.sent < 1000


def test_an_unknown_tag_and_no_answer(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    _state, address = upstream
    with pytest.raises(_mirror_place.MirrorError, match=r"library/none:1: the registry .* has none"):
        fill(host, model(address, "none:1"))
    with pytest.raises(_mirror_place.MirrorError, match="was not reached"):
        fill(host, model("http://127.0.0.1:9", "none:1"))


def test_wrong_bytes_are_told_and_not_kept(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    state.blobs[pin] = WEIGHTS[:-1] + b"x"
    with pytest.raises(_mirror_place.MirrorError, match=r"tiny:1: .*digest"):
        fill(host, model(address, pin=pin))
    assert host.registry.manifests().get("library/tiny", set()) == set()
    state.blobs[pin] = WEIGHTS
    assert fill(host, model(address, pin=pin))[0]


def test_a_turn_hands_back_and_the_next_goes_on(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    state.bucket = registry_fake.Bucket(4 * 2**20)
    told = []
    while len(told) < 20:
        limits = _transfer.Limits(seconds=0.4, attempts=2)
        try:
            host.mirror.fill([host.mirror.resolve(model(address, pin=pin), False)], _turn.Turn(limits))
            break
        except _turn.Pending as pending:
            told.append(pending.done_bytes)
    assert told == sorted(told)
    assert told[-1] > 0
    assert state.sent <= 1.05 * len(WEIGHTS) + 2**18
    assert read(host, "library/tiny", pin) == WEIGHTS


def test_what_does_not_fit_is_refused_before_the_first_byte(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    with pytest.raises(_mirror_place.MirrorError, match=f"{2 * len(WEIGHTS) + 2} bytes"):
        fill(host, model(address, pin=pin), limits=_transfer.Limits(reserve_bytes=2**60))
    assert state.sent < 1000


def in_turns(
    host: MirrorRegistry, wanted: mirror.Wanted, stop: int = 1000, look: Callable[[], None] = lambda: None
) -> list[_turn.Pending]:
    """Filled in turns without time, each of which takes a piece; what was pending, until ``stop`` were."""
    pauses: list[_turn.Pending] = []
    while len(pauses) < stop:
        turn = _turn.Turn(_transfer.Limits(seconds=5, attempts=2), _start=-1e9)
        try:
            host.mirror.fill([host.mirror.resolve(wanted, False)], turn)
        except _turn.Pending as pending:
            pauses.append(pending)
            look()
        else:
            break
    return pauses


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PIECE_BYTES", 2**20)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("local", [False, True])
def test_a_large_blob_is_put_into_the_registry_in_turns(
    host: MirrorRegistry, upstream: tuple[State, str], tmp_path: Path, local: bool
) -> None:
    state, address = upstream
    data = os.urandom(5 * 2**20 + 7)
    (tmp_path / "file").write_bytes(data)
    state.blobs[digest(data)] = data
    source = mirror.LocalFile(str(tmp_path / "file")) if local else mirror.Address(f"{address}/cdn/{digest(data)}")
    wanted = mirror.Wanted("files", digest(data)[7:], _mirror_place.file_place(digest(data)), digest(data), source)
    sent: list[int] = []
    pauses = [pause for pause in in_turns(host, wanted, look=lambda: sent.append(state.sent)) if pause.phase == "push"]
    assert [(pause.done_bytes, pause.total_bytes) for pause in pauses[-4:]] == [
        (number * 2**20, len(data)) for number in (2, 3, 4, 5)
    ]
    assert read(host, _mirror_place.FILES, digest(data)) == data
    assert os.listdir(host.staging) in ([".mirror.lock"], [])
    # Once it is pushed nothing comes again: one byte for each time that its size is asked for.
    assert state.sent - sent[len(sent) - len(pauses)] <= (0 if local else 100)


@pytest.mark.usefixtures("pieces")
def test_a_registry_that_was_restarted_is_sent_the_whole_again(host: MirrorRegistry, tmp_path: Path) -> None:
    data = os.urandom(4 * 2**20)
    (tmp_path / "file").write_bytes(data)
    source = mirror.LocalFile(str(tmp_path / "file"))
    wanted = mirror.Wanted("files", digest(data)[7:], _mirror_place.file_place(digest(data)), digest(data), source)
    assert [pause.done_bytes for pause in in_turns(host, wanted, stop=2)] == [2**20, 2 * 2**20]
    host.stop()
    host.start()
    assert [pause.done_bytes for pause in in_turns(host, wanted)] == [2**20, 2 * 2**20, 3 * 2**20]
    assert read(host, _mirror_place.FILES, digest(data)) == data


@pytest.mark.usefixtures("pieces")
def test_a_file_that_changes_while_it_goes_into_the_registry_is_named(host: MirrorRegistry, tmp_path: Path) -> None:
    data = os.urandom(3 * 2**20)
    (tmp_path / "file").write_bytes(data)
    source = mirror.LocalFile(str(tmp_path / "file"))
    wanted = mirror.Wanted("files", digest(data)[7:], _mirror_place.file_place(digest(data)), digest(data), source)
    in_turns(host, wanted, stop=1)
    (tmp_path / "file").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(_mirror_place.MirrorError, match="file has changed"):
        in_turns(host, wanted)
    (tmp_path / "file").write_bytes(data)
    in_turns(host, wanted)
    assert read(host, _mirror_place.FILES, digest(data)) == data


def test_dry_says_what_would_come(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    turn = _turn.Turn(LIMITS)
    assert host.mirror.fill([host.mirror.resolve(model(address, pin=pin), False)], turn, dry=True)
    account = turn.account
    assert (account.total_bytes, account.held_bytes) == (len(WEIGHTS) + 2, 0)
    # The manifest alone.
    assert state.sent < 1000
    assert account.origin
    assert host.registry.blobs() == {}


def test_a_blob_that_was_lost_is_brought_in_again(host: MirrorRegistry, upstream: tuple[State, str]) -> None:
    state, address = upstream
    pin = state.put("tiny:1", WEIGHTS)
    fill(host, model(address, pin=pin))
    os.unlink(host.registry.blob_path(pin))
    assert host.mirror.lacks(model(address, pin=pin))
    assert fill(host, model(address, pin=pin))[0]
    assert read(host, "library/tiny", pin) == WEIGHTS


def test_a_node_takes_a_file_with_what_it_shows_the_mirror(upstream: tuple[State, str]) -> None:
    state, address = upstream
    state.login = ("node", "secret")
    pin = digest(WEIGHTS)
    state.blobs[pin] = WEIGHTS
    url = f"{address}/v2/onprem-llm/files/blobs/{pin}"
    asked = {"url": address, "username": "node", "password": "secret"}
    (origin,) = _ollama_pull.file_origins(url, pin, [{"url": "https://other.example.com"}, asked], 5)
    with origin.open(0, 10) as answer:
        assert answer.read() == WEIGHTS[:10]
    # Another's address gets nothing of it.
    (origin,) = _ollama_pull.file_origins(url, pin, [dict(asked, url="https://other.example.com")], 5)
    with pytest.raises(_registry.Unauthorized):
        origin.open(0, 10)


# --- from a layout


def layout(directory: Path, state: State, name: str) -> Path:
    """Upstream's model as an OCI image layout."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifest = state.manifests[f"/v2/library/{name.replace(':', '/manifests/')}"]
    for data in (manifest, *state.blobs.values()):
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    entry = {"digest": digest(manifest), "size": len(manifest), "annotations": {mirror.REF_NAME: f"library/{name}"}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), encoding="utf-8")
    return directory


def carried(directory: Path, name: str, pin: str | None) -> mirror.Wanted:
    place = _mirror_place.model_place(name)
    return mirror.Wanted("models", name, place, pin, mirror.Layout(str(directory), place))


def test_a_layout_takes_the_place_of_upstream(host: MirrorRegistry, tmp_path: Path) -> None:
    state = State()
    pin = state.put("tiny:1", WEIGHTS)
    directory = layout(tmp_path, state, "tiny:1")
    assert fill(host, carried(directory, "tiny:1", pin))[0]
    assert read(host, "library/tiny", pin) == WEIGHTS
    with pytest.raises(_mirror_place.MirrorError, match="library/other:1 is missing"):
        fill(host, carried(directory, "other:1", None))


def test_a_changed_byte_of_a_layout_names_its_file(host: MirrorRegistry, tmp_path: Path) -> None:
    state = State()
    pin = state.put("tiny:1", WEIGHTS)
    directory = layout(tmp_path, state, "tiny:1")
    blob = directory / "blobs" / "sha256" / pin[7:]
    blob.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    with pytest.raises(_mirror_place.MirrorError, match=f"{pin[7:]} has changed"):
        fill(host, carried(directory, "tiny:1", pin))
    assert host.registry.manifests().get("library/tiny", set()) == set()


# --- cleaning


def test_what_nothing_wants_goes_and_the_rest_stays(
    host: MirrorRegistry, upstream: tuple[State, str], tmp_path: Path
) -> None:
    state, address = upstream
    keep = model(address, "keep:1", state.put("keep:1", WEIGHTS))
    gone = model(address, "gone:1", state.put("gone:1", WEIGHTS[::-1]))
    pin, _entries = image(state, "ollama/ollama", "1", b"amd64" * 1000, b"arm64" * 1000)
    place = _mirror_place.parse_image("ollama/ollama:1").place
    engine = mirror.Wanted("images", "ollama/ollama:1", place, pin, repository(address, "ollama/ollama"))
    held = file(tmp_path, WEIGHTS)
    fill(host, keep, gone, engine, held)
    stay = [host.mirror.resolve(item, False) for item in (keep, engine, held)]
    unwanted = host.mirror.unwanted(stay)
    assert list(unwanted.manifests) == ["library/gone"]
    manifest = len(state.manifests["/v2/library/gone/manifests/1"])
    assert unwanted.bytes == len(WEIGHTS) + manifest
    assert host.mirror.clean(unwanted, host.collect) == len(WEIGHTS) + manifest
    assert not any(host.mirror.lacks(item) for item in (keep, engine, held))
    assert host.mirror.lacks(gone)
    assert not host.mirror.unwanted(stay).manifests
    # And it comes again, whatever the registry remembers of it.
    assert fill(host, gone)[0]
    assert read(host, "library/gone", digest(WEIGHTS[::-1])) == WEIGHTS[::-1]


def test_who_cleans_is_alone(host: MirrorRegistry) -> None:
    order = []
    with host.mirror.locked(exclusive=False, seconds=1):
        with (
            host.mirror.locked(exclusive=False, seconds=1),
            pytest.raises(_mirror_place.MirrorError, match="another run has been filling or cleaning"),
            host.mirror.locked(exclusive=True, seconds=0.3),
        ):
            pass

        def clean() -> None:
            with host.mirror.locked(exclusive=True, seconds=20):
                order.append("clean")

        thread = threading.Thread(target=clean)
        thread.start()
        order.append("fill")
    thread.join()
    assert order == ["fill", "clean"]


def test_a_registry_that_is_down_is_told(tmp_path: Path) -> None:
    registry = mirror.Registry(str(tmp_path / "none.sock"), str(tmp_path))
    with pytest.raises(_mirror_place.MirrorError, match="the mirror's registry did not answer GET /v2/"):
        registry.wait(0.1)
