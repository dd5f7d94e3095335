# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""That a gateway which keeps what it should give back is seen."""

from __future__ import annotations

import dataclasses
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from certificates import Authority

from tests.soak.figures import Sample, faults, trend
from tests.soak.load import Load

MIB = 2**20
IDLE = Sample(0, 40 * MIB, 60, 0, 0)
AFTER = Sample(620, 42 * MIB, 70, 0, 10)
GOOD = {"200": 1000, "429": 20}


def samples(change: Callable[[int], dict] = lambda n: {}) -> list[Sample]:
    """A load that fills up for a minute, and then is steady, with a ripple."""
    steady = [Sample(n * 2, (40 + min(n, 30) // 10 + n % 2) * MIB, 90 + min(n, 30) + n % 5, 25, 20) for n in range(300)]
    return [dataclasses.replace(sample, **change(n)) for n, sample in enumerate(steady)]


def test_steady_gateway_is_good() -> None:
    assert faults(samples(), IDLE, AFTER, GOOD) == []


@pytest.mark.parametrize(
    ("change", "idle", "after", "counts", "told"),
    [
        (lambda n: {"memory_bytes": 40 * MIB + n * 20_000}, IDLE, AFTER, GOOD, "memory grew from"),
        (lambda n: {"descriptors": 90 + n // 5}, IDLE, AFTER, GOOD, "descriptors grew from"),
        (lambda n: {}, IDLE, dataclasses.replace(AFTER, clients=3), GOOD, "3 connections of clients are left"),
        (lambda n: {}, IDLE, dataclasses.replace(AFTER, descriptors=120), GOOD, "50 descriptors more"),
        (
            lambda n: {},
            IDLE,
            dataclasses.replace(AFTER, upstreams=90, descriptors=150),
            GOOD,
            "90 connections to engines",
        ),
        (lambda n: {}, IDLE, AFTER, GOOD | {"502": 1}, "'502': 1"),
        (lambda n: {}, IDLE, AFTER, GOOD | {"broken": 1}, "'broken': 1"),
        (lambda n: {}, IDLE, AFTER, {"429": 9}, "nothing was answered"),
    ],
)
def test_leak_is_told(change: Callable, idle: Sample, after: Sample, counts: dict, told: str) -> None:
    found = faults(samples(change), idle, after, counts)
    assert len(found) == 1
    assert told in found[0]


def test_warm_up_does_not_count() -> None:
    found = trend(samples(lambda n: {"memory_bytes": 10 * MIB if n < 50 else 40 * MIB}), "memory_bytes")
    assert found.growth == 0


def test_too_few_samples_are_told() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend(samples()[:8], "descriptors")


class Server(BaseHTTPRequestHandler):
    """Answers chats by streams of three events, every third of them broken off; knows one key."""

    protocol_version = "HTTP/1.1"
    streams = 0

    def log_message(self, *given: object) -> None:
        pass

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.say(200 if self.headers["Authorization"] == "Bearer key" else 401, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Server.streams += 1
        end = b"" if Server.streams % 3 == 0 else b"data: [DONE]\n\n"
        self.say(200, b"data: {}\n\ndata: {}\n\n" + end)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        found.socket = context.wrap_socket(found.socket, server_side=True)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_port, authority.ca
        found.shutdown()


def test_load_counts_what_it_gets(server: tuple[int, str]) -> None:
    port, ca_file = server
    context = ssl.create_default_context(cafile=ca_file)
    load = Load(("127.0.0.1", port), context, "key", "model", time.monotonic() + 1.5)
    for thread in load.run(4):
        thread.join(10)
        assert not thread.is_alive()
    assert load.counts["200"] > 10
    assert load.counts["left"] > 0
    assert load.counts["refused"] > 0
    # A stream without its end is no answer.
    assert load.counts["broken"] > 0
    assert set(load.counts) == {"200", "left", "refused", "broken"}
    assert load.tokens > 0
