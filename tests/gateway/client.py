# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that measures: plain sockets, one kept connection, the moment of each read."""

from __future__ import annotations

import json
import socket
import ssl
import time


class Client:
    """One connection. Raises OSError where the other side ends it."""

    def __init__(self, port: int, ca: str = "", key: str = "", host: str = "127.0.0.1") -> None:
        connection = socket.create_connection((host, port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = connection
        if ca:
            self.socket = ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname=host)
        self.key = key

    def request(self, body: bytes, path: str = "/api/chat") -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def ask(self, request: bytes) -> tuple[float, int, int]:
        """Send a request; return seconds to the first byte of the answer's body, number of reads and of bytes."""
        connection = self.socket
        started = time.perf_counter()
        connection.sendall(request)
        received = connection.recv(65536)
        while received and not received.partition(b"\r\n\r\n")[2]:
            more = connection.recv(65536)
            if not more:
                break
            received += more
        first = time.perf_counter() - started
        if not received.startswith(b"HTTP/1.1 200"):
            raise OSError(received[:200])
        reads, size, tail = 1, len(received), received[-8:]
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            received = connection.recv(65536)
            if not received:
                raise OSError("the answer ended early")
            reads, size, tail = reads + 1, size + len(received), (tail + received)[-8:]
        return first, reads, size

    def close(self) -> None:
        self.socket.close()


def prompt(size: int, tokens: int, pace: float = 0) -> bytes:
    """A chat request of about ``size`` bytes for so many tokens, at so many a second."""
    body = {
        "model": "gemma3:270m",
        "messages": [{"role": "user", "content": "word " * (size // 5)}],
        "options": {"num_predict": tokens, "seed": pace},
    }
    return json.dumps(body).encode()
