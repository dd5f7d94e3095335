"""The program that tells how the fleet is: what it reads, what it makes of it, and the page as text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fleet_sample as sample
import pytest
from role_templates import ROLES, evaluated, rendered, role_variables

PROGRAM = sample.STATUS
SCRIPT = sample.PROGRAMS / "fleet_status.py"
AT = 1795348995.0


def node(root: Path, *more: tuple[Any, ...], at: float = AT - 5, **states: str) -> dict[str, Any]:
    """What gpu01 tells, with further samples and with models in other states."""
    sample.write_node(
        root / "gpu01", "gpu01", at, *more, states={name.replace("_", ":"): s for name, s in states.items()}
    )
    return told(root)


def told(root: Path) -> dict[str, Any]:
    return sample.state(root, "gpu01", ["node"], AT)


def problems(state: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["severity"], row["text"]) for row in state["problems"]]


# --- a node


def test_a_node_that_is_well(tmp_path: Path) -> None:
    state = node(tmp_path)
    assert (state["state"], state["problems"], state["reason"]) == ("ok", [], "")
    assert state["engine"] == {
        "answers": True, "version": "0.32.15", "since": AT - 5 - 86400, "planned_version": "0.32.15",
    }  # fmt: skip
    assert state["release"]["recorded_at"] == AT - 5 - 12 * 86400
    assert [(gpu["index"], gpu["name"], gpu["planned"]) for gpu in state["gpus"]] == [
        ("0", sample.L40S, True), ("1", sample.L40S, True),
    ]  # fmt: skip
    large = state["models"][0]
    assert (large["name"], large["state"], large["slots"], large["context_tokens"]) == (
        "gpt-oss:120b",
        "warm",
        4,
        32768,
    )
    assert large["planned_bytes"] == int(74.4 * sample.GIB)
    assert large["loaded_bytes"] == pytest.approx(74.4 * 0.98 * sample.GIB)


@pytest.mark.parametrize(
    ("more", "severity", "text"),
    [
        (("firewall_active", 0, {}), "page", "the firewall is off"),
        (("gpu_row_remap_failed", 1, {"gpu": "GPU-3f0c"}), "page", "a row of GPU memory could not be replaced"),
        (
            ("gpu_row_remap_pending", 1, {"gpu": "GPU-3f0c"}),
            "ticket", "a row of GPU memory is replaced at the next reset",
        ),
        (("driver_matches", 0, {}), "ticket", "the loaded driver is not the one on the disk"),
        (("loaded_model_planned", 0, {"model": "own:q4"}), "ticket", "loaded and in no plan: own:q4"),
        (("collector_success", 0, {"collector": "gpus"}), "ticket", "metrics cannot be read: gpus"),
        (
            ("certificate_not_after_timestamp_seconds", AT + 2 * 86400, {"name": "endpoint"}),
            "page", "the certificate endpoint ends in 2 days",
        ),
        (
            ("certificate_not_after_timestamp_seconds", AT + 9 * 86400, {"name": "endpoint"}),
            "ticket", "the certificate endpoint ends in 9 days",
        ),
        (
            ("certificate_not_after_timestamp_seconds", AT - 9, {"name": "endpoint"}),
            "page", "the certificate endpoint has ended",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)  # fmt: skip
def test_one_thing_that_is_wrong(tmp_path: Path, more: tuple[Any, ...], severity: str, text: str) -> None:
    # A name and its labels that are there twice are told by their last sample, as where one is replaced.
    state = node(tmp_path)
    path = tmp_path / "gpu01" / sample.TEXTFILES.lstrip("/") / "onprem_llm_metrics.prom"
    out = sample.METRICS["Exposition"]()
    out.add(more[0], more[1], **more[2])
    line = next(line for line in out.text().splitlines() if not line.startswith("#"))
    kept = [row for row in path.read_text(encoding="utf-8").splitlines() if row.split(" ")[0] != line.split(" ")[0]]
    path.write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")
    assert state["problems"] == []
    assert problems(told(tmp_path)) == [(severity, text)]
    assert told(tmp_path)["state"] == ("failing" if severity == "page" else "degraded")


@pytest.mark.parametrize(
    ("state", "severity", "words"),
    [
        ("failed", "page", "could not be loaded"), ("warming", "ticket", "is being loaded"),
        ("waiting", "ticket", "is not loaded yet"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_warm(tmp_path: Path, state: str, severity: str, words: str) -> None:
    assert problems(node(tmp_path, **{"gpt-oss_120b": state})) == [(severity, f"gpt-oss:120b {words}")]


def test_a_model_on_the_cpu_in_another_context_and_a_missing_one(tmp_path: Path) -> None:
    node(tmp_path)
    path = tmp_path / "gpu01" / sample.TEXTFILES.lstrip("/") / "onprem_llm_metrics.prom"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ('planned_model_on_gpu{model="gpt-oss:120b"} 1', 'planned_model_on_gpu{model="gpt-oss:120b"} 0'),
        ('context_tokens{model="gpt-oss:120b"} 32768', 'context_tokens{model="gpt-oss:120b"} 4096'),
        ('planned_model_installed{model="bge-m3:latest"} 1', 'planned_model_installed{model="bge-m3:latest"} 0'),
        ("gpus_visible 2", "gpus_visible 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    assert problems(told(tmp_path)) == [
        ("page", "1 GPUs are there, and the plan uses 2"),
        ("page", "gpt-oss:120b computes on the CPU, and the plan has it on GPUs"),
        ("ticket", "gpt-oss:120b has a context of 4096 tokens, and the plan 32768"),
        ("page", "bge-m3:latest is not on the disk"),
    ]


def test_what_follows_from_an_engine_that_is_down_is_not_told(tmp_path: Path) -> None:
    node(tmp_path, **{"gpt-oss_120b": "failed"})
    state = sample.warm("gpu01", AT, {"gpt-oss:120b": "failed"})
    state["engine"]["answers"] = False
    sample.write(tmp_path / "gpu01", "warm.json", json.dumps(state))
    assert problems(told(tmp_path)) == [("page", "the engine does not answer")]


def test_a_gpu_of_the_plan_that_nobody_sees(tmp_path: Path) -> None:
    node(tmp_path)
    path = tmp_path / "gpu01" / sample.TEXTFILES.lstrip("/") / "onprem_llm_metrics.prom"
    text = path.read_text(encoding="utf-8")
    path.write_text("".join(line for line in text.splitlines(True) if "GPU-8a51" not in line), encoding="utf-8")
    rows = told(tmp_path)["gpus"]
    assert [(row["uuid"], row["visible"], row["planned"]) for row in rows] == [
        ("GPU-3f0c", True, True), ("GPU-8a51", False, True),
    ]  # fmt: skip


def test_a_gpu_proof_that_fails_and_one_that_is_old(tmp_path: Path) -> None:
    node(tmp_path)
    proof = {"schema": 1, "ts": sample.iso(AT - 60), "status": "unhealthy", "message": "NVML is gone"}
    sample.write(tmp_path / "gpu01", "proof.json", json.dumps(proof))
    assert problems(told(tmp_path)) == [("page", "GPU proof: NVML is gone")]
    sample.write(tmp_path / "gpu01", "proof.json", json.dumps({**proof, "ts": sample.iso(AT - 7200)}))
    assert problems(told(tmp_path)) == [("ticket", "the last GPU proof is too old to say anything")]


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (AT - 121, "its figures are 2 minutes old"), (AT - 90000, "its figures are 25 hours old"),
        (AT + 600, "its clock is 10 minutes ahead, so nobody knows their age"),
    ],
)  # fmt: skip
def test_figures_that_are_too_old_are_told_as_such(tmp_path: Path, at: float, reason: str) -> None:
    state = node(tmp_path, at=at)
    assert (state["state"], state["reason"]) == ("stale", reason)
    assert problems(state)[-1] == ("ticket", reason)


def test_figures_at_their_bound_are_believed(tmp_path: Path) -> None:
    assert node(tmp_path, at=AT - 120)["state"] == "ok"


def test_a_bare_host(tmp_path: Path) -> None:
    state = told(tmp_path)
    assert state["state"] == "unknown"
    assert "onprem-llm-metrics.service has not run here" in state["reason"]
    assert ("ticket", "it has no plan: site.yml has not run to its end here") in problems(state)


@pytest.mark.parametrize(
    ("name", "text", "state", "reason"),
    [
        ("plan.json", "{", "unknown", "what it tells cannot be understood: ValueError: plan.json is no JSON: "),
        ("plan.json", "[]", "unknown", "what it tells cannot be understood: ValueError: plan.json is no JSON object"),
        ("plan.json", '{"instances": 5}', "unknown", "what it tells cannot be understood: TypeError"),
        ("plan.json", '{"instances": [{}]}', "unknown", "what it tells cannot be understood: KeyError"),
        ("warm.json", '{"engine": 5}', "unknown", "what it tells cannot be understood: AttributeError"),
        ("metrics.prom", "\x00\xff onprem_llm_x{", "unknown", "it has no metrics"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str, state: str, reason: str) -> None:
    node(tmp_path)
    sample.write(tmp_path / "gpu01", name, text)
    found = told(tmp_path)
    assert found["state"] == state
    assert found["reason"].startswith(reason)
    # And the page can be made of it.
    assert "gpu01" in page([found])


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    metrics = PROGRAM["Metrics"](
        'onprem_llm_gpu_power_watts{gpu="a"} nan\nonprem_llm_gpu_power_watts{gpu="b\\"c\\\\d,e"} 5\n'
        'onprem_llm_gpu_power_watts{gpu="f"} [N/A]\nother 1\n'
    )
    assert metrics.by("gpu_power_watts", "gpu") == {'b"c\\d,e': 5.0}


# --- a gateway


def gateway(root: Path, *history: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    sample.write(root / "gw01", "metrics.prom", text or sample.gateway_metrics(AT - 5, 2))
    return sample.state(root, "gw01", ["gateway"], AT, list(history))


def counted(text: str) -> dict[str, Any]:
    found: dict[str, Any] = PROGRAM["counts"](PROGRAM["Metrics"](text))
    return found


def test_rates_are_those_of_the_window(tmp_path: Path) -> None:
    state = gateway(tmp_path, counted(sample.gateway_metrics(AT - 605, 1)))
    assert state["gateway"]["window_seconds"] == 600
    row = next(row for row in state["gateway"]["models"] if row["name"] == "gpt-oss:120b")
    assert (row["slots"], row["running"], row["waiting"], row["requests"]) == (4, 3, 0, 180)
    assert row["tokens_per_second"] == pytest.approx(180 * 240 / 600)
    assert row["tokens_per_second_of_a_stream"] == pytest.approx(38)
    # 80 % of the answers began within 0.5 to 1 s, 17 % within 1 to 2.5 s.
    assert row["first_token_p50"] == pytest.approx(0.5 + 0.5 * 0.5 / 0.8)
    assert row["first_token_p95"] == pytest.approx(1.0 + 1.5 * 0.15 / 0.17)
    assert state["state"] == "ok"


def test_without_earlier_counts_there_are_no_rates(tmp_path: Path) -> None:
    for history in ([], [counted(sample.gateway_metrics(AT - 5000, 1))]):
        state = gateway(tmp_path, *history)
        assert state["gateway"]["window_seconds"] is None
        row = state["gateway"]["models"][0]
        assert (row["first_token_p95"], row["tokens_per_second"], row["requests"]) == (None, None, None)
        assert row["slots"] == 8


def test_counters_that_began_anew(tmp_path: Path) -> None:
    state = gateway(tmp_path, counted(sample.gateway_metrics(AT - 605, 50)))
    row = next(row for row in state["gateway"]["models"] if row["name"] == "gpt-oss:120b")
    assert row["requests"] == pytest.approx(2 * 180, abs=1)
    assert row["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("old", "new", "severity", "said"),
    [
        ('waiting_requests{model="qwen3:30b-a3b"} 2', 'waiting_requests{model="qwen3:30b-a3b"} 6', "ticket",
         "qwen3:30b-a3b: 6 requests wait for 6 slots"),
        ('node_up{node="gpu01",model="bge-m3:latest"} 1', 'node_up{node="gpu01",model="bge-m3:latest"} 0', "ticket",
         "bge-m3:latest gets nothing from gpu01"),
        ('node_up{node="cpu01",model="gemma3:4b"} 1', 'node_up{node="cpu01",model="gemma3:4b"} 0', "page",
         "gemma3:4b gets nothing from cpu01"),
        ('node_drained{node="gpu01"} 0', 'node_drained{node="gpu01"} 1', "ticket", "gpu01 is drained"),
        ("gateway_status_up 1", "gateway_status_up 0", "page", "nginx does not tell the gateway's state"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_gateway(tmp_path: Path, old: str, new: str, severity: str, said: str) -> None:
    text = sample.gateway_metrics(AT - 5, 2)
    assert old in text
    assert problems(gateway(tmp_path, text=text.replace(old, new))) == [(severity, said)]


def test_a_drained_node_is_not_called_out_of_service_too(tmp_path: Path) -> None:
    text = sample.gateway_metrics(AT - 5, 2).replace('drained{node="cpu01"} 0', 'drained{node="cpu01"} 1')
    text = text.replace('node_up{node="cpu01",model="gemma3:4b"} 1', 'node_up{node="cpu01",model="gemma3:4b"} 0')
    assert problems(gateway(tmp_path, text=text)) == [("ticket", "cpu01 is drained")]


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {"1": 10, "2": 10, "+Inf": 10}, 0.5), (0.95, {"1": 0, "2": 100, "+Inf": 100}, 1.95),
        (0.5, {"1": 0, "2": 0, "+Inf": 5}, 2.0), (0.5, {"1": 0, "+Inf": 0}, None), (0.5, {}, None),
        (1.0, {"1": 4, "2": 4, "+Inf": 4}, 1.0), (0.5, {"1": 1, "10": 3, "+Inf": 3}, 3.25),
    ],
)  # fmt: skip
def test_a_quantile_is_prometheus_own(share: float, buckets: dict[str, float], value: float | None) -> None:
    assert PROGRAM["quantile"](share, buckets) == (None if value is None else pytest.approx(value))


def test_the_window_is_kept_and_no_more() -> None:
    history: list[dict[str, Any]] = []
    for step in range(100):
        history = PROGRAM["remember"](history, {"at": AT + 30 * step})
    assert history[-1]["at"] - history[0]["at"] == 720
    assert PROGRAM["remember"](history, {"at": history[-1]["at"]}) == history
    # The clock was set back: counts of times that are not yet would be of no use for hours.
    assert PROGRAM["base"](history, AT) is None


# --- alerts


@pytest.fixture
def alertmanager() -> Iterator[tuple[str, dict[str, Any]]]:
    answer: dict[str, Any] = {"status": 200, "body": b"[]", "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["asked"].append(self.path)
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()


def test_alerts_that_fire(alertmanager: tuple[str, dict[str, Any]]) -> None:
    url, answer = alertmanager
    rows = [
        sample.alert("LLMGpuSlowed", "ticket", "gpu02", AT - 60, "slow", "for 40m"),
        sample.alert("LLMEngineDown", "page", "gpu01", AT - 30, "down", "it is"),
    ]
    answer["body"] = json.dumps(rows).encode()
    found = PROGRAM["alerts_state"](url)
    assert [row["name"] for row in found["alerts"]] == ["LLMEngineDown", "LLMGpuSlowed"]
    assert found["alerts"][0]["since"] == AT - 30
    assert found["alerts"][0]["runbook"].endswith("#llmenginedown")
    assert answer["asked"] == ["/api/v2/alerts?active=true&silenced=false&inhibited=false"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"", "HTTP 503"), (404, b"", "HTTP 404"), (200, b"<html>", "cannot be understood"),
        (200, b'{"a": 1}', "cannot be understood"), (200, b"[3]", "cannot be understood"),
    ],
)  # fmt: skip
def test_an_alertmanager_that_says_something_else(
    alertmanager: tuple[str, dict[str, Any]], status: int, body: bytes, said: str
) -> None:
    url, answer = alertmanager
    answer.update(status=status, body=body)
    found = PROGRAM["alerts_state"](url)
    assert not found["known"]
    assert said in found["reason"]
    assert f"Not known here: Alertmanager at {url}" in page([], found)


def test_without_an_alertmanager_the_page_says_so() -> None:
    found = PROGRAM["alerts_state"]("", "the fleet has no monitoring server")
    assert "Not known here: the fleet has no monitoring server." in page([], found)


# --- the page


def page(hosts: list[dict[str, Any]], alerts: dict[str, Any] | None = None, **more: Any) -> str:
    alerts = alerts or {"known": True, "reason": "", "alerts": []}
    fleet = {"schema": 1, "at": AT, "seen_from": "gw01", "hosts": hosts, "alerts": alerts, **more}
    return str(PROGRAM["render"](fleet, 120))


class Elements(HTMLParser):
    """Elements with their attributes, and which are left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))
        if name not in ("meta", "link"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


def test_the_page_is_whole_and_has_no_script(tmp_path: Path) -> None:
    fleet = sample.fleet(tmp_path, AT)
    elements = Elements(page(fleet["hosts"], fleet["alerts"]))
    assert elements.open == []
    names = {name for name, _attributes in elements.found}
    assert not names & {"script", "style", "img", "iframe", "form", "object", "base"}
    for name, attributes in elements.found:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], (name, attributes)
    assert [attributes["href"] for name, attributes in elements.found if name == "link"] == ["data:,", "style.css"]
    ids = [attributes["id"] for _name, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    mark = "<script>alert(1)</script>\"'&"
    fleet = json.loads(json.dumps(sample.fleet(tmp_path, AT)))

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return value + mark if isinstance(value, str) else value

    text = page(poison(fleet["hosts"]), {**poison(fleet["alerts"]), "known": True}, seen_from="gw01" + mark)
    elements = Elements(text)
    assert elements.open == []
    assert "script" not in {name for name, _attributes in elements.found}
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 50
    # A link whose address is not one is text.
    hrefs = [attributes["href"] or "" for name, attributes in elements.found if name == "a"]
    assert all(re.match(r"(#[\w-]+|\./|https?://[^\s<>\"']+)$", href) for href in hrefs), hrefs


def test_a_link_leads_to_the_web_or_nowhere() -> None:
    for address in ("javascript:alert(1)", "data:text/html,x", "//x.example", "https://x.example/\" onclick='y'", ""):
        assert PROGRAM["link"]("name", address) == "name"
    assert PROGRAM["link"]("n", "https://x.example/#a") == '<a href="https://x.example/#a" rel="noreferrer">n</a>'


def test_a_site_s_own_runbooks(tmp_path: Path) -> None:
    state = node(tmp_path, ("firewall_active", 0, {}), **{"gpt-oss_120b": "failed"})
    fleet = {"at": AT, "seen_from": "gw01", "hosts": [state], "alerts": {"known": True, "alerts": []}}
    assert 'href="https://wiki.example.com/llm#llmmodelnotready"' in PROGRAM["render"](
        fleet, 60, "https://wiki.example.com/llm"
    )
    assert 'href="http' not in PROGRAM["render"](fleet, 60, "")


def test_every_runbook_exists() -> None:
    sections = set(re.findall(r"(?m)^### (\w+)$", (ROLES.parent / "docs/runbooks.md").read_text(encoding="utf-8")))
    named = set(re.findall(r'"(LLM\w+)"', SCRIPT.read_text(encoding="utf-8")))
    assert len(named) > 20
    assert named <= sections


def test_problems_that_page_come_first(tmp_path: Path) -> None:
    state = node(tmp_path)
    state["problems"] = [
        {"severity": severity, "text": severity + "-text", "runbook": ""} for severity in ("ticket", "page")
    ]
    text = page([state])
    assert text.index("page-text") < text.index("ticket-text")
    assert "<title>LLM fleet: 2 problems</title>" in text


def test_until_when_it_may_be_believed() -> None:
    assert page([]).startswith(f'<!doctype html>\n<html lang="en" data-fresh-until="{int(AT) + 120}">\n')
    style = PROGRAM["style"](120)
    assert "linear 120s forwards" in style
    assert "url(" not in style
    assert "@import" not in style


# --- the program


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-B", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_a_host_as_json(tmp_path: Path) -> None:
    sample.write_node(tmp_path, "gpu01", AT)
    done = run("host", "--name", "gpu01", "--function", "node", "--root", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    state = json.loads(done.stdout)
    assert state["functions"] == ["node"]
    assert [model["name"] for model in state["models"]] == ["gpt-oss:120b", "bge-m3:latest"]


def test_two_passes_make_rates_and_a_broken_history_is_no_fault(tmp_path: Path) -> None:
    directory = tmp_path / "page"
    directory.mkdir()
    (directory / "history.json").write_text("[{]", encoding="utf-8")
    given = [
        "page",
        "--name",
        "gw01",
        "--function",
        "gateway",
        "--root",
        tmp_path,
        "--directory",
        directory,
        "--interval",
        "0",
    ]
    for at, answers in ((AT - 60, 1), (AT, 2)):
        sample.write(tmp_path, "metrics.prom", sample.gateway_metrics(at, answers))
        done = run(*given)
        assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((directory / "history.json").read_text(encoding="utf-8"))
    assert [row["at"] for row in rows] == [AT - 60, AT]
    assert "those of the last 60 seconds" in (directory / "index.html").read_text(encoding="utf-8")
    assert (directory / "index.html").stat().st_mode & 0o777 == 0o644


def test_nodes_that_cannot_be_asked_do_not_stop_it(tmp_path: Path) -> None:
    directory = tmp_path / "page"
    directory.mkdir()
    done = run("page", "--name", "gw01", "--function", "gateway", "--root", tmp_path, "--directory", directory,
               "--interval", "0", "--gateway", "http://127.0.0.1:9", "--node", "gpu01", "--node", "gpu02")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    text = (directory / "index.html").read_text(encoding="utf-8")
    assert text.count("cannot be read: no answer:") == 2


# --- the role


def host(**given: Any) -> dict[str, Any]:
    return {
        "inventory_hostname": "gw01", "group_names": ["gateways"],
        "groups": {"llm_nodes": ["gpu01", "gpu02"], "gateways": ["gw01"], "monitoring_servers": []},
        "hostvars": {}, "__monitoring_beside": {"stdout_lines": []}, "ansible_facts": {}, **given,
    }  # fmt: skip


def options(**given: Any) -> list[str]:
    unit = rendered("monitoring", "onprem-llm-status.service.j2", **host(**given))
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return line.split(" page ")[1].split(" ")


def test_the_unit_asks_each_node_and_says_why_there_are_no_alerts() -> None:
    words = options()
    assert [words[place + 1] for place, word in enumerate(words) if word == "--node"] == ["gpu01", "gpu02"]
    unit = rendered("monitoring", "onprem-llm-status.service.j2", **host())
    assert "--no-alertmanager 'the fleet has no monitoring server'" in unit
    assert "IPAddressDeny=any" in unit


def test_the_unit_asks_the_host_s_own_alertmanager_or_the_one_that_is_given() -> None:
    groups = {"llm_nodes": ["gpu01"], "gateways": ["gw01"], "monitoring_servers": ["gw01"]}
    assert options(groups=groups)[-2:] == ["--alertmanager", "http://127.0.0.1:9093"]
    given = {"monitoring_alertmanager_url": "https://alerts.example.com/am"}
    assert options(**given)[-2:] == ["--alertmanager", "https://alerts.example.com/am"]
    assert "IPAddressDeny" not in rendered("monitoring", "onprem-llm-status.service.j2", **host(**given))
    away = {"llm_nodes": ["gpu01"], "gateways": ["gw01"], "monitoring_servers": ["mon01"]}
    assert "Alertmanager listens on mon01 alone" in " ".join(options(groups=away))


@pytest.mark.parametrize(
    ("given", "there"),
    [({}, True), ({"gateway_status_page": "nobody"}, True), ({"group_names": ["llm_nodes"]}, False)],
)
def test_which_hosts_write_a_page(given: dict[str, Any], there: bool) -> None:
    values = role_variables("monitoring") | host(**given)
    assert ("onprem-llm-status.service" in evaluated(values["__monitoring_unit_files"], values)) == there
    units = [unit["name"] for unit in evaluated(values["__monitoring_units"], values)]
    assert ("onprem-llm-status.service" in units) == there


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"monitoring_status_interval": 1}, "give a number of seconds from 5 to 600"),
        ({"monitoring_alertmanager_url": "alerts:9093"}, "give a URL such as http://192.0.2.51:9093, or nothing"),
        ({"monitoring_runbooks_url": "/srv/runbooks.md"}, "give a URL that begins with https:// or http://"),
    ],
)
def test_a_wrong_variable_is_refused(given: dict[str, Any], said: str) -> None:
    values = role_variables("monitoring") | host(**given)
    values["monitoring_address"] = "192.0.2.1"
    found = [fault for fault in evaluated(values["__monitoring_faults"], values) if fault]
    assert len(found) == 1
    assert said in found[0]
