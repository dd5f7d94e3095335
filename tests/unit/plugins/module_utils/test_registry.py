# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, manifests and the beginnings of blobs, from a registry on loopback that answers well and badly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _registry, _repository
from gguf_files import llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_fake import MODEL, PROJECTOR, State, digest

HEADER = llama()
# Tensors of the small model, and a byte for each of them that is no header's.
FILE = HEADER + bytes(2**21)


@pytest.fixture
def registry() -> Iterator[tuple[State, str]]:
    with registry_fake.serve() as served:
        yield served


def blob(state: State, url: str, data: bytes, size: int | None = None, **limits: float) -> _registry.Blob:
    name = _repository.parse_name("big:1b", url)
    return _registry.Client(**limits).blob(name, state.put("big:1b", data), size)


@pytest.mark.parametrize(
    ("name", "registry", "url"),
    [
        ("qwen3:8b", "", "https://registry.ollama.ai/v2/library/qwen3/manifests/8b"),
        ("qwen3", "", "https://registry.ollama.ai/v2/library/qwen3/manifests/latest"),
        ("someone/model:q4", "", "https://registry.ollama.ai/v2/someone/model/manifests/q4"),
        ("qwen3:8b", "models.example.com:5000", "https://models.example.com:5000/v2/library/qwen3/manifests/8b"),
        ("a.example/b/c:d", "models.example.com", "https://a.example/v2/b/c/manifests/d"),
        ("a.example:81/b/c", "", "https://a.example:81/v2/b/c/manifests/latest"),
        ("http://127.0.0.1:5000/b/c:d", "m.example.com", "http://127.0.0.1:5000/v2/b/c/manifests/d"),
        ("qwen3:8b", "http://127.0.0.1:5000", "http://127.0.0.1:5000/v2/library/qwen3/manifests/8b"),
    ],
)
def test_names(name: str, registry: str, url: str) -> None:
    parsed = _repository.parse_name(name, registry)
    assert parsed.url("manifests", parsed.tag) == url


@pytest.mark.parametrize(
    ("name", "registry", "said"),
    [
        ("a/b/c/d:e", "", "no model's name"),
        ("../../etc:passwd", "", "'..' cannot be a host"),
        ("qwen3:..", "", "'..' cannot be a tag"),
        ("qwen3:8b?x=1", "", "cannot be a tag"),
        ("qwen3:8b\n", "", "cannot be a tag"),
        ("a.b/qwen3:8b", "", "'a.b' cannot be a namespace"),
        (":8b", "", "'' cannot be a model"),
        ("qwen3:8b", "user:secret@m.example.com", "cannot be a host"),
        ("qwen3:8b", "ftp://m.example.com", "to be read by ftp; registries are read by https"),
    ],
)
def test_a_wrong_name_is_refused(name: str, registry: str, said: str) -> None:
    with pytest.raises(_repository.RegistryError, match=said):
        _repository.parse_name(name, registry)


def layer(**more: Any) -> dict[str, Any]:
    return {"mediaType": MODEL, "digest": "sha256:" + "a" * 64, "size": 5, **more}


