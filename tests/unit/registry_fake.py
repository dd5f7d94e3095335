# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model registry on loopback that answers well, or in each way that a registry can answer badly."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL, PROJECTOR = "application/vnd.ollama.image.model", "application/vnd.ollama.image.projector"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class State:
    """``fault`` is the way in which blobs are answered badly; ``requests`` are (path, range) of each request."""

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    fault: str = ""
    sent: int = 0

    def put(self, name: str, weights: bytes, *projectors: bytes, size: int | None = None) -> str:
        """Hold a model under ``library/<model>``; the weights' digest."""
        layers = [(MODEL, weights), *((PROJECTOR, data) for data in projectors)]
        self.blobs.update({digest(data): data for _kind, data in layers})
        model, tag = name.split(":")
        self.manifests[f"/v2/library/{model}/manifests/{tag}"] = json.dumps(
            {
                "schemaVersion": 2,
                "config": {"digest": digest(b"{}"), "size": 2},
                "layers": [
                    {"mediaType": kind, "digest": digest(data), "size": size or len(data)} for kind, data in layers
                ],
            }
        ).encode()
        return digest(weights)

    @property
    def paths(self) -> list[str]:
        return [path for path, _range in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        for start in range(0, len(body), 65536):
            self.wfile.write(body[start : start + 65536])
            self.server.state.sent += 65536

    def do_GET(self) -> None:
        state: State = self.server.state
        state.requests.append((self.path, self.headers.get("Range", "")))
        if state.fault == "silent":
            time.sleep(3)
        elif state.fault == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _index in range(60):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif state.fault.isdigit():
            self._answer(int(state.fault))
        elif self.path in state.manifests:
            assert self.headers["Accept"] == "application/vnd.docker.distribution.manifest.v2+json"
            self._answer(200, state.manifests[self.path])
        elif "/blobs/" in self.path and self.path.rpartition("/")[2] in state.blobs:
            self._blob(state.blobs[self.path.rpartition("/")[2]])
        elif self.path.startswith("/cdn/"):
            self._range(state.blobs[self.path[5:]])
        else:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def _blob(self, data: bytes) -> None:
        if self.server.state.fault == "redirect":
            self._answer(307, Location=f"http://{self.headers['Host']}/cdn/{self.path.rpartition('/')[2]}")
        elif self.server.state.fault == "circle":
            self._answer(307, Location=self.path)
        else:
            self._range(data)

    def _range(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        fault = self.server.state.fault
        part, size, where = data[first : last + 1], len(data), f"{first}-{last}"
        if fault == "whole":
            self._answer(200, data)
            return
        if fault == "whole later" and first:
            self._answer(200, data)
            return
        if fault == "other range":
            where = f"{first + 1}-{last}"
        if fault == "longer":
            size += 1
        if fault == "grows" and first:
            size += 1
        if fault == "short":
            self.close_connection = True
            self._answer(206, part[:-5], Content_Length=str(len(part)), Content_Range=f"bytes {where}/{size}")
            return
        if fault == "no range":
            self._answer(206, part)
            return
        if fault == "gzip":
            self._answer(206, part, Content_Range=f"bytes {where}/{size}", Content_Encoding="gzip")
            return
        self._answer(206, part, Content_Range=f"bytes {where}/{'*' if fault == 'no size' else size}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave in the middle, on purpose."""


@contextmanager
def serve() -> Iterator[tuple[State, str]]:
    """A running registry: its state, and its address with scheme."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = State()
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
