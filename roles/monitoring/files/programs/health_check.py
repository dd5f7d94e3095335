# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the engine of this host whether it serves what the plan says.

Every planned model must be resident, must answer one token (an embedding model: one embedding), and must sit in GPU
memory where the plan gives it GPUs. Nothing is loaded and no residency changes: a model that is not resident is
reported and not asked.

Standard output gets one JSON line, the file named by --report the same one, and that named by --metrics metrics for
the node exporter. Exit status: 0 when every planned model serves (status healthy, or degraded when something else is
worth a look), 1 when one does not or the engine is silent, 2 when the plan cannot be read. Needs Python 3.9 and nothing
beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ERROR, WARNING = "error", "warning"
# The parameters of a model for which the engine loads it anew.
LOADING = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")


class EngineError(Exception):
    """The engine is silent, answers with an error, or answers what is no JSON object.

    ``late``: it took the question and gave no answer in time.
    """

    def __init__(self, message: str, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


@dataclass
class ModelHealth:
    """What is known of one planned model; byte and token counts are the engine's own, None where it gave none."""

    name: str
    resident: bool = False
    size_bytes: int | None = None
    vram_bytes: int | None = None
    context_tokens: int | None = None
    planned_bytes: int | None = None
    probe_seconds: float | None = None
    answered: bool = False


@dataclass
class Report:
    """One check: when it began, how long it took, what it found."""

    started: float
    duration_seconds: float = 0.0
    engine_version: str | None = None
    models: list[ModelHealth] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    findings: list[dict[str, str]] = field(default_factory=list)
    warm: bool | None = None  # what onprem-llm-warm.service says of itself; None where it is not asked

    def find(self, level: str, finding: str, message: str, model: str | None = None) -> None:
        subject = {"model": model} if model else {}
        self.findings.append({"level": level, "finding": finding, "message": message, **subject})

    @property
    def status(self) -> str:
        levels = {entry["level"] for entry in self.findings}
        return "unhealthy" if ERROR in levels else "degraded" if WARNING in levels else "healthy"


class Engine:
    """The requests that the check makes of an Ollama server."""

    def __init__(self, url: str, timeout: float) -> None:
        """*timeout* in seconds holds for each answer on its own."""
        self._url = url.rstrip("/")
        self._timeout = timeout
        # An HTTP proxy in the environment is for the way out, never for the engine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(500).decode(errors="replace").strip()
            raise EngineError(f"{path}: HTTP {error.code}: {reason}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)  # urllib wraps what happens before the answer begins
            raise EngineError(f"{path}: {error}", late=isinstance(reason, socket.timeout)) from error
        if not isinstance(answer, dict):
            raise EngineError(f"{path}: expected a JSON object")
        if answer.get("error"):  # Ollama also puts errors into answers with status 200.
            raise EngineError(f"{path}: {answer['error']}")
        return answer

    def version(self) -> str:
        return str(self._ask("/api/version").get("version", ""))

    def resident(self) -> dict[str, dict[str, Any]]:
        """Loaded models by name."""
        return {str(model.get("name")): model for model in self._ask("/api/ps").get("models") or []}

    def loads_as(self, model: str) -> tuple[Any, ...]:
        """What the engine tells runners apart by, beside the name: files and the parameters that decide how it loads.

        Models that are alike in it share one runner (Ollama 0.32.15, server/sched.go), which /api/ps lists under the
        name that was asked for first.
        """
        shown = self._ask("/api/show", {"model": model})
        head = re.split(r"^TEMPLATE ", str(shown.get("modelfile") or ""), maxsplit=1, flags=re.MULTILINE)[0]
        files = re.findall(r"^(?:FROM|ADAPTER) .*sha256-[0-9a-f]{64}$", head, re.MULTILINE)
        if not files:
            raise EngineError("/api/show: the modelfile names no file")
        lines = (line.split() for line in str(shown.get("parameters") or "").splitlines())
        return (files, sorted(line for line in lines if line[:1] and line[0] in LOADING))

    def generate_token(self, model: str) -> None:
        # num_predict does not change how a model is loaded; keep_alive left out would be the server's default.
        request = {"model": model, "prompt": "1", "stream": False, "keep_alive": -1, "options": {"num_predict": 1}}
        answer = self._ask("/api/generate", request)
        if answer.get("done") is not True:
            raise EngineError("/api/generate: the answer does not say that it is done")

    def embed(self, model: str) -> None:
        answer = self._ask("/api/embed", {"model": model, "input": "1", "keep_alive": -1})
        if not (answer.get("embeddings") or [[]])[0]:
            raise EngineError("/api/embed: the answer has no embedding")


def full_name(model: str) -> str:
    """The name as /api/ps gives it: with the tag that Ollama adds, and without the scheme of the registry."""
    scheme, separator, rest = model.partition("://")
    model = rest if separator and scheme in ("http", "https") else model
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


def planned_models(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The models of all instances of a plan.json of schema 1; raises ValueError for anything else."""
    if plan.get("schema") != 1:
        raise ValueError(f"schema {plan.get('schema')!r} is not 1")
    return [model for instance in plan["instances"] for model in instance["models"]]


def check(plan: dict[str, Any], engine: Engine, gpu_required: bool) -> Report:
    """Compare the engine with the plan; raises ValueError or KeyError for a plan that cannot be understood."""
    wanted = planned_models(plan)
    report = Report(started=time.time())
    begin = time.monotonic()
    report.models = [
        ModelHealth(full_name(model["name"]), planned_bytes=_account(model, "total_bytes")) for model in wanted
    ]
    try:
        report.engine_version = engine.version()
        loaded = engine.resident()
    except EngineError as error:
        report.find(ERROR, "engine_silent", str(error))
    else:
        names = {health.name for health in report.models}
        runners = {name: runner_of(name, loaded, engine) for name in names}
        for model, health in zip(wanted, report.models):
            _check_model(model, health, loaded.get(runners[health.name]), engine, gpu_required, report)
        report.unplanned = sorted(loaded.keys() - names - set(runners.values()))
        for name in report.unplanned:
            report.find(WARNING, "unplanned", "is loaded and takes memory that the plan gives to others", name)
    report.duration_seconds = time.monotonic() - begin
    return report


def runner_of(name: str, loaded: dict[str, dict[str, Any]], engine: Engine) -> str:
    """The name under which the runner that serves a model is listed; empty where none does."""
    if name in loaded:
        return name
    with contextlib.suppress(EngineError):  # A model that is not there is told as one that is not loaded.
        wanted = engine.loads_as(name)
        for other in loaded:
            with contextlib.suppress(EngineError):
                if engine.loads_as(other) == wanted:
                    return other
    return ""


def read_warmer(path: str, report: Report) -> None:
    """Take in what the service that loads models again after restarts says of itself."""
    report.warm = False
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        report.warm = bool(state["ready"])
        status = str(state["status"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        status = f"onprem-llm-warm.service does not run, so no restart of the engine is made good: {error}"
    if not report.warm:
        report.find(WARNING, "not_warm", status)


def gpu_floor(model: dict[str, Any]) -> float:
    """Bytes that a model with all its layers on GPUs has there at the very least.

    Half of its weights: llama.cpp keeps the input embedding in host memory, and Ollama 0.32 gives too small a size_vram
    for models with a sliding window, so size_vram < size alone says nothing. What this is to see is an engine that lost
    its GPUs and went on without them; the proof by layers reads the runner's log when the model is loaded.
    """
    return (_account(model, "weights_bytes") or 2) / 2


def _account(model: dict[str, Any], term: str) -> int | None:
    return (model.get("account") or {}).get(term)


def _check_model(
    model: dict[str, Any],
    health: ModelHealth,
    seen: dict[str, Any] | None,
    engine: Engine,
    gpu_required: bool,
    report: Report,
) -> None:
    name = health.name
    if seen is None:
        report.find(ERROR, "not_resident", "is planned and not loaded", name)
        return
    health.resident = True
    health.size_bytes, health.vram_bytes, health.context_tokens = map(seen.get, ("size", "size_vram", "context_length"))
    size = health.size_bytes or 0
    if model.get("gpus") and (health.vram_bytes or 0) < gpu_floor(model):
        level = ERROR if gpu_required else WARNING
        report.find(level, "not_on_gpu", f"only {health.vram_bytes or 0} of {size} bytes are in GPU memory", name)
    budget = _account(model, "budget_bytes")
    if budget and size > budget:
        report.find(WARNING, "over_budget", f"{size} bytes are more than the {budget} that the plan allows", name)
    context = model.get("context_length")
    if context and health.context_tokens and health.context_tokens < context:
        report.find(WARNING, "context_short", f"context of {health.context_tokens} tokens instead of {context}", name)
    begin = time.monotonic()
    try:
        (engine.embed if model.get("use") == "embedding" else engine.generate_token)(health.name)
    except EngineError as error:
        report.find(ERROR, "no_answer_in_time" if error.late else "no_answer", str(error), health.name)
    else:
        health.answered = True
    health.probe_seconds = time.monotonic() - begin


def log_line(report: Report) -> str:
    """The report as one line of JSON; times are UTC in ISO 8601 and milliseconds."""
    started = datetime.datetime.fromtimestamp(report.started, datetime.timezone.utc)
    return json.dumps(
        {
            "ts": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": "health_check",
            "level": {"healthy": "info", "degraded": WARNING, "unhealthy": ERROR}[report.status],
            "status": report.status,
            "duration_ms": round(report.duration_seconds * 1000, 1),
            "engine_version": report.engine_version,
            "models": [
                {
                    "name": model.name,
                    "resident": model.resident,
                    "answered": model.answered,
                    "duration_ms": None if model.probe_seconds is None else round(model.probe_seconds * 1000, 1),
                    "size_bytes": model.size_bytes,
                    "vram_bytes": model.vram_bytes,
                    "planned_bytes": model.planned_bytes,
                    "context_tokens": model.context_tokens,
                }
                for model in report.models
            ],
            "findings": report.findings,
        },
        ensure_ascii=False,
    )


def metrics(report: Report) -> str:
    """The report in Prometheus' text format; a series without a value is left out."""
    version = [({"version": report.engine_version}, 1)] if report.engine_version else []
    found = [({"level": level}, sum(f["level"] == level for f in report.findings)) for level in (ERROR, WARNING)]
    families: list[tuple[str, str, Sequence[tuple[dict[str, str], float | None]]]] = [
        ("health_check_timestamp_seconds", "Unix time at which the last check began.", [({}, report.started)]),
        ("health_check_duration_seconds", "Duration of the last check.", [({}, report.duration_seconds)]),
        ("healthy", "1 when every planned model serves.", [({}, int(report.status != "unhealthy"))]),
        ("engine_up", "1 when the engine answers.", [({}, int(report.engine_version is not None))]),
        ("warm", "1 when onprem-llm-warm.service has every planned model warm.", _flag(report.warm)),
        ("engine_info", "Version of the engine.", version),
        ("models_unplanned", "Loaded models that the plan does not have.", [({}, len(report.unplanned))]),
        ("findings", "Findings of the last check by level.", found),
    ]
    for name, meaning, attribute in (
        ("resident", "1 when the planned model is loaded.", "resident"),
        ("probe_success", "1 when the planned model answered one token or one embedding.", "answered"),
        ("probe_duration_seconds", "Time until the answer of one token or one embedding was there.", "probe_seconds"),
        ("size_bytes", "Memory that the loaded model takes, by the engine's account.", "size_bytes"),
        ("vram_bytes", "Part of that memory that is GPU memory.", "vram_bytes"),
        ("planned_bytes", "Memory that the plan predicts for the model.", "planned_bytes"),
        ("context_tokens", "Context length with which the model is loaded.", "context_tokens"),
    ):
        values = [({"model": model.name}, getattr(model, attribute)) for model in report.models]
        families.append((f"model_{name}", meaning, values))
    lines: list[str] = []
    for name, meaning, series in families:
        known = [(labels, value) for labels, value in series if value is not None]
        if known:
            metric = f"onprem_llm_{name}"
            lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} gauge"]
            lines += [f"{metric}{_labels(labels)} {value + 0!r}" for labels, value in known]
    return "\n".join(lines) + "\n"


def _flag(value: bool | None) -> list[tuple[dict[str, str], float | None]]:
    return [({}, None if value is None else int(value))]


def _labels(labels: dict[str, str]) -> str:
    escaped = (f'{key}="{_escape(value)}"' for key, value in labels.items())
    return "{" + ",".join(escaped) + "}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def replace_file(path: str, text: str) -> None:
    """Write *text* to *path* so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ask this host's engine whether it serves what the plan says.")
    parser.add_argument("--plan", required=True, help="the host's plan.json")
    parser.add_argument("--engine", required=True, help="URL of the engine")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that the engine has for each answer")
    parser.add_argument(
        "--gpu-proof",
        choices=("required", "report"),
        default="required",
        help="whether a planned GPU model with a part in the host's memory is a fault or a remark",
    )
    parser.add_argument("--metrics", help="file for the node exporter's textfile collector")
    parser.add_argument("--report", help="file that gets the JSON line, too")
    parser.add_argument("--warm", help="state file of the service that loads models again after restarts")
    options = parser.parse_args(arguments)
    try:
        with open(options.plan, encoding="utf-8") as file:
            plan = json.load(file)
        report = check(plan, Engine(options.engine, options.timeout), options.gpu_proof == "required")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{options.plan}: cannot be read as a plan: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.warm:
        read_warmer(options.warm, report)
    print(log_line(report), flush=True)
    for finding in report.findings:
        print(f"{finding['level']}: {finding.get('model', 'engine')}: {finding['message']}", file=sys.stderr)
    if options.report:
        replace_file(options.report, log_line(report) + "\n")
    if options.metrics:
        replace_file(options.metrics, metrics(report))
    return 1 if report.status == "unhealthy" else 0


if __name__ == "__main__":
    sys.exit(main())
