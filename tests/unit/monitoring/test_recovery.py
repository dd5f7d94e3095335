"""What is done about a node whose deep health check fails: the programs themselves, and an engine that breaks."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

PROGRAMS = Path(__file__).resolve().parents[3] / "roles/monitoring/files/programs"
MODULE = runpy.run_path(str(PROGRAMS / "recovery.py"), run_name="recovery")
CHAT, EMBEDDER = "chat-model:q4", "embedder:latest"
PLAN = {
    "schema": 1,
    "instances": [
        {
            "models": [
                {"name": CHAT, "use": "chat", "gpus": ["GPU-1"], "account": {"weights_bytes": 600}},
                {"name": "embedder", "use": "embedding", "gpus": []},
            ]
        }
    ],
}
DEAD = (500, {"error": "llama runner terminated"})
# As ss of iproute2 6.1 writes it: a stream, nginx's idle connection, and who polls the engine.
SS = """0      0      192.0.2.1:40001 172.30.250.2:11434
\t cubic wscale:7,7 rto:204 bytes_sent:900 bytes_acked:900 bytes_received:{stream} segs_out:20
0      0      192.0.2.1:40002 172.30.250.2:11434
\t cubic wscale:7,7 rto:204 bytes_sent:700 bytes_acked:700 bytes_received:5000 segs_out:20
0      0      192.0.2.1:40003 172.30.250.2:11434
\t cubic wscale:7,7 rto:204 bytes_sent:{polls} bytes_acked:10 bytes_received:{polls} segs_out:20
"""


class Node:
    """A node: its engine, the check and what follows it, and a Docker that counts restarts and may mend the engine."""

    def __init__(self, directory: Path, engine: FakeEngine) -> None:
        self.directory, self.engine = directory, engine
        self.programs = directory / "programs"
        self.programs.mkdir()
        for name in ("plan", "warm"):
            setattr(self, name, directory / f"{name}.json")
        self.state_file, self.hold, self.log = directory / "state.json", directory / "hold", directory / "access.log"
        self.restarts = directory / "restarts"
        self.plan.write_text(json.dumps(PLAN))
        self.answering()
        self.program("docker", f'echo "$*" >>{self.restarts}\n')
        self.program("ss", "exit 1\n")
        self.lines: list[dict[str, Any]] = []

    plan: Path
    warm: Path

    def answering(self, **states: str) -> None:
        models = [{"name": name, "state": states.get(name.split(":")[0], "answered")} for name in (CHAT, EMBEDDER)]
        self.warm.write_text(json.dumps({"ready": True, "status": "", "engine": {"answers": True}, "models": models}))

    def program(self, name: str, text: str) -> None:
        file = self.programs / name
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)

    def check(self, *arguments: str) -> dict[str, Any]:
        """A check and what follows; the state afterwards."""
        self.look()
        self.follow(*arguments)
        return self.state

    def look(self) -> None:
        options = ["--plan", self.plan, "--engine", self.engine.url, "--report", self.directory / "report.json"]
        self._run("health_check.py", *options, "--timeout", "0.3")

    def follow(self, *arguments: str) -> int:
        options = [
            "--report", self.directory / "report.json", "--state", self.state_file, "--warm", self.warm,
            "--hold", self.hold, "--engine", self.engine.url, "--access-log", self.directory / "none.log",
            "--access-log", self.log, "--stream-window", "0.1", "--failures", "2", "--good", "2", *arguments,
        ]  # fmt: skip
        done = self._run("recovery.py", *options)
        self.said = done.stderr
        self.lines += [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(PROGRAMS / program), *map(str, arguments)]
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": path}, check=False)

    def break_model(self) -> None:
        self.engine.answers["/api/generate"] = DEAD

    def mend(self) -> None:
        self.engine.answers["/api/generate"] = (200, {"response": "x", "done": True})
        self.engine.delay = 0.0

    def later(self, seconds: float) -> None:
        """So much time passes, for what the state remembers."""
        state = json.loads(self.state_file.read_text())
        for key in ("ts", "failing_since", "withheld_since", "withheld_until"):
            state[key] = state[key] and state[key] - seconds
        state["restarts"] = [moment - seconds for moment in state["restarts"]]
        self.state_file.write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.state_file.read_text())

    @property
    def restarted(self) -> int:
        return len(self.restarts.read_text().splitlines()) if self.restarts.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    engine = FakeEngine()
    yield Node(tmp_path, engine)
    engine.server.shutdown()
    engine.server.server_close()


def test_a_healthy_node_is_left_alone(node: Node) -> None:
    for _check in range(3):
        assert node.check()["failures"] == 0
    assert (node.restarted, node.lines, node.state["withheld"]) == (0, [], [])


def test_the_engine_is_restarted_after_failures_in_a_row_and_is_mended_by_it(node: Node) -> None:
    node.break_model()
    assert node.check()["failures"] == 1
    node.mend()
    node.check()
    node.break_model()
    assert (node.check()["failures"], node.restarted) == (1, 0), "a good check ends a row"
    node.check()
    assert node.restarts.read_text() == "restart -t 30 onprem-llm-ollama\n"
    line = node.lines[-1]
    assert (line["event"], line["level"], line["status"], line["restarts_today"]) == (
        "recovery",
        "warning",
        "failing",
        1,
    )
    assert "2 failures in a row (chat-model:q4: no_answer)" in line["message"]
    assert line["ts"].endswith("Z")
    assert line["duration_ms"] > 0
    node.mend()
    state = node.check()
    assert (state["failures"], state["failing_since"], state["withheld"], node.restarted) == (0, None, [], 1)


def test_a_silent_engine_is_restarted(node: Node) -> None:
    node.engine.server.shutdown()
    node.engine.server.server_close()
    node.check()
    node.check()
    assert node.restarted == 1
    assert "engine_silent" in node.lines[-1]["message"]


def test_models_that_a_restart_does_not_mend_are_withheld_until_good_checks(node: Node) -> None:
    node.break_model()
    for _check in range(4):
        state = node.check()
    assert (node.restarted, state["withheld"]) == (1, [CHAT]), "the one that serves stays in service"
    assert state["withheld_until"] > time.time() + 800
    assert node.lines[-1]["status"] == "withheld"
    node.mend()
    assert node.check()["withheld"] == [CHAT], "one good check is not enough"
    node.break_model()
    assert node.check()["good"] == 0
    node.mend()
    node.check()
    state = node.check()
    assert (state["withheld"], state["withheld_since"]) == ([], None)
    assert "serves again: 2 good checks in a row" in node.lines[-1]["message"]
    assert node.lines[-1]["level"] == "info"


def test_a_withheld_model_that_is_not_loaded_does_not_come_back(node: Node) -> None:
    node.break_model()
    for _check in range(4):
        node.check()
    node.engine.loaded = node.engine.loaded[1:]
    for _check in range(3):
        state = node.check()
    assert (state["withheld"], state["good"]) == ([CHAT], 0)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_restarts_are_apart_and_bounded_for_a_day(most: int) -> None:
    """A node that nothing mends, for three days; a check now and then is good, so that each failure seems a new one."""
    state, limits = MODULE["State"](), MODULE["Limits"](3, most, 3)
    bad = {"level": "error", "finding": "no_answer", "model": CHAT}
    moments: list[float] = []
    for number in range(3 * 288):
        report = {
            "ts": str(number),
            "findings": [] if number % 50 == 49 else [bad],
            "models": [{"name": CHAT, "answered": False}],
        }
        now = 1e9 + 300.0 * number
        if MODULE["decide"](state, report, limits, now, "", lambda since: "").restart:
            moments.append(now)
    assert len(moments) in range(2 * most, 3 * most + 1)
    for number, moment in enumerate(moments):
        assert len([other for other in moments if moment <= other < moment + 86400]) <= most
        if 0 < number < most:
            assert moment - moments[number - 1] >= 900 * 4 ** (number - 1)
    assert state.restarts_total == len(moments)
    assert state.withheld == [CHAT]


def test_without_restarts_models_are_withheld_at_once(node: Node) -> None:
    node.break_model()
    node.check("--restarts", "0")
    assert node.check("--restarts", "0")["withheld"] == [CHAT]
    assert node.restarted == 0


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("hold", "somebody keeps models from being loaded"),
        ("load", "embedder:latest is being loaded"),
    ],
)
def test_nothing_is_done_while_somebody_holds_or_a_load_is_on(node: Node, case: str, said: str) -> None:
    node.break_model()
    node.check()
    if case == "hold":
        node.hold.touch()
    else:
        node.answering(embedder="warming")
    for _check in range(3):
        state = node.check()
    assert (node.restarted, state["failures"]) == (0, 1)
    assert said in state["held"]
    assert len(node.lines) == 1, "said once"
    if case == "hold":
        os.utime(node.hold, (0, time.time() - 7300))  # forgotten
    else:
        node.answering()
    node.check()
    assert node.restarted == 1


def test_a_model_that_is_not_loaded_is_no_reason(node: Node) -> None:
    node.engine.loaded = node.engine.loaded[1:]
    for _check in range(4):
        node.check()
    assert (node.restarted, node.state["failures"]) == (0, 0)


def test_a_model_that_lost_its_gpu_is_one(node: Node) -> None:
    node.engine.loaded[0]["size_vram"] = 0
    node.check()
    node.check()
    assert "chat-model:q4: not_on_gpu" in node.lines[-1]["message"]
    assert node.restarted == 1


def answered(node: Node, **more: Any) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    row = {"time": now, "method": "POST", "status": 200, **more}
    with node.log.open("a") as file:
        file.write("no JSON\n" + json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("row", "busy"),
    [
        pytest.param({}, True, id="an endpoint's log"),
        pytest.param({"model": CHAT}, True, id="a gateway's log"),
        pytest.param({"model": EMBEDDER}, False, id="another model"),
        pytest.param({"status": 504}, False, id="an error"),
        pytest.param({"method": "GET"}, False, id="no prompt"),
        pytest.param({"time": "2026-01-01T00:00:00+00:00"}, False, id="before"),
    ],
)
def test_late_answers_of_an_engine_that_answers_others_are_no_fault(
    node: Node, row: dict[str, Any], busy: bool
) -> None:
    node.engine.delay = 1.0
    node.engine.loaded = node.engine.loaded[:1]
    node.check()
    answered(node, **row)
    state = node.check()
    assert node.restarted == (0 if busy else 1)
    assert ("is busy; it has answered 1 requests" in state["held"]) is busy


def test_late_answers_while_streams_move_are_no_fault(node: Node) -> None:
    node.engine.delay = 1.0
    first, second = (SS.format(stream=9000 + 400 * look, polls=100 + 50 * look) for look in range(2))
    node.program(
        "ss", f"[ -e {node.programs}/seen ] && cat <<'X' || cat <<'Y'\n{second}X\n{first}Y\n: >{node.programs}/seen\n"
    )
    node.check()
    state = node.check()
    assert (node.restarted, state["held"]) == (0, "the engine is busy; 1 of its answers are being streamed")
    # A stream that stands still is none.
    node.program("ss", f"cat <<'X'\n{second}X\n")
    node.check()
    assert node.restarted == 1


def test_errors_are_a_fault_however_busy_the_engine_is(node: Node) -> None:
    node.break_model()
    node.check()
    answered(node)
    node.check()
    assert node.restarted == 1


def test_a_report_counts_once(node: Node) -> None:
    node.break_model()
    node.check()
    for _pass in range(3):
        assert node.follow() == 0
    assert node.state["failures"] == 1


def test_a_restart_that_fails_is_told_and_counts(node: Node) -> None:
    node.program("docker", "echo 'Cannot connect to the Docker daemon'; exit 1\n")
    node.break_model()
    node.check()
    state = node.check()
    assert (len(state["restarts"]), state["restarts_total"]) == (1, 1)
    assert node.lines[-1]["level"] == "error"
    assert "it failed: Cannot connect" in node.lines[-1]["message"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"ts": 1}', '{"ts": "never", "findings": [], "models": []}'])
def test_no_report_leads_to_nothing(node: Node, content: str | None) -> None:
    if content is not None:
        (node.directory / "report.json").write_text(content)
    assert node.follow() == 2
    assert node.said
    assert not node.state_file.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1, "failures": [', '{"schema": 7, "failures": 9}'])
def test_a_broken_state_is_begun_anew(node: Node, content: str) -> None:
    node.state_file.write_text(content)
    node.break_model()
    assert node.check()["failures"] == 1


def test_a_verdict_ends_where_nobody_renews_it(node: Node) -> None:
    node.break_model()
    for _check in range(4):
        node.check()
    until = node.state["withheld_until"]
    assert 800 < until - time.time() < 86401
    node.later(86400)
    node.mend()
    state = node.check()
    assert (state["withheld"], state["good"]) == ([], 1)


def test_an_old_report_is_not_acted_upon() -> None:
    """A host that slept, or a check that was stopped."""
    state, limits = MODULE["State"](), MODULE["Limits"](1, 3, 1)
    finding = {"level": "error", "finding": "no_answer", "model": CHAT}
    report = {"ts": "x", "findings": [finding], "models": [{"name": CHAT, "answered": False}]}
    action = MODULE["decide"](state, report, limits, 1e9, "the last check began at x", lambda since: "")
    assert not action.restart
    assert MODULE["decide"](state, report, limits, 1e9 + 300, "", lambda since: "").restart
