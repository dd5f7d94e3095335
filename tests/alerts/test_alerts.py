"""Every alert fires when it should, is silent just under, does not flap, asks for what exists, and says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts import promtool

ROOT = promtool.HERE.parents[1]
ALERTS, CASES = promtool.alerts(), promtool.cases()
RUNBOOKS = ROOT / "docs/runbooks.md"
# What the exporters of the distribution tell of themselves and of others: node, blackbox, Prometheus, Alertmanager.
FOREIGN = {
    "up", "node_time_seconds", "node_vmstat_oom_kill", "node_filesystem_avail_bytes", "node_filesystem_size_bytes",
    "probe_success", "probe_ssl_earliest_cert_expiry", "alertmanager_notification_requests_failed_total",
    "alertmanager_config_last_reload_successful", "prometheus_notifications_errors_total",
    "prometheus_config_last_reload_successful", "prometheus_rule_evaluation_failures_total",
    "node_cpu_seconds_total", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", "node_load1",
    "node_network_receive_bytes_total", "node_network_transmit_bytes_total", "ALERTS",
}  # fmt: skip


def own_names() -> set[str]:
    """Every series that the collection's own programs may tell, and every one that rules record."""
    names = set()
    for family in promtool.families().values():
        endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names |= {f"onprem_llm_{family.name}{ending}" for ending in endings}
    health = (promtool.PROGRAMS / "health_check.py").read_text(encoding="utf-8")
    names |= {f"onprem_llm_{name}" for name in re.findall(r'^ {8}\("(\w+)", "[A-Z1]', health, re.MULTILINE)}
    names |= {
        f"onprem_llm_model_{name}" for name in re.findall(r'^ {8}\("(\w+)", "[^"]+", "\w+"\),', health, re.MULTILINE)
    }
    for file in promtool.files():
        for group in promtool.groups(file):
            names |= {rule["record"] for rule in group["rules"] if "record" in rule}
    return names | {"onprem_llm:threshold_first_token_seconds", "onprem_llm:threshold_tokens_per_second"}


def unknown_names(expression: str) -> set[str]:
    """Series that an expression asks for and nobody tells."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare))
    called = set(re.findall(r"[a-zA-Z_:][\w:]*(?=\s*\()", bare))
    keywords = {"and", "or", "unless", "bool", "offset", "sum", "max", "min", "avg", "count", "topk", "m", "h", "d"}
    names = {word for word in words - called - keywords if "_" in word or ":" in word or word in FOREIGN}
    return names - own_names() - FOREIGN


def test_there_are_twenty_at_least_and_promtool_takes_them() -> None:
    assert len(ALERTS) >= 20
    done = subprocess.run([promtool.promtool(), "check", "rules", *promtool.files()], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_alert_has_a_case_and_every_case_an_alert() -> None:
    """Of each case promtool.py makes one test of each kind."""
    assert ALERTS.keys() == CASES.keys()
    for name, case in CASES.items():
        differing = [one.name for one in promtool.series(case) if one.fires != one.silent]
        assert differing, f"{name}: nothing differs between firing and silence"


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_fires_is_silent_and_does_not_flap(alert: str, tmp_path: Path) -> None:
    tests = [promtool.made(alert, CASES[alert], kind, ALERTS[alert]) for kind in promtool.KINDS]
    assert [test["name"] for test in tests] == [
        f"{alert} {does}" for does in ("fires", "is silent just under", "does not flap")
    ]
    done = promtool.run(tests, tmp_path, alert)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("fires", {"up": {"fires": 1, "silent": 1}}),
        ("silent", {"up": {"fires": 0, "silent": 0}}),
    ],
)
def test_the_tests_themselves_can_fail(kind: str, fault: dict[str, Any], tmp_path: Path) -> None:
    series = {'up{job="node",instance="gpu1"}': fault["up"]}
    case = {**CASES["LLMHostDown"], "series": series}
    done = promtool.run([promtool.made("LLMHostDown", case, kind, ALERTS["LLMHostDown"])], tmp_path, "LLMHostDown")
    assert done.returncode != 0


def test_a_flapping_alert_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = dict(ALERTS["LLMHostDown"])
    del rule["keep_firing_for"]
    file = tmp_path / "flapping.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "flapping", "rules": [rule]}]}))
    monkeypatch.setattr(promtool, "files", lambda: [file])
    done = promtool.run([promtool.made("LLMHostDown", CASES["LLMHostDown"], "sawtooth", rule)], tmp_path)
    assert "1E+00" in done.stdout + done.stderr
    assert done.returncode != 0


def test_nobody_is_woken_for_a_gpu_that_is_merely_busy(tmp_path: Path) -> None:
    labels = 'job="node",instance="gpu1",gpu="GPU-1"'
    model = 'job="node",instance="gw1",model="qwen3:8b"'
    values = {
        f"onprem_llm_gpu_utilization_ratio{{{labels}}}": "1",
        f"onprem_llm_gpu_memory_used_bytes{{{labels}}}": "98",
        f"onprem_llm_gpu_memory_total_bytes{{{labels}}}": "100",
        f"onprem_llm_gpu_power_watts{{{labels}}}": "350",
        f"onprem_llm_gpu_power_limit_watts{{{labels}}}": "350",
        f"onprem_llm_gpu_temperature_celsius{{{labels}}}": "86",
        f"onprem_llm_gateway_running_requests{{{model}}}": "4",
        f"onprem_llm_gateway_waiting_requests{{{model}}}": "0",
        f"onprem_llm_gateway_slots{{{model}}}": "4",
    }
    test = promtool.group("busy", [promtool.Series(name, value, value) for name, value in values.items()], [True] * 241)
    question = "count(count_over_time(ALERTS[240m])) or vector(0)"
    test["promql_expr_test"] = [{"expr": question, "eval_time": "240m", "exp_samples": promtool.zero()}]
    done = promtool.run([test], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def silent(name: str, values: dict[str, str], minutes: int) -> dict[str, Any]:
    """A test that no alert fires, whatever it is called, with these series in promtool's notation."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": told} for series, told in values.items()],
        "promql_expr_test": [
            {
                "expr": f'count(count_over_time(ALERTS{{alertstate="firing"}}[{minutes}m])) or vector(0)',
                "eval_time": f"{minutes}m",
                "exp_samples": promtool.zero(),
            }
        ],
    }


