"""The health check of the monitoring role, run as a program against an engine that a thread of the test plays."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

SCRIPT = Path(__file__).resolve().parents[3] / "roles/monitoring/files/programs/health_check.py"
CHAT = {
    "name": "chat-model:q4",
    "use": "chat",
    "context_length": 8192,
    "gpus": ["GPU-1"],
    "account": {"weights_bytes": 600, "total_bytes": 900, "budget_bytes": 2000},
}
EMBEDDING = {"name": "embedder", "use": "embedding", "context_length": 512, "gpus": [], "account": {"total_bytes": 50}}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    fake = FakeEngine()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Check:
    def __init__(self, directory: Path, url: str, models: list[dict[str, Any]], *arguments: str) -> None:
        plan = directory / "plan.json"
        plan.write_text(json.dumps({"schema": 1, "instances": [{"name": "ollama", "models": models}]}))
        self.metrics_file = directory / "health.prom"
        done = run("--plan", plan, "--engine", url, "--metrics", self.metrics_file, *arguments)
        self.exit_status, self.stderr = done.returncode, done.stderr
        assert done.stdout.count("\n") == 1, done
        self.line = json.loads(done.stdout)
        self.findings = {(finding["finding"], finding.get("model")) for finding in self.line["findings"]}
        self.metrics = dict(re.findall(r"^(\w[^ ]*) (\S+)$", self.metrics_file.read_text(), re.MULTILINE))


def test_healthy(engine: FakeEngine, tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert (check.exit_status, check.stderr) == (0, "")
    assert (check.line["event"], check.line["level"], check.line["status"]) == ("health_check", "info", "healthy")
    assert check.line["ts"].endswith("Z")
    assert 0 <= (datetime.fromisoformat(check.line["ts"][:-1] + "+00:00") - before).total_seconds() + 0.001 < 60
    assert 0 < check.line["duration_ms"] < 60_000
    assert check.findings == set()
    assert check.metrics["onprem_llm_healthy"] == "1"
    assert check.metrics['onprem_llm_engine_info{version="0.32.15"}'] == "1"
    assert check.metrics['onprem_llm_model_vram_bytes{model="chat-model:q4"}'] == "1000"
    assert check.metrics['onprem_llm_model_planned_bytes{model="embedder:latest"}'] == "50"


@pytest.mark.parametrize(
    ("state", "warm", "said"),
    [
        ({"ready": True, "status": "2 of 2 planned models answer"}, "1", None),
        ({"ready": False, "status": "1 of 2 planned models answer; loading x"}, "0", "loading x"),
        (None, "0", "does not run"),
        ([], "0", "does not run"),
    ],
)
def test_what_the_warmer_says_is_told(
    engine: FakeEngine, tmp_path: Path, state: object, warm: str, said: str | None
) -> None:
    file = tmp_path / "warm.json"
    if state is not None:
        file.write_text(json.dumps(state))
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING], "--warm", str(file))
    assert check.exit_status == 0, "a warning, since the models themselves are asked"
    assert check.line["status"] == ("degraded" if said else "healthy")
    assert (said or "") in check.stderr
    assert check.metrics["onprem_llm_warm"] == warm


def test_the_report_is_the_line(engine: FakeEngine, tmp_path: Path) -> None:
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING], "--report", str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text()) == check.line


def test_probes_change_no_residency(engine: FakeEngine, tmp_path: Path) -> None:
    Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert [path for path, _ in engine.posts] == ["/api/generate", "/api/embed"]
    for _, body in engine.posts:
        assert body["keep_alive"] == -1
        assert set(body.get("options", {})) <= {"num_predict"}  # any other option may load the model anew
    assert engine.posts[0][1]["options"] == {"num_predict": 1}
    assert engine.posts[0][1]["stream"] is False


def test_model_not_resident_is_reported_and_not_asked(engine: FakeEngine, tmp_path: Path) -> None:
    del engine.loaded[0]
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert (check.exit_status, check.line["status"], check.line["level"]) == (1, "unhealthy", "error")
    assert check.findings == {("not_resident", "chat-model:q4")}
    assert [body["model"] for _, body in engine.posts] == ["embedder:latest"]
    assert check.metrics['onprem_llm_model_resident{model="chat-model:q4"}'] == "0"
    assert 'onprem_llm_model_size_bytes{model="chat-model:q4"}' not in check.metrics
    assert "chat-model:q4" in check.stderr


@pytest.mark.parametrize(("proof", "exit_status", "status"), [("required", 1, "unhealthy"), ("report", 0, "degraded")])
def test_planned_gpu_model_in_host_memory(
    engine: FakeEngine, tmp_path: Path, proof: str, exit_status: int, status: str
) -> None:
    engine.loaded[0]["size_vram"] = 299
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING], "--gpu-proof", proof)
    assert (check.exit_status, check.line["status"]) == (exit_status, status)
    assert check.findings == {("not_on_gpu", "chat-model:q4")}
    assert "only 299 of 1000 bytes" in check.stderr


def test_size_vram_below_size_is_no_proof_of_a_spill(engine: FakeEngine, tmp_path: Path) -> None:
    engine.loaded[0]["size_vram"] = 300
    assert Check(tmp_path, engine.url, [CHAT, EMBEDDING]).line["status"] == "healthy"


def test_gpu_model_without_account_has_to_be_on_a_gpu_at_all(engine: FakeEngine, tmp_path: Path) -> None:
    engine.loaded[0]["size_vram"] = 0
    check = Check(tmp_path, engine.url, [{**CHAT, "account": None}, EMBEDDING])
    assert check.findings == {("not_on_gpu", "chat-model:q4")}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        pytest.param({"size": 2001, "size_vram": 2001}, "over_budget", id="more memory than the plan allows"),
        pytest.param({"context_length": 4096}, "context_short", id="shorter context than planned"),
    ],
)
def test_difference_from_the_plan_degrades(
    engine: FakeEngine, tmp_path: Path, change: dict[str, int], finding: str
) -> None:
    engine.loaded[0].update(change)
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert (check.exit_status, check.line["status"], check.line["level"]) == (0, "degraded", "warning")
    assert check.findings == {(finding, "chat-model:q4")}


def shown(weights: str, *rest: str, parameters: str = "") -> dict[str, str]:
    """An answer of /api/show."""
    files = [f"FROM /models/blobs/sha256-{weights * 64}", *rest]
    return {"modelfile": "\n".join(["# FROM chat-model:q4", *files, "TEMPLATE x", ""]), "parameters": parameters}


@pytest.mark.parametrize("other", ["clerk:1", "unplanned:1"])
def test_models_that_share_a_runner_are_resident_under_one_name(engine: FakeEngine, tmp_path: Path, other: str) -> None:
    adapter = f"ADAPTER /models/blobs/sha256-{'c' * 64}"
    engine.shown = {
        "chat-model:q4": shown("a", adapter, parameters="num_ctx 8192\ntemperature 1"),
        other: shown("a", adapter, parameters="num_ctx                        8192"),
        "embedder:latest": shown("b"),
    }
    engine.loaded[0]["name"] = other
    planned = [CHAT, EMBEDDING] + ([{**CHAT, "name": other}] if other == "clerk:1" else [])
    check = Check(tmp_path, engine.url, planned)
    assert (check.exit_status, check.findings) == (0, set())
    assert check.metrics['onprem_llm_model_size_bytes{model="chat-model:q4"}'] == "1000"
    assert "chat-model:q4" in [body["model"] for _, body in engine.posts]


@pytest.mark.parametrize(
    "running",
    [
        pytest.param(shown("b", parameters="num_ctx 8192"), id="other weights"),
        pytest.param(shown("a", f"ADAPTER /blobs/sha256-{'c' * 64}", parameters="num_ctx 8192"), id="an adapter"),
        # To ask for an answer would have the engine load it anew.
        pytest.param(shown("a", parameters="num_ctx 4096"), id="another context"),
        pytest.param({"modelfile": ""}, id="no files"),
        pytest.param(None, id="gone"),
    ],
)
def test_a_runner_of_something_else_serves_no_planned_model(
    engine: FakeEngine, tmp_path: Path, running: dict[str, str] | None
) -> None:
    engine.shown = {"chat-model:q4": shown("a", parameters="num_ctx 8192"), "embedder:latest": shown("b")}
    engine.shown |= {} if running is None else {"other:1": running}
    engine.loaded[0]["name"] = "other:1"
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert check.findings == {("not_resident", "chat-model:q4"), ("unplanned", "other:1")}
    assert [body["model"] for _, body in engine.posts] == ["embedder:latest"]


def test_name_with_the_scheme_of_its_registry_is_the_one_that_the_engine_lists(
    engine: FakeEngine, tmp_path: Path
) -> None:
    engine.loaded[0]["name"] = "models.test:5000/team/house:1"
    check = Check(tmp_path, engine.url, [{**CHAT, "name": "http://models.test:5000/team/house:1"}, EMBEDDING])
    assert (check.exit_status, check.findings) == (0, set())


def test_unplanned_model_is_reported(engine: FakeEngine, tmp_path: Path) -> None:
    check = Check(tmp_path, engine.url, [CHAT])
    assert (check.exit_status, check.line["status"]) == (0, "degraded")
    assert check.findings == {("unplanned", "embedder:latest")}
    assert check.metrics["onprem_llm_models_unplanned"] == "1"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        pytest.param("/api/generate", (500, {"error": "CUDA error: out of memory"}), id="status 500"),
        pytest.param("/api/generate", (200, {"error": "llama runner terminated"}), id="error with status 200"),
        pytest.param("/api/generate", (200, {"response": "", "done": False}), id="not done"),
        pytest.param("/api/generate", (200, b"<html>"), id="no JSON"),
        pytest.param("/api/generate", (200, []), id="no object"),
    ],
)
def test_model_without_answer(engine: FakeEngine, tmp_path: Path, path: str, answer: tuple[int, Any]) -> None:
    engine.answers[path] = answer
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert check.exit_status == 1
    assert check.findings == {("no_answer", "chat-model:q4")}
    assert check.metrics['onprem_llm_model_probe_success{model="chat-model:q4"}'] == "0"
    assert check.metrics['onprem_llm_model_probe_success{model="embedder:latest"}'] == "1"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((200, {"embeddings": []}), id="none"),
        pytest.param((200, {"embeddings": [[]]}), id="empty"),
        pytest.param((501, {"error": "This server does not support embeddings."}), id="status 501"),
    ],
)
def test_embedding_model_without_embedding(engine: FakeEngine, tmp_path: Path, answer: tuple[int, Any]) -> None:
    engine.answers["/api/embed"] = answer
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
    assert (check.exit_status, check.findings) == (1, {("no_answer", "embedder:latest")})


def test_slow_model_times_out(engine: FakeEngine, tmp_path: Path) -> None:
    engine.delay = 1.5
    check = Check(tmp_path, engine.url, [CHAT, EMBEDDING], "--timeout", "0.3")
    assert check.exit_status == 1
    assert {finding for finding, _ in check.findings} == {"no_answer_in_time"}
    assert 600 <= check.line["duration_ms"] < 1400


def test_silent_engine(engine: FakeEngine, tmp_path: Path) -> None:
    engine.server.shutdown()
    engine.server.server_close()
    check = Check(tmp_path, engine.url, [CHAT])
    assert (check.exit_status, check.line["status"]) == (1, "unhealthy")
    assert check.findings == {("engine_silent", None)}
    assert check.metrics["onprem_llm_engine_up"] == "0"
    assert check.metrics["onprem_llm_healthy"] == "0"
    assert 'onprem_llm_model_probe_duration_seconds{model="chat-model:q4"}' not in check.metrics


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 2, "instances": []}', '{"schema": 1}', '{"schema": 1, "instances": [{}]}'],
)
def test_plan_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    done = run("--plan", plan, "--engine", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(plan) in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_are_replaced_whole_and_readable(engine: FakeEngine, tmp_path: Path) -> None:
    for _ in range(2):
        check = Check(tmp_path, engine.url, [CHAT, EMBEDDING])
        assert stat.S_IMODE(check.metrics_file.stat().st_mode) == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "health.prom"}


def test_metrics_follow_the_text_format(engine: FakeEngine, tmp_path: Path) -> None:
    strange = 'a"b\\c:1'
    engine.loaded[0]["name"] = strange
    text = Check(tmp_path, engine.url, [{**CHAT, "name": strange}, EMBEDDING]).metrics_file.read_text()
    assert '{model="a\\"b\\\\c:1"}' in text
    described = set(re.findall(r"^# HELP (\w+) \S", text, re.MULTILINE))
    assert described == set(re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert {re.split(r"[{ ]", line)[0] for line in samples} == described
    for line in samples:
        float(line.rpartition(" ")[2])
    promtool = shutil.which("promtool")
    if promtool:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
