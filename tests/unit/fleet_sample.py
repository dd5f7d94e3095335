"""A fleet as its hosts' files have it: two nodes with GPUs, one without, and a gateway, at a time that is given.

The metrics are written by metrics.py's own table, so that a name that is no more fails here.
"""

from __future__ import annotations

import json
import os
import runpy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parents[2] / "roles/monitoring/files/programs"
METRICS = runpy.run_path(str(PROGRAMS / "metrics.py"), run_name="metrics")
STATUS = runpy.run_path(str(PROGRAMS / "fleet_status.py"), run_name="fleet_status")
GIB = 2**30
TEXTFILES = "/var/lib/prometheus/node-exporter"
NODES = ("gpu01", "gpu02", "cpu01")
GATEWAY = "gw01"
L40S, A6000 = "NVIDIA L40S", "NVIDIA RTX A6000"

# By node: GPUs (UUID, name, GiB in use and in all), and models (name, GPUs' places, GiB, slots, context).
GPUS: dict[str, list[tuple[str, str, float, float]]] = {
    "gpu01": [("GPU-3f0c", L40S, 41.2, 44.99), ("GPU-8a51", L40S, 38.7, 44.99)],
    "gpu02": [("GPU-c1d2", A6000, 33.1, 47.99)],
    "cpu01": [],
}
MODELS: dict[str, list[tuple[str, tuple[int, ...], float, int, int]]] = {
    "gpu01": [("gpt-oss:120b", (0, 1), 74.4, 4, 32768), ("bge-m3", (1,), 1.6, 4, 8192)],
    "gpu02": [("qwen3:30b-a3b", (0,), 27.9, 6, 16384), ("bge-m3", (0,), 1.6, 4, 8192)],
    "cpu01": [("gemma3:4b", (), 4.9, 2, 8192)],
}


def iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def plan(node: str) -> dict[str, Any]:
    models = [
        {
            "name": name, "workload": "embedding" if name == "bge-m3" else "chat", "slots": slots,
            "quantization": "Q4_K_M", "context_length": context, "gpus": [GPUS[node][place][0] for place in places],
            "account": {"weights_bytes": int(size * GIB * 0.8), "total_bytes": int(size * GIB)},
        }
        for name, places, size, slots, context in MODELS[node]
    ]  # fmt: skip
    return {
        "schema": 1, "host": node, "engine": {"name": "ollama", "version": "0.32.15"},
        "instances": [{"name": "ollama", "gpus": [gpu[0] for gpu in GPUS[node]], "models": models}],
    }  # fmt: skip


def release(node: str) -> dict[str, Any]:
    return {
        "schema": 1, "collection": {"name": "onprem.llm", "version": "0.4.0"},
        "engine": {"name": "ollama", "version": "0.32.15", "image": {"reference": "ollama/ollama:0.32.15"}},
        "packages": {"docker": "29.1.2", "nvidia_driver": "580.159.03" if GPUS[node] else None},
    }  # fmt: skip


def warm(node: str, at: float, states: Mapping[str, str]) -> dict[str, Any]:
    models = [
        {
            "name": name, "state": states.get(name, "answered"), "loaded": states.get(name, "answered") == "answered",
            "reason": "", "failures": 0, "seconds": round(2 + size / 4, 1),
        }
        for name, _places, size, _slots, _context in MODELS[node]
    ]  # fmt: skip
    return {
        "schema": 1, "ready": not states, "engine": {"answers": True, "since": iso(at - 86400), "version": "0.32.15"},
        "models": models,
    }  # fmt: skip


def node_metrics(node: str, at: float, without: frozenset[str], *more: tuple[Any, ...]) -> str:
    """:param without: models that are not loaded. :param more: further samples, as (name, value, labels)."""
    out = METRICS["Exposition"]()
    host(out, at)
    out.add("engine_reachable", 1)
    out.add("engine_matches_release", 1)
    out.add("node_ready", int(not without))
    out.add("warming_held", 0)
    out.add("models_filesystem_size_bytes", 1000 * GIB)
    out.add("models_filesystem_free_bytes", 640 * GIB)
    out.add("gpus_planned", len(GPUS[node]))
    for place, (uuid, name, used, total) in enumerate(GPUS[node]):
        out.add("gpu_info", 1, gpu=uuid, index=place, name=name)
        out.add("gpu_memory_used_bytes", used * GIB, gpu=uuid)
        out.add("gpu_memory_total_bytes", total * GIB, gpu=uuid)
        out.add("gpu_utilization_ratio", 0.87 - 0.2 * place, gpu=uuid)
        out.add("gpu_temperature_celsius", 61 + place, gpu=uuid)
        out.add("gpu_power_watts", 287.4, gpu=uuid)
    if GPUS[node]:
        out.add("gpus_visible", len(GPUS[node]))
    for short, places, size, slots, context in MODELS[node]:
        name = METRICS["full_name"](short)
        out.add("planned_model_installed", 1, model=name)
        out.add("planned_model_slots", slots, model=name)
        if short not in without:
            out.add("loaded_model_size_bytes", size * GIB * 0.98, model=name)
            out.add("loaded_model_vram_bytes", size * GIB * 0.98 if places else 0, model=name)
            out.add("loaded_model_context_tokens", context, model=name)
            out.add("loaded_model_planned", 1, model=name)
            if places:
                out.add("planned_model_on_gpu", 1, model=name)
    for sample, value, labels in more:
        out.add(sample, value, **labels)
    return str(out.text())


