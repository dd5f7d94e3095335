# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's state as a table in a terminal, from what each host tells of itself (fleet_status.py of monitoring)."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

Row = dict[str, t.Any]
HEADS = (
    "HOST",
    "FUNCTION",
    "STATE",
    "ENGINE",
    "MODELS WARM",
    "SLOTS IN USE",
    "GPU MEMORY",
    "FIRST TOKEN P95",
    "ALERTS",
)
MODEL_HEADS = ("GATEWAY", "MODEL", "NODES", "SLOTS IN USE", "WAITING", "FIRST TOKEN P50", "P95", "TOKENS/S")
OK = "ok"
NOTHING = "-"


def heard(name: str, functions: t.Sequence[str], result: t.Mapping[str, t.Any] | None) -> Row:
    """A host's state, from the result of the task that asked it.

    A host that did not answer is ``unreachable``; one that answers what cannot be understood is ``unknown``.
    """
    row: Row = {
        "name": name, "functions": list(functions), "state": "unknown", "reason": "", "problems": [], "engine": None,
        "gpus": [], "models": [], "gateway": None, "alerts": None, "told_at": None,
    }  # fmt: skip
    if result is None or result.get("unreachable"):
        return {**row, "state": "unreachable", "reason": _line((result or {}).get("msg")) or "no answer"}
    if result.get("rc") != 0:
        said = _line(result.get("stderr") or result.get("msg"))
        if "No such file" in said:
            said = "it has no status program yet: run site.yml"
        return {**row, "reason": said or "the status program failed"}
    try:
        told = json.loads(str(result.get("stdout")))
        if not isinstance(told, dict) or not isinstance(told.get("state"), str):
            raise TypeError("no state")
    except (ValueError, TypeError) as error:
        return {**row, "reason": f"what it tells cannot be understood: {error}"}
    return {**row, **told}


def _line(text: object) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[-1].replace("Task failed: ", "", 1) if lines else ""


def summary(hosts: t.Sequence[Row]) -> Row:
    """What all hosts together tell: rows by host, models by gateway, alerts, and whether all is well.

    Alerts are unknown where no monitoring server told any. A fleet is well where every host is and no alert fires.
    """
    told = [host["alerts"] for host in hosts if host.get("alerts")]
    known = any(alerts["known"] for alerts in told)
    # Two monitoring servers tell the same.
    alerts = {_identity(alert): alert for one in told for alert in one["alerts"]}
    drained = {node for host in hosts for node in (host["gateway"] or {}).get("drained", [])}
    rows = [_row(host, drained, list(alerts.values()) if known else None) for host in hosts]
    models = [{"gateway": host["name"], **row} for host in hosts for row in (host["gateway"] or {}).get("models", [])]
    return {
        "schema": 1, "well": all(row["state"] == OK and not row["drained"] for row in rows) and not alerts,
        "hosts": rows, "models": models, "alerts": sorted(alerts.values(), key=_identity) if known else None,
        "alerts_unknown_because": "" if known else _why(told),
    }  # fmt: skip


def _identity(alert: t.Mapping[str, t.Any]) -> tuple[str, str, str]:
    return (str(alert["name"]), str(alert["host"]), str(alert["summary"]))


