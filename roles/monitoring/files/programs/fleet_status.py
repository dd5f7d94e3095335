# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell how the fleet is: one host as JSON, or all hosts that a gateway knows as a page for people.

    fleet_status.py host --name NAME --function node --function gateway
    fleet_status.py page --name NAME --function gateway --node NAME... --directory DIRECTORY

Everything is read from what is there already: the plan, the release, the warmer's and the GPU proof's states, and the
metrics of the node exporter's textfile collector. No engine is asked, nothing is loaded, nothing is changed. A page is
text and a style sheet; it has no script, needs nothing from elsewhere, and every value in it is escaped.

The page is replaced as a whole. It says until when it may be believed (``data-fresh-until``), and whoever serves it
marks it as old from then on. Needs Python 3.9 and nothing beside it.
"""

from __future__ import annotations

import argparse
import calendar
import concurrent.futures
import contextlib
import html
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

# Figures of a host that are older, in seconds, are told as old. The metrics program writes every 60 s at the least.
STALE_SECONDS = 120
# A GPU proof or a deep health check that is older says nothing of now: by default they run every five minutes.
CHECK_STALE_SECONDS = 1800
# What is counted is told over so many seconds, as the recording rules of roles/monitoring_server do.
WINDOW_SECONDS = 600
CERTIFICATE_DAYS = 14
DISK_USED_RATIO = 0.85
ERROR_RATIO = 0.05
# As much is read of a file or an answer, in bytes, and as much of a text is shown, in characters.
MOST_BYTES, MOST_TEXT = 4 * 2**20, 300
# Shown where nothing is known.
NOTHING = "\u2013"
RUNBOOKS = "https://github.com/onprem-llm/ansible-collection-llm/blob/main/docs/runbooks.md"
PREFIX = "onprem_llm_"

# A host's file by the name under which a node's endpoint gives it to the gateways (roles/endpoint).
FILES = {
    "plan.json": "/etc/onprem-llm/plan.json",
    "release.json": "/etc/onprem-llm/release.json",
    "warm.json": "/run/onprem-llm/warm.json",
    "proof.json": "/run/onprem-llm-gpu/proof.json",
    "metrics.prom": "{textfiles}/onprem_llm_metrics.prom",
    "health.prom": "{textfiles}/onprem_llm_health.prom",
}

MEMORY_OF_GPU = ("memory_used_bytes", "memory_total_bytes")

State = dict  # what is told of a host, ready for JSON


class HostSilentError(Exception):
    """A host, or what it should tell, cannot be read; the text says why."""


class Found(NamedTuple):
    """A file's text, and the Unix time of its last change; None where that is not known."""

    text: str
    changed: float | None


# A file by its name in FILES; None where the host has none.
Reader = Callable[[str], Optional[Found]]


# --- reading


def local_reader(root: str, textfiles: str) -> Reader:
    """Reads this host's own files."""

    def read(name: str) -> Found | None:
        path = root + FILES[name].format(textfiles=textfiles)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return Found(file.read(MOST_BYTES), os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostSilentError(f"{path}: {error.strerror}") from error

    return read


def ask(url: str, timeout: float = 10.0) -> Found | None:
    """What a server says; None for 404.

    :raises HostSilentError: it does not answer, or with another error.
    """
    # An HTTP proxy in the environment is for the way out.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            text = response.read(MOST_BYTES).decode(errors="replace")
            return Found(text, http_time(response.headers.get("Last-Modified")))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise HostSilentError(said_by_status(error.code)) from error
    except (OSError, ValueError) as error:
        raise HostSilentError(f"no answer: {getattr(error, 'reason', None) or error}") from error


def said_by_status(status: int) -> str:
    if status == 403:
        return "the gateway does not lead there, or the node refuses the gateway's certificate (HTTP 403)"
    if status in (502, 504):
        return f"the node's endpoint does not answer (HTTP {status})"
    return f"HTTP {status}"


def remote_reader(url: str) -> Reader:
    """Reads what a node's endpoint gives, by way of this gateway's nginx, which alone has the certificate for it."""
    return lambda name: ask(f"{url}/{name}")


def http_time(text: str | None) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(str(text), "%a, %d %b %Y %H:%M:%S GMT")))
    except ValueError:
        return None


