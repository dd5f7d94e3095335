# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ollama_model and ollama_model_info against a server: what they do, what they would do, and that twice is once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama_fake
import pytest

Run = Callable[..., dict[str, Any]]
WEIGHTS = b"GGUF and some weights"
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
OTHER = "sha256:" + "b" * 64


class Server:
    """The server, and the module told where it is."""

    def __init__(self, state: ollama_fake.State, url: str, run: Run) -> None:
        self.state, self.url, self._run = state, url, run

    def model(self, name: str = "mine:1", **arguments: Any) -> dict[str, Any]:
        return self._run("ollama_model", name=name, api_url=self.url, timeout=5, **arguments)

    def info(self, **arguments: Any) -> dict[str, Any]:
        return self._run("ollama_model_info", api_url=self.url, timeout=5, **arguments)

    def quartet(self, changed: bool = True, **arguments: Any) -> dict[str, Any]:
        """Check mode, do, check mode again, do again; the result of doing."""
        before = (dict(self.state.models), dict(self.state.running), set(self.state.blobs))
        assert self.model(check_mode=True, **arguments)["changed"] is changed
        assert (self.state.models, self.state.running, self.state.blobs) == before, "check mode touched the server"
        done = self.model(**arguments)
        assert done["changed"] is changed, done
        assert self.model(check_mode=True, **arguments)["changed"] is False
        assert self.model(**arguments)["changed"] is False
        return done


@pytest.fixture
def server(run: Run) -> Iterator[Server]:
    with ollama_fake.serve() as (state, url):
        yield Server(state, url, run)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(WEIGHTS)
    return path


def test_pull(server: Server) -> None:
    server.state.registry["mine:1"] = DIGEST
    done = server.quartet(digest=DIGEST[7:])
    assert done["model"]["weights_digest"] == DIGEST
    assert done["loaded"] is None
    assert len(server.state.asked("/api/pull")) == 1


def test_pull_from_another_registry_gives_the_usual_name(server: Server) -> None:
    server.state.registry["models.test:5000/library/mine:1"] = DIGEST
    done = server.quartet(digest=DIGEST, registry="models.test:5000")
    assert done["model"]["weights_digest"] == DIGEST
    assert list(server.state.models) == ["mine:1"]


def test_parameters_of_a_pulled_model(server: Server) -> None:
    server.state.registry["mine:1"] = DIGEST
    done = server.quartet(digest=DIGEST, parameters={"num_thread": 8})
    assert done["differences"] == ["model"]
    assert done["model"]["parameters"] == {"num_thread": 8}
    again = server.quartet(digest=DIGEST, parameters={"num_thread": 4})
    assert again["differences"] == ["num_thread"]
    assert again["model"]["weights_digest"] == DIGEST
    assert len(server.state.asked("/api/pull")) == 1


def test_pull_again_where_the_weights_are_others(server: Server) -> None:
    server.state.put("mine:1", OTHER)
    server.state.registry["mine:1"] = DIGEST
    done = server.quartet(digest=DIGEST)
    assert done["differences"] == ["weights"]


def test_a_model_that_is_there_is_not_pulled_without_a_pin(server: Server) -> None:
    server.state.put("mine:latest", OTHER)
    server.quartet(changed=False, name="mine")
    assert server.state.asked("/api/pull") == []


def test_pulled_weights_that_are_not_the_pinned_ones_fail(server: Server) -> None:
    server.state.registry["mine:1"] = OTHER
    result = server.model(digest=DIGEST)
    assert result["failed"]
    assert "re-pointed" in result["msg"]
    assert OTHER in result["msg"]


def test_a_pull_that_fails_inside_its_stream_fails(server: Server) -> None:
    result = server.model()
    assert result["failed"]
    assert "file does not exist" in result["msg"]


def test_create_from_a_file(server: Server, weights: Path) -> None:
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST[7:], "context_length": 512}
    done = server.quartet(parameters={"temperature": 0.3, "stop": ["a", "b"]}, system="You are a clerk.", **arguments)
    assert done["uploaded_bytes"] == len(WEIGHTS)
    assert done["model"]["parameters"] == {"temperature": 0.3, "stop": ["a", "b"], "num_ctx": 512}
    assert server.state.asked("/api/create")[0]["files"] == {"model.gguf": DIGEST}


def test_the_file_is_not_needed_once_the_server_has_the_weights(server: Server, tmp_path: Path) -> None:
    gone = {"source": "gguf", "gguf": str(tmp_path / "gone.gguf"), "sha256": DIGEST}
    server.state.blobs.add(DIGEST)
    assert server.quartet(**gone)["uploaded_bytes"] == 0
    assert server.model(source="gguf", gguf=gone["gguf"])["msg"].startswith("mine:1: cannot read")


