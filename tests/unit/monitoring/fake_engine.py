"""An Ollama as far as the deep health check asks it, played by a thread of the test."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEngine:
    """Ollama's API as far as the check uses it; `posts` keeps what it was asked."""

    def __init__(self) -> None:
        self.loaded = [
            {"name": "chat-model:q4", "size": 1000, "size_vram": 1000, "context_length": 8192},
            {"name": "embedder:latest", "size": 60, "size_vram": 0, "context_length": 512},
        ]
        self.answers: dict[str, tuple[int, Any]] = {
            "/api/version": (200, {"version": "0.32.15"}),
            "/api/generate": (200, {"response": "x", "done": True}),
            "/api/embed": (200, {"embeddings": [[0.1, 0.2]]}),
        }
        self.shown: dict[str, dict[str, str]] = {}  # what /api/show says of models that are there
        self.delay = 0.0
        self.posts: list[tuple[str, dict[str, Any]]] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path == "/api/show":
                    shown = engine.shown.get(json.loads(body)["model"])
                    engine.answers[self.path] = (404, {"error": "not found"}) if shown is None else (200, shown)
                elif body:
                    engine.posts.append((self.path, json.loads(body)))
                    time.sleep(engine.delay)
                answers = {**engine.answers, "/api/ps": (200, {"models": engine.loaded})}
                code, content = answers[self.path]
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # a client that gave up
                    self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
