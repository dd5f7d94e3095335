# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway tells on the loopback of what runs and waits, and drain.yml, which waits by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gateway.client import Client, prompt
from tests.gateway.conftest import KEYS, SLOTS, Answer, Gateway, users
from tests.gateway.packages import ROOT
from tests.gateway.sites import free_port, variables
from tests.gateway.test_limits import slow
from tests.unit.role_templates import ROLES, evaluated, role_variables

MODEL = "gemma3:270m"


def status(gateway: Gateway, path: str = "/status") -> Any:
    url = f"http://127.0.0.1:{gateway.values['gateway_status_port']}{path}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.load(answer)


def soon(gateway: Gateway, wanted: Any) -> Any:
    """The status, when it is as wanted or 5 s later."""
    until = time.monotonic() + 5
    while (said := status(gateway)) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    return said


def of(running: int, waiting: int, requests: int, slots: int = SLOTS) -> dict[str, Any]:
    rows = {name: {"slots": slots, "running": 0, "waiting": 0} for name in (MODEL, "qwen3:8b", "hf.co/acme/thing:q4")}
    return {"requests": requests, "models": rows | {MODEL: {"slots": slots, "running": running, "waiting": waiting}}}


@contextmanager
def busy(gateway: Gateway, count: int, seconds: int) -> Iterator[list[Future[Answer]]]:
    """``count`` streams of so many seconds, asked for at once."""
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(gateway.ask, "POST", "/api/chat", slow(10 * seconds, 10)) for _ in range(count)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def one_box(request: pytest.FixtureRequest, start: Any) -> Gateway:
    found: Gateway = start(workers=request.param)
    return found


def test_what_runs_and_waits_by_model(one_box: Gateway) -> None:
    assert status(one_box) == of(0, 0, 0)
    with busy(one_box, SLOTS + 1, 1) as answers:
        assert soon(one_box, of(SLOTS, 1, SLOTS + 1)) == of(SLOTS, 1, SLOTS + 1)
    assert [answer.result().status for answer in answers] == [200] * (SLOTS + 1)
    assert soon(one_box, of(0, 0, 0)) == of(0, 0, 0)


def test_without_a_queue_it_counts_as_well(start: Any) -> None:
    gateway = start(gateway_queue=False)
    with busy(gateway, 2 * SLOTS, 1):
        assert soon(gateway, of(2 * SLOTS, 0, 2 * SLOTS)) == of(2 * SLOTS, 0, 2 * SLOTS)
    assert soon(gateway, of(0, 0, 0)) == of(0, 0, 0)


def test_upstreams_without_a_plan_have_requests_alone(start: Any) -> None:
    gateway = start(__gateway_node_models={})
    with busy(gateway, 2, 1):
        assert soon(gateway, {"requests": 2, "models": {}}) == {"requests": 2, "models": {}}
    assert soon(gateway, {"requests": 0, "models": {}}) == {"requests": 0, "models": {}}


def test_a_reload_without_the_user_hides_no_stream(start: Any) -> None:
    gateway = start()
    with busy(gateway, 1, 2):
        soon(gateway, of(1, 0, 1))
        gateway.site.render(gateway.values | {"gateway_users": [user for user in users() if user["name"] != "app"]})
        gateway.site.reload()
        until = time.monotonic() + 5
        while gateway.ask("GET", "/v1/models").status != 401 and time.monotonic() < until:
            time.sleep(0.05)
        assert status(gateway) == of(1, 0, 1)
    assert soon(gateway, of(0, 0, 0)) == of(0, 0, 0)


def test_users_do_not_reach_it(one_box: Gateway) -> None:
    assert one_box.ask("GET", "/status", user="").status == 401
    assert one_box.ask("GET", "/status", user="ops").status == 404
    with pytest.raises(urllib.error.HTTPError, match="404"):
        status(one_box, "/api/tags")
    listens = (one_box.site.directory / "etc/nginx/conf.d/onprem-llm-gateway.conf").read_text(encoding="utf-8")
    assert f"listen 127.0.0.1:{one_box.values['gateway_status_port']};" in listens


