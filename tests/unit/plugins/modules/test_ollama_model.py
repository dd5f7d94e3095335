# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ollama_model and ollama_model_info against a server: what they do, what they would do, and that twice is once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ollama_fake
import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _transfer
from ansible_collections.onprem.llm.plugins.modules import ollama_model

Run = Callable[..., dict[str, Any]]
WEIGHTS = b"GGUF and some weights"
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
OTHER = "sha256:" + "b" * 64


class Server:
    """The server with its models directory, a registry, and the module told where they are."""

    def __init__(
        self, state: ollama_fake.State, url: str, registry: registry_fake.State, origin: str, run: Run
    ) -> None:
        self.state, self.url, self.registry, self.origin, self._run = state, url, registry, origin, run
        assert state.directory
        self.directory = state.directory

    def model(self, name: str = "mine:1", **arguments: Any) -> dict[str, Any]:
        given = {
            "models_dir": str(self.directory), "origins": [{"url": self.origin}], "stall_timeout": 2, **arguments,
        }  # fmt: skip
        return self._run("ollama_model", name=name, api_url=self.url, timeout=5, **given)

    def info(self, **arguments: Any) -> dict[str, Any]:
        return self._run("ollama_model_info", api_url=self.url, timeout=5, **arguments)

    def offer(self, weights: bytes = WEIGHTS, name: str = "mine:1") -> str:
        """Have the registry offer a model; its weights' digest."""
        self.registry.blobs[registry_fake.digest(b"{}")] = b"{}"
        return self.registry.put(name, weights)

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / digest.replace(":", "-")

    def files(self) -> dict[str, bytes]:
        """What lies in the models directory."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }

    def quartet(self, changed: bool = True, **arguments: Any) -> dict[str, Any]:
        """Check mode, do, check mode again, do again; the result of doing."""
        before = (dict(self.state.models), dict(self.state.running), set(self.state.blobs), self.files())
        assert self.model(check_mode=True, **arguments)["changed"] is changed
        now = (self.state.models, self.state.running, self.state.blobs, self.files())
        assert now == before, "check mode touched the server"
        done = self.model(**arguments)
        assert done["changed"] is changed, done
        after = self.registry.sent
        assert self.model(check_mode=True, **arguments)["changed"] is False
        again = self.model(**arguments)
        assert (again["changed"], again["transfer"]) == (False, None)
        if not arguments.get("update"):
            assert self.registry.sent == after, "the second run asked the registry for something"
        return done


@pytest.fixture
def server(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(_transfer, "MAX_BACKOFF_SECONDS", 0.01)
    with ollama_fake.serve() as (state, url), registry_fake.serve() as (registry, origin):
        state.directory = tmp_path / "data" / "models"
        state.directory.mkdir(parents=True)
        yield Server(state, url, registry, origin, run)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(WEIGHTS)
    return path


def test_a_model_that_is_there_is_loaded_without_its_directory(server: Server) -> None:
    server.offer()
    missing = server.model(state="loaded", models_dir="")
    assert "models_dir is needed" in missing["msg"]
    server.model()
    loaded = server.model(state="loaded", models_dir="", origins=[])
    assert (loaded["changed"], loaded["loaded"]["name"]) == (True, "mine:1")
    assert server.model(state="loaded", models_dir="", origins=[])["changed"] is False


def test_transfer(server: Server) -> None:
    assert server.offer() == DIGEST
    would = server.model(check_mode=True, diff=True, digest=DIGEST)
    assert would["transfer"] == {
        "total_bytes": len(WEIGHTS) + 2, "held_bytes": 0, "fetched_bytes": 0, "seconds": 0.0,
        "origin": server.origin[7:], "free_bytes": would["transfer"]["free_bytes"],
    }  # fmt: skip
    assert would["diff"]["after"]["weights_digest"] == DIGEST
    done = server.quartet(digest=DIGEST[7:])
    assert done["model"]["weights_digest"] == DIGEST
    assert done["model"]["digest"] == would["diff"]["after"]["manifest_digest"]
    assert done["transfer"]["fetched_bytes"] == len(WEIGHTS) + 2
    assert (done["loaded"], done["pending"]) == (None, None)
    files = server.files()
    assert (
        files["manifests/registry.ollama.ai/library/mine/1"]
        == server.registry.manifests["/v2/library/mine/manifests/1"]
    )
    assert files[f"blobs/{DIGEST.replace(':', '-')}"] == WEIGHTS
    assert list((server.directory.parent / "staging").iterdir()) == []
    assert (server.directory.parent / "staging").stat().st_mode & 0o777 == 0o700


def test_parameters_of_a_transferred_model(server: Server) -> None:
    server.offer()
    done = server.quartet(digest=DIGEST, parameters={"num_thread": 8})
    assert done["differences"] == ["model"]
    assert done["model"]["parameters"] == {"num_thread": 8}
    again = server.quartet(digest=DIGEST, parameters={"num_thread": 4})
    assert again["differences"] == ["num_thread"]
    assert again["model"]["weights_digest"] == DIGEST
    assert again["transfer"] is None


def test_transfer_again_where_the_weights_are_others(server: Server) -> None:
    server.state.put("mine:1", OTHER)
    server.offer()
    done = server.quartet(digest=DIGEST)
    assert done["differences"] == ["weights"]
    assert not server.blob(OTHER).exists(), "nothing else has it"


def test_a_model_that_is_there_is_not_asked_for_without_a_pin(server: Server) -> None:
    server.state.put("mine:latest", OTHER)
    server.quartet(changed=False, name="mine")
    assert server.registry.requests == []


def test_re_pointed_tag_is_refused_with_both_digests(server: Server) -> None:
    server.offer(b"GGUF of another day")
    result = server.model(digest=DIGEST)
    assert result["failed"]
    for said in ("re-pointed", DIGEST, registry_fake.digest(b"GGUF of another day"), "update: true"):
        assert said in result["msg"]
    assert [path for path in server.registry.paths if "blobs" in path] == []
    assert server.model(digest=DIGEST, check_mode=True)["failed"]


def test_update_takes_what_the_registry_has(server: Server) -> None:
    server.offer()
    server.model(digest=DIGEST)
    newer = server.offer(b"GGUF of another day")
    assert server.model()["changed"] is False
    done = server.quartet(update=True, digest=DIGEST)
    assert (done["model"]["weights_digest"], done["differences"]) == (newer, ["weights"])
    assert not server.blob(DIGEST).exists()


@pytest.mark.parametrize("damage", [b"GGUF and some weighty", b"GGUF", None])
def test_damaged_files_are_found_and_mended(server: Server, damage: bytes | None) -> None:
    server.offer()
    server.model(digest=DIGEST, state="loaded")
    blob, inode = server.blob(DIGEST), server.blob(DIGEST).stat().st_ino
    if damage is None:
        blob.unlink()
    else:
        blob.write_bytes(damage)
    assert server.quartet(digest=DIGEST, state="loaded", verify=True)["differences"] == ["blobs"]
    assert blob.read_bytes() == WEIGHTS
    assert blob.stat().st_ino != inode, "what a reader has open is not written into"
    assert [body for body in server.state.asked("/api/generate") if body.get("keep_alive") == 0], "it was read from it"


def test_a_missing_file_is_brought_without_being_asked_to_look(server: Server) -> None:
    server.offer()
    server.model(digest=DIGEST)
    server.blob(DIGEST).unlink()
    assert server.quartet()["differences"] == ["blobs"]


def test_damaged_file_of_a_tag_that_moved_is_not_replaced_by_another_model(server: Server) -> None:
    server.offer()
    server.model()
    server.blob(DIGEST).write_bytes(b"x" * len(WEIGHTS))
    newer = server.offer(b"GGUF of another day")
    result = server.model(verify=True)
    assert result["failed"]
    assert DIGEST in result["msg"]
    assert newer in result["msg"]
    assert server.model(verify=True, update=True)["model"]["weights_digest"] == newer


def test_turns_go_on_from_one_another(server: Server) -> None:
    data = b"GGUF" + bytes(3 * 2**20)
    server.offer(data)
    server.registry.bucket = registry_fake.Bucket(1.5 * 2**20)
    first = server.model(announce=True, transfer_seconds=0.5)
    assert (first["pending"]["phase"], first["pending"]["total_bytes"]) == ("announced", len(data) + 2)
    assert [path for path in server.registry.paths if "blobs" in path] == []
    turns, fetched, result = [first["pending"]["done_bytes"]], 0, first
    while result["pending"]:
        assert server.state.models == {}
        result = server.model(transfer_seconds=0.5, connections=1, resume=result["pending"]["resume"])
        fetched += result["transfer"]["fetched_bytes"]
        turns.append(result["pending"]["done_bytes"] if result["pending"] else len(data) + 2)
    assert turns == sorted(turns)
    assert len(turns) > 3
    assert result["model"]["weights_digest"] == registry_fake.digest(data)
    assert fetched <= 1.25 * len(data)


@pytest.fixture
def restarted(run: Run, tmp_path: Path) -> Iterator[tuple[Server, Callable[[float], None]]]:
    """A server, and what stops it and starts it again on the same port, as it prunes what nothing names, after so many
    seconds."""
    with ExitStack() as running, registry_fake.serve() as (registry, origin), ExitStack() as again:
        state, url = running.enter_context(ollama_fake.serve())
        state.directory = tmp_path / "data" / "models"
        state.directory.mkdir(parents=True)
        directory, threads = state.directory, []

        def start(seconds: float) -> None:
            time.sleep(seconds)
            manifests = b"".join(path.read_bytes() for path in directory.glob("manifests/*/*/*/*"))
            named = set(re.findall(rb"[0-9a-f]{64}", manifests))
            for path in directory.glob("blobs/*"):
                if path.name[7:].encode() not in named:
                    path.unlink()
            again.enter_context(ollama_fake.serve(state, int(url.rpartition(":")[2])))

        def restart(seconds: float) -> None:
            running.close()
            threads.append(threading.Thread(target=start, args=(seconds,)))
            threads[-1].start()

        yield Server(state, url, registry, origin, run), restart
        for thread in threads:
            thread.join()


def test_an_engine_that_is_restarted_between_turns_gets_its_model(
    restarted: tuple[Server, Callable[[float], None]],
) -> None:
    server, restart = restarted
    data = b"GGUF" + bytes(3 * 2**20)
    server.offer(data)
    server.registry.bucket = registry_fake.Bucket(2**20)
    result, fetched, turns = server.model(transfer_seconds=0.5), 0, 0
    while result["pending"]:
        fetched, turns = fetched + result["transfer"]["fetched_bytes"], turns + 1
        if turns == 1:
            restart(1.5)
        result = server.model(transfer_seconds=0.5, resume=result["pending"]["resume"])
        assert "failed" not in result, result
    assert turns >= 2
    assert result["model"]["weights_digest"] == registry_fake.digest(data)
    assert server.state.models["mine:1"]["weights"] == registry_fake.digest(data)
    assert fetched + result["transfer"]["fetched_bytes"] <= 1.25 * len(data), "what was here was gone on from"
    assert server.model()["changed"] is False


def test_an_engine_that_is_down_while_the_last_bytes_come_gets_its_model(
    restarted: tuple[Server, Callable[[float], None]],
) -> None:
    """The call has no bound, and the engine comes back after its end."""
    server, restart = restarted
    data = b"GGUF" + bytes(2 * 2**20)
    server.offer(data)
    server.registry.bucket = registry_fake.Bucket(2 * 2**20)
    stopper = threading.Timer(0.4, restart, (2.0,))
    stopper.start()
    result = server.model()
    stopper.join()
    assert result["changed"] is True, result
    assert result["model"]["weights_digest"] == registry_fake.digest(data)
    assert result["transfer"]["seconds"] < 2.4, "it came while the engine was down"


def test_an_engine_that_does_not_come_back_is_named(
    restarted: tuple[Server, Callable[[float], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, restart = restarted
    monkeypatch.setattr(ollama_model, "RESTART_SECONDS", 0.3)
    data = b"GGUF" + bytes(2**20)
    server.offer(data)
    server.registry.bucket = registry_fake.Bucket(2**20)
    result = server.model(transfer_seconds=0.3)
    restart(1.5)
    failed = server.model(transfer_seconds=0.3, resume=result["pending"]["resume"])
    assert failed["failed"]
    assert server.url in failed["msg"]


def test_what_does_not_fit_is_refused_before_the_first_byte(server: Server) -> None:
    server.offer()
    result = server.model(reserve_bytes=2**62)
    assert result["failed"]
    assert re.search(
        rf"{len(WEIGHTS) + 2} bytes are to come, \d+ are free at \S+/staging, and {2**62} are to stay", result["msg"]
    )
    assert [path for path in server.registry.paths if "blobs" in path] == []


def test_wrong_bytes_are_not_installed_and_the_model_before_stays(server: Server) -> None:
    server.state.put("mine:1", OTHER)
    server.offer()
    server.registry.blobs[DIGEST] = b"x" * len(WEIGHTS)
    before = server.files()
    result = server.model(digest=DIGEST)
    assert result["failed"]
    assert DIGEST in result["msg"]
    assert registry_fake.digest(b"x" * len(WEIGHTS)) in result["msg"]
    assert server.files().items() >= before.items()
    assert server.info()["models"][0]["weights_digest"] == OTHER


def test_registries_are_asked_in_order(server: Server) -> None:
    server.offer()
    with registry_fake.serve() as (empty, other):
        done = server.quartet(origins=[{"url": other, "kind": "mirror"}, {"url": server.origin}])
        assert done["transfer"]["origin"] == server.origin[7:]
        assert [path for path in empty.paths if "/manifests/" in path]
    server.model(state="absent")
    with registry_fake.serve() as (_empty, other):
        result = server.model(name="none:1", origins=[{"url": other}, {"url": server.origin}])
    assert result["failed"]
    assert other[7:] in result["msg"]
    assert server.origin[7:] in result["msg"]


def test_a_mirror_keeps_other_hosts_models_and_they_keep_their_names(server: Server) -> None:
    server.offer()
    path = "/v2/models.test/team/own/manifests/1"
    server.registry.manifests[path] = server.registry.manifests["/v2/library/mine/manifests/1"]
    done = server.quartet(name="models.test/team/own:1", origins=[{"url": server.origin, "kind": "mirror"}])
    assert done["model"]["name"] == "models.test/team/own:1"
    assert "manifests/models.test/team/own/1" in server.files()


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../b:1",
        "/etc/passwd",
        "%2e%2e/%2e%2e/x",
        "x:../y",
        "a" * 400,
        "a\nb",
        "a b",
        "x:",
        "h/n/m/o:1",
        "-x",
    ],
)
def test_names_that_lead_elsewhere_are_refused(server: Server, name: str) -> None:
    for state in ("present", "absent", "loaded", "unloaded"):
        result = server.model(name=name, state=state)
        assert result["failed"]
        assert "is no model's name" in result["msg"]
        assert len(result["msg"]) < 1000
    assert server.state.requests == []
    assert server.registry.requests == []
    assert server.files() == {}


def test_the_directory_of_another_server_is_noticed(server: Server, tmp_path: Path) -> None:
    server.offer()
    other = tmp_path / "other" / "models"
    other.mkdir(parents=True)
    result = server.model(models_dir=str(other))
    assert result["failed"]
    assert "is not installed" in result["msg"] or "is it the server's models directory" in result["msg"]


def test_login_of_the_proxy_is_shown_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(name.upper(), "")
    result = server.model(proxy="http://site:pass-of-it@127.0.0.1:1", no_proxy=["elsewhere.test"])
    assert result["failed"]
    assert "pass-of-it" not in json.dumps(result)
    monkeypatch.setenv("no_proxy", "")
    server.offer()
    assert server.model(proxy="http://site:pass-of-it@127.0.0.1:1", no_proxy=["127.0.0.1"])["changed"]


def test_password_of_an_origin_is_shown_nowhere(server: Server) -> None:
    server.registry.fault = "401"
    result = server.model(origins=[{"url": server.origin, "username": "fleet", "password": "word-of-it"}])
    assert result["failed"]
    assert "word-of-it" not in json.dumps(result)


def test_create_from_a_file(server: Server, weights: Path) -> None:
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST[7:], "context_length": 512}
    done = server.quartet(parameters={"temperature": 0.3, "stop": ["a", "b"]}, system="You are a clerk.", **arguments)
    assert done["transfer"]["origin"] == "this host"
    assert server.blob(DIGEST).samefile(weights), "linked, not copied"
    assert done["model"]["parameters"] == {"temperature": 0.3, "stop": ["a", "b"], "num_ctx": 512}
    assert server.state.asked("/api/create")[0]["files"] == {"model.gguf": DIGEST}


def test_the_file_is_not_needed_once_the_server_has_the_weights(server: Server, tmp_path: Path) -> None:
    gone = {"source": "gguf", "gguf": str(tmp_path / "gone.gguf"), "sha256": DIGEST}
    (server.directory / "blobs").mkdir()
    server.blob(DIGEST).write_bytes(WEIGHTS)
    assert server.quartet(**gone)["transfer"] is None
    assert server.model(source="gguf", gguf=gone["gguf"])["msg"].startswith("mine:1: cannot read")


@pytest.mark.parametrize("mode", [0o644, 0o600], ids=["linked", "copied"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_long_file_is_read_in_turns(server: Server, weights: Path, mode: int, told: bool) -> None:
    """Whether its sha256 is given or not; once for both, the model's differences and the link."""
    content = WEIGHTS + bytes(3 * 2**20)
    weights.write_bytes(content)
    weights.chmod(mode)
    digest = registry_fake.digest(content)
    given = {"source": "gguf", "gguf": str(weights), **({"sha256": digest} if told else {})}
    phases, resume = [], {}
    while True:
        # A copy asks for some time; reading ends a turn with every MiB.
        seconds = 1 if mode == 0o600 and "transfer" in phases else 1e-6
        answer = server.model(transfer_seconds=seconds, resume=resume, **given)
        if not answer.get("pending"):
            break
        phases.append(answer["pending"]["phase"])
        resume = answer["pending"]["resume"]
        assert len(phases) < 50
    assert answer.get("changed"), answer
    assert server.blob(digest).samefile(weights) == (mode == 0o644)
    assert server.blob(digest).read_bytes() == content
    if mode == 0o644:
        assert phases == ["verify"] * 4
    elif not told:
        assert phases[:4] == ["verify"] * 4


