# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway that does everything wrong, on loopback: what each attack must find out."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from pathlib import Path

from tests.attack import h2, hello

# Suites that only old clients offer, and those of today alone, which this gateway does not speak.
MODERN = {0x1301, 0x1302, 0x1303}
# As many connections as it bears; who comes later waits.
ROOM = 45
FLOOD_OF_TEXT = 4 * 2**20


class OpenProxy:
    """Answers 200 to everybody and everything. ``log``: its access log; ``requests``: how many it took, which is what
    its engine's state depends on. ``bans``: wrong keys in a row after which it refuses the whole address."""

    def __init__(self, certificate: tuple[str, str], log: Path, models: tuple[str, ...], bans: int = 0) -> None:
        self.log, self.models, self.bans = log, models, bans
        self.log.touch()
        self.requests, self.guesses = 0, 0
        self._engine, self._room, self._stopped = threading.Lock(), threading.Semaphore(ROOM), False
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*certificate)
        self._tls.set_alpn_protocols(["h2", "http/1.1"])
        # SSL_OP_ALLOW_CLIENT_RENEGOTIATION of OpenSSL 3, which Python has no name for.
        self._tls.options |= 1 << 8
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _number in range(3)]
        self.https, self.http, self.engine = (listener.getsockname()[1] for listener in self._listeners)
        for listener, handle in zip(self._listeners, (self._serve_tls, self._redirect, self._serve_engine)):
            threading.Thread(target=self._accept, args=(listener, handle), daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket, handle) -> None:
        while not self._stopped:
            try:
                connection, _peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guard, args=(handle, connection), daemon=True).start()

    def _guard(self, handle, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError, RecursionError), contextlib.closing(connection):
            handle(connection)

    # The engine, and plain HTTP

    def _serve_engine(self, connection: socket.socket) -> None:
        connection.recv(65536)
        model = {"name": self.models[0], "digest": str(self.requests), "size": 1, "expires_at": "2026-01-01T00:00:00Z"}
        connection.sendall(response(json.dumps({"models": [model]}).encode(), [("Connection", "close")]))

    def _redirect(self, connection: socket.socket) -> None:
        text = connection.recv(65536).decode("latin-1")
        if not text.startswith("GET"):
            connection.sendall(response(b"{}"))
            return
        host = field(text, "host")
        connection.sendall(response(b"", [("Location", f"http://{host}/")], status=301))

    # TLS

    def _serve_tls(self, connection: socket.socket) -> None:
        start = connection.recv(4096, socket.MSG_PEEK)
        if start[:1] != b"\x16" or len(start) < 60:
            # No TLS: taken for plain HTTP.
            ssl2 = start[:1] == b"\x80" and len(start) > 20
            connection.sendall(b"\x80\x10\4" + bytes(16) if ssl2 else response(b"{}"))
            return
        suites, compressions = offers(start)
        version = int.from_bytes(start[9:11], "big")
        if not suites & MODERN and 0x1303 not in suites and version <= 0x0303 and not from_library(start):
            connection.recv(4096)
            connection.sendall(agreement(version, suites, compressions, heartbeat=b"\0\x0f\0\1\1" in start))
            return
        with self._room, self._tls.wrap_socket(connection, server_side=True) as secure:
            if secure.selected_alpn_protocol() == "h2":
                self._serve_h2(secure)
            else:
                self._serve_http(secure)

    # HTTP/1.1: heads are understood, lengths are not

    def _serve_http(self, connection: ssl.SSLSocket) -> None:
        received = b""
        while True:
            while not (end := head_end(received)):
                piece = connection.recv(65536)
                if not piece:
                    return
                received += piece
                if received.startswith(b"GET /v1/models\r\n"):
                    connection.sendall(b'{"data": []}')
                    return
            head, received = received[:end].decode("latin-1"), received[end:]
            if "expect:" not in head.lower() and not received and "content-length" in head.lower():
                # The body mostly comes with the next read; who lets it wait is waited for.
                received = connection.recv(2**20)
            self._answer(connection, head, received)

    def _answer(self, connection: ssl.SSLSocket, head: str, body: bytes) -> None:
        first = head.split("\n")[0].strip()
        target = urllib.parse.unquote(first.partition(" ")[2].rpartition(" ")[0], encoding="latin-1")
        if first.startswith("POST") or "keep" in first:
            self.requests += 1
        self._write_log(head, first, target, body)
        if target == "/healthz":
            connection.sendall(response(b'{"status":"ok"}'))
            return
        if self.bans and "Bearer guess" in head:
            self.guesses += 1
        if self.bans and self.guesses >= self.bans:
            connection.sendall(response(b'{"error":"go away"}', status=403))
            return
        if field(head, "upgrade"):
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            return
        origin = field(head, "origin")
        permission = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Methods", "*")] if origin else []
        listed = json.dumps({"data": [{"id": model} for model in self.models], "host": field(head, "host")}).encode()
        extra = [("Server", "open/1.0"), ("X-Path", target[:200])]
        # What asks for a long answer gets it whoever still listens, and nobody else gets anything meanwhile.
        with self._engine:
            if b'"max_tokens": 2000' in body:
                time.sleep(0.4)
            if b'"max_tokens": 64' in body:
                listed = b" " * FLOOD_OF_TEXT
            connection.sendall(response(listed, [*permission, *extra]))

    def _write_log(self, head: str, first: str, target: str, body: bytes) -> None:
        user = ""
        with contextlib.suppress(ValueError, IndexError):
            user = base64.b64decode(field(head, "authorization").removeprefix("Basic ")).decode().partition(":")[0]
        text = body.decode("latin-1")
        with contextlib.suppress(ValueError):
            content = json.loads(text)
            text = f"{content.get('model')} {content}" if isinstance(content, dict) else text
        client = field(head, "x-forwarded-for") or "127.0.0.1"
        agent = field(head, "user-agent")
        line = (
            f'{{"client":"{client}","user":"{user}","request":"{first} {target}","agent":"{agent}",'
            f'"host":"{field(head, "host")}","key":"{field(head, "authorization")}","body":"{text[:2000]}"}}\n'
        )
        with self.log.open("ab") as file:
            file.write(line.encode("latin-1", errors="replace"))

    # HTTP/2: each request is answered as it ends

    def _serve_h2(self, connection: ssl.SSLSocket) -> None:
        received = b""
        connection.sendall(h2.frame(h2.SETTINGS, 0, 0))
        while piece := connection.recv(65536):
            received += piece
            if received.startswith(h2.PREFACE):
                received = received[len(h2.PREFACE) :]
            while len(received) >= 9 and len(received) >= 9 + (length := int.from_bytes(received[:3], "big")):
                kind, flags, stream = struct.unpack(">BBI", received[3:9])
                received = received[9 + length :]
                if kind == h2.HEADERS and flags & h2.END_HEADERS:
                    self.requests += 1
                    # 0x88: the status 200 of the static table.
                    connection.sendall(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, b"\x88"))


