# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/benchmark.yml on a node and a gateway that are this machine, before a scripted engine."""

from __future__ import annotations

import json
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests import plays
from tests.unit.streaming_server import Script, serving

PLAN = {
    "schema": 1,
    "instances": [
        {
            "name": "ollama",
            "models": [
                {"name": "search:1", "use": "embedding", "slots": 1, "gpus": []},
                {"name": "chat:q4", "use": "chat", "slots": 2, "gpus": ["GPU-1"],
                 "speed": {"active_bytes": 1, "tokens_per_second_bound": 4000.0}},
            ],
        }
    ],
}  # fmt: skip
WISHES = {"benchmark_concurrency": [1, 2, 4], "benchmark_prompt_tokens": [60], "benchmark_answer_tokens": [6]}


@contextmanager
def status(requests: int) -> Iterator[int]:
    """What a gateway tells on its loopback."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            content = json.dumps({"requests": requests, "models": {}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN), encoding="utf-8")
    host = {**plays.local(), "ansible_become": False, "benchmark_plan_path": str(plan)}
    file = tmp_path / "hosts.yml"
    groups = {"llm_nodes": {"hosts": {"node1": host}}, "gateways": {"hosts": {"gw1": host}}}
    file.write_text(yaml.safe_dump({"all": {"children": groups}}), encoding="utf-8")
    return file


def measure(inventory: Path, url: str, port: int, *arguments: str, **variables: Any) -> Any:
    given = {"models_engine_url": url, "gateway_status_port": port, "benchmark_dir": str(inventory.parent / "out")}
    given |= {
        **WISHES,
        "benchmark_look_seconds": 2,
        "benchmark_prefix_cache": ["cold"],
        "benchmark_requests_per_stream": 2,
        **variables,
    }
    return plays.run("playbooks/benchmark.yml", *arguments, inventory=inventory, variables=given)


def test_table_figures_and_plot(inventory: Path) -> None:
    with status(0) as port, serving(lambda _n, _b: Script(first=0.02, gap=0.02, pieces=6), slots=2) as (url, server):
        run = measure(inventory, url, port)
    assert run.returncode == 0, run.stdout
    assert {body["model"] for body in server.bodies} == {"chat:q4"}
    assert "node1 (engine), chat:q4" in run.stdout
    assert "prompts of 60 tokens, prefix cache cold, answers of up to 6" in run.stdout
    assert "gw1 is not measured: benchmark_api_key has no key of a user" in run.stdout
    out = inventory.parent / "out"
    report = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    (found,) = report["runs"]
    assert (found["host"], found["path"], len(found["steps"])) == ("node1", "engine", 3)
    assert found["capacity"][0]["users"] > 0
    assert "invocation" not in found
    root = ElementTree.fromstring((out / "benchmark.svg").read_text(encoding="utf-8"))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 12


def test_check_mode_says_what_it_would_ask_and_writes_nothing(inventory: Path) -> None:
    with status(3) as port, serving(lambda _n, _b: Script()) as (url, server):
        run = measure(inventory, url, port, "--check")
    assert run.returncode == 0, run.stdout
    assert "would ask at most 14 requests and 924 tokens in 1200 seconds, in 3 steps" in run.stdout
    assert server.bodies == []
    assert not (inventory.parent / "out").exists()


def test_users_are_not_loaded_without_consent(inventory: Path) -> None:
    with status(3) as port, serving(lambda _n, _b: Script()) as (url, server):
        refused = measure(inventory, url, port)
        assert server.bodies == []
        agreed = measure(inventory, url, port, benchmark_consent=True, benchmark_concurrency=[1])
    assert refused.returncode != 0
    assert "gw1 has 3 requests of users just now" in refused.stdout
    assert agreed.returncode == 0, agreed.stdout
    assert server.bodies


def test_an_engine_that_is_not_of_the_inventory_and_a_model_that_no_plan_has(inventory: Path) -> None:
    with status(0) as port, serving(lambda _n, _b: Script()) as (url, server):
        foreign = measure(inventory, f"http://192.0.2.7:{urlsplit(url).port}", port)
        unknown = measure(inventory, url, port, benchmark_model="other:1")
    assert foreign.returncode != 0
    assert "192.0.2.7 is no address of the inventory" in foreign.stdout
    assert unknown.returncode == 0, unknown.stdout
    assert "node1 serves other:1 by no plan" in unknown.stdout
    assert server.bodies == []


def test_the_gateways_key_is_never_shown(inventory: Path) -> None:
    key = "key-of-a-user-that-nobody-sees"
    with status(0) as port, serving(lambda _n, _b: Script()) as (url, _server):
        run = measure(inventory, url, port, "-vvv", benchmark_api_key=key, benchmark_paths=["gateway"], gateway_port=1)
    # Nobody listens there, and the fleet's authority is not on this machine.
    assert run.returncode != 0
    assert "Ask the gateway, with more and more streams" in run.stdout
    assert key not in run.stdout