def test_a_long_file_that_changes_between_turns_is_read_anew(server: Server, weights: Path) -> None:
    weights.write_bytes(WEIGHTS + bytes(3 * 2**20))
    first = server.model(transfer_seconds=1e-6, source="gguf", gguf=str(weights))
    weights.write_bytes(WEIGHTS + b"x" + bytes(3 * 2**20))
    server.model(resume=first["pending"]["resume"], source="gguf", gguf=str(weights))
    digest = registry_fake.digest(WEIGHTS + b"x" + bytes(3 * 2**20))
    assert server.blob(digest).samefile(weights)


def test_a_file_that_only_its_owner_reads_is_copied(server: Server, weights: Path) -> None:
    weights.chmod(0o600)
    done = server.quartet(source="gguf", gguf=str(weights))
    assert (done["transfer"]["fetched_bytes"], server.blob(DIGEST).read_bytes()) == (len(WEIGHTS), WEIGHTS)
    assert not server.blob(DIGEST).samefile(weights)


def test_a_file_that_is_no_gguf_is_refused(server: Server, weights: Path) -> None:
    weights.write_bytes(b"<html>")
    result = server.model(source="gguf", gguf=str(weights))
    assert result["failed"]
    assert "is no GGUF file: it begins with b'<htm'" in result["msg"]
    assert server.files() == {}