def test_manifest_names_weights_and_projectors() -> None:
    told = {"layers": [{"mediaType": "other"}, layer(mediaType=PROJECTOR, size=7), layer()]}
    manifest = _registry.parse_manifest(json.dumps(told).encode())
    assert manifest.weights == _registry.Layer("sha256:" + "a" * 64, 5)
    assert [one.size for one in manifest.projectors] == [7]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no manifest"),
        (b"<html>", "no manifest"),
        (b"[]", "no manifest"),
        (b'{"layers": {}}', "no manifest"),
        (b'{"layers": [1]}', "no manifest"),
        (b"[" * 100000, "no manifest"),
        (b'{"layers": [' + b"1" * 500000 + b"]}", "no manifest"),
        (b" " * (2**20 + 1), "more than 1048576 bytes"),
        (json.dumps({"layers": [layer(), layer()]}).encode(), "2 layers of weights"),
        (json.dumps({"layers": [layer(size=0)]}).encode(), "the size 0"),
        (json.dumps({"layers": [layer(size=True)]}).encode(), "the size True"),
        (json.dumps({"layers": [layer(size=-1)]}).encode(), "the size -1"),
        (json.dumps({"layers": [layer(digest="sha256:../../x")]}).encode(), "no sha256 digest"),
        (json.dumps({"layers": [layer(digest=None)]}).encode(), "no sha256 digest"),
    ],
)
def test_a_wrong_manifest_is_refused(data: bytes, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(_repository.RegistryError, match=said):
        _registry.parse_manifest(data)
    assert time.monotonic() - started < 10


def test_a_manifest_without_gguf_weights_is_refused_for_good() -> None:
    with pytest.raises(_registry.Refused, match=r"ollama\.com, or is for another engine"):
        _registry.parse_manifest(
            json.dumps({"layers": [layer(mediaType="application/vnd.ollama.image.tensor")]}).encode()
        )


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(MODEL)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.dictionaries(st.sampled_from(["layers", "mediaType", "digest", "size"]), inner, max_size=4),
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_manifest_is_read_or_refused(data: bytes) -> None:
    with suppress(_repository.RegistryError):
        assert _registry.parse_manifest(data).weights.size > 0


# --- the beginning of a blob ------------------------------------------------------------------------------------------


def test_a_header_takes_one_request_of_a_mib(registry: tuple[State, str]) -> None:
    state, url = registry
    header, data = _registry.read_header(blob(state, url, FILE, len(FILE)))
    assert header.get("block_count") == 4
    assert data == HEADER
    assert [range_ for _path, range_ in state.requests] == ["bytes=0-1048575"]


def test_a_long_header_is_asked_for_in_doubled_parts(registry: tuple[State, str]) -> None:
    state, url = registry
    header = llama(vocabulary=200_000)
    assert 2**21 < len(header) < 2**22
    found, data = _registry.read_header(blob(state, url, header + bytes(2**26), None))
    assert data == header
    assert found.lengths["tokenizer.ggml.tokens"] == 200_000
    assert [range_ for _path, range_ in state.requests] == [
        "bytes=0-1048575",
        "bytes=1048576-2097151",
        "bytes=2097152-4194303",
    ]


def test_a_blob_that_is_smaller_than_a_mib(registry: tuple[State, str]) -> None:
    state, url = registry
    header = llama(layers=1, vocabulary=256)
    small = header + bytes(400_000)
    for size in (None, len(small)):
        assert _registry.read_header(blob(state, url, small, size))[1] == header


@pytest.mark.parametrize("fault", ["redirect", "whole"])
def test_other_ways_to_answer_a_range(registry: tuple[State, str], fault: str) -> None:
    state, url = registry
    state.fault = fault
    header = llama(vocabulary=100_000)
    file = header + bytes(2**26)
    for size in (None, len(file)):
        state.requests.clear()
        state.sent = 0
        with blob(state, url, file, size) as opened:
            assert _registry.read_header(opened)[1] == header
        if fault == "whole":
            assert len(state.requests) == 1, "the answer is read on"
            assert state.sent < 2**25, "and not to its end"


def test_the_size_may_come_from_the_manifest_alone(registry: tuple[State, str]) -> None:
    state, url = registry
    state.fault = "no size"
    assert _registry.read_header(blob(state, url, FILE, len(FILE)))[1] == HEADER
    with pytest.raises(_repository.RegistryError, match="does not tell its size"):
        blob(state, url, FILE)


LONG = llama(vocabulary=100_000) + bytes(2**21)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("other range", "asked for bytes 0-1048575, got the range 'bytes 1-1048575/"),
        ("no range", "got the range ''"),
        ("longer", "has [0-9]+ bytes by its server and [0-9]+ by the manifest"),
        ("grows", "has [0-9]+ bytes by its server, and had [0-9]+ before"),
        ("short", "1048571 bytes came of 1048576"),
        ("gzip", "encoding gzip"),
        ("whole later", "a further one is not"),
        ("circle", "leads on after 5 redirects"),
        ("401", "asks for a login"),
        ("404", "has none"),
        ("416", "answered 416"),
        ("429", "answered 429"),
        ("502", "answered 502"),
        ("204", "status 204"),
    ],
)
def test_a_wrong_answer_is_told(registry: tuple[State, str], fault: str, said: str) -> None:
    state, url = registry
    state.fault = fault
    with pytest.raises(_repository.RegistryError, match=said):
        _registry.read_header(blob(state, url, LONG, len(LONG)))


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_slow_answer_takes_no_longer_than_allowed(registry: tuple[State, str], fault: str) -> None:
    state, url = registry
    state.fault = fault
    client = _registry.Client(timeout=0.5, time_limit=5)
    name = _repository.parse_name("any:1b", url)
    started = time.monotonic()
    for _index in range(5):
        with pytest.raises(_registry.Unreachable):
            client.manifest(name)
    assert time.monotonic() - started < 15
    assert len(state.requests) == 1, "one that is not reached is not asked again"


def test_the_time_limit_holds_for_everything(registry: tuple[State, str]) -> None:
    state, url = registry
    state.fault = "drip"
    started = time.monotonic()
    with pytest.raises(_registry.Unreachable, match=r"was not done answering after 0\.6 seconds"):
        blob(state, url, FILE, len(FILE), timeout=30, time_limit=0.6)
    assert time.monotonic() - started < 15


def test_a_registry_that_is_not_there(registry: tuple[State, str]) -> None:
    name = _repository.parse_name("any:1b", "http://127.0.0.1:1")
    with pytest.raises(_registry.Unreachable, match=r"127\.0\.0\.1:1 was not reached: .*refused"):
        _registry.Client().manifest(name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGUF", "no GGUF file"),
        (b"PK\x03\x04" + bytes(100), "no GGUF file"),
        (HEADER[:-5], "ends inside its header"),
        (HEADER, "announces [0-9]+ bytes of tensors"),
        (llama(split__count=3) + bytes(2**21), "one of 3 parts of a model"),
        (HEADER[:8] + b"\xff" * 16 + HEADER[24:], "which no model has"),
    ],
)
def test_a_blob_that_is_no_model(registry: tuple[State, str], data: bytes, said: str) -> None:
    state, url = registry
    with pytest.raises(_repository.RegistryError, match=f"the blob {digest(data)}: .*{said}"):
        _registry.read_header(blob(state, url, data, len(data)))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(HEADER) - 1), garbage=st.binary(min_size=1, max_size=16))
def test_a_damaged_header_is_read_or_refused(registry: tuple[State, str], place: int, garbage: bytes) -> None:
    state, url = registry
    data = HEADER[:place] + garbage + HEADER[place + len(garbage) :] + bytes(2**20)
    started = time.monotonic()
    with suppress(_repository.RegistryError):
        _registry.read_header(blob(state, url, data, len(data)))
    assert time.monotonic() - started < 20
    state.blobs.clear()
