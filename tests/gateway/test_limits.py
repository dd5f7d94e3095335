# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits, the queue, what clients that leave give back, and what a reload does."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.attack import h2
from tests.gateway.client import Client, prompt
from tests.gateway.conftest import KEYS, SLOTS, Answer, Gateway, sha256, users
from tests.gateway.sites import free_port
from tests.unit.certificates import Authority

CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "hi"}]}


def slow(tokens: int = 30, pace: int = 30) -> dict[str, Any]:
    """A request that takes ``tokens / pace`` seconds."""
    return CHAT | {"options": {"num_predict": tokens, "seed": pace}}


def timed(gateway: Gateway, body: Any, user: str = "app") -> tuple[Answer, float]:
    started = time.monotonic()
    answer = gateway.ask("POST", "/api/chat", body, user=user)
    return answer, time.monotonic() - started


def many(gateway: Gateway, count: int, body: Any, user: str = "app") -> list[tuple[Answer, float]]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: timed(gateway, body, user), range(count)))


def idle(gateway: Gateway, seconds: float = 5) -> bool:
    """Whether the engine has nothing to do, soon."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if gateway.upstream_says("counters")["running"] == 0:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def queueing(request: pytest.FixtureRequest, start: Any) -> Gateway:
    found: Gateway = start(workers=request.param)
    return found


def test_twice_the_slots_wait_and_nobody_is_refused(queueing: Gateway) -> None:
    queueing.upstream_says("counters")
    answers = many(queueing, 2 * SLOTS, slow())
    assert [answer.status for answer, _ in answers] == [200] * 2 * SLOTS
    assert queueing.upstream_says("counters")["most"] <= SLOTS


def test_what_is_beyond_is_told_so_at_once(queueing: Gateway) -> None:
    queueing.upstream_says("counters")
    answers = many(queueing, 4 * SLOTS, slow())
    refused = [(answer, seconds) for answer, seconds in answers if answer.status != 200]
    assert len(refused) == 2 * SLOTS
    for answer, seconds in refused:
        assert (answer.status, answer.code, answer.json["error"]["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(answer.headers["retry-after"]) >= 1
        assert seconds < 1
    assert queueing.upstream_says("counters")["most"] <= SLOTS


def test_who_came_first_is_served_first(queueing: Gateway) -> None:
    ended: list[int] = []

    def ask(number: int) -> None:
        timed(queueing, slow(20, 40))
        ended.append(number)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(2 * SLOTS)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert set(ended[:SLOTS]) == set(range(SLOTS))


def test_each_model_has_its_own_slots(queueing: Gateway) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(timed, queueing, slow(30, 30) | {"model": model})
            for model in ("gemma3:270m", "qwen3:8b")
            for _ in range(SLOTS)
        ]
        assert all(future.result()[1] < 1.9 for future in futures)


def test_a_client_that_leaves_gives_slot_and_place_back(queueing: Gateway) -> None:
    clients = [Client(queueing.port, queueing.ca, KEYS["app"]) for _ in range(2 * SLOTS)]
    for client in clients:
        client.socket.sendall(client.request(prompt(10, 3000, 10)))
        time.sleep(0.05)
    assert queueing.ask("POST", "/api/chat", CHAT).code == "queue_full"
    # First who waits, then who runs.
    for client in reversed(clients):
        client.close()
    assert idle(queueing)
    answers = many(queueing, 2 * SLOTS, slow(5, 20))
    assert [answer.status for answer, _ in answers] == [200] * 2 * SLOTS


def test_a_place_that_is_left_goes_to_the_next(queueing: Gateway) -> None:
    running = [Client(queueing.port, queueing.ca, KEYS["app"]) for _ in range(SLOTS)]
    for client in running:
        client.socket.sendall(client.request(prompt(10, 3000, 10)))
    time.sleep(0.2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(timed, queueing, slow(2, 20))
        time.sleep(0.3)
        assert not waiting.done()
        running[0].close()
        assert waiting.result(5)[0].status == 200
    running[1].close()
    assert idle(queueing)


def test_a_worker_that_dies_takes_no_slot_with_it(start: Any) -> None:
    gateway: Gateway = start(workers=2)
    streams = [Client(gateway.port, gateway.ca, KEYS["app"]) for _ in range(SLOTS)]
    for client in streams:
        client.socket.sendall(client.request(prompt(10, 3000, 10)))
    time.sleep(0.3)
    for pid in Path(f"/proc/{gateway.site.pid}/task/{gateway.site.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    assert idle(gateway)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        answers = many(gateway, 2 * SLOTS, slow(5, 20))
        if [answer.status for answer, _ in answers] == [200] * 2 * SLOTS:
            break
    else:
        pytest.fail("slots of dead workers are not given back")
    assert "panic" not in gateway.site.errors()


def test_requests_a_second(gateway: Gateway) -> None:
    answers = [gateway.ask("GET", "/api/version", user="small") for _ in range(8)]
    refused = [answer for answer in answers if answer.status == 429]
    assert 3 <= len(refused) <= 5
    assert refused[0].code == "rate_limit_exceeded"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert gateway.ask("GET", "/api/version").status == 200
    time.sleep(1.2)
    assert gateway.ask("GET", "/api/version", user="small").status == 200


def test_requests_at_a_time(start: Any) -> None:
    narrow = [user | {"limits": {"requests_per_second": 100, "burst": 200, "concurrency": 1}} for user in users()]
    gateway: Gateway = start(gateway_users=narrow)
    answers = many(gateway, 3, slow())
    assert sorted(answer.status for answer, _ in answers) == [200, 429, 429]
    assert {answer.code for answer, _ in answers if answer.status == 429} == {"concurrency_exceeded"}
    assert gateway.ask("POST", "/api/chat", CHAT).status == 200


@pytest.mark.contract(7)
def test_bodies_that_never_end_count_as_requests(start: Any) -> None:
    narrow = [user | {"limits": {"requests_per_second": 100, "burst": 200, "concurrency": 2}} for user in users()]
    gateway: Gateway = start(gateway_users=narrow)
    slow_bodies = [Client(gateway.port, gateway.ca, KEYS["app"]) for _ in range(2)]
    for client in slow_bodies:
        client.socket.sendall(client.request(prompt(10, 3, 10))[:-10])
    time.sleep(0.3)
    assert gateway.ask("POST", "/api/chat", CHAT).code == "concurrency_exceeded"
    for client in slow_bodies:
        client.close()
    time.sleep(0.3)
    assert [answer.status for answer, _ in many(gateway, 2, slow(5, 20))] == [200] * 2


def test_who_left_the_line_leaves_nothing_in_memory(start: Any) -> None:
    gateway: Gateway = start()
    line = 'ngx.say(ngx.shared.onprem_llm_counters:llen("line:gemma3:270m") or 0)'
    port = free_port()
    gateway.site.write(
        "line.conf", f"server {{ listen 127.0.0.1:{port}; location / {{ content_by_lua_block {{ {line} }} }} }}"
    )
    gateway.site.reload()
    time.sleep(0.5)
    running = [Client(gateway.port, gateway.ca, KEYS["app"]) for _ in range(SLOTS)]
    for client in running:
        client.socket.sendall(client.request(prompt(10, 3000, 10)))
    time.sleep(0.2)
    lengths = []
    for _ in range(150):
        leaving = Client(gateway.port, gateway.ca, KEYS["app"])
        leaving.socket.sendall(leaving.request(prompt(10, 3, 10)))
        time.sleep(0.01)
        leaving.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            lengths.append(int(answer.read()))
    assert max(lengths) > 50
    assert lengths[-1] < 100
    for client in running:
        client.close()
    assert idle(gateway)
    assert [answer.status for answer, _ in many(gateway, 2 * SLOTS, slow(5, 20))] == [200] * 2 * SLOTS


def test_failures_of_an_address(start: Any) -> None:
    gateway: Gateway = start(gateway_address_failures_per_second=1, gateway_address_burst=3)
    answers = [gateway.ask("GET", "/api/version", user="", Authorization="Bearer wrong") for _ in range(8)]
    assert {answer.status for answer in answers} == {401, 429}
    assert int(answers[-1].headers["retry-after"]) >= 1
    # Whoever has a key is let in all the same.
    assert gateway.ask("GET", "/api/version").status == 200
    rows = gateway.logged()
    assert sum(row["status"] == 401 for row in rows) >= 3
    assert {(row["status"], row["code"]) for row in rows} == {
        (200, ""), (401, "invalid_api_key"), (429, "rate_limit_exceeded"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "more", "told"),
    [
        ("/api/chat", {"options": {"num_predict": 40}}, True),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, True),
        ("/v1/messages", {}, True),
        ("/v1/chat/completions", {}, False),
    ],
)
def test_tokens_of_a_day(start: Any, path: str, more: dict[str, Any], told: bool) -> None:
    gateway: Gateway = start()
    body = CHAT | {"messages": [{"role": "user", "content": "x" * 200}]} | more
    assert gateway.ask("POST", path, body, user="daily").status == 200
    refused = gateway.ask("POST", path, body, user="daily")
    assert (refused.status, refused.code) == (429, "daily_tokens_exceeded")
    assert [row["code"] for row in gateway.logged() if row["status"] == 429] == [refused.code]
    assert 0 < int(refused.headers["retry-after"]) <= 86400
    assert gateway.ask("POST", path, body).status == 200
    rows = [row for row in gateway.logged() if row["status"] == 200]
    assert all((row["completion_tokens"] != "") == told for row in rows)
    gateway.site.reload()
    time.sleep(1)
    assert gateway.ask("POST", path, body, user="daily").code == "daily_tokens_exceeded"


@pytest.mark.contract(7)
def test_revoked_within_one_reload_and_no_stream_is_cut(start: Any) -> None:
    gateway: Gateway = start()
    stream = Client(gateway.port, gateway.ca, KEYS["spare"])
    stream.socket.sendall(stream.request(prompt(10, 60, 30)))
    time.sleep(0.3)
    left = [dict(user) for user in users()]
    left[0]["api_keys"] = [{"sha256": sha256(KEYS["app"])}]
    gateway.site.render(gateway.values | {"gateway_users": left})
    revoked = time.monotonic()
    gateway.site.reload()
    while gateway.ask("GET", "/api/version", user="spare").status == 200:
        assert time.monotonic() - revoked < 3
    assert gateway.ask("GET", "/api/version").status == 200
    tail = b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        data = stream.socket.recv(65536)
        assert data
        tail = (tail + data)[-8:]


@pytest.mark.contract(7)
def test_a_revoked_key_gets_nothing_new_on_a_connection_whose_stream_runs_on(start: Any) -> None:
    """A worker that a reload has left behind serves its connections' streams to their end; by HTTP/2, new requests
    could come beside them."""
    gateway: Gateway = start()
    context = ssl.create_default_context(cafile=gateway.ca)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:

        def headers(stream: int, method: str, path: str, flags: int, key: str) -> bytes:
            host = f"127.0.0.1:{gateway.port}"
            told = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
            return h2.frame(h2.HEADERS, flags, stream, h2.block([*told, ("authorization", f"Bearer {KEYS[key]}")]))

        data = headers(1, "POST", "/api/chat", h2.END_HEADERS, "spare")
        connection.sendall(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0) + data)
        connection.sendall(h2.frame(h2.DATA, h2.END_STREAM, 1, prompt(10, 120, 30)))
        time.sleep(0.5)
        left = [dict(user) for user in users()]
        left[0]["api_keys"] = [{"sha256": sha256(KEYS["app"])}]
        gateway.site.render(gateway.values | {"gateway_users": left})
        gateway.site.reload()
        while gateway.ask("GET", "/api/version", user="spare").status == 200:
            time.sleep(0.05)
        # nginx has old and new workers serve beside each other for a tenth of a second.
        time.sleep(0.5)
        connection.sendall(headers(3, "GET", "/api/version", h2.END_HEADERS | h2.END_STREAM, "spare"))
        seen = h2.read(connection, patience=10)
    assert seen.statuses[1] == 200
    assert b'"done":true' in seen.bodies[1], "the stream goes on to its end"
    assert (set(seen.statuses), seen.goaway) == ({1}, 0)


def test_every_token_is_a_read_of_its_own(gateway: Gateway) -> None:
    client = Client(gateway.port, gateway.ca, KEYS["app"])
    first, reads, _ = client.ask(client.request(prompt(2000, 40, 50)))
    assert first < 0.2
    assert reads >= 36


def test_a_client_certificate_stands_for_a_key(start: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clients")
    files = {name: authority.issue(name) for name in ("search", "other")}
    der = subprocess.run(
        ["openssl", "x509", "-in", files["search"][0], "-outform", "DER"], capture_output=True, check=True
    ).stdout
    import hashlib

    more = [
        {"name": "search", "certificates": [{"sha256": hashlib.sha256(der).hexdigest()}]},
        {"name": "subject", "certificates": [{"subject": "CN=named"}]},
    ]
    gateway: Gateway = start(gateway_users=users() + more, gateway_client_ca=authority.ca)
    named = authority.issue("named")

    def ask(pair: tuple[str, str] | None, **headers: str) -> int:
        connection = gateway.connection()
        if pair:
            connection._context.load_cert_chain(*pair)  # type: ignore[attr-defined]
        connection.request("GET", "/api/version", headers=headers)
        return connection.getresponse().status

    assert ask(files["search"]) == 200
    assert ask(named) == 200
    assert ask(files["other"]) == 401
    assert ask(None) == 401
    assert ask(None, Authorization=f"Bearer {KEYS['app']}") == 200
    assert ask(files["search"], Authorization=f"Bearer {KEYS['app']}") == 401
    foreign = Authority(tmp_path, "foreign").issue("search2")
    assert ask(foreign) == 400
    connection = gateway.connection()
    connection._context.load_cert_chain(*foreign)  # type: ignore[attr-defined]
    connection.request("GET", "/api/version")
    assert json.loads(connection.getresponse().read())["error"]["code"] == "bad_request"


def test_several_nodes_are_the_balancer_s(start: Any) -> None:
    gateway: Gateway = start(balanced=True)
    assert [answer.status for answer, _ in many(gateway, 4 * SLOTS, slow(5, 20))] == [200] * 4 * SLOTS
    gateway.upstream_says("seen")
    forged = {"X-OnPrem-Model": "secret", "X-OnPrem-User": "ops"}
    assert gateway.ask("POST", "/api/chat", CHAT | {"model": "GEMMA3:270M"}, **forged).status == 200
    assert gateway.ask("GET", "/api/version", **forged).status == 200
    heads = [head.lower().split("\r\n") for head, _ in gateway.upstream_says("seen")]
    assert "x-onprem-model: gemma3:270m" in heads[0]
    for head in heads:
        assert "x-onprem-user: app" in head
        assert sum(line.startswith("x-onprem-") for line in head) == (2 if head is heads[0] else 1)