def iso_time(text: object) -> float | None:
    """Unix time of a time in ISO 8601 by UTC, as warm.json and proof.json have it; None for anything else."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?Z$", str(text))
    return float(calendar.timegm(tuple(map(int, match.groups())))) if match else None


def document(read: Reader, name: str) -> tuple[dict[str, Any] | None, float | None]:
    """A JSON object and the time of its file; None where the host has none.

    :raises HostSilentError: it cannot be read.
    :raises ValueError: it is none.
    """
    found = read(name)
    if found is None:
        return None, None
    try:
        value = json.loads(found.text)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")
    return value, found.changed


SAMPLE = re.compile(PREFIX + r"(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")


class Metrics:
    """Samples of the text exposition format, by name without the prefix."""

    def __init__(self, text: str = "") -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            match = SAMPLE.match(line)
            if not match:
                continue
            try:
                value = float(match[3])
            except ValueError:
                continue
            if math.isnan(value):
                continue
            labels = {
                key: ESCAPED.sub(lambda hit: "\n" if hit[1] == "n" else hit[1], text)
                for key, text in LABEL.findall(match[2] or "")
            }
            self._samples.setdefault(match[1], []).append((labels, value))

    def __bool__(self) -> bool:
        return bool(self._samples)

    def all(self, name: str) -> list[tuple[dict[str, str], float]]:
        return self._samples.get(name, [])

    def value(self, name: str) -> float | None:
        """The first sample's value."""
        return self.all(name)[0][1] if self.all(name) else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label; those that differ in others add up."""
        found: dict[str, float] = {}
        for labels, value in self.all(name):
            key = labels.get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found


def full_name(model: str) -> str:
    """The name as the engine gives it: a model without a tag has the tag that Ollama adds."""
    return model if ":" in model.rpartition("/")[2] else model + ":latest"


# --- one host


class Problems:
    """What is not as it should be, each with how urgent it is and the runbook for it."""

    def __init__(self) -> None:
        self.rows: list[State] = []

    def add(self, severity: str, text: str, runbook: str = "") -> None:
        """:param severity: ``page``, where users meet it, or ``ticket``, as alerts have it.
        :param runbook: the section of docs/runbooks.md, by the alert's name.
        """
        self.rows.append({"severity": severity, "text": text, "runbook": runbook})


def host_state(
    name: str, functions: Sequence[str], read: Reader, now: float, history: Sequence[Mapping[str, Any]] = ()
) -> State:
    """What a host tells of itself.

    :param functions: ``node``, ``gateway``, ``mirror``, ``monitoring``.
    :param now: Unix time by which ages are told.
    :param history: earlier counts of this gateway (:func:`counts`), the oldest first.
    """
    state: State = {
        "name": name, "functions": list(functions), "at": now, "state": "unknown", "reason": "", "problems": [],
        "told_at": None, "engine": None, "release": None, "gpus": [], "proof": None, "models": [], "gateway": None,
    }  # fmt: skip
    try:
        _tell(state, read, now, history)
    except HostSilentError as error:
        state.update(state="unreachable", reason=str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        state.update(reason=f"what it tells cannot be understood: {type(error).__name__}: {error}")
    return state


def _tell(state: State, read: Reader, now: float, history: Sequence[Mapping[str, Any]]) -> None:
    problems = Problems()
    text = read("metrics.prom")
    metrics = Metrics(text.text if text else "")
    state["told_at"] = told_at = metrics.value("metrics_timestamp_seconds")
    _tell_host(metrics, problems, now)
    if "node" in state["functions"]:
        _tell_node(state, read, metrics, problems, now)
    if "gateway" in state["functions"]:
        state["gateway"] = _gateway(metrics, problems, now, history)
    state["problems"] = problems.rows
    state["state"] = "degraded" if problems.rows else "ok"
    if any(row["severity"] == "page" for row in problems.rows):
        state["state"] = "failing"
    if told_at is None:
        state.update(state="unknown", reason="it has no metrics: onprem-llm-metrics.service has not run here")
    elif now - told_at > STALE_SECONDS:
        state.update(state="stale", reason=f"its figures are {duration(now - told_at)} old")
    elif told_at - now > STALE_SECONDS:
        state.update(state="stale", reason=f"its clock is {duration(told_at - now)} ahead, so nobody knows their age")
    if state["state"] in ("unknown", "stale"):
        problems.add("ticket", state["reason"], "LLMMetricsStale")


def _tell_host(metrics: Metrics, problems: Problems, now: float) -> None:
    if metrics.value("firewall_active") == 0:
        problems.add("page", "the firewall is off", "LLMFirewallOff")
    if metrics.value("firewall_container_rules") == 0:
        problems.add("page", "the firewall's rules for containers are missing", "LLMContainerRulesMissing")
    for name, end in sorted(metrics.by("certificate_not_after_timestamp_seconds", "name").items()):
        days = (end - now) / 86400
        if days < CERTIFICATE_DAYS:
            said = f"ends in {days:.0f} days" if days >= 0 else "has ended"
            problems.add("ticket" if days > 3 else "page", f"the certificate {name} {said}", "LLMCertificateEnds")
    failing = sorted(name for name, success in metrics.by("collector_success", "collector").items() if success == 0)
    if failing:
        problems.add("ticket", f"metrics cannot be read: {', '.join(failing)}", "LLMCollectorFails")


def _tell_node(state: State, read: Reader, metrics: Metrics, problems: Problems, now: float) -> None:
    plan, _changed = document(read, "plan.json")
    release, recorded = document(read, "release.json")
    warm, _changed = document(read, "warm.json")
    proof, _changed = document(read, "proof.json")
    text = read("health.prom")
    health = Metrics(text.text if text else "")
    state["release"] = _release(release, recorded)
    engine = (warm or {}).get("engine") or {}
    answers = engine.get("answers")
    if answers is None and metrics.value("engine_reachable") is not None:
        answers = metrics.value("engine_reachable") == 1
    state["engine"] = {
        "answers": answers, "version": engine.get("version") or "", "since": iso_time(engine.get("since")),
        "planned_version": ((plan or {}).get("engine") or {}).get("version") or "",
    }  # fmt: skip
    state["gpus"] = _gpus(metrics, plan)
    size, free = metrics.value("models_filesystem_size_bytes"), metrics.value("models_filesystem_free_bytes")
    state["disk"] = {"size_bytes": size, "free_bytes": free}
    state["proof"] = _proof(proof, now)
    if plan is None:
        problems.add("ticket", "it has no plan: site.yml has not run to its end here")
    state["models"] = _models(plan, warm, metrics)
    state["unplanned"] = sorted(m for m, planned in metrics.by("loaded_model_planned", "model").items() if planned == 0)
    _judge_node(state, warm, metrics, health, problems, now)
    if size and free is not None and 1 - free / size > DISK_USED_RATIO:
        problems.add("ticket", f"the disk with the models is full to {1 - free / size:.0%}", "LLMModelsDiskFull")


def _release(release: Mapping[str, Any] | None, recorded: float | None) -> State | None:
    if release is None:
        return None
    packages = release.get("packages") or {}
    engine = release.get("engine") or {}
    return {
        "recorded_at": recorded, "collection": (release.get("collection") or {}).get("version") or "",
        "engine": engine.get("version") or "", "image": (engine.get("image") or {}).get("reference") or "",
        "driver": packages.get("nvidia_driver") or "", "docker": packages.get("docker") or "",
    }  # fmt: skip


def _gpus(metrics: Metrics, plan: Mapping[str, Any] | None) -> list[State]:
    """GPUs that the host shows, and those that the plan alone knows."""
    figures = {
        key: metrics.by(f"gpu_{key}", "gpu")
        for key in (*MEMORY_OF_GPU, "utilization_ratio", "temperature_celsius", "power_watts")
    }
    instances = (plan or {}).get("instances") or []
    planned = {gpu for instance in instances for model in instance["models"] for gpu in model.get("gpus") or []}
    rows = []
    for labels, _one in metrics.all("gpu_info"):
        uuid = labels.get("gpu", "")
        row = {"uuid": uuid, "index": labels.get("index", ""), "name": labels.get("name", ""), "visible": True}
        rows.append({**row, "planned": uuid in planned, **{key: told.get(uuid) for key, told in figures.items()}})
    rows.sort(key=lambda row: (len(row["index"]), row["index"]))
    for uuid in sorted(planned - {row["uuid"] for row in rows}):
        missing = {"uuid": uuid, "index": "", "name": "", "visible": False, "planned": True}
        rows.append({**missing, **dict.fromkeys(figures)})
    return rows


def _proof(proof: Mapping[str, Any] | None, now: float) -> State | None:
    if proof is None:
        return None
    at = iso_time(proof.get("ts"))
    return {
        "status": str(proof.get("status")), "message": str(proof.get("message") or ""), "at": at,
        "simulated": bool(proof.get("simulated")), "stale": at is None or now - at > CHECK_STALE_SECONDS,
    }  # fmt: skip


def _models(plan: Mapping[str, Any] | None, warm: Mapping[str, Any] | None, metrics: Metrics) -> list[State]:
    """Each planned model beside what is there of it."""
    told = {full_name(str(model.get("name"))): model for model in (warm or {}).get("models") or []}
    installed = metrics.by("planned_model_installed", "model")
    on_gpu = metrics.by("planned_model_on_gpu", "model")
    loaded = {key: metrics.by(f"loaded_model_{key}", "model") for key in ("size_bytes", "vram_bytes", "context_tokens")}
    rows = []
    for instance in (plan or {}).get("instances") or []:
        for model in instance["models"]:
            name = full_name(str(model["name"]))
            seen = told.get(name) or {}
            state = str(seen.get("state") or "unknown")
            if state == "answered":
                state = "warm" if seen.get("loaded") else "unloaded"
            if installed.get(name) == 0:
                state = "missing"
            rows.append({
                "name": name, "workload": str(model.get("workload") or ""), "slots": model.get("slots"),
                "quantization": str(model.get("quantization") or ""), "context_tokens": model.get("context_length"),
                "gpus": list(model.get("gpus") or []), "state": state, "reason": str(seen.get("reason") or ""),
                "planned_bytes": (model.get("account") or {}).get("total_bytes"),
                "loaded_bytes": loaded["size_bytes"].get(name), "vram_bytes": loaded["vram_bytes"].get(name),
                "loaded_context_tokens": loaded["context_tokens"].get(name), "on_gpu": on_gpu.get(name),
                "load_seconds": seen.get("seconds"),
            })  # fmt: skip
    return rows


def _judge_node(
    state: State, warm: Mapping[str, Any] | None, metrics: Metrics, health: Metrics, problems: Problems, now: float
) -> None:
    """What differs from the plan. What follows from an engine that is down is not told beside it."""
    _judge_gpus(state, metrics, problems)
    if state["engine"]["answers"] is False:
        problems.add("page", "the engine does not answer", "LLMEngineDown")
        return
    held = metrics.value("warming_held") == 1
    if held:
        problems.add("ticket", "models are kept from being loaded (/run/onprem-llm-warm.hold)")
    if warm is None and state["models"]:
        problems.add("ticket", "nobody watches whether models are warm: onprem-llm-warm.service does not run")
    sentences = {
        "missing": ("is not on the disk", "LLMModelMissing"), "failed": ("could not be loaded", "LLMModelNotReady"),
        "unloaded": ("is not loaded any more", "LLMModelNotReady"),
        "waiting": ("is not loaded yet", "LLMModelNotReady"), "warming": ("is being loaded", "LLMModelNotReady"),
    }  # fmt: skip
    for model in state["models"]:
        if model["state"] in sentences and not (held and model["state"] != "missing"):
            sentence, runbook = sentences[model["state"]]
            urgent = "page" if model["state"] in ("missing", "failed") else "ticket"
            why = f": {model['reason']}" if model["reason"] else ""
            problems.add(urgent, f"{model['name']} {sentence}{why}", runbook)
        if model["on_gpu"] == 0:
            problems.add("page", f"{model['name']} computes on the CPU, and the plan has it on GPUs", "LLMModelOnCpu")
        there, wanted = model["loaded_context_tokens"], model["context_tokens"]
        if there is not None and wanted is not None and there != wanted:
            problems.add("ticket", f"{model['name']} has a context of {there:.0f} tokens, and the plan {wanted}")
    if state["unplanned"]:
        problems.add("ticket", f"loaded and in no plan: {', '.join(state['unplanned'])}")
    if metrics.value("engine_matches_release") == 0:
        recorded = (state["release"] or {}).get("engine") or "another"
        found = state["engine"]["version"] or "of another version"
        problems.add("ticket", f"the engine is {found}, and the last run recorded {recorded}", "LLMReleaseDiffers")
    checked = health.value("health_check_timestamp_seconds")
    if checked is not None and now - checked > CHECK_STALE_SECONDS:
        problems.add("ticket", f"the deep health check ran {duration(now - checked)} ago", "LLMHealthCheckStale")
    elif health.value("healthy") == 0:
        problems.add("page", "the deep health check fails", "LLMHealthCheckFails")


def _judge_gpus(state: State, metrics: Metrics, problems: Problems) -> None:
    visible, planned = metrics.value("gpus_visible"), metrics.value("gpus_planned")
    if planned and (visible or 0) < planned:
        problems.add("page", f"{visible or 0:.0f} GPUs are there, and the plan uses {planned:.0f}", "LLMGpuMissing")
    proof = state["proof"]
    if proof and proof["stale"]:
        problems.add("ticket", "the last GPU proof is too old to say anything", "LLMHealthCheckStale")
    elif proof and proof["status"] in ("unhealthy", "degraded"):
        urgent = "page" if proof["status"] == "unhealthy" else "ticket"
        problems.add(urgent, f"GPU proof: {proof['message'] or proof['status']}", "LLMModelOnCpu")
    slowed = sorted({labels.get("reason", "") for labels, value in metrics.all("gpu_clocks_slowed") if value})
    if slowed:
        problems.add("ticket", f"GPUs are slowed down: {', '.join(slowed).replace('_', ' ')}", "LLMGpuSlowed")
    if any(metrics.by("gpu_row_remap_failed", "gpu").values()):
        problems.add("page", "a row of GPU memory could not be replaced", "LLMGpuMemoryFails")
    if any(metrics.by("gpu_row_remap_pending", "gpu").values()):
        problems.add("ticket", "a row of GPU memory is replaced at the next reset", "LLMGpuResetDue")
    if metrics.value("driver_matches") == 0:
        problems.add("ticket", "the loaded driver is not the one on the disk", "LLMDriverDiffers")


# --- a gateway


def counts(metrics: Metrics) -> State | None:
    """What a gateway has counted since it counts, by model, with the time; None where it tells nothing."""
    at = metrics.value("metrics_timestamp_seconds")
    if at is None:
        return None
    buckets: dict[str, dict[str, float]] = {}
    for labels, value in metrics.all("gateway_first_token_seconds_bucket"):
        buckets.setdefault(labels.get("model", ""), {})[labels.get("le", "")] = value
    failed: dict[str, float] = {}
    for labels, value in metrics.all("gateway_requests_total"):
        key = "failed" if labels.get("status", "").startswith("5") else "others"
        failed[key] = failed.get(key, 0.0) + value
    return {
        "at": at, "first_token": buckets, "status": failed,
        "tokens": metrics.by("gateway_completion_tokens_total", "model"),
        "engine_seconds": metrics.by("gateway_engine_seconds_total", "model"),
        "requests": metrics.by("gateway_requests_total", "model"),
    }  # fmt: skip


def growth(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """How much each counter grew. One that is smaller than before has begun anew."""
    return {key: value - (before.get(key, 0.0) if value >= before.get(key, 0.0) else 0.0) for key, value in now.items()}


def quantile(share: float, buckets: Mapping[str, float]) -> float | None:
    """A quantile of a histogram whose cumulative counts are given by upper bound, in the histogram's unit.

    As Prometheus' histogram_quantile estimates it: linear within a bucket, from 0 on; in the last one, its lower bound.
    None where nothing was counted.
    """
    rows = sorted((float(bound), count) for bound, count in buckets.items())
    if not rows or rows[-1][1] <= 0:
        return None
    rank = share * rows[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in rows:
        if count >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return lower


def base(history: Sequence[Mapping[str, Any]], at: float) -> Mapping[str, Any] | None:
    """The oldest counts within the window before ``at``."""
    return next((row for row in history if 0 < at - row["at"] <= WINDOW_SECONDS + STALE_SECONDS), None)


def _gateway(metrics: Metrics, problems: Problems, now: float, history: Sequence[Mapping[str, Any]]) -> State:
    counted = counts(metrics)
    before = base(history, counted["at"]) if counted else None
    seconds = counted["at"] - before["at"] if counted and before else None
    grown = _grown(counted, before) if counted and before else {}
    slots, running, waiting = (
        metrics.by(f"gateway_{key}", "model") for key in ("slots", "running_requests", "waiting_requests")
    )
    up: dict[str, dict[str, bool]] = {}
    for labels, value in metrics.all("gateway_node_up"):
        up.setdefault(labels.get("model", ""), {})[labels.get("node", "")] = value == 1
    drained = sorted(node for node, value in metrics.by("gateway_node_drained", "node").items() if value == 1)
    asked = {name for name, count in grown.get("requests", {}).items() if count and name not in ("none", "other")}
    rows = []
    for name in sorted(set(slots) | set(up) | asked):
        buckets = grown.get("first_token", {}).get(name, {})
        tokens, engine = grown.get("tokens", {}).get(name), grown.get("engine_seconds", {}).get(name)
        rows.append({
            "name": name, "slots": slots.get(name), "running": running.get(name), "waiting": waiting.get(name),
            "nodes": up.get(name, {}), "answers": buckets.get("+Inf"), "first_token_p50": quantile(0.5, buckets),
            "first_token_p95": quantile(0.95, buckets),
            # An embedding model has none.
            "tokens_per_second": tokens / seconds if tokens and seconds else None,
            "tokens_per_second_of_a_stream": tokens / engine if tokens and engine else None,
            "requests": grown.get("requests", {}).get(name),
        })  # fmt: skip
    _judge_gateway(metrics, rows, drained, grown, problems)
    return {
        "models": rows, "drained": drained, "window_seconds": seconds, "users": metrics.value("gateway_users"),
        "certificates": metrics.by("certificate_not_after_timestamp_seconds", "name"),
    }  # fmt: skip


def _grown(counted: Mapping[str, Any], before: Mapping[str, Any]) -> State:
    grown: State = {
        key: growth(counted[key], before.get(key, {})) for key in ("tokens", "engine_seconds", "requests", "status")
    }
    earlier = before.get("first_token", {})
    grown["first_token"] = {name: growth(told, earlier.get(name, {})) for name, told in counted["first_token"].items()}
    return grown


def _judge_gateway(
    metrics: Metrics, rows: Iterable[State], drained: Sequence[str], grown: Mapping[str, Any], problems: Problems
) -> None:
    if metrics.value("gateway_status_up") == 0:
        problems.add("page", "nginx does not tell the gateway's state", "LLMGatewayDown")
    for row in rows:
        if row["slots"] and (row["waiting"] or 0) >= row["slots"]:
            said = f"{row['name']}: {row['waiting']:.0f} requests wait for {row['slots']:.0f} slots"
            problems.add("ticket", said, "LLMQueueLong")
        out = sorted(node for node, up in row["nodes"].items() if not up and node not in drained)
        if out:
            urgent = "ticket" if any(row["nodes"].values()) else "page"
            problems.add(urgent, f"{row['name']} gets nothing from {', '.join(out)}", "LLMNodeOutOfService")
    for node in drained:
        problems.add("ticket", f"{node} is drained", "LLMNodeDrained")
    status = grown.get("status", {})
    total = sum(status.values())
    if total and status.get("failed", 0) / total > ERROR_RATIO:
        problems.add("page", f"{status['failed'] / total:.0%} of all requests failed (5xx)", "LLMGatewayErrors")


# --- alerts


def alerts_state(url: str, why_not: str = "") -> State:
    """Alerts that fire and that nobody has silenced.

    :param url: Alertmanager's; empty where there is none to be asked.
    :param why_not: what is told then.
    """
    if not url:
        return {"known": False, "reason": why_not or "no Alertmanager is known", "alerts": []}
    try:
        found = ask(f"{url.rstrip('/')}/api/v2/alerts?active=true&silenced=false&inhibited=false")
        if found is None:
            raise HostSilentError("HTTP 404")
        told = json.loads(found.text)
        rows = [_alert(alert) for alert in told]
    except HostSilentError as error:
        return {"known": False, "reason": f"Alertmanager at {url}: {error}", "alerts": []}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return {"known": False, "reason": f"Alertmanager at {url} cannot be understood: {error}", "alerts": []}
    rows.sort(key=lambda row: (row["severity"] != "page", row["since"] or 0, row["name"], row["host"]))
    return {"known": True, "reason": "", "alerts": rows}


def _alert(alert: Mapping[str, Any]) -> State:
    labels, notes = alert.get("labels") or {}, alert.get("annotations") or {}
    return {
        "name": str(labels.get("alertname") or ""), "severity": str(labels.get("severity") or ""),
        "host": str(labels.get("instance") or ""), "summary": str(notes.get("summary") or ""),
        "description": str(notes.get("description") or ""), "runbook": str(notes.get("runbook_url") or ""),
        "since": iso_time(str(alert.get("startsAt") or "")),
    }  # fmt: skip


# --- words


def duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def size(count: float | None) -> str:
    """Bytes as people read them, in GiB or MiB (2^30 and 2^20 bytes)."""
    if count is None:
        return NOTHING
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def seconds_said(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def number(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def clock(at: float | None) -> str:
    if at is None:
        return NOTHING
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    except (ValueError, OverflowError, OSError):
        return NOTHING


# --- the page


class Html(str):
    """Markup. Whatever is not of this kind is escaped where it becomes part of one."""

    __slots__ = ()


def text(value: object) -> Html:
    if isinstance(value, Html):
        return value
    said = str(value)
    return Html(html.escape(said if len(said) <= MOST_TEXT else said[: MOST_TEXT - 1] + "…", quote=True))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element. Attributes' names have ``_`` for ``-`` and may end in ``_``; those that are None or False are left
    out. Lists inside are their elements.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    parts: list[Html] = []
    for part in inside:
        parts += map(text, part) if isinstance(part, (list, tuple)) else [text(part)]
    return Html(f"<{name}{told}>{''.join(parts)}</{name}>")


def link(label: object, url: str) -> Html:
    """A link to a page of the web; the label alone where the address is none."""
    return tag("a", label, href=url, rel="noreferrer") if re.match(r"https?://[^\s\"'<>]+$", url) else text(label)


def moment(at: float | None) -> Html:
    if clock(at) == NOTHING:
        return text(NOTHING)
    return tag("time", clock(at), datetime=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)))


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]], quiet: bool = True) -> Html:
    """A table whose first column names its rows. Roles are given, since the style sheet makes blocks of rows on narrow
    screens, and browsers then forget what they were; so is each cell's heading.

    :param quiet: whether the caption is for screen readers alone.
    """
    head = tag("tr", [tag("th", name, scope="col", role="columnheader") for name in heads], role="row")
    body = [
        tag("tr", [
            tag("th" if not place else "td", cell, scope=None if place else "row",
                role="cell" if place else "rowheader", data_label=heads[place] if place else None)
            for place, cell in enumerate(row)
        ], role="row")
        for row in rows
    ]  # fmt: skip
    return tag(
        "table",
        tag("caption", caption, class_="quiet" if quiet else None),
        tag("thead", head, role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
    )


def section(anchor: str, title: str, *inside: object) -> Html:
    return tag("section", tag("h2", title, id=f"h-{anchor}"), *inside, id=anchor, aria_labelledby=f"h-{anchor}")


# A word for people, and the style sheet's class.
STATES = {
    "ok": ("ok", "good"), "degraded": ("degraded", "warn"), "failing": ("failing", "bad"), "stale": ("stale", "bad"),
    "unreachable": ("unreachable", "bad"), "unknown": ("unknown", "bad"),
}  # fmt: skip
MODEL_STATES = {
    "warm": ("warm", "good"), "missing": ("not on the disk", "bad"), "failed": ("failed", "bad"),
    "unloaded": ("not loaded", "bad"), "waiting": ("waiting", "warn"), "warming": ("loading", "warn"),
    "unknown": ("not known", "warn"),
}  # fmt: skip
SEVERITIES = {"page": ("page", "bad"), "ticket": ("ticket", "warn")}


def badge(state: str, known: Mapping[str, tuple[str, str]]) -> Html:
    word, kind = known.get(state, (state or NOTHING, "warn"))
    return tag("span", word, class_=f"badge {kind}")


def runbook(name: str, address: str, label: str = "") -> Html:
    if not name:
        return text(NOTHING)
    return link(label or name, f"{address}#{name.lower()}" if address else "")


def facts(*pairs: tuple[str, object]) -> Html:
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def tile(title: str, value: object, more: object, anchor: str) -> Html:
    inside = [tag("span", title, class_="what"), tag("strong", value), tag("span", more, class_="more")]
    return tag("li", tag("a", inside, href=f"#{anchor}"))


def render(fleet: Mapping[str, Any], fresh_seconds: float, runbooks: str = RUNBOOKS) -> str:
    """The page.

    :param fleet: ``at`` (Unix time), ``seen_from``, ``hosts`` (:func:`host_state`) and ``alerts``
        (:func:`alerts_state`).
    :param fresh_seconds: so long from ``at`` on it may be believed.
    :param runbooks: address of docs/runbooks.md, as it is or as a site has it; empty for no links.
    """
    hosts, at = fleet["hosts"], fleet["at"]
    problems = sum(len(host["problems"]) + (host["state"] == "unreachable") for host in hosts)
    said = f"{problems} problem{'' if problems == 1 else 's'}" if problems else "all well"
    head = Html(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        f"<title>{text(f'LLM fleet: {said}')}</title>"
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css">'
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag(
            "header",
            tag("h1", "LLM fleet"),
            tag("p", "As the gateway ", tag("b", fleet["seen_from"]), " saw it at ", moment(at), ". ",
                tag("a", "Load again", href="./")),
            tag("p", f"This page is old: nothing has been written since {clock(at)}. onprem-llm-status.service on "
                f"{fleet['seen_from']} does not work.", class_="notice old", role="alert"),
            tag("p", "This page has been open for a while and shows what was. Load it again.", class_="notice open"),
        ),
        tag("main", _summary(fleet, problems), _problems(hosts, runbooks), _served(hosts), _hosts(hosts),
            _alerts(fleet["alerts"]), _versions(hosts), id="content"),
        tag("footer", tag("p", "Figures of requests are of this gateway alone, and each gateway has its own page. "
            "Times are UTC. GiB are 2^30 bytes."),
            tag("p", "Runbooks: ", link("docs/runbooks.md", runbooks), ".") if runbooks else []),
    )  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en" data-fresh-until="{int(at + fresh_seconds)}">\n'
        f"<head>{head}</head>\n{body}\n</html>\n"
    )


def _gateways(hosts: Iterable[State]) -> list[State]:
    return [host["gateway"] for host in hosts if host["gateway"]]


def _summary(fleet: Mapping[str, Any], problems: int) -> Html:
    hosts = fleet["hosts"]
    planned = [model for host in hosts for model in host["models"]]
    rows = [row for gateway in _gateways(hosts) for row in gateway["models"]]
    running, slots, waiting = (sum(row[key] or 0 for row in rows) for key in ("running", "slots", "waiting"))
    gpus = [gpu for host in hosts for gpu in host["gpus"]]
    used, total = (sum(gpu[key] or 0 for gpu in gpus) for key in MEMORY_OF_GPU)
    alerts = fleet["alerts"]
    pages = sum(alert["severity"] == "page" for alert in alerts["alerts"])
    well = sum(host["state"] == "ok" for host in hosts)
    warm = sum(model["state"] == "warm" for model in planned)
    return tag("ul", [
        tile("Problems", problems, "now, by plan and figures", "problems"),
        tile("Hosts", f"{well} of {len(hosts)}", "are as they should be", "hosts"),
        tile("Models", f"{warm} of {len(planned)}", "planned ones are warm", "hosts"),
        tile("Slots", f"{running:.0f} of {slots:.0f}" if slots else NOTHING, f"in use, {waiting:.0f} wait", "models"),
        tile("GPU memory", f"{used / total:.0%}" if total else NOTHING,
             f"of {size(total)}, {sum(gpu['visible'] for gpu in gpus)} GPUs" if gpus else "no GPUs", "hosts"),
        tile("Alerts", len(alerts["alerts"]) if alerts["known"] else NOTHING,
             f"{pages} of them page" if alerts["known"] else "not known here", "alerts"),
    ], class_="tiles")  # fmt: skip


def _problems(hosts: Sequence[State], runbooks: str) -> Html:
    found: list[tuple[str, State]] = []
    for host in hosts:
        if host["state"] == "unreachable":
            silent = {"severity": "page", "text": f"cannot be read: {host['reason']}", "runbook": "LLMHostDown"}
            found.append((host["name"], silent))
        found += [(host["name"], row) for row in host["problems"]]
    found.sort(key=lambda one: one[1]["severity"] != "page")
    rows = [
        [name, badge(row["severity"], SEVERITIES), row["text"], runbook(row["runbook"], runbooks)]
        for name, row in found
    ]
    inside = (
        table("What is not as it should be", ["Host", "Urgency", "What", "Runbook"], rows)
        if rows
        else tag("p", "Every host does what its plan says.")
    )
    return section("problems", "Problems", inside)


def _served(hosts: Sequence[State]) -> Html:
    gateways = _gateways(hosts)
    windows = [gateway["window_seconds"] for gateway in gateways if gateway["window_seconds"]]
    rows: list[list[object]] = []
    for row in (row for gateway in gateways for row in gateway["models"]):
        slots: object = NOTHING
        if row["slots"]:
            used = f"{number(row['running'])} of {number(row['slots'])}"
            meter = tag("meter", used, min="0", max=f"{row['slots']:g}", value=f"{row['running'] or 0:g}",
                        aria_label=f"Slots of {row['name']} in use")  # fmt: skip
            slots = tag("span", meter, " ", used)
        up = sum(row["nodes"].values())
        rows.append([
            row["name"], f"{up} of {len(row['nodes'])}" if row["nodes"] else NOTHING, slots, number(row["waiting"]),
            number(row["requests"]), seconds_said(row["first_token_p50"]), seconds_said(row["first_token_p95"]),
            number(row["tokens_per_second"], 1), number(row["tokens_per_second_of_a_stream"], 1),
        ])  # fmt: skip
    heads = ["Model", "Nodes in service", "Slots in use", "Waiting", "Requests", "First token p50", "First token p95",
             "Tokens/s", "Tokens/s a stream"]  # fmt: skip
    said = (
        f"Requests, first token and tokens are those of the last {duration(max(windows))}. The first token has the time"
        " of waiting in it; p95 means that 19 of 20 answers began sooner."
        if windows
        else "Requests, first token and tokens are counted from now on; there are none yet to tell of."
    )
    inside = table("Models as users meet them", heads, rows) if rows else tag("p", "The gateway knows no model yet.")
    return section("models", "Models as users meet them", inside, tag("p", said, class_="soft"))


def _hosts(hosts: Sequence[State]) -> Html:
    drained = {node for gateway in _gateways(hosts) for node in gateway["drained"]}
    return section("hosts", "Hosts", [_host(host, host["name"] in drained) for host in hosts])


def _host(host: State, drained: bool) -> Html:
    anchor = "host-" + re.sub(r"\W", "-", host["name"])
    marks = [" ", badge(host["state"], STATES)]
    if drained:
        marks += [" ", tag("span", "drained", class_="badge warn")]
    inside: list[object] = [tag("h3", host["name"], *marks, id=anchor)]
    if host["reason"]:
        inside.append(tag("p", host["reason"].capitalize() + ".", class_="notice"))
    pairs: list[tuple[str, object]] = [("Function", ", ".join(host["functions"]))]
    if host["told_at"] is not None:
        pairs.append(("Figures of", moment(host["told_at"])))
    engine = host["engine"]
    if engine:
        word = {True: "answers", False: "does not answer"}.get(engine["answers"], "not known")
        since = [" since ", moment(engine["since"])] if engine["since"] else []
        pairs.append(("Engine", tag("span", f"Ollama {engine['version'] or engine['planned_version']}, {word}", since)))
    if host["proof"]:
        proof = host["proof"]
        said = proof["status"] + (", simulated GPUs" if proof["simulated"] else "")
        pairs.append(("GPU proof", tag("span", said, " at ", moment(proof["at"]))))
    if host.get("disk") and host["disk"]["size_bytes"]:
        pairs.append(("Models' disk", f"{size(host['disk']['free_bytes'])} of {size(host['disk']['size_bytes'])} free"))
    if host["gateway"]:
        pairs += _gateway_facts(host["gateway"])
    inside.append(facts(*pairs))
    if host["gpus"]:
        inside.append(_gpu_table(host))
    if host["models"]:
        inside.append(_plan_table(host))
    return tag("article", inside, aria_labelledby=anchor, class_=STATES.get(host["state"], ("", "warn"))[1])


def _gateway_facts(gateway: State) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    if gateway["users"] is not None:
        pairs.append(("Users", number(gateway["users"])))
    if gateway["certificates"]:
        pairs.append(("First certificate ends", moment(min(gateway["certificates"].values()))))
    return pairs


def _gpu_table(host: State) -> Html:
    rows: list[list[object]] = []
    for gpu in host["gpus"]:
        used, total = gpu["memory_used_bytes"], gpu["memory_total_bytes"]
        memory: object = NOTHING
        if used is not None and total:
            label = f"Memory of GPU {gpu['index']} in use"
            meter = tag("meter", f"{used / total:.0%}", min="0", max="1", value=f"{used / total:.3f}", aria_label=label)
            memory = tag("span", meter, f" {size(used)} of {size(total)}")
        name = f"{gpu['index']}: {gpu['name']}" if gpu["visible"] else gpu["uuid"]
        there = "in the plan" if gpu["planned"] else "not in the plan"
        busy = NOTHING if gpu["utilization_ratio"] is None else f"{gpu['utilization_ratio']:.0%}"
        warmth = NOTHING if gpu["temperature_celsius"] is None else f"{gpu['temperature_celsius']:.0f} °C"
        power = NOTHING if gpu["power_watts"] is None else f"{gpu['power_watts']:.0f} W"
        plan = there if gpu["visible"] else badge("in the plan, not there", {})
        rows.append([name, plan, memory, busy, warmth, power])
    heads = ["GPU", "Plan", "Memory in use", "Computing", "Temperature", "Power"]
    return table(f"GPUs of {host['name']}", heads, rows)


def _plan_table(host: State) -> Html:
    indices = {gpu["uuid"]: gpu["index"] for gpu in host["gpus"] if gpu["visible"]}
    rows: list[list[object]] = []
    for model in host["models"]:
        where = ", ".join(indices.get(gpu, gpu) for gpu in model["gpus"])
        at = {1.0: "on GPU", 0.0: "on the CPU"}.get(model["on_gpu"], "")
        there = ", ".join(part for part in (size(model["loaded_bytes"]) if model["loaded_bytes"] else "", at) if part)
        context = number(model["context_tokens"])
        if model["loaded_context_tokens"] is not None and model["loaded_context_tokens"] != model["context_tokens"]:
            context += f" (is {number(model['loaded_context_tokens'])})"
        rows.append([
            model["name"], badge(model["state"], MODEL_STATES), f"GPU {where}" if where else "CPU", context,
            number(model["slots"]), size(model["planned_bytes"]), there or NOTHING, seconds_said(model["load_seconds"]),
        ])  # fmt: skip
    heads = ["Model", "State", "Planned on", "Context", "Slots", "Memory planned", "Memory there", "Last load"]
    return table(f"Models of {host['name']}: plan and reality", heads, rows)


def _alerts(alerts: Mapping[str, Any]) -> Html:
    if not alerts["known"]:
        inside = tag("p", f"Not known here: {alerts['reason']}.")
    elif not alerts["alerts"]:
        inside = tag("p", "None fires.")
    else:
        inside = table("Alerts that fire", ["Alert", "Urgency", "Host", "What", "Since", "Runbook"], [
            [alert["name"], badge(alert["severity"], SEVERITIES), alert["host"] or NOTHING,
             f"{alert['summary']}. {alert['description']}".strip(". ") or NOTHING, moment(alert["since"]),
             link("runbook", alert["runbook"]) if alert["runbook"] else NOTHING]
            for alert in alerts["alerts"]
        ])  # fmt: skip
    return section("alerts", "Alerts", inside)


def _versions(hosts: Sequence[State]) -> Html:
    rows: list[list[object]] = []
    for host in hosts:
        release = host["release"]
        if release:
            told = [release[key] or NOTHING for key in ("collection", "engine", "driver", "docker")]
            rows.append([host["name"], *told, moment(release["recorded_at"])])
    heads = ["Host", "onprem.llm", "Ollama", "NVIDIA driver", "Docker", "Last upgrade"]
    inside = table("Versions", heads, rows) if rows else tag("p", "No host tells what was released on it.")
    return section("versions", "Versions", inside)


def style(fresh_seconds: float) -> str:
    """The style sheet, which lies beside this program. By it a page that has been open for so long says so, without a
    script.
    """
    with open(os.path.splitext(os.path.abspath(__file__))[0] + ".css", encoding="utf-8") as file:
        return file.read().replace("var(--fresh)", f"{fresh_seconds:.0f}s")


# --- the program


def replace_file(path: str, said: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(said)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_history(path: str) -> list[State]:
    """Counts of earlier passes; none where the file is missing or is not ours."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.loads(file.read(MOST_BYTES))
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("at"), (int, float))]
    except (OSError, ValueError, TypeError):
        return []


