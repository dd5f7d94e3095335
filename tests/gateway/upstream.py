# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed upstream in the engine's words, without a model: answers at once, or at a pace, and counts what it sees.

The body may say how: ``{"tokens": 16, "pace": 100}`` is 16 pieces, 100 a second; without a pace all come at once.
``python -m tests.gateway.upstream PORT [SOCKET]`` runs it alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKEN = chunk(
    b'{"model":"gemma3:270m","created_at":"2026-11-22T04:00:00Z",'
    b'"message":{"role":"assistant","content":" token"},"done":false}\n'
)


def last(prompt: int, completion: int) -> bytes:
    row = {
        "model": "gemma3:270m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
        "total_duration": 1, "prompt_eval_count": prompt, "prompt_eval_duration": 1, "eval_count": completion,
        "eval_duration": 1,
    }  # fmt: skip
    return chunk(json.dumps(row, separators=(",", ":")).encode() + b"\n") + b"0\r\n\r\n"


class Counters:
    """What the upstream saw: connections, requests, the most that ran at once."""

    def __init__(self) -> None:
        self.connections = self.requests = self.running = self.most = 0
        self.seen: list[tuple[str, bytes]] = []


class Engine(asyncio.Protocol):
    """One connection. Requests come one after another."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.buffer = b""
        self.task: asyncio.Task | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.counters.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.counters.requests += 1
        # HTTP/1.0 as nginx speaks it by default: the connection ends with the answer.
        self.closes = b" HTTP/1.0\r\n" in head
        self.answer(head.decode("latin-1"), rest[:length])

    def answer(self, head: str, body: bytes) -> None:
        counters = self.counters
        if len(counters.seen) < 1000:
            counters.seen.append((head, body))
        path = head.split(" ", 2)[1]
        if path == "/counters":
            told = json.dumps(
                {name: getattr(counters, name) for name in ("connections", "requests", "running", "most")}
            )
            self.plain(told.encode())
            counters.most = counters.running
        elif path == "/seen":
            self.plain(json.dumps([[head, body.decode("latin-1")] for head, body in counters.seen[:-1]]).encode())
            counters.seen.clear()
        elif path == "/api/ps":
            self.plain(
                json.dumps(
                    {"models": [{"name": "gemma3:270m", "model": "gemma3:270m"}, {"name": "secret:latest", "size": 1}]}
                ).encode()
            )
        elif not body.startswith(b"{"):
            self.plain(b'{"version":"0.32.15"}')
        else:
            said = json.loads(body)
            options = said.get("options") or {}
            if path.startswith("/v1/"):
                self.events(path, said, len(body) // 4)
                return
            tokens, pace = int(options.get("num_predict", 3)), float(options.get("seed", 0))
            if pace <= 0:
                self.transport.write((HEAD[:-2] + b"Connection: close\r\n\r\n" if self.closes else HEAD) + TOKEN)
                self.transport.write(TOKEN * max(0, tokens - 2))
                self.transport.write(last(len(body) // 4, tokens))
                if self.closes:
                    self.transport.close()
            else:
                self.task = asyncio.get_running_loop().create_task(self.paced(tokens, pace, len(body) // 4))

    def events(self, path: str, said: dict, prompt: int) -> None:
        """Server-sent events in the words of OpenAI or Anthropic, three tokens.

        Usage where it is asked for, or always told.
        """
        rows = [{"choices": [{"delta": {"content": " token"}}]}] * 3
        if path == "/v1/messages":
            rows = [{"type": "message_start", "message": {"usage": {"input_tokens": 0}}}, *rows]
            rows.append({"type": "message_delta", "usage": {"input_tokens": prompt, "output_tokens": 3}})
        elif (said.get("stream_options") or {}).get("include_usage"):
            rows.append(
                {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}}
            )
        text = b"".join(chunk(b"data: " + json.dumps(row).encode() + b"\n\n") for row in rows) + chunk(
            b"data: [DONE]\n\n"
        )
        self.transport.write(HEAD.replace(b"application/x-ndjson", b"text/event-stream") + text + b"0\r\n\r\n")

    def plain(self, body: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    async def paced(self, tokens: int, pace: float, prompt: int) -> None:
        counters = self.counters
        counters.running += 1
        counters.most = max(counters.most, counters.running)
        try:
            begin = time.monotonic()
            self.transport.write(HEAD + TOKEN)
            for number in range(1, tokens - 1):
                await asyncio.sleep(max(0.0, begin + number / pace - time.monotonic()))
                self.transport.write(TOKEN)
            await asyncio.sleep(max(0.0, begin + (tokens - 1) / pace - time.monotonic()))
            self.transport.write(last(prompt, tokens))
        finally:
            counters.running -= 1


async def serve(port: int, path: str = "") -> None:
    """Listen on a port of 127.0.0.1, and on a Unix socket if there is a path."""
    counters = Counters()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(counters), "127.0.0.1", port, backlog=1024)
    if path:
        await loop.create_unix_server(lambda: Engine(counters), path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:3]))
