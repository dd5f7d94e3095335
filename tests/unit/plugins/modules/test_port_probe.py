# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""port_probe against real sockets of this machine and an ``ip`` that keeps its routes in a file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _port_probe as probe

Run = Callable[..., dict[str, Any]]
# Keeps a line a route; an address that is the host's own is routed by the kernel's local table, whatever is added.
IP = """#!/bin/sh
routes={routes}
case "$*" in
    "route add"*) grep -q "^$3 " $routes && exit 2; echo "$3 via $5 dev eth0" >>$routes; echo "$*" >>{log} ;;
    "route del"*) grep -v "^$3 via $5 " $routes >$routes.new; mv $routes.new $routes; echo "$*" >>{log} ;;
    *"route get 10.9.9.1"*) echo "local 10.9.9.1 dev lo src 10.9.9.1" ;;
    *"route get"*) grep "^$4 " $routes ;;
esac
"""


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program, table = tmp_path / "bin" / "ip", tmp_path / "routes"
    program.parent.mkdir()
    program.write_text(IP.format(routes=table, log=tmp_path / "log"))
    program.chmod(0o755)
    table.touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return table


def test_open_and_closed_are_told_apart(run: Run, listening: int, closed: int) -> None:
    result = run("port_probe", addresses=["127.0.0.1"], ports=[listening, closed], timeout=1)
    assert result["open"] == result["unexpected"] == [f"127.0.0.1:{listening}"]
    assert (result["tried"], result["source"], result["changed"]) == (2, "127.0.0.1", False)


def test_a_rule_explains_what_is_open(run: Run, listening: int) -> None:
    rules = [{"port": str(listening), "from": "127.0.0.0/8"}]
    result = run("port_probe", addresses=["127.0.0.1"], ports=[listening], rules=rules)
    assert (result["open"], result["unexpected"]) == ([f"127.0.0.1:{listening}"], [])
    assert result["promised"] == [listening]


def test_an_address_of_ipv6_is_asked_from_one_of_ipv6(run: Run, closed: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        rules = [{"port": str(port), "from": "::1"}, {"port": str(closed), "from": "127.0.0.0/8"}]
        result = run("port_probe", addresses=["::1"], ports=[port, closed], rules=rules)
    assert (result["open"], result["unexpected"], result["source"]) == ([f"[::1]:{port}"], [], "::1")
    assert result["promised"] == [port], "what is opened to IPv4 is not promised to it"


@pytest.mark.parametrize(
    ("port", "source", "rule", "explained"),
    [
        (443, "192.0.2.5", {"port": "443", "from": "any"}, True),
        (443, None, {"port": "443", "from": "any"}, True),
        (443, "192.0.2.5", {"port": "443", "from": "192.0.2.0/24"}, True),
        (443, "192.0.2.5", {"port": "443", "from": "192.0.2.5"}, True),
        (443, "192.0.2.5", {"port": "443", "from": "198.51.100.0/24"}, False),
        (443, "192.0.2.5", {"port": "443", "from": "2001:db8::/32"}, False),
        (443, None, {"port": "443", "from": "192.0.2.0/24"}, False),
        (8005, "192.0.2.5", {"port": "8000:8010", "from": "any"}, True),
        (8011, "192.0.2.5", {"port": "8000:8010", "from": "any"}, False),
        (8443, "192.0.2.5", {"port": "443", "from": "any"}, False),
    ],
)
def test_rules(port: int, source: str | None, rule: dict[str, str], explained: bool) -> None:
    assert probe.explained(port, source, [rule]) is explained


def test_routes_are_there_while_it_asks_and_gone_afterwards(run: Run, routes: Path, tmp_path: Path) -> None:
    routes.write_text("10.8.0.0/16 via 10.0.0.254 dev eth0\n10.9.9.7 via 10.0.0.254 dev eth0\n")
    before = routes.read_text()
    # Nobody answers there: a port of TEST-NET, refused or not answered within the time.
    result = run("port_probe", routed=["10.9.9.2", "10.9.9.1", "10.9.9.7"], via="10.0.0.1", ports=[1], timeout=0.2)
    assert result["not_tried"] == ["10.9.9.1", "10.9.9.7"], "its own address, and one with a route of somebody else's"
    assert result["tried"] == 1
    assert "route add 10.9.9.2 via 10.0.0.1" in (tmp_path / "log").read_text()
    assert routes.read_text() == before


def test_routed_needs_via(run: Run) -> None:
    assert "via" in run("port_probe", routed=["192.0.2.1"], ports=[1])["msg"]


def test_a_rule_that_is_none_is_refused(run: Run, listening: int) -> None:
    rules = [{"port": str(listening), "from": "everybody"}]
    assert "everybody" in run("port_probe", addresses=["127.0.0.1"], ports=[listening], rules=rules)["msg"]
