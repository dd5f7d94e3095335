# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers and users cannot take from others: memory, connections, places in the limits of an address."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.client import Client, prompt
from tests.gateway.conftest import KEYS, Gateway
from tests.gateway.packages import Nginx
from tests.gateway.sites import endpoint, free_port
from tests.gateway.test_limits import CHAT, idle, slow

MIB = 1 << 20


def probe(gateway: Gateway, lua: str) -> Any:
    """What a chunk of Lua inside the gateway's nginx says, as JSON."""
    port = free_port()
    code = f'local cjson = require "cjson" {lua}'
    gateway.site.write(
        f"probe{port}.conf", f"server {{ listen 127.0.0.1:{port}; location / {{ content_by_lua_block {{ {code} }} }} }}"
    )
    gateway.site.reload()
    time.sleep(0.5)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return json.load(answer)


# --- Bodies


def curl(gateway: Gateway, body: bytes, *more: str) -> tuple[int, str]:
    """Status and protocol of a request whose body has no length that is told before."""
    said = subprocess.run(
        [
            "curl", "--silent", "--cacert", gateway.ca, "--header", f"Authorization: Bearer {KEYS['app']}",
            "--request", "POST", "--upload-file", "-", "--write-out", "\n%{http_code} %{http_version}", *more,
            f"https://127.0.0.1:{gateway.port}/api/chat",
        ],
        input=body, capture_output=True, check=True,
    ).stdout  # fmt: skip
    status, version = said.rpartition(b"\n")[2].split()
    return int(status), version.decode()


@pytest.mark.contract(7)
def test_no_body_is_ever_a_file(start: Any) -> None:
    gateway: Gateway = start()
    # Where nginx would put it, there is nothing to put it into.
    shutil.rmtree(gateway.site.directory / "run/onprem-llm-gateway")
    large = json.dumps(CHAT | {"images": ["A" * (4 * MIB)]}).encode()
    assert gateway.ask("POST", "/api/chat", large).status == 200
    assert curl(gateway, large, "--http1.1", "--expect100-timeout", "0.1") == (200, "1.1")
    assert curl(gateway, large, "--http2") == (200, "2")
    # The largest is read to its end, and one that is larger is not.
    largest = json.dumps(CHAT | {"keep_alive": 0}).encode()
    largest += b" " * (32 * MIB - len(largest))
    assert gateway.ask("POST", "/api/chat", largest).code == "option_not_allowed"
    assert gateway.ask("POST", "/api/chat", largest + b" ").code == "request_too_large"
    for more in (b" ", b" " * MIB):
        assert curl(gateway, largest + more, "--http2")[0] == 413
        assert curl(gateway, largest + more, "--http1.1", "--expect100-timeout", "0.1")[0] == 413


@pytest.mark.contract(7)
def test_nor_is_it_on_a_node(start: Any, nginx: Nginx, tmp_path: Path) -> None:
    gateway: Gateway = start()
    site, port = endpoint(nginx, tmp_path, gateway.upstream)
    try:
        for place in (tmp_path / "run").iterdir():
            if place.is_dir():
                place.rmdir()
        pki = tmp_path / "etc/onprem-llm/pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "gateway-client.crt", pki / "gateway-client.key")
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
        connection.request("POST", "/api/chat", json.dumps(CHAT | {"images": ["A" * (4 * MIB)]}))
        assert connection.getresponse().status == 200
        assert len(gateway.upstream_says("seen")[0][1]) > 4 * MIB
    finally:
        site.stop()


def unfinished(gateway: Gateway, length: int, user: str = "app") -> Client:
    """A request that does not send the last of its body."""
    client = Client(gateway.port, gateway.ca, KEYS[user])
    head = client.request(b"").replace(b"Content-Length: 0", b"Content-Length: %d" % length)
    client.socket.sendall(head + b"{")
    return client