def test_a_file_that_the_server_writes_anew_keeps_its_own_weights(
    server: Server, weights: Path, tmp_path: Path
) -> None:
    server.state.rewrites[DIGEST] = OTHER
    server.state.directory = tmp_path / "models"
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST, "models_dir": str(tmp_path / "models")}
    done = server.quartet(**arguments)
    assert done["model"]["weights_digest"] == DIGEST
    assert [path.name for path in (tmp_path / "models" / "blobs").iterdir()] == [DIGEST.replace(":", "-")]


def test_without_the_directory_the_servers_weights_are_accepted_by_their_digest(server: Server, weights: Path) -> None:
    server.state.rewrites[DIGEST] = OTHER
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST}
    refused = server.model(**arguments)
    assert refused["failed"]
    assert refused["msg"].endswith(f"or accept the server's with digest: {OTHER}")
    assert server.model(digest=OTHER, **arguments)["changed"] is False
    server.state.models.clear()
    assert server.quartet(digest=OTHER, **arguments)["model"]["weights_digest"] == OTHER


def test_the_directory_of_another_server_is_told(server: Server, weights: Path, tmp_path: Path) -> None:
    server.state.rewrites[DIGEST] = OTHER
    result = server.model(source="gguf", gguf=str(weights), models_dir=str(tmp_path))
    assert result["failed"]
    assert result["msg"].endswith(f"is {tmp_path} the server's models directory?")


def test_a_missing_file_is_named(server: Server, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.gguf")
    result = server.model(source="gguf", gguf=gone, sha256=DIGEST)
    assert result["failed"]
    assert gone in result["msg"]
    assert server.model(source="gguf", gguf=gone, sha256=DIGEST, check_mode=True)["changed"]


def test_a_file_of_another_digest_is_refused_by_the_server(server: Server, weights: Path) -> None:
    result = server.model(source="gguf", gguf=str(weights), sha256="b" * 64)
    assert result["failed"]
    assert "digest mismatch" in result["msg"]
    assert server.state.models == {}


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({"parameters": {"temperature": 0.5}}, ["temperature"]),
        ({"parameters": {}}, ["temperature"]),
        ({"system": "You are a judge."}, ["system"]),
        ({"system": None}, ["system"]),
        ({"template": "{{ .System }}"}, ["template"]),
        ({"context_length": 1024}, ["num_ctx"]),
    ],
)
def test_what_lies_over_the_weights_is_compared(
    server: Server, weights: Path, change: dict[str, Any], differences: list[str]
) -> None:
    arguments = {
        "source": "gguf", "gguf": str(weights), "sha256": DIGEST, "system": "You are a clerk.",
        "parameters": {"temperature": 0.3}, "context_length": 512,
    }  # fmt: skip
    server.quartet(**arguments)
    changed = {key: value for key, value in {**arguments, **change}.items() if value is not None}
    assert server.quartet(**changed)["differences"] == differences


def test_derive_from_a_model(server: Server) -> None:
    server.state.put("base:1", DIGEST, parameters={"num_ctx": 512, "temperature": 1})
    arguments = {"name": "clerk", "source": "model", "from": "base:1", "system": "You are a clerk."}
    done = server.quartet(parameters={"temperature": 0.3}, **arguments)
    assert done["model"]["parameters"] == {"num_ctx": 512, "temperature": 0.3}
    server.state.put("base:1", OTHER, parameters={"num_ctx": 512, "temperature": 1})
    assert server.quartet(parameters={"temperature": 0.3}, **arguments)["differences"] == ["weights"]


def test_derive_from_a_model_that_is_not_there(server: Server) -> None:
    arguments = {"name": "clerk", "source": "model", "from": "base:1"}
    assert "base:1 to create clerk:latest from is not installed" in server.model(**arguments)["msg"]
    assert server.model(check_mode=True, **arguments)["changed"], "it may be created before this task runs"


def test_load(server: Server) -> None:
    server.state.put("mine:1", DIGEST)
    done = server.quartet(state="loaded", context_length=2048)
    assert done["loaded"]["context_length"] == 2048
    assert done["loaded"]["size_vram_bytes"] == 1500
    assert done["load_duration_seconds"] >= 0
    assert server.quartet(state="loaded", context_length=4096)["loaded"]["context_length"] == 4096
    assert len(server.state.asked("/api/generate")) == 2


def test_load_pulls_first(server: Server) -> None:
    server.state.registry["mine:1"] = DIGEST
    assert server.quartet(state="loaded", digest=DIGEST)["loaded"]["name"] == "mine:1"