def remember(history: Sequence[State], counted: State | None) -> list[State]:
    """The counts of the window, with one more."""
    rows = list(history)
    if counted and (not rows or counted["at"] > rows[-1]["at"]):
        rows.append(counted)
    newest = rows[-1]["at"] if rows else 0.0
    # A clock that was set back leaves counts of a time that is not yet.
    return [row for row in rows if newest - WINDOW_SECONDS - STALE_SECONDS <= row["at"] <= newest]


def fleet_state(options: argparse.Namespace, history: Sequence[State]) -> State:
    """This host and its nodes, as they are now."""
    own = local_reader(options.root, options.textfiles)
    others = [name for name in options.nodes if name != options.name]

    def remote(name: str) -> State:
        return host_state(name, ["node"], remote_reader(f"{options.gateway}/nodes/{name}"), time.time())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(remote, others))
    hosts.insert(0, host_state(options.name, options.functions, own, time.time(), history))
    return {
        "schema": 1, "at": time.time(), "seen_from": options.name, "hosts": hosts,
        "alerts": alerts_state(options.alertmanager, options.no_alertmanager),
    }  # fmt: skip


def write_page(options: argparse.Namespace) -> None:
    """One pass. What the gateway has counted is kept beside the page, so that a restart forgets nothing."""
    path = os.path.join(options.directory, "history.json")
    history = read_history(path)
    found = local_reader(options.root, options.textfiles)("metrics.prom")
    fleet = fleet_state(options, history)
    replace_file(path, json.dumps(remember(history, counts(Metrics(found.text))) if found else history))
    fresh = 3 * options.interval + 30
    replace_file(os.path.join(options.directory, "style.css"), style(fresh))
    replace_file(os.path.join(options.directory, "index.html"), render(fleet, fresh, options.runbooks))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tell how the fleet is.")
    parser.add_argument("what", choices=("host", "page"), help="one host as JSON, or all as a page")
    parser.add_argument("--name", required=True, help="this host's name")
    parser.add_argument("--function", dest="functions", action="append", default=[], help="what this host is; repeated")
    parser.add_argument("--node", dest="nodes", action="append", default=[], help="a node of the fleet; repeated")
    parser.add_argument("--gateway", default="http://127.0.0.1:9145", help="where this gateway's nginx leads to nodes")
    parser.add_argument("--alertmanager", default="", help="URL of an Alertmanager")
    parser.add_argument("--no-alertmanager", default="", help="why there is none")
    parser.add_argument("--directory", default="/run/onprem-llm-status", help="directory of the page")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="address of docs/runbooks.md; empty for none")
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two passes; 0 for one pass alone")
    parser.add_argument("--textfiles", default="/var/lib/prometheus/node-exporter")
    parser.add_argument("--root", default="", help="directory below which this host's files lie")
    options = parser.parse_args(arguments)
    if options.what == "host":
        history = read_history(f"{options.root}{options.directory}/history.json")
        read = local_reader(options.root, options.textfiles)
        state = host_state(options.name, options.functions, read, time.time(), history)
        state["alerts"] = alerts_state(options.alertmanager) if options.alertmanager else None
        print(json.dumps(state))
        return 0
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_arguments: sys.exit(0))
    said = ""
    while True:
        try:
            write_page(options)
            failure = ""
        except Exception as error:  # whatever it is, the next pass may work, and the page says that it is old
            failure = f"{type(error).__name__}: {error}"
            if not options.interval:
                raise
        if failure != said:  # said once, not with every pass
            print(failure or "works again", file=sys.stderr, flush=True)
        said = failure
        if not options.interval:
            return 0
        time.sleep(options.interval)


if __name__ == "__main__":
    sys.exit(main())
