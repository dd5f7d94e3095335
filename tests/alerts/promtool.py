"""promtool's tests of every alert, made of ``cases.yml``: it fires when it should, is silent just under, does not flap.

A case has the series that the alert looks at, each with a value that makes it fire and one just under. Values are
numbers, ``_`` (no sample), ``+3`` (a counter that grows by 3 a minute), ``+1/15`` (by 1 in every 15 minutes) and
``now-90`` (Unix time 90 seconds ago).
"""

from __future__ import annotations

import functools
import runpy
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.packages import unpacked

HERE = Path(__file__).resolve().parent
RULES = HERE.parents[1] / "roles/monitoring_server/files/rules"
PROGRAMS = HERE.parents[1] / "roles/monitoring/files/programs"
SERVER = 'up{job="prometheus",instance="mon1"}'
KINDS = ("fires", "silent", "sawtooth")
# Minutes: the quiet time before, how long a test watches, and half a period of the sawtooth.
QUIET, WATCHED, HALF = 20, 240, 15


@functools.cache
def promtool() -> Path:
    """From Debian 13 on it has a package of its own."""
    path = unpacked("prometheus") / "usr/bin/promtool"
    return path if path.exists() else unpacked("promtool") / "usr/bin/promtool"


def files() -> list[Path]:
    """The rule files: what others are built on first."""
    return sorted(RULES.glob("*.yml"), key=lambda file: (file.stem != "recording", file.name))


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by its name, as the rule files have it."""
    return {
        rule["alert"]: rule for file in files() for group in groups(file) for rule in group["rules"] if "alert" in rule
    }


@functools.cache
def families() -> dict[str, Any]:
    """What the collection's own program tells, by name without the prefix."""
    program = runpy.run_path(str(PROGRAMS / "metrics.py"), run_name="metrics")
    return {family.name: family for family in program["FAMILIES"]}


@functools.cache
def groups(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return found


@dataclass(frozen=True)
class Series:
    """One input: what it is called, and its value in a minute of trouble and in one without."""

    name: str
    fires: str
    silent: str

    def values(self, troubled: Iterable[bool]) -> str:
        """promtool's notation of this series, a sample a minute."""
        told, count = [], 0.0
        for minute, trouble in enumerate(troubled):
            value = self.fires if trouble else self.silent
            if value.startswith("+"):
                step, _slash, minutes = value.partition("/")
                count += float(step) if minute % int(minutes or 1) == 0 else 0.0
                told.append(f"{count:g}")
            elif value.startswith("now-"):
                told.append(f"{minute * 60 - float(value[4:]):g}")
            else:
                told.append(value)
        return " ".join(told)


def series(case: dict[str, Any]) -> list[Series]:
    always = [Series(name, str(value), str(value)) for name, value in (case.get("always") or {}).items()]
    return always + [Series(name, str(v["fires"]), str(v["silent"])) for name, v in case["series"].items()]


def group(name: str, inputs: Sequence[Series], troubled: Sequence[bool]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one.name, "values": one.values(troubled)} for one in inputs],
    }


def firing(alert: str) -> str:
    return f'ALERTS{{alertname="{alert}",alertstate="firing"}}'


def made(alert: str, case: dict[str, Any], kind: str, rule: dict[str, Any]) -> dict[str, Any]:
    """One test of promtool."""
    inputs, after = series(case), int(case["after"])
    watched = int(case.get("watched", WATCHED))
    if kind == "fires":
        test = group(f"{alert} fires", inputs, [minute >= QUIET for minute in range(QUIET + after + 2)])
        expected = {
            "exp_labels": {**rule["labels"], **(case.get("labels") or {})},
            "exp_annotations": {
                "summary": case["summary"],
                "description": case["description"],
                "runbook_url": rule["annotations"]["runbook_url"],
            },
        }
        test["alert_rule_test"] = [
            {"alertname": alert, "eval_time": f"{QUIET + after - 1}m", "exp_alerts": []},
            {"alertname": alert, "eval_time": f"{QUIET + after}m", "exp_alerts": [expected]},
        ]
    elif kind == "silent":
        test = group(f"{alert} is silent just under", inputs, [False] * (watched + 1))
        question = f"max(max_over_time({firing(alert)}[{watched}m])) or vector(0)"
        test["promql_expr_test"] = [{"expr": question, "eval_time": f"{watched}m", "exp_samples": zero()}]
    else:
        sawtooth = [minute >= QUIET and (minute - QUIET) // HALF % 2 == 0 for minute in range(watched + 1)]
        test = group(f"{alert} does not flap", inputs, sawtooth)
        # How often it began to fire: there, and not a minute before.
        begun = f"({firing(alert)} unless {firing(alert)} offset 1m)[{watched}m:1m]"
        question = f"(sum(count_over_time({begun})) or vector(0)) > bool 1"
        test["promql_expr_test"] = [{"expr": question, "eval_time": f"{watched}m", "exp_samples": zero()}]
    return test


def zero() -> list[dict[str, Any]]:
    return [{"labels": "{}", "value": 0}]


def run(tests: list[dict[str, Any]], place: Path, alert: str = "") -> subprocess.CompletedProcess[str]:
    """Have promtool run tests against the rule files, or against one alert and what is recorded for it.

    To evaluate the other alerts in every minute of every test would take most of the time.
    """
    kept = [
        {**group, "rules": [rule for rule in group["rules"] if not alert or needed(rule, alert)]}
        for file in files()
        for group in groups(file)
    ]
    kept = [group for group in kept if group["rules"]]
    # Around every test is a monitoring server that works, or LLMMonitoringBlind would fire.
    for test in tests:
        if not any(one["series"].startswith(SERVER.partition(",")[0]) for one in test["input_series"]):
            test["input_series"].append({"series": SERVER, "values": "1x1000"})
    rules, file = place / "rules.yml", place / "tests.yml"
    document = {
        "rule_files": [str(rules)],
        # Or the order would differ from run to run.
        "group_eval_order": [group["name"] for group in kept],
        "evaluation_interval": "1m",
        "tests": tests,
    }
    rules.write_text(yaml.safe_dump({"groups": kept}), encoding="utf-8")
    file.write_text(yaml.safe_dump(document, sort_keys=False, width=1000000), encoding="utf-8")
    return subprocess.run([promtool(), "test", "rules", file], capture_output=True, text=True, check=False)


def needed(rule: dict[str, Any], alert: str) -> bool:
    return alert == rule.get("alert") or ("record" in rule and rule["record"] in alerts()[alert]["expr"])


@functools.cache
def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "cases.yml").read_text(encoding="utf-8"))
    return found
