# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's gateway on loopback before a scripted upstream, and who asks it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser
from tests.gateway import packages
from tests.gateway.packages import Nginx
from tests.gateway.sites import Site, free_port, variables

KEYS = {
    name: f"onprem-llm_{name}-{'0' * 32}" for name in ("app", "ops", "narrow", "small", "old", "daily", "free", "spare")
}
PASSWORD = "correct-horse-battery-staple"
WIDE = {"requests_per_second": 10000, "burst": 20000, "concurrency": 100}
SLOTS = 2


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def plan_of(*names: str, slots: int = SLOTS) -> dict[str, list[dict[str, Any]]]:
    rows = [
        {
            "name": name,
            "shares": name,
            "slots": slots,
            "context_length": 8192,
            "digest": "ab" * 32,
            "size": 1,
            "quantization": "Q4_K_M",
        }
        for name in names
    ]
    return {"node": rows}


def users() -> list[dict[str, Any]]:
    """One for each thing that a user may be."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", "salt", "-stdin"],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    def user(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "api_keys": [{"sha256": sha256(KEYS[name])}], "limits": WIDE, **more}

    return [
        user(
            "app", password_hash=hashed, api_keys=[{"sha256": sha256(KEYS["app"])}, {"sha256": sha256(KEYS["spare"])}]
        ),
        user("ops", role="admin"),
        user("narrow", models=["gemma3:270m"], rights=[]),
        user("small", limits={"requests_per_second": 1, "burst": 3, "concurrency": 2, "body_mib": 1}),
        user("old", api_keys=[{"sha256": sha256(KEYS["old"]), "ends": "2026-01-31"}]),
        user("daily", limits=WIDE | {"daily_tokens": 30}),
        user("free", rights=["raw", "template", "system"]),
    ]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's shape."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


@dataclass
class Gateway:
    """A gateway, its upstream, and how to ask it."""

    site: Site
    port: int
    upstream: int
    ca: str
    values: dict[str, Any] = field(default_factory=dict)

    def connection(self, timeout: float = 30) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.ca)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)

    def ask(self, method: str, path: str, body: Any = None, user: str = "app", **headers: str) -> Answer:
        """``body`` as it is where it is bytes or text, else as JSON; the key of ``user`` unless it is empty."""
        connection = self.connection()
        content = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        if user:
            headers = {"Authorization": f"Bearer {KEYS[user]}"} | headers
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode()
        )
        connection.close()
        return answer

    def raw(self, data: bytes, timeout: float = 5) -> bytes:
        """Bytes as they are; what comes back until the connection ends or is silent."""
        context = ssl.create_default_context(cafile=self.ca)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        received = b""
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            while data := connection.recv(65536):
                received += data
        return received

    def upstream_says(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.upstream}/{what}", timeout=10) as answer:
            return json.load(answer)

    def logged(self) -> list[dict[str, Any]]:
        """The access log, which nginx writes once a second."""
        time.sleep(1.2)
        path = self.site.directory / "var/log/nginx/onprem-llm-gateway.log"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def nginx() -> Nginx:
    """This machine's own, or that of the release that NGINX_OF_RELEASE names."""
    return packages.unpack(os.environ.get("NGINX_OF_RELEASE", ""))


@pytest.fixture(scope="session")
def start(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts gateways with an upstream each; ``workers`` processes with so many ``connections``
    each."""
    running: list[tuple[Site, subprocess.Popen[bytes]]] = []

    def one(workers: int = 1, balanced: bool = False, connections: int = 2048, **given: Any) -> Gateway:
        upstream, port = free_port(), free_port()
        site = Site(nginx, Path(tmp_path_factory.mktemp("gateway")), workers, connections)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.upstream", str(upstream), str(site.directory / "run/balancer.sock")],
            cwd=packages.ROOT,
            env=os.environ,
        )
        running.append((site, process))
        ca = str(site.certify())
        if balanced:
            given = given | {
                "gateway_balancer_socket": f"{site.directory}/run/balancer.sock",
                "gateway_upstreams": [{"name": name, "address": "192.0.2.1", "port": 8443} for name in ("one", "two")],
            }
        values = variables([("127.0.0.1", upstream)], port, {
            "gateway_users": users(), "__gateway_node_models": plan_of("gemma3:270m", "qwen3:8b",
            "hf.co/acme/thing:q4"),
            "gateway_address_failures_per_second": 1000, "gateway_address_burst": 1000,
            "gateway_address_requests_per_second": 10000,
            "gateway_address_requests_burst": 10000, "gateway_queue_timeout_seconds": 20, **given,
        }, nginx.version)  # fmt: skip
        site.render(values)
        site.start(port)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", upstream)) == 0:
                    break
            time.sleep(0.05)
        return Gateway(site, port, upstream, ca, values)

    yield one
    for site, process in running:
        site.stop()
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def gateway(start: Any) -> Gateway:
    """One that most tests share."""
    found: Gateway = start(gateway_admin_api=True, gateway_cors_origins=["https://chat.example.com"])
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, for the pages."""
    with Browser() as found:
        yield found