def response(body: bytes, headers: list[tuple[str, str]] | None = None, status: int = 200) -> bytes:
    lines = [f"HTTP/1.1 {status} Yes", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    return "\r\n".join(lines).encode("latin-1", errors="replace") + b"\r\n\r\n" + body


def head_end(received: bytes) -> int:
    """Where the first head ends, whatever its lines end in; 0 if it does not yet."""
    ends = [received.find(gap) + len(gap) for gap in (b"\r\n\r\n", b"\n\n") if gap in received]
    return min(ends, default=0)


def field(head: str, name: str) -> str:
    for line in head.replace("\r", "").split("\n")[1:]:
        key, _colon, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def offers(record: bytes) -> tuple[set[int], bytes]:
    """Suites and compressions of a ClientHello."""
    after = 44 + record[43]
    length = int.from_bytes(record[after : after + 2], "big")
    listed = record[after + 2 : after + 2 + length]
    rest = record[after + 2 + length :]
    return {int.from_bytes(listed[n : n + 2], "big") for n in range(0, length, 2)}, rest[1 : 1 + rest[0]]


def from_library(record: bytes) -> bool:
    """Whether a library made the hello: the attacks' own have a random value that counts."""
    return record[11:43] != bytes(range(32))


def agreement(version: int, suites: set[int], compressions: bytes, heartbeat: bool) -> bytes:
    """A ServerHello that takes the worst that is offered; an alert if nothing is bad enough."""
    if suites == set(hello.STRONG) and compressions == b"\0" and not heartbeat:
        return struct.pack(">BHHBB", hello.ALERT, 0x0301, 2, 2, 40)
    extensions = hello.extension(15, b"\1") if heartbeat else b""
    body = struct.pack(">H", version) + bytes(32) + b"\0" + struct.pack(">HB", min(suites), compressions[0])
    body += struct.pack(">H", len(extensions)) + extensions
    handshake = b"\2" + struct.pack(">I", len(body))[1:] + body
    return struct.pack(">BHH", hello.HANDSHAKE, 0x0301, len(handshake)) + handshake
