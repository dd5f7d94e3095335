# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model_header: what a plan gets from a registry on loopback, from the cache, and where neither has it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from gguf_files import Q8_0, llama
from registry_fake import State, digest

from tests.registry import Registry

Run = Callable[..., dict[str, Any]]
HEADER = llama()
WEIGHTS = HEADER + bytes(2**21)
OTHER_HEADER = llama(layers=6)
OTHER = OTHER_HEADER + bytes(2**22)
NOWHERE = "http://127.0.0.1:1"


class Asked:
    """A registry, and the module told where it and its cache are."""

    def __init__(self, state: State, url: str, cache: Path, run: Run) -> None:
        self.state, self.url, self.cache, self._run = state, url, cache, run

    def __call__(self, *models: str, **arguments: Any) -> dict[str, Any]:
        given = {"registry": self.url, "cache_dir": os.fspath(self.cache), "timeout": 2, "models": list(models)}
        return self._run("model_header", **{**given, **arguments})

    @property
    def files(self) -> list[str]:
        return sorted(os.fspath(path.relative_to(self.cache)) for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def ask(run: Run, tmp_path: Path) -> Iterator[Asked]:
    with registry_fake.serve() as (state, url):
        yield Asked(state, url, tmp_path / "cache", run)


def entry(name: str = "own:1b", **more: Any) -> dict[str, Any]:
    return {"name": name, "source": {"type": "registry"}, "size_bytes": len(WEIGHTS), "uses": ["chat"], **more}


def pinned(weights: bytes = WEIGHTS, **more: Any) -> dict[str, Any]:
    return entry(source={"type": "registry", "digest": digest(weights)}, **more)


def test_quartet(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    arguments = {"catalog": [entry()]}
    before = ask("own:1b", check_mode=True, **arguments)
    assert before["changed"]
    assert before["entries"] == []
    assert before["headers"][0]["architecture"] == "llama"
    assert not ask.cache.exists(), "check mode writes nothing"
    done = ask("own:1b", **arguments)
    assert done["changed"]
    path = done["entries"][0]["header"]
    assert Path(path).read_bytes() == HEADER
    assert done["entries"] == [{**entry(), "header": path, "projector_bytes": 0}]
    assert done["told"] == []
    for again in (ask("own:1b", check_mode=True, **arguments), ask("own:1b", **arguments)):
        assert not again["changed"]
        assert again["entries"] == done["entries"]
    host = ask.url.partition("//")[2]
    stem = digest(WEIGHTS).replace(":", "-")
    assert ask.files == [f"manifests/{host}/library/own/1b", f"{stem}-{len(WEIGHTS)}.gguf"]


def test_a_plan_counts_by_the_header(ask: Asked, run: Run) -> None:
    """A model that no catalog has, from the registry's word alone, to the byte as from the file itself."""
    whole = ask.cache.parent / "whole.gguf"
    whole.write_bytes(WEIGHTS)
    ask.state.put("own:1b", WEIGHTS)
    entries = ask("own:1b")["entries"]
    assert {key: entries[0][key] for key in ("size_bytes", "quantization", "uses")} == {
        "size_bytes": len(WEIGHTS),
        "quantization": "Q4_K_M",
        "uses": [],
    }
    plans = [
        run(
            "model_select",
            workloads=[{"name": "chat", "models": ["own:1b"], "context_length": 4096}],
            gpu_names=["8188 MiB"],
            engine_version="0.32.15",
            catalog=catalog,
        )["plan"]["instances"][0]["models"][0]
        for catalog in (entries, [{"name": "own:1b", "source": {"type": "gguf", "path": str(whole)}}])
    ]
    assert plans[0]["account"] == plans[1]["account"]
    assert plans[0]["source"] == {"type": "registry", "digest": None}


def test_an_embedding_model_of_the_registry_is_one(ask: Asked) -> None:
    ask.state.put("find:1b", llama(architecture="bert", bert__pooling_type=1) + bytes(2**21))
    assert ask("find:1b")["entries"][0]["uses"] == ["embedding"]


def test_projectors_are_told(ask: Asked) -> None:
    ask.state.put("sees:1b", WEIGHTS, b"projector")
    expected = [{"digest": digest(b"projector"), "size_bytes": 9}]
    for fault in ("", "503"):
        ask.state.fault = fault
        told = ask("sees:1b")
        assert told["headers"][0]["projectors"] == expected
        assert told["entries"][0]["projector_bytes"] == 9


def test_a_kept_header_needs_no_network(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    arguments = {"catalog": [pinned()], "required": True}
    done = ask("own:1b", **arguments)
    asked = len(ask.state.requests)
    again = ask("own:1b", **arguments)
    assert again["entries"] == done["entries"]
    assert len(ask.state.requests) == asked
    # The manifest of another registry is not known, and so whether it has a projector beside the weights.
    [kept] = ask("own:1b", **{**arguments, "registry": NOWHERE})["entries"]
    assert {**kept, "projector_bytes": 0} == done["entries"][0]


def test_an_unpinned_tag_is_known_offline_as_it_was(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    done = ask("own:1b", catalog=[entry()])
    ask.state.fault = "503"
    again = ask("own:1b", catalog=[entry()])
    assert again["entries"] == done["entries"]
    assert "answered 503" in again["told"][0]
    assert "named before" in again["told"][0]


def test_offline_is_told_once_and_nothing_fails(ask: Asked) -> None:
    started = time.monotonic()
    result = ask("own:1b", "qwen3:8b", "other:1b", registry=NOWHERE, catalog=[entry(), pinned(name="other:1b")])
    assert time.monotonic() - started < 20
    assert not result["changed"]
    assert result["entries"] == []
    assert len(result["told"]) == 1
    assert result["told"][0].startswith(
        "no header of other:1b, own:1b, qwen3:8b: the registry 127.0.0.1:1 was not reached"
    )
    assert not ask.cache.exists()


def test_offline_is_an_error_where_headers_are_required(ask: Asked) -> None:
    result = ask("own:1b", registry=NOWHERE, catalog=[entry()], required=True)
    assert result["failed"]
    assert result["msg"].startswith("the header of own:1b is not known: the registry 127.0.0.1:1 was not reached")


def test_a_silent_registry_delays_a_run_once(ask: Asked) -> None:
    ask.state.fault = "silent"
    started = time.monotonic()
    result = ask("a:1b", "b:1b", "c:1b", timeout=0.5)
    assert time.monotonic() - started < 15
    assert len(result["told"]) == 1


def test_a_tag_that_was_pointed_elsewhere(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    ask.state.put("own:1b", OTHER)
    for _again in range(2):
        result = ask("own:1b", catalog=[pinned()])
        assert result["headers"][0]["digest"] == digest(WEIGHTS)
        assert Path(result["entries"][0]["header"]).read_bytes() == HEADER
        assert len(result["told"]) == 1
        assert f"names the weights {digest(OTHER)} by now, and the catalog pins {digest(WEIGHTS)}" in result["told"][0]


def test_an_unpinned_tag_that_was_pointed_elsewhere_is_followed(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    ask("own:1b", catalog=[entry()])
    ask.state.put("own:1b", OTHER)
    result = ask("own:1b", catalog=[entry()])
    assert result["changed"]
    assert Path(result["entries"][0]["header"]).read_bytes() == OTHER_HEADER


def test_pinned_weights_whose_tag_is_gone(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    ask.state.manifests.clear()
    result = ask("own:1b", catalog=[pinned()])
    assert Path(result["entries"][0]["header"]).read_bytes() == HEADER
    assert result["headers"][0]["size_bytes"] == len(WEIGHTS), "from the range's answer"
    assert "has none" in result["told"][0]


def test_pinned_weights_that_are_gone_leave_the_catalogs_account(ask: Asked) -> None:
    ask.state.put("own:1b", OTHER)
    result = ask("own:1b", catalog=[pinned()])
    assert result["entries"] == []
    assert "What the catalog says of it counts" in result["told"][-1]


LIBRARY = {"exist": {"qwen3": "0.6b 8b 8b-q8_0"}, "cloud_only": ["glm-5.1"]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3:8c", "'qwen3:8c' is not to be had: the registry 127.0.0.1:{} has none; did you mean 'qwen3:8b'?"),
        ("own:1c", "'own:1c' is not to be had: the registry 127.0.0.1:{} has none; did you mean 'own:1b'?"),
        ("glm-5.1:big", "the model 'glm-5.1:big' runs at ollama.com and has no weights to load"),
        ("qwen3:480b-cloud", "the model 'qwen3:480b-cloud' runs at ollama.com and has no weights to load"),
        ("far:1b", "the model 'far:1b' is not to be had: its manifest names no GGUF weights, so nothing of it can be"),
        ("../x", "'..' cannot be a namespace"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_to_be_had(ask: Asked, name: str, said: str) -> None:
    ask.state.manifests["/v2/library/far/manifests/1b"] = b'{"layers": []}'
    result = ask(name, catalog=[entry()], library=LIBRARY)
    assert result["failed"]
    assert said.format(ask.url.rpartition(":")[2]) in result["msg"]
    assert not ask.cache.exists()


def test_another_quantization_of_a_model_keeps_its_place(ask: Asked, run: Run) -> None:
    weights = llama(kind=Q8_0, general__file_type=7) + bytes(2**22)
    ask.state.put("own:1b-q8_0", weights)
    base = pinned(variants={"1b-q8_0": 5_000_000}, parameters=10**6, quantization="Q4_K_M")
    found = ask("own:1b-q8_0", catalog=[base])["entries"][0]
    assert found["variant_of"] == "own:1b"
    assert found["size_bytes"] == len(weights)
    assert found["source"] == {"type": "registry"}
    assert "variants" not in found


def test_what_the_catalog_says_of_the_size_is_told(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    result = ask("own:1b", catalog=[pinned(size_bytes=len(WEIGHTS) // 2)])
    assert result["entries"][0]["size_bytes"] == len(WEIGHTS)
    assert f"the catalog says {len(WEIGHTS) // 2} bytes, the file has {len(WEIGHTS)}" in result["told"][0]


@pytest.mark.parametrize("size", [len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_a_manifest_with_another_size_is_told(ask: Asked, size: int) -> None:
    ask.state.put("own:1b", WEIGHTS, size=size)
    result = ask("own:1b", catalog=[entry()])
    assert result["entries"] == []
    assert f"{len(WEIGHTS)} bytes by its server and {size} by the manifest" in result["told"][0]


def test_a_damaged_cache_is_read_anew(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    path = Path(ask("own:1b", catalog=[pinned()])["entries"][0]["header"])
    path.write_bytes(HEADER[:50])
    assert ask("own:1b", catalog=[pinned()])["changed"]
    assert path.read_bytes() == HEADER


def test_a_cache_that_cannot_be_written(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    ask.cache.write_text("a file in its place")
    told = ask("own:1b", catalog=[entry()])["told"]
    assert len(told) == 1
    assert "cannot be read or written: Not a directory" in told[0]


def test_models_with_files_and_other_entries_are_left_alone(ask: Asked) -> None:
    mine = {"name": "mine:1b", "source": {"type": "gguf", "path": "/nowhere/x.gguf"}}
    nothing, given = ask(), ask("mine:1b", catalog=[mine, entry()])
    # Some releases of ansible-core return what the module was called with.
    assert {**given, "invocation": None} == {**nothing, "invocation": None}
    assert ask.state.requests == []


@pytest.mark.parametrize(("option", "value"), [("timeout", 0), ("time_limit", -1), ("timeout", float("nan"))])
def test_absurd_times_are_refused(ask: Asked, option: str, value: float) -> None:
    result = ask("own:1b", **{option: value})
    assert result["failed"]
    assert "seconds above 0 and up to 86400 are needed" in result["msg"]


def test_a_registry_that_knows_no_ranges(ask: Asked) -> None:
    directory, weights = ask.cache.parent / "store", ask.cache.parent / "weights.gguf"
    directory.mkdir()
    weights.write_bytes(WEIGHTS)
    with Registry(directory) as served:
        served.ranges = False
        served.model("own", "1b", weights, "llama")
        result = ask("own:1b", registry=served.url, required=True)
    assert Path(result["entries"][0]["header"]).read_bytes() == HEADER


def test_login_is_for_the_registry_alone(ask: Asked) -> None:
    ask.state.put("own:1b", WEIGHTS)
    ask.state.login = ("fleet", "word-of-it")
    refused = ask("own:1b", required=True)
    assert refused["failed"]
    with registry_fake.serve() as (other, url):
        other.login = ("someone", "else")
        other.put("own:1b", WEIGHTS)
        done = ask("own:1b", f"{url}/library/own:1b", username="fleet", password="word-of-it")
        assert other.requests
        assert not [header for header in other.authorizations if header], "another registry was told"
    assert done["headers"][0]["architecture"] == "llama"
    assert "word-of-it" not in str(done)