def _why(told: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    return "; ".join(sorted({str(alerts["reason"]) for alerts in told})) or "no monitoring server was asked"


def _row(host: Row, drained: t.Collection[str], alerts: t.Sequence[t.Mapping[str, t.Any]] | None) -> Row:
    gateway = host["gateway"] or {}
    served = gateway.get("models", [])
    slow = [row["first_token_p95"] for row in served if row["first_token_p95"] is not None]
    engine = host["engine"] or {}
    return {
        "host": host["name"], "functions": host["functions"], "state": host["state"], "reason": host["reason"],
        "drained": host["name"] in drained, "engine": engine.get("version") or "",
        "models_warm": sum(model["state"] == "warm" for model in host["models"]),
        "models_planned": len(host["models"]) if host["engine"] else None,
        "slots": _sum(served, "slots") if host["gateway"] else _sum(host["models"], "slots"),
        "slots_running": _sum(served, "running") if host["gateway"] else None,
        "requests_waiting": _sum(served, "waiting") if host["gateway"] else None,
        "gpus": sum(bool(gpu["visible"]) for gpu in host["gpus"]),
        "gpu_memory_used_bytes": _sum(host["gpus"], "memory_used_bytes"),
        "gpu_memory_total_bytes": _sum(host["gpus"], "memory_total_bytes"),
        "first_token_p95_seconds": max(slow) if slow else None,
        "alerts": None if alerts is None else sum(alert["host"] == host["name"] for alert in alerts),
        "problems": host["problems"],
    }  # fmt: skip


def _sum(rows: t.Iterable[t.Mapping[str, t.Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) if values else None


def lines(found: Row) -> list[tuple[str, str]]:
    """The tables, what is wrong, and the alerts, each line with the state that it tells of (empty for none)."""
    texts = _table(HEADS, [_cells(row) for row in found["hosts"]])
    said = [("", texts[0])]
    said += [(_state(row), text) for row, text in zip(found["hosts"], texts[1:])]
    if found["models"]:
        texts = _table(MODEL_HEADS, [_model_cells(row) for row in found["models"]])
        said += [("", ""), *(("", text) for text in texts)]
    wrong = [line for row in found["hosts"] for line in _wrong(row)]
    if wrong:
        said += [("", ""), *wrong]
    said.append(("", ""))
    if found["alerts"] is None:
        said.append(("", f"Alerts are not known: {found['alerts_unknown_because']}."))
    elif not found["alerts"]:
        said.append(("", "No alert fires."))
    for alert in found["alerts"] or []:
        where = f"{alert['host']}: " if alert["host"] and alert["host"] not in alert["summary"] else ""
        said.append((_colour(alert["severity"]), f"{alert['name']} ({alert['severity']})  {where}{alert['summary']}"))
    return said


def _state(row: Row) -> str:
    return "degraded" if row["state"] == OK and row["drained"] else str(row["state"])


def _colour(severity: str) -> str:
    return "failing" if severity == "page" else "degraded"


def _wrong(row: Row) -> t.Iterator[tuple[str, str]]:
    texts = [problem["text"] for problem in row["problems"]]
    if row["reason"] and row["reason"] not in texts:
        yield row["state"], f"{row['host']}: {row['reason']}"
    for problem in row["problems"]:
        runbook = f"  [{problem['runbook']}]" if problem["runbook"] else ""
        yield _colour(problem["severity"]), f"{row['host']}: {problem['text']}{runbook}"


def _cells(row: Row) -> list[str]:
    models = NOTHING if row["models_planned"] is None else f"{row['models_warm']} of {row['models_planned']}"
    slots = NOTHING
    if row["slots"] is not None:
        slots = _of(row["slots_running"], row["slots"]) if row["slots_running"] is not None else f"{row['slots']:.0f}"
    if row["requests_waiting"]:
        slots += f", {row['requests_waiting']:.0f} wait"
    memory = NOTHING
    if row["gpu_memory_total_bytes"]:
        used, total = row["gpu_memory_used_bytes"], row["gpu_memory_total_bytes"]
        memory = f"{human_bytes(int(used or 0))} of {human_bytes(int(total))}"
    state = row["state"] + (", drained" if row["drained"] else "")
    return [
        row["host"], ", ".join(row["functions"]), state, row["engine"] or NOTHING, models, slots, memory,
        _seconds(row["first_token_p95_seconds"]), NOTHING if row["alerts"] is None else str(row["alerts"]),
    ]  # fmt: skip


def _model_cells(row: Row) -> list[str]:
    nodes = _of(sum(row["nodes"].values()), len(row["nodes"])) if row["nodes"] else NOTHING
    rate = row["tokens_per_second"]
    return [
        row["gateway"], row["name"], nodes, _of(row["running"], row["slots"]), _number(row["waiting"]),
        _seconds(row["first_token_p50"]), _seconds(row["first_token_p95"]), NOTHING if rate is None else f"{rate:.1f}",
    ]  # fmt: skip


def _of(part: float | None, whole: float | None) -> str:
    return NOTHING if whole is None else f"{_number(part)} of {whole:.0f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} s"


def _table(heads: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> list[str]:
    table = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
