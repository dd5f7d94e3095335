"""The program that keeps models warm, run as systemd runs it, against a small Ollama that goes and comes back."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import ollama_fake
import pytest
from ansible_collections.onprem.llm.plugins.module_utils._balancing import warm_pattern

SCRIPT = Path(__file__).resolve().parents[3] / "roles/models/files/warm.py"
SMALL, LARGE, EMBEDDING = "small:1b", "large:70b", "embedder:latest"
PATIENCE = 20.0


def program() -> Any:
    spec = importlib.util.spec_from_file_location("warm", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["warm"] = module
    spec.loader.exec_module(module)
    return module


warm = program()


def planned(*names: str) -> dict[str, Any]:
    """A plan that loads these in this order, and names them in the opposite one."""
    models = [
        {"name": name.removesuffix(":latest"), "use": "embedding" if name == EMBEDDING else "chat", "load_order": order}
        for order, name in enumerate(names)
    ]
    return {"schema": 1, "instances": [{"name": "ollama", "models": models[::-1]}]}


class Site:
    """A host: its plan, its engine, which can be down, the program, and a socket that hears what it tells systemd."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plan_file, self.state_file, self.hold = (directory / name for name in ("plan.json", "warm.json", "hold"))
        self.recovery_file = directory / "recovery.json"
        self.engine = ollama_fake.State()
        for number, name in enumerate((SMALL, LARGE, EMBEDDING, "other:1b")):
            self.engine.put(name, f"sha256:{number}")
        self._running = contextlib.ExitStack()
        self.port = 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener.bind(str(directory / "notify"))
        # Every line that systemd was told. Like systemd, somebody listens all the time.
        self.told: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.process: subprocess.Popen[str] | None = None

    def engine_up(self) -> None:
        _state, url = self._running.enter_context(ollama_fake.serve(self.engine, self.port))
        self.port = int(url.rpartition(":")[2])

    def engine_down(self) -> None:
        self._running.close()
        self.engine.running.clear()

    def plan(self, *names: str) -> None:
        new = self.directory / "plan.json.new"
        new.write_text(json.dumps(planned(*names)))
        new.replace(self.plan_file)

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-I", SCRIPT, "--state", self.state_file, "--hold", self.hold, "watch"]
        command += [
            "--plan",
            self.plan_file,
            "--engine",
            f"http://127.0.0.1:{self.port}",
            "--interval",
            "0.02",
            "--recovery",
            self.recovery_file,
            *arguments,
        ]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify"), "http_proxy": "http://127.0.0.1:9"},
        )

    def stop(self) -> str:
        """End it as systemd does; what it wrote."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=PATIENCE)
        return output

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._running.close()

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.state_file.read_text()) if self.state_file.exists() else {"ready": None, "models": []}

    def model(self, name: str) -> dict[str, Any]:
        return next(model for model in self.state["models"] if model["name"] == name)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self.listener.recv(65536):
                self.told += message.decode().splitlines()

    @property
    def loads(self) -> list[str]:
        """What was asked to answer, in order."""
        paths = ("/api/generate", "/api/embed")
        return [body["model"] for _, path, body in self.engine.requests if path in paths and body["keep_alive"] == -1]

    def until(self, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert self.process
            assert self.process.poll() is None, self.process.stdout.read() if self.process.stdout else ""
            assert time.monotonic() < deadline, self.state
            time.sleep(0.01)

    def until_ready(self) -> None:
        self.until(lambda: self.state["ready"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    host = Site(tmp_path)
    host.engine_up()
    yield host
    host.close()


def test_loads_in_the_plans_order_and_is_ready_after_the_last(site: Site) -> None:
    site.plan(LARGE, EMBEDDING, SMALL)
    site.start()
    site.until_ready()
    assert site.loads == [LARGE, EMBEDDING, SMALL]
    site.until(lambda: "READY=1" in site.told)
    assert site.told.index("READY=1") > site.told.index(f"STATUS=2 of 3 planned models answer; loading {SMALL}")
    state = site.state
    assert state["schema"] == 1
    assert state["engine"]["answers"] is True
    assert state["engine"]["version"] == "0.32.15"
    assert abs(datetime.fromisoformat(state["since"][:-1] + "+00:00").timestamp() - time.time()) < 60
    assert [(m["name"], m["state"], m["loaded"]) for m in state["models"]] == [
        (name, "answered", True) for name in (LARGE, EMBEDDING, SMALL)
    ]
    assert site.state_file.stat().st_mode & 0o777 == 0o644
    # Pinned, with their own context, and one token or one embedding each.
    for _, path, body in site.engine.requests:
        if path in ("/api/generate", "/api/embed"):
            assert body["keep_alive"] == -1
            assert "num_ctx" not in body.get("options", {})
            assert body.get("options", {}).get("num_predict") == (1 if path == "/api/generate" else None)


def test_a_withheld_model_is_told_as_such_until_the_verdict_ends(site: Site) -> None:
    """Balancers look for the state `answered`; what the node itself waits for is none the worse for it."""
    site.plan(LARGE, SMALL)
    site.start()
    site.until_ready()
    pattern = warm_pattern(LARGE).strip("'")
    assert re.search(pattern, site.state_file.read_text())
    verdict = {"withheld": [LARGE], "withheld_until": time.time() + 600}
    site.recovery_file.write_text(json.dumps(verdict))
    site.until(lambda: site.model(LARGE)["state"] == "withheld")
    assert not re.search(pattern, site.state_file.read_text())
    assert re.search(warm_pattern(SMALL).strip("'"), site.state_file.read_text())
    assert site.state["ready"] is True
    assert site.model(LARGE)["failures"] == 0
    assert "large:70b is out of service" in site.state["status"]
    for over in ({**verdict, "withheld_until": time.time() - 1}, {**verdict, "withheld": []}, "broken"):
        site.recovery_file.write_text(json.dumps(verdict))
        site.until(lambda: site.model(LARGE)["state"] == "withheld")
        site.recovery_file.write_text(over if isinstance(over, str) else json.dumps(over))
        site.until(lambda: site.model(LARGE)["state"] == "answered")
    assert site.loads == [LARGE, SMALL], "nothing was asked for it"


def test_asks_once_what_others_loaded_and_then_only_looks(site: Site) -> None:
    site.plan(SMALL)
    site.engine.running[SMALL] = {"name": SMALL, "digest": site.engine.models[SMALL]["digest"]}
    site.start()
    site.until_ready()
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [SMALL]


def test_waits_for_an_engine_that_is_down(site: Site) -> None:
    site.plan(SMALL)
    site.engine_down()
    site.start()
    site.until(lambda: "does not answer" in site.state.get("status", ""))
    assert site.state["ready"] is False
    assert "READY=1" not in site.told
    site.engine_up()
    site.until_ready()
    site.until(lambda: "READY=1" in site.told)


def test_an_engine_that_goes_is_not_ready_at_once_and_is_warmed_again(site: Site) -> None:
    site.plan(LARGE, SMALL)
    # A look so seldom that only the open connection can tell.
    site.start("--interval", "600")
    site.until_ready()
    before = site.state["engine"]["since"]
    time.sleep(1.1)  # the state's times are in seconds
    gone = time.monotonic()
    site.engine_down()
    site.until(lambda: site.state["ready"] is False)
    assert time.monotonic() - gone < 2
    assert site.state["engine"]["answers"] is False
    assert site.model(LARGE)["loaded"] is False
    site.engine_up()
    site.until_ready()
    assert site.loads == [LARGE, SMALL, LARGE, SMALL]
    assert site.state["engine"]["since"] > before
    assert site.told.count("READY=1") == 1


def test_an_engine_that_restarts_in_the_middle_of_a_load(site: Site) -> None:
    site.plan(LARGE, SMALL)
    site.engine.load_seconds = 600
    site.start()
    site.until(lambda: site.loads == [LARGE])
    site.engine_down()
    site.engine.load_seconds = 0
    site.engine_up()
    began = time.monotonic()
    site.until_ready()
    assert time.monotonic() - began < 4, "a first loss costs no turn"
    assert site.loads == [LARGE, LARGE, SMALL]


def test_a_model_that_fails_is_told_and_the_others_are_warmed(site: Site) -> None:
    site.plan(LARGE, SMALL)
    site.engine.load_errors[LARGE] = "llama runner process has terminated: cudaMalloc failed: out of memory"
    site.start()
    site.until(lambda: site.state["models"] and site.model(SMALL)["state"] == "answered")
    failed = site.model(LARGE)
    assert failed["state"] == "failed"
    assert failed["failures"] == 1
    assert "cudaMalloc failed" in failed["reason"]
    assert "cudaMalloc failed" in site.state["status"]
    assert site.state["ready"] is False
    # Backoff: it is not asked again at the next look, and is once somebody else has it in memory.
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads.count(LARGE) == 1
    site.engine.load_errors.clear()
    site.engine.running[LARGE] = {"name": LARGE, "digest": site.engine.models[LARGE]["digest"]}
    site.until_ready()
    assert "<4>large:70b does not answer" in site.stop()


def test_a_model_that_is_not_there_is_one_that_fails(site: Site) -> None:
    site.plan("absent:1b", SMALL)
    site.start()
    site.until(lambda: site.state["models"] and site.model(SMALL)["state"] == "answered")
    assert "'absent:1b' not found" in site.model("absent:1b")["reason"]


def test_an_unloaded_model_comes_back_and_is_not_fought_for(site: Site) -> None:
    site.plan(SMALL)
    site.start()
    site.until_ready()
    site.engine.running.clear()
    site.until(lambda: site.loads == [SMALL, SMALL])
    site.until_ready()
    # What leaves again and again, as two models that do not fit beside each other, is waited with.
    site.engine.running.clear()
    site.until(lambda: site.state["ready"] is False)
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [SMALL, SMALL]
    assert "left the engine's memory" in site.model(SMALL)["reason"]


def test_models_of_the_same_weights_share_a_runner(site: Site) -> None:
    site.engine.put("other:1b", site.engine.models[SMALL]["weights"])
    site.plan(SMALL, "other:1b")
    site.start()
    site.until_ready()
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [SMALL, "other:1b"]


def test_a_name_with_the_scheme_of_its_registry_is_the_one_that_the_engine_lists(site: Site) -> None:
    listed = "models.test:5000/team/house:1"
    site.engine.put(listed, "sha256:9")
    site.plan(f"http://{listed}")
    site.start()
    site.until_ready()
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [listed]
    assert site.model(listed)["loaded"] is True


def test_a_changed_plan_is_followed(site: Site) -> None:
    site.plan(SMALL)
    site.start()
    site.until_ready()
    site.plan(LARGE, SMALL)
    site.until(lambda: site.loads == [SMALL, LARGE])
    site.until_ready()
    # What is not planned any more leaves, once the rest serves; what was never planned is left alone.
    site.engine.running["other:1b"] = {"name": "other:1b", "digest": "1"}
    site.plan(EMBEDDING, LARGE)
    site.until(lambda: SMALL not in site.engine.running)
    assert site.state["ready"]
    assert set(site.engine.running) == {EMBEDDING, LARGE, "other:1b"}
    # One that cannot be read is no plan, and nothing is done by halves.
    site.plan_file.write_text("{")
    site.until(lambda: "cannot be read" in site.state["status"])
    assert site.state["ready"] is False
    assert set(site.engine.running) == {EMBEDDING, LARGE, "other:1b"}


def test_a_model_that_a_user_unpinned_is_pinned_again(site: Site) -> None:
    site.plan(SMALL)
    site.start()
    site.until_ready()
    site.engine.running[SMALL]["expires_at"] = "2026-11-21T02:53:06.09Z"
    assert warm.pinned({"expires_at": "2319-03-03T02:30:20.333Z"})
    assert not warm.pinned(site.engine.running[SMALL])
    # Not at each look: the last request that pinned it was just now.
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [SMALL]
    assert site.state["ready"] is True


def test_a_hold_is_kept_and_ends(site: Site) -> None:
    site.plan(SMALL)
    site.start("--hold-seconds", "3")
    site.until_ready()
    site.hold.touch()
    site.until(lambda: site.state["held_until"])
    site.engine.running.clear()
    site.until(lambda: site.state["ready"] is False)
    looks = len(site.engine.asked("/api/ps"))
    site.until(lambda: len(site.engine.asked("/api/ps")) > looks + 10)
    assert site.loads == [SMALL]
    assert "held until" in site.state["status"]
    # Forgotten, it is over by itself.
    site.until_ready()
    assert site.loads == [SMALL, SMALL]
    assert site.state["held_until"] is None
    assert site.hold.exists()


@pytest.mark.parametrize(
    ("age", "held"), [(None, False), (0, True), (90, True), (101, False), (-90, True), (-101, False)]
)
def test_a_hold_is_bounded_whatever_its_time(tmp_path: Path, age: int | None, held: bool) -> None:
    hold = tmp_path / "hold"
    if age is not None:
        hold.touch()
        os.utime(hold, (time.time() - age, time.time() - age))
    assert (warm.held_until(str(hold), 100) is not None) is held


def test_sigterm_ends_it_in_the_middle_of_a_load(site: Site) -> None:
    site.plan(LARGE)
    site.engine.load_seconds = 600
    site.start()
    site.until(lambda: site.loads == [LARGE])
    began = time.monotonic()
    site.stop()
    assert time.monotonic() - began < 3
    assert site.process
    assert site.process.returncode == 0
    assert not site.state_file.exists()
    assert "STOPPING=1" in site.told
    assert "READY=1" not in site.told


def awaited(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(SCRIPT), "--state", str(site.state_file), "--hold", str(site.hold), "await"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_await_ends_the_hold_and_waits(site: Site) -> None:
    site.plan(SMALL)
    site.hold.touch()
    site.start()
    site.until(lambda: site.state.get("held_until"))
    refused = awaited(site, "--seconds", "0.5")
    assert refused.returncode == 1
    assert "held until" in refused.stderr
    done = awaited(site, "--end-hold")
    assert (done.returncode, done.stdout) == (0, "1 of 1 planned models answer\n")


def test_await_gives_up_on_a_model_that_goes_on_failing(tmp_path: Path, site: Site) -> None:
    model = {"failures": 3, "name": SMALL}
    site.state_file.write_text(json.dumps({"ready": False, "status": "small:1b: out of memory", "models": [model]}))
    done = awaited(site)
    assert done.returncode == 1
    assert "small:1b: out of memory" in done.stderr


def test_delays_grow_and_are_bounded() -> None:
    assert [warm.delay(n) for n in range(9)] == [0, 5, 10, 20, 40, 80, 160, 300, 300]
    assert warm.delay(10**6) == 300


def test_a_model_that_kills_the_engine_waits_longer_each_time() -> None:
    model = warm.Model(LARGE, "chat")
    pauses = []
    for _ in range(4):
        model.fail("connection reset", True, 1000.0)
        pauses.append(model.retry_at - 1000)
        model.forget()
        if model.losses < 2:
            assert model.retry_at == 0
    assert pauses == [0, 5, 10, 20]
    assert model.retry_at == 1020, "another engine is no reason to hurry"


def test_plans_of_earlier_releases_and_what_is_none() -> None:
    plan = planned(LARGE, SMALL)
    for model in plan["instances"][0]["models"]:
        del model["load_order"]
    assert [model.name for model in warm.planned_models(plan)] == [SMALL, LARGE]
    for wrong in ({}, [], None, {"schema": 2, "instances": []}, {"schema": 1, "instances": [{"models": [{}]}]}):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is for the status line
            warm.planned_models(wrong)