def test_a_file_that_the_server_writes_anew_keeps_its_own_weights(server: Server, weights: Path) -> None:
    server.state.rewrites[DIGEST] = OTHER
    done = server.quartet(source="gguf", gguf=str(weights), sha256=DIGEST)
    assert done["model"]["weights_digest"] == DIGEST
    assert [path.name for path in (server.directory / "blobs").iterdir()] == [DIGEST.replace(":", "-")]


def test_the_servers_weights_are_accepted_by_their_digest(server: Server, weights: Path) -> None:
    server.state.rewrites[DIGEST] = OTHER
    done = server.quartet(source="gguf", gguf=str(weights), sha256=DIGEST, digest=OTHER)
    assert done["model"]["weights_digest"] == OTHER


def test_a_file_for_the_directory_of_another_server_is_told(server: Server, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    result = server.model(source="gguf", gguf=str(weights), models_dir=str(tmp_path / "other" / "models"))
    assert result["failed"]
    assert "the server does not see it; is it the server's models directory?" in result["msg"]


def test_a_missing_file_is_named(server: Server, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.gguf")
    result = server.model(source="gguf", gguf=gone, sha256=DIGEST)
    assert result["failed"]
    assert gone in result["msg"]
    assert server.model(source="gguf", gguf=gone, sha256=DIGEST, check_mode=True)["changed"]


def test_a_file_of_another_digest_is_refused(server: Server, weights: Path) -> None:
    result = server.model(source="gguf", gguf=str(weights), sha256="b" * 64)
    assert result["failed"]
    assert f"its sha256 is {DIGEST}" in result["msg"]
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


def test_load_transfers_first(server: Server) -> None:
    server.offer()
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


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ({"weights": DIGEST, "system": "You are a clerk.", "parameters": {"num_ctx": 512, "temperature": 1}}, True),
        ({"weights": DIGEST, "parameters": {"num_ctx": 1024}}, False),
        ({"weights": DIGEST, "parameters": {"num_ctx": 512}, "adapters": [OTHER]}, False),
        ({"weights": OTHER, "parameters": {"num_ctx": 512}}, False),
    ],
    ids=["same runner", "other context", "adapter", "other weights"],
)
def test_who_is_served_by_what_is_in_memory(server: Server, other: dict[str, Any], shared: bool) -> None:
    server.state.put("base:1", DIGEST, parameters={"num_ctx": 512})
    server.state.put("clerk:1", **other)
    server.model(name="base:1", state="loaded")
    served = ["base:1", "clerk:1"] if shared else ["base:1"]
    assert [(item["name"], item["serves"]) for item in server.info()["loaded"]] == [("base:1", served)]
    assert [item["serves"] for item in server.info(name="clerk:1")["loaded"]] == ([served] if shared else [])
    assert [model["name"] for model in server.info(name="clerk:1")["models"]] == ["clerk:1"]


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
    for side in would, did:
        # The server gives a created model its manifest.
        side["after"].pop("manifest_digest", None)
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
        ({"context_length": 0}, "1 or more"),
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