def drain(gateway: Gateway, directory: Path, seconds: int, *more: str) -> subprocess.CompletedProcess[str]:
    """The play, on this machine as a gateway with one node, whose files lie in ``directory``."""
    given = {
        "target": "engine0", "drain_seconds": seconds, "__balancer_drained": str(directory / "drained"),
        "__balancer_program": "/nowhere", "gateway_status_port": gateway.values["gateway_status_port"],
        "ansible_become": False,
    }  # fmt: skip
    groups = {"gateways": {"hosts": {"localhost": {}}}, "llm_nodes": {"hosts": {"engine0": {}}}}
    inventory = directory / "hosts.yml"
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(yaml.safe_dump({"all": {"children": groups, "vars": local}}), encoding="utf-8")
    return subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook", "-i", inventory, ROOT / "playbooks/drain.yml",
            "-e", json.dumps(given), *more,
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        },
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="the play gives files to root")
def test_drain_waits_for_the_only_nodes_streams(start: Any, tmp_path: Path) -> None:
    gateway: Gateway = start()
    stream = Client(gateway.port, gateway.ca, KEYS["app"])
    stream.socket.sendall(stream.request(prompt(10, 30000, 10)))
    assert soon(gateway, of(1, 0, 1)) == of(1, 0, 1)
    too_short = drain(gateway, tmp_path, 1)
    assert too_short.returncode == 2, too_short.stdout + too_short.stderr
    assert "engine0 gets no new request, but 1 still run from localhost after 1 seconds" in too_short.stdout
    assert (tmp_path / "drained/engine0").is_file()
    with ThreadPoolExecutor(1) as pool:
        enough = pool.submit(drain, gateway, tmp_path, 60)
        time.sleep(4)
        assert not enough.done()
        stream.close()
        assert enough.result().returncode == 0, enough.result().stdout + enough.result().stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the play gives files to root")
def test_drain_does_not_take_silence_for_an_idle_gateway(one_box: Gateway, tmp_path: Path) -> None:
    started = time.monotonic()
    said = drain(one_box, tmp_path, 600, "-e", f"gateway_status_port={free_port()}")
    assert said.returncode == 2
    assert "Connection refused" in said.stdout
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("listens", "said"),
    [
        ("LISTENS 127.0.0.1:9145 nginx", ""),
        (
            "LISTENS 0.0.0.0:9145 exporter",
            "gateway_status_port: 9145 on 127.0.0.1 cannot be had: exporter listens on port 9145",
        ),
    ],
)
def test_the_port_must_be_free(listens: str, said: str) -> None:
    given = {
        "gateway_users": users()[:1], "gateway_status_port": 9145, "__gateway_node_models": {},
        "__gateway_state": {"stdout_lines": ["installed nginx=1.22.1-9", listens]},
    }  # fmt: skip
    values = variables([("127.0.0.1", 1)], 8443, given)
    found = str(evaluated(values["__gateway_faults"], values) or "").strip()
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("role", "groups", "given", "said"),
    [
        ("gateway", ["gateways"], {"gateway_status_port": 8443}, "gateway_port, gateway_status_port: each is 8443"),
        ("gateway", ["gateways"], {"monitoring_exporter_port": 8443}, "gateway_port, monitoring_exporter_port: each"),
        ("gateway", ["gateways", "llm_nodes"], {"endpoint_port": 9145}, "gateway_status_port, endpoint_port: each is"),
        ("gateway", ["gateways", "llm_nodes"], {"groups": {"gateways": ["localhost"], "llm_nodes": ["localhost"]}}, ""),
        ("model_mirror", ["model_mirrors", "gateways"], {"gateway_status_port": 8444}, "_port, gateway_status_port"),
        ("model_mirror", ["model_mirrors"], {"gateway_port": 8444}, ""),
        ("model_mirror", ["model_mirrors", "llm_nodes"], {"endpoint_port": 8444}, "_port, endpoint_port: each"),
    ],
)  # fmt: skip
def test_each_part_has_a_port_of_its_own(role: str, groups: list[str], given: dict[str, Any], said: str) -> None:
    values = role_variables("model_mirror") | variables([("127.0.0.1", 1)], 8443, {
        "gateway_users": users()[:1], "__gateway_node_models": {}, "gateway_status_port": 9145, "group_names": groups,
        "groups": {"gateways": ["localhost"], "llm_nodes": ["localhost", "another"]}, "hostvars": {"localhost": {}},
        "model_mirror_address": "192.0.2.1", "model_mirror_client_names": ["another"],
        "role_path": str(ROLES / role), "ansible_search_path": [str(ROLES / role)], **given,
    })  # fmt: skip
    found = " ".join(str(evaluated(values[f"__{role}_faults"], values) or "").split())
    assert ("each needs a port of its own" in found) == bool(said), found
    assert said in found