def test_a_counter_that_begins_anew_is_no_event(tmp_path: Path) -> None:
    """A restart of the program or of the host."""
    tests = [
        silent(f"{alert} after a reset", {one.name: "1000x30 0x60" for one in promtool.series(case)}, 90)
        for alert, case in CASES.items()
        if any(one.fires.startswith("+") for one in promtool.series(case))
        and all(one.fires.startswith("+") for one in promtool.series(case))
    ]
    assert len(tests) >= 3
    done = promtool.run(tests, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_what_is_no_number_wakes_nobody(alert: str, tmp_path: Path) -> None:
    """An exporter that tells NaN where it should tell a figure."""
    inputs = promtool.series(CASES[alert])
    # Where it asks for the absence of a series, that is what counts.
    doubtful = {one.name for one in inputs if one.fires not in (one.silent, "_")}
    told = {one.name: one.values([False] * 61) for one in inputs}
    told |= {name: " ".join(["NaN"] * 61) for name in doubtful}
    done = promtool.run([silent(f"{alert} with NaN", told, 60)], tmp_path, alert)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_says_what_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    said = rule["annotations"]
    assert said["summary"]
    assert said["summary"] != said["description"]
    link, _hash, anchor = said["runbook_url"].partition("#")
    assert link.endswith("/blob/main/docs/runbooks.md")
    text = RUNBOOKS.read_text(encoding="utf-8")
    assert anchor == alert.lower()
    section = re.search(rf"(?ms)^### {alert}$(.*?)(?=^##|\Z)", text)
    assert section, f"docs/runbooks.md has no section {alert}"
    assert len(section[1].split()) > 25, "a runbook says how to find out and what to do"
    assert unknown_names(rule["expr"]) == set()


def test_runbooks_have_no_other_alerts() -> None:
    assert set(re.findall(r"(?m)^### (LLM\w+)$", RUNBOOKS.read_text(encoding="utf-8"))) == set(ALERTS)


def test_unknown_names_are_found() -> None:
    assert unknown_names(
        'sum by (model_x) (rate(onprem_llm_nothing_total{a="b_c"}[5m])) / onprem_llm_gpus_planned'
    ) == {"onprem_llm_nothing_total"}