def test_info_reads_every_file(server: Server) -> None:
    server.offer()
    server.model()
    directory = str(server.directory)
    assert server.info(verify=True, models_dir=directory)["damaged"] == {}
    server.blob(DIGEST).write_bytes(b"GGUF of nothing")
    found = server.info(verify=True, models_dir=directory)["damaged"]
    assert found == {"mine:1": {DIGEST: registry_fake.digest(b"GGUF of nothing")}}
    server.blob(DIGEST).unlink()
    assert server.info(verify=True, models_dir=directory, name="mine:1")["damaged"] == {"mine:1": {DIGEST: None}}
    assert server.info(verify=True)["failed"]


def test_info_reads_in_turns(server: Server) -> None:
    data = b"GGUF" + bytes(5 * 2**20)
    server.offer(data)
    server.model()
    given = {"verify": True, "models_dir": str(server.directory)}
    first = server.info(announce=True, transfer_seconds=5, **given)
    assert first["pending"]["phase"] == "verify"
    assert (first["pending"]["done_bytes"], first["pending"]["total_bytes"]) == (0, len(data) + 2)
    server.blob(registry_fake.digest(data)).write_bytes(data[:-1] + b"x")
    done, result = [], first
    while result["pending"]:
        done.append(result["pending"]["done_bytes"])
        # As good as none: a MiB is read.
        result = server.info(transfer_seconds=1e-9, resume=result["pending"]["resume"], **given)
    assert len(done) > 5
    assert done == sorted(set(done))
    assert result["damaged"] == {"mine:1": {registry_fake.digest(data): registry_fake.digest(data[:-1] + b"x")}}
    assert result["changed"] is False


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(server: Server) -> None:
    data = b"GGUF" + bytes(2 * 2**20)
    digest = server.offer(data) and registry_fake.digest(data)
    server.model()
    given = {"verify": True, "models_dir": str(server.directory), "transfer_seconds": 1e-9}
    result = server.info(**given)
    while result["pending"]["done_bytes"] < 2**20:
        result = server.info(resume=result["pending"]["resume"], **given)
    server.blob(digest).unlink()
    server.blob(digest).write_bytes(bytes(2**20) + data[2**20 :])
    while result["pending"]:
        result = server.info(resume=result["pending"]["resume"], **given)
    assert list(result["damaged"]["mine:1"]) == [digest]


