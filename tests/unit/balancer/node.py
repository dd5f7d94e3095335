# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node of a script: an endpoint with mutual TLS that streams what it is told to, and counts what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from typing import Any

from certificates import Authority

MODEL = "gemma3:270m"


class Node:
    def __init__(self, name: str, authority: Authority, certificate: tuple[str, str]) -> None:
        """:param certificate: files of the certificate of any endpoint, and of its key."""
        self.name, self.authority = name, authority
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(*certificate)
        self.interval = 0.02  # seconds between two tokens
        self.running = self.connections = self.port = 0
        self.reset()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self.listen()

    def reset(self) -> None:
        """Be as at the beginning."""
        self.states = {MODEL: "answered"}
        self.most = 0  # generations at a time
        self.seen: list[str] = []  # the prompts of generations that were started
        self.headers: list[dict[str, str]] = []
        self.aborted: list[str] = []  # the prompts of those that nobody waited for any more
        self.die_on_request = False

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = self._run(
            asyncio.start_server(self._connection, "127.0.0.1", self.port, ssl=self._context, backlog=512)
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def kill(self) -> None:
        """Refuse connections from now on, and break those that there are."""

        async def close() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        self._run(close())

    def stop(self) -> None:
        if self._loop.is_running():
            self.kill()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *fields = head.strip().splitlines()
                headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(line.split()[1], headers, body, writer)
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/warm.json":
            # As warm.py writes it.
            models = [{"name": name, "state": state, "loaded": True} for name, state in self.states.items()]
            self._whole(writer, json.dumps({"schema": 1, "models": models}, indent=1).encode())
        elif path == "/api/version":
            self._whole(writer, b'{"version":"0.32.15"}')
        elif path == "/api/tags":
            self._whole(writer, json.dumps({"node": self.name}).encode())
        else:
            await self._generate(headers, json.loads(body), writer)
        await writer.drain()

    def _whole(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))

    async def _generate(self, headers: dict[str, str], asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.seen.append(asked["prompt"])
        self.headers.append(headers)
        if self.die_on_request:
            writer.transport.abort()
            raise ConnectionError
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(asked["tokens"]):
                token = b"%s %d\n" % (self.name.encode(), number)
                writer.write(b"%x\r\n%s\r\n" % (len(token), token))
                await writer.drain()
                await asyncio.sleep(self.interval)
                if writer.transport.is_closing():
                    raise ConnectionError
            writer.write(b"0\r\n\r\n")
        except ConnectionError:
            self.aborted.append(asked["prompt"])
            raise
        finally:
            self.running -= 1