def host(out: Any, at: float) -> None:
    out.add("metrics_timestamp_seconds", at)
    out.add("firewall_active", 1)
    out.add("firewall_container_rules", 1)
    out.add("certificate_not_after_timestamp_seconds", at + 300 * 86400, name="gateway-client")
    out.add("collector_success", 1, collector="firewall")


def gateway_metrics(at: float, answers: float = 1.0) -> str:
    """:param answers: how much has been answered since counting began, as a factor."""
    out = METRICS["Exposition"]()
    host(out, at)
    out.add("gateway_status_up", 1)
    out.add("gateway_users", 14)
    # Slots, running, waiting, requests, seconds to the first token, tokens of an answer and of a stream in a second.
    for model, slots, running, waiting, requests, seconds, tokens, pace in (
        ("gpt-oss:120b", 4, 3, 0, 180, 0.6, 240, 38), ("qwen3:30b-a3b", 6, 6, 2, 420, 0.4, 310, 61),
        ("bge-m3:latest", 8, 1, 0, 2600, 0.05, 0, 1), ("gemma3:4b", 2, 0, 0, 12, 1.6, 150, 11),
    ):  # fmt: skip
        out.add("gateway_slots", slots, model=model)
        out.add("gateway_running_requests", running, model=model)
        out.add("gateway_waiting_requests", waiting, model=model)
        done = requests * answers
        out.add("gateway_requests_total", done, user="search", model=model, status=200)
        out.add("gateway_requests_total", requests * 0.002, user="search", model=model, status=502)
        out.add("gateway_completion_tokens_total", done * tokens, user="search", model=model)
        out.add("gateway_engine_seconds_total", done * (tokens or 1) / pace, user="search", model=model)
        bounds = METRICS["FIRST_TOKEN_BUCKETS"]
        first = next(place for place, bound in enumerate(bounds) if bound >= seconds)
        spread = [0.0] * (len(bounds) + 1)
        spread[first], spread[first + 1], spread[first + 2] = done * 0.8, done * 0.17, done * 0.03
        out.histogram("gateway_first_token_seconds", bounds, {"counts": spread, "sum": done * seconds}, model=model)
        for node in NODES:
            if model in [METRICS["full_name"](name) for name, *_rest in MODELS[node]]:
                out.add("gateway_node_up", 1, node=node, model=model)
    for node in NODES:
        out.add("gateway_node_drained", 0, node=node)
    return str(out.text())


def write(root: Path, name: str, text: str, changed: float | None = None) -> None:
    """One of the files that fleet_status.py knows, below a root."""
    path = Path(str(root) + STATUS["FILES"][name].format(textfiles=TEXTFILES))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if changed is not None:
        os.utime(path, (changed, changed))


def write_node(
    root: Path, node: str, at: float, *more: tuple[Any, ...], states: Mapping[str, str] | None = None
) -> None:
    """A node's files, as its programs leave them."""
    states = states or {}
    write(root, "plan.json", json.dumps(plan(node)))
    write(root, "release.json", json.dumps(release(node)), at - 12 * 86400)
    write(root, "warm.json", json.dumps(warm(node, at, states)))
    write(root, "metrics.prom", node_metrics(node, at, frozenset(states), *more))
    if GPUS[node]:
        proof = {"schema": 1, "ts": iso(at - 120), "status": "healthy", "message": "", "simulated": False}
        write(root, "proof.json", json.dumps(proof))


def alert(name: str, severity: str, host: str, since: float, summary: str, description: str) -> dict[str, Any]:
    """As Alertmanager's API tells it."""
    return {
        "labels": {"alertname": name, "severity": severity, "instance": host}, "startsAt": iso(since),
        "annotations": {
            "summary": summary, "description": description, "runbook_url": f"{STATUS['RUNBOOKS']}#{name.lower()}",
        },
    }  # fmt: skip


def fleet(directory: Path, at: float) -> dict[str, Any]:
    """What a gateway's page is made of: one node whose model is being loaded, one that is silent, all else well."""
    write_node(directory / "gpu01", "gpu01", at - 8)
    slowed = ("gpu_clocks_slowed", 1, {"gpu": "GPU-c1d2", "reason": "sw_thermal_slowdown"})
    write_node(directory / "gpu02", "gpu02", at - 11, slowed, states={"bge-m3": "warming"})
    write_node(directory / "cpu01", "cpu01", at - 1380)
    earlier = STATUS["counts"](STATUS["Metrics"](gateway_metrics(at - 600, 40)))
    write(directory / GATEWAY, "metrics.prom", gateway_metrics(at - 5, 41))
    hosts = [state(directory, GATEWAY, ["gateway"], at, [earlier])]
    hosts += [state(directory, node, ["node"], at) for node in NODES]
    told = [
        alert("LLMMetricsStale", "ticket", "cpu01", at - 900, "cpu01 tells nothing new",
              "The metrics of cpu01 are 23m old."),
        alert("LLMGpuSlowed", "ticket", "gpu02", at - 2400, "A GPU of gpu02 is slowed down",
              "GPU-c1d2 has been slowed down for 40m: sw_thermal_slowdown."),
    ]  # fmt: skip
    rows = [STATUS["_alert"](row) for row in told]
    return {"schema": 1, "at": at, "seen_from": GATEWAY, "hosts": hosts, "alerts": {"known": True, "alerts": rows}}


def state(
    directory: Path, name: str, functions: list[str], at: float, history: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What the program tells of a host by its files."""
    read = STATUS["local_reader"](str(directory / name), TEXTFILES)
    found: dict[str, Any] = STATUS["host_state"](name, functions, read, at, history or [])
    return found