def test_damaged_file_of_a_created_model_is_mended_from_the_file(server: Server, weights: Path) -> None:
    arguments = {"source": "gguf", "gguf": str(weights), "sha256": DIGEST}
    weights.chmod(0o600)
    server.model(**arguments)
    server.blob(DIGEST).write_bytes(b"GGUF and some weighty")
    assert server.quartet(verify=True, **arguments)["differences"] == ["blobs"]
    assert server.blob(DIGEST).read_bytes() == WEIGHTS
    server.blob(DIGEST).write_bytes(b"GGUF and some weighty")
    weights.unlink()
    failed = server.model(verify=True, **arguments)
    assert failed["failed"]
    assert str(weights) in failed["msg"]


def test_gguf_from_an_address(server: Server) -> None:
    server.registry.blobs[DIGEST] = WEIGHTS
    url = f"{server.origin}/cdn/{DIGEST}"
    done = server.quartet(source="gguf", url=url, sha256=DIGEST)
    assert (done["transfer"]["fetched_bytes"], done["transfer"]["origin"]) == (len(WEIGHTS), server.origin[7:])
    assert server.model(source="gguf", url=url)["failed"], "without its sha256 nobody knows what it is"


def test_another_program_that_transfers_the_same_is_waited_for(server: Server) -> None:
    server.offer()
    staging = server.directory.parent / "staging"
    with _transfer.Staging(str(staging)) as held, held.lock(DIGEST):
        pending = server.model(transfer_seconds=0.5)["pending"]
        assert pending["phase"] == "another play transfers it"
    assert server.model()["changed"]


