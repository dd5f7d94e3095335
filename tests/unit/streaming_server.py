# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on loopback that streams chat completions as scripted: when the first piece comes, at which pace, and how
it ends. A prompt has two tokens a word and seven of its own."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Script:
    """One answer. Delays are seconds.

    :ivar ending: ``done``, ``cut``, ``no usage``, ``no JSON``, ``error`` or ``silent``.
    """

    status: int = 200
    first: float = 0.0
    gap: float = 0.0
    pieces: int = 4
    tokens_a_piece: int = 1
    ending: str = "done"
    words: str = ""


class Server:
    """``choose`` gives the script of the n-th request (from 0); ``slots`` are served at once, the others wait."""

    def __init__(self, choose: Callable[[int, dict[str, Any]], Script], slots: int = 1000) -> None:
        self.choose, self.slots = choose, threading.Semaphore(slots)
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most = 0

    def next(self, body: dict[str, Any], headers: dict[str, str]) -> Script:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            return self.choose(len(self.bodies) - 1, body)

    def count(self, change: int) -> None:
        with self.lock:
            self.running += change
            self.most = max(self.most, self.running)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script = self.server.plan.next(body, dict(self.headers))
        self.server.plan.count(1)
        try:
            if script.status != 200:
                self.refuse(script)
                return
            with self.server.plan.slots:
                self.stream(script, body)
        except OSError:
            self.close_connection = True
        finally:
            self.server.plan.count(-1)

    def refuse(self, script: Script) -> None:
        content = script.words.encode() or json.dumps({"error": {"message": "refused by the script"}}).encode()
        self.send_response(script.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def piece(self, text: str) -> None:
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self, script: Script, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # As servers do, an event without text comes at once.
        self.piece(json.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
        time.sleep(script.first)
        pieces = min(script.pieces, body.get("max_tokens") or body["max_completion_tokens"])
        for number in range(pieces):
            if number:
                time.sleep(script.gap)
            self.piece(json.dumps({"choices": [{"delta": {"content": "word "}}]}))
        if script.ending == "cut":
            self.close_connection = True
            return
        if script.ending == "silent":
            time.sleep(script.gap)
            self.close_connection = True
            return
        if script.ending == "no JSON":
            self.piece("{not json")
        if script.ending == "error":
            self.piece(json.dumps({"error": {"message": "the runner has stopped"}}))
        said = body["messages"][0]["content"]
        words = len((said if isinstance(said, str) else " ".join(part["text"] for part in said)).split())
        usage = {"prompt_tokens": 2 * words + 7, "completion_tokens": pieces * script.tokens_a_piece}
        if script.ending != "no usage":
            self.piece(json.dumps({"choices": [], "usage": usage}))
        self.piece("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(choose: Callable[[int, dict[str, Any]], Script], slots: int = 1000) -> Iterator[tuple[str, Server]]:
    """The server's address, and what it saw."""
    http = _Threads(("127.0.0.1", 0), Handler)
    http.plan = Server(choose, slots)  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", http.plan  # type: ignore[attr-defined]
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