@pytest.mark.contract(7)
def test_bodies_have_so_much_memory_together_and_no_more(start: Any) -> None:
    gateway: Gateway = start(workers=2, gateway_body_max_mib=2, gateway_bodies_max_mib=5)
    large = CHAT | {"images": ["A" * MIB]}
    held = [unfinished(gateway, 2 * MIB) for _ in range(2)]
    time.sleep(0.3)
    refused = gateway.ask("POST", "/api/chat", large | {"images": ["A" * (2 * MIB - 1000)]})
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "overloaded", "5")
    # One without a length may become as large as any.
    assert curl(gateway, json.dumps(large).encode(), "--http2")[0] == 503
    # An admin's, too.
    assert gateway.ask("POST", "/api/show", large, user="ops").status == 404
    assert gateway.ask("POST", "/api/chat", CHAT | {"images": ["A" * 900_000]}).status == 200
    assert gateway.ask("POST", "/api/chat", CHAT).status == 200
    held.pop().close()
    time.sleep(0.3)
    assert curl(gateway, json.dumps(large).encode(), "--http2")[0] == 200
    # While an answer is under way, nginx has the body.
    streams = [Client(gateway.port, gateway.ca, KEYS["app"]) for _ in range(2)]
    for stream in streams:
        body = json.dumps(slow(3000, 10) | {"images": ["A" * (MIB + MIB // 4)]})
        stream.socket.sendall(stream.request(body.encode()))
    time.sleep(0.5)
    assert gateway.ask("POST", "/api/chat", large).status == 503
    for client in [*streams, *held]:
        client.close()
    assert idle(gateway)
    assert probe(gateway, 'ngx.say(cjson.encode(ngx.shared.onprem_llm_counters:get("bodies")))') == 0


# --- Connections


def closed_after(connection: socket.socket, most: float) -> float:
    """Seconds until the other side has ended the connection; ``most`` where it has not by then."""
    started = time.monotonic()
    while (left := started + most - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(4096):
                break
        except TimeoutError:
            return most
        except OSError:
            break
    return time.monotonic() - started


def secured(gateway: Gateway) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=gateway.ca)
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def silent(gateway: Gateway, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    connection.sendall(said)
    return connection


# The first bytes of a ClientHello whose rest does not come.
HELLO = bytes.fromhex("16030102000100")


@pytest.mark.contract(7)
def test_who_does_not_get_on_loses_the_connection(gateway: Gateway) -> None:
    def dribble(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(40):
                connection.sendall(b"X-%d: a\r\n" % number)
                time.sleep(0.5)

    connections: dict[str, socket.socket] = {
        "says nothing": silent(gateway), "half a handshake": silent(gateway, HELLO),
        "no request after it": secured(gateway), "a header that never ends": secured(gateway),
    }  # fmt: skip
    threading.Thread(target=dribble, args=[connections["a header that never ends"]], daemon=True).start()
    seconds: dict[str, float] = {}
    waiting = [
        threading.Thread(target=lambda name=name: seconds.update({name: closed_after(connections[name], 15)}))
        for name in connections
    ]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert set(seconds) == set(connections)
    assert max(seconds.values()) < 12, seconds


def test_a_stranger_keeps_no_connection_and_a_user_does(gateway: Gateway) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    stranger, user = secured(gateway), secured(gateway)
    stranger.sendall(request % b"")
    assert stranger.recv(4096).startswith(b"HTTP/1.1 401")
    assert closed_after(stranger, 2) < 1
    for _ in range(2):
        user.sendall(request % f"Authorization: Bearer {KEYS['app']}\r\n".encode())
        assert user.recv(16384).startswith(b"HTTP/1.1 200")
    assert closed_after(user, 0.5) == 0.5


def test_idle_connections_give_way_to_requests(start: Any) -> None:
    gateway: Gateway = start(connections=128)
    with contextlib.ExitStack() as stack:
        for number in range(400):
            connection = secured(gateway) if number % 4 == 0 else silent(gateway)
            stack.enter_context(contextlib.closing(connection))
        assert gateway.ask("POST", "/api/chat", CHAT).status == 200
        # Those that have begun something are not taken from them: of these, the kernel has to let fewer in.
        streams = [Client(gateway.port, gateway.ca, KEYS["app"]) for _ in range(2)]
        for stream in streams:
            stream.socket.sendall(stream.request(prompt(10, 20, 10)))
        for _ in range(200):
            stack.enter_context(contextlib.closing(silent(gateway)))
        for stream in streams:
            tail = b""
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                data = stream.socket.recv(65536)
                assert data, "a stream was cut for idle connections"
                tail = (tail + data)[-8:]


# --- Limits of an address


@pytest.fixture
def by_proxy(start: Any) -> Gateway:
    """A gateway that believes this machine who its clients are, and lets an address fail and ask but three times."""
    found: Gateway = start(
        gateway_trusted_proxies=["127.0.0.1"], gateway_address_failures_per_second=1, gateway_address_burst=2,
        gateway_address_requests_per_second=1, gateway_address_requests_burst=7,
    )  # fmt: skip
    return found


NEIGHBOURS = [f"2001:db8:0:1::{number:x}" for number in range(1, 15)]
OTHERS = [f"2001:db8:0:{number:x}::1" for number in range(2, 16)]
MAPPED = [f"::ffff:198.51.100.{number}" for number in range(1, 15)]
# With a line's end in the /64, which a pattern may stumble over.
LINES = [f"2001:db8:a0a:a0a::{number:x}" for number in range(1, 15)]


@pytest.mark.contract(7)
def test_an_address_of_ipv6_counts_with_its_64(by_proxy: Gateway) -> None:
    def asked(addresses: list[str], **more: Any) -> list[int]:
        return [by_proxy.ask("GET", "/v1/models", **more, **{"X-Forwarded-For": one}).status for one in addresses]

    for network in (NEIGHBOURS, LINES):
        # Failures of one are those of all, and so are requests.
        assert asked(network[:3], user="") == [401] * 3
        assert asked(network[3:5], user="") == [429] * 2
        assert asked(network[5:8]) == [200] * 3
        assert 429 in asked(network[8:])
    for addresses in (OTHERS, MAPPED):
        assert asked(addresses[:4], user="") == [401] * 4
        assert asked(addresses) == [200] * len(addresses)


def test_what_is_counted_by_address_is_forgotten_and_only_then(by_proxy: Gateway) -> None:
    def lives(gateway: Gateway) -> dict[str, float]:
        said: dict[str, float] = probe(
            gateway,
            """
            local found = {}
            for _, key in ipairs(ngx.shared.onprem_llm_strangers:get_keys(0)) do
                found[ngx.encode_base64(key)] = ngx.shared.onprem_llm_strangers:ttl(key)
            end
            ngx.say(cjson.encode(found))""",
        )
        return said

    for address in OTHERS[:5]:
        by_proxy.ask("GET", "/v1/models", user="", **{"X-Forwarded-For": address})
    first = lives(by_proxy)
    assert len(first) == 5
    # Three at once are three seconds, and a minute.
    assert all(60 < life <= 63 for life in first.values())
    time.sleep(1.5)
    by_proxy.ask("GET", "/v1/models", user="", **{"X-Forwarded-For": OTHERS[0]})
    later = lives(by_proxy)
    assert sum(life > first[key] - 1 for key, life in later.items()) == 1
    assert len(later) == 5


def test_requests_leave_no_counter_behind_that_never_ends(start: Any) -> None:
    gateway: Gateway = start(workers=2)
    for user in ("app", "narrow", "free", "small"):
        for _ in range(3):
            assert gateway.ask("POST", "/api/chat", CHAT, user=user).status == 200
    left = probe(
        gateway,
        """
        local found = {}
        for _, key in ipairs(ngx.shared.onprem_llm_counters:get_keys(0)) do
            local life = ngx.shared.onprem_llm_counters:ttl(key)
            if life == 0 then
                found[#found + 1] = key:gsub("^of:%d+:", "")
            end
        end
        ngx.say(cjson.encode(found))""",
    )
    models = {f"{kind}:{model}" for kind in ("running", "waiting", "line") for model in ("gemma3:270m",)}
    assert set(left) <= models | {"workers"} | {f"user:{user}" for user in ("app", "narrow", "free", "small")}