class Pruned:
    """A server with three models, one of them in memory."""

    def __init__(self, server: Server, run: Run) -> None:
        self.server, self._run = server, run
        for name in ("wanted:1", "spare:1", "twin:1"):
            server.offer(b"GGUF " + name[:1].encode(), name=name)
            server.model(name)
        loose = server.directory / "blobs" / "sha256-partial"
        loose.write_bytes(b"12345")
        os.utime(loose, (0, 0))

    def __call__(self, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"api_url": self.server.url, "timeout": 5, "models_dir": str(self.server.directory), **arguments}
        return self._run("ollama_prune", check_mode=check_mode, **given)


def test_prune(server: Server, run: Run) -> None:
    prune = Pruned(server, run)
    before = server.files()
    would = prune(check_mode=True, keep=["wanted:1", "twin:1"])
    assert server.files() == before
    assert (would["removed"], would["files"], would["freed_bytes"]) == (["spare:1"], 1, len("GGUF s") + 5)
    done = prune(keep=["wanted:1", "twin:1"])
    assert done == would
    left = server.files()
    assert sorted(server.state.models) == ["twin:1", "wanted:1"]
    assert set(before) - set(left) == {
        "blobs/sha256-partial", "manifests/registry.ollama.ai/library/spare/1",
        f"blobs/{registry_fake.digest(b'GGUF s').replace(':', '-')}",
    }  # fmt: skip
    assert prune(keep=["wanted:1", "twin:1"])["changed"] is False


def test_prune_leaves_what_is_loaded_for_a_model_to_keep(server: Server, run: Run) -> None:
    prune = Pruned(server, run)
    server.offer(b"GGUF w", name="same:1")
    server.model("same:1", state="loaded")
    assert prune(keep=["wanted:1"], check_mode=True)["removed"] == ["spare:1", "twin:1"]
    server.model("same:1", state="unloaded")
    assert prune(keep=["wanted:1"], check_mode=True)["removed"] == ["same:1", "spare:1", "twin:1"]


def test_prune_refuses_what_it_cannot_know(server: Server, run: Run, tmp_path: Path) -> None:
    prune = Pruned(server, run)
    before = server.files()
    assert "is no model's name" in prune(keep=["../x"])["msg"]
    (tmp_path / "other").mkdir()
    assert "is it the server's models directory?" in prune(keep=[], models_dir=str(tmp_path / "other"))["msg"]
    assert server.files() == before