def test_more_context_than_was_trained_is_no_reason_to_load_again(server: Server) -> None:
    server.state.trained = 1024
    server.state.put("mine:1", DIGEST)
    assert server.quartet(state="loaded", context_length=8192)["loaded"]["context_length"] == 1024


def test_a_model_that_would_expire_is_loaded_to_stay(server: Server) -> None:
    server.state.put("mine:1", DIGEST)
    server.quartet(state="loaded", keep_alive="10m")
    assert server.quartet(state="loaded")["loaded"]["expires_at"].startswith("2319")


def test_a_model_created_anew_is_loaded_anew(server: Server, weights: Path) -> None:
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST, "state": "loaded"}
    server.quartet(**arguments)
    server.quartet(system="You are a clerk.", **arguments)
    assert server.state.running["mine:1"]["digest"] == server.state.models["mine:1"]["digest"]


def test_an_embedding_model_is_loaded_by_an_embed_request(server: Server) -> None:
    server.state.capabilities = ["embedding"]
    server.state.put("mine:1", DIGEST)
    server.quartet(state="loaded")
    assert server.state.asked("/api/generate") == []


def test_models_of_the_same_weights_share_what_is_in_memory(server: Server) -> None:
    server.state.put("base:1", DIGEST)
    server.state.put("clerk:1", DIGEST, system="You are a clerk.")
    server.quartet(name="base:1", state="loaded")
    assert server.quartet(changed=False, name="clerk:1", state="loaded")["loaded"]["name"] == "base:1"
    assert server.quartet(name="clerk:1", state="loaded", context_length=512)["loaded"]["context_length"] == 512
    server.quartet(changed=False, name="clerk:1", state="unloaded")


def test_a_failing_load_fails_with_the_servers_words(server: Server) -> None:
    server.state.put("mine:1", DIGEST)
    server.state.load_error = "llama runner process has terminated: cudaMalloc failed: out of memory"
    assert "out of memory" in server.model(state="loaded")["msg"]


def test_unload(server: Server) -> None:
    server.state.put("mine:1", DIGEST)
    server.model(state="loaded")
    done = server.quartet(state="unloaded")
    assert done["loaded"] is None
    assert "mine:1" in server.state.models
    server.quartet(changed=False, name="nothing", state="unloaded")


def test_absent(server: Server) -> None:
    server.state.put("mine:1", DIGEST)
    assert server.quartet(state="absent")["model"] is None
    assert server.state.models == {}


def test_diff_tells_what_would_change(server: Server, weights: Path) -> None:
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST, "system": "You are a clerk."}
    would = server.model(check_mode=True, diff=True, state="loaded", context_length=512, **arguments)["diff"]
    did = server.model(diff=True, state="loaded", context_length=512, **arguments)["diff"]
    assert would == did
    assert did["before"] == {"state": "absent"}
    assert did["after"] == {
        "state": "loaded", "weights_digest": DIGEST, "parameters": {"num_ctx": 512}, "system": "You are a clerk.",
        "context_length_in_memory": 512,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"source": "gguf"}, "gguf"),
        ({"source": "model"}, "from"),
        ({"digest": "a5fd"}, "64 hexadecimal"),
        ({"keep_alive": "banana"}, "no keep-alive"),
        ({"context_length": 0}, "above 0"),
        ({"api_url": "somewhere"}, "no address of a server"),
        ({"api_url": "http://127.0.0.1:1"}, "cannot be reached"),
    ],
)
def test_wrong_arguments(run: Run, arguments: dict[str, Any], says: str) -> None:
    result = run("ollama_model", **{"name": "mine:1", "api_url": "http://127.0.0.1:1", "timeout": 2, **arguments})
    assert result["failed"]
    assert says in result["msg"]


def test_info(server: Server) -> None:
    server.state.put("b:1", DIGEST)
    server.state.put("a:1", OTHER)
    server.model(name="b:1", state="loaded")
    wanted = [{"name": "a:1", "digest": DIGEST}, {"name": "b:1", "digest": DIGEST[7:]}, {"name": "c"}, {"name": "a:1"}]
    found = server.info(wanted=wanted[:3])
    assert found["changed"] is False
    assert found["version"] == "0.32.15"
    assert [model["name"] for model in found["models"]] == ["a:1", "b:1"]
    assert [model["name"] for model in found["loaded"]] == ["b:1"]
    assert found["missing"] == ["a:1", "c"]
    assert server.info(wanted=wanted[3:])["missing"] == []
    alone = server.info(name="a:1", wanted=[{"name": "b:1"}], check_mode=True)
    assert ([model["name"] for model in alone["models"]], alone["loaded"], alone["missing"]) == (["a:1"], [], [])
