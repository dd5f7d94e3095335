# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Ollama: its state and its answers' form as real servers gave them, without any inference."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BLOBS = "/var/lib/ollama/models/blobs"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class State:
    """What the server has: blobs by digest, models by name, models in memory, and what it was asked."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.models: dict[str, dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.trained = 32768
        self.capabilities = ["completion"]
        self.load_error: str | None = None
        self.stream_cut = False
        # What the server makes of a file's weights, where it writes it anew.
        self.rewrites: dict[str, str] = {}
        # Where it keeps manifests and blobs as files; without it, it keeps none.
        self.directory: Path | None = None

    def asked(self, path: str) -> list[Any]:
        return [body for _method, asked, body in self.requests if asked.startswith(path)]

    def put(self, name: str, weights: str, **more: Any) -> None:
        model = {"weights": weights, "parameters": {}, "system": "", "template": "{{ .Prompt }}", **more}
        model["digest"] = hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
        self.models[name] = model
        if self.directory:
            for blob in {weights, *self.blobs}:
                path = self._blob(blob)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(b"weights")
            manifest = self.manifest(name)
            manifest.parent.mkdir(parents=True, exist_ok=True)
            size = self._blob(weights).stat().st_size
            layer = {"mediaType": "application/vnd.ollama.image.model", "digest": weights, "size": size}
            manifest.write_text(json.dumps({"layers": [layer], "for": model["digest"]}))
            self.read()

    def _blob(self, digest: str) -> Path:
        assert self.directory
        return self.directory / "blobs" / digest.replace(":", "-")

    def manifest(self, name: str) -> Path:
        assert self.directory
        return self.directory / "manifests/registry.ollama.ai/library" / name.replace(":", "/")

    def has(self, digest: str) -> bool:
        return digest in self.blobs or (self.directory is not None and self._blob(digest).exists())

    def read(self) -> None:
        """As the server itself, which reads the manifests anew at each request."""
        if not self.directory:
            return
        for path in self.directory.glob("manifests/*/*/*/*"):
            *host, name, tag = path.relative_to(self.directory / "manifests").parts
            name = "/".join([*([] if host == ["registry.ollama.ai", "library"] else host), f"{name}:{tag}"])
            content = path.read_bytes()
            layers = json.loads(content)["layers"]
            weights = next(
                layer["digest"] for layer in layers if layer["mediaType"] == "application/vnd.ollama.image.model"
            )
            fresh = {"parameters": {}, "system": "", "template": "{{ .Prompt }}"}
            digest = hashlib.sha256(content).hexdigest()
            known = self.models.get(name)
            if known is None or known["weights"] != weights:
                self.models[name] = {**fresh, "weights": weights}
            self.models[name]["digest"] = digest


def go_value(value: Any) -> str:
    return json.dumps(value)


def parameter_lines(parameters: dict[str, Any]) -> str:
    return "\n".join(
        f"{name:<30} {go_value(item)}"
        for name in sorted(parameters)
        for item in (parameters[name] if isinstance(parameters[name], list) else [parameters[name]])
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None, kind: str = "application/json; charset=utf-8") -> None:
        data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        if data:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, *items: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for item in items[:-1] if self.state.stream_cut else items:
            data = json.dumps(item).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        if self.state.stream_cut:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        path = self.path
        if path.startswith("/api/blobs/"):
            self.state.requests.append((self.command, path, len(data)))
            self._blob(path.rsplit("/", 1)[1], data)
            return
        body = json.loads(data) if data else {}
        self.state.requests.append((self.command, path, body))
        self.state.read()
        name = body.get("model", "")
        name = name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"
        handlers = {
            ("GET", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/copy"): self._copy,
            ("POST", "/api/create"): self._create,
            ("POST", "/api/generate"): self._generate,
            ("POST", "/api/embed"): self._embed,
            ("DELETE", "/api/delete"): self._delete,
        }
        handler = handlers.get((self.command, path))
        if handler is None:
            self._answer(404, "404 page not found", "text/plain")
        else:
            handler(name, body)

    do_GET = do_POST = do_HEAD = do_DELETE = _handle

    def _missing(self, name: str) -> bool:
        if name in self.state.models:
            return False
        self._answer(404, {"error": f"model '{name}' not found"})
        return True

    def _version(self, name: str, body: Any) -> None:
        self._answer(200, {"version": "0.32.15"})

    def _tags(self, name: str, body: Any) -> None:
        models = [
            {"name": key, "model": key, "size": 1000, "digest": model["digest"]}
            for key, model in self.state.models.items()
        ]
        self._answer(200, {"models": models})

    def _ps(self, name: str, body: Any) -> None:
        self._answer(200, {"models": list(self.state.running.values())})

    def _show(self, name: str, body: Any) -> None:
        if self._missing(name):
            return
        model = self.state.models[name]
        lines = [f"FROM {BLOBS}/{model['weights'].replace(':', '-')}", f"TEMPLATE {model['template']}"]
        answer = {
            "modelfile": f'# Modelfile generated by "ollama show"\n# FROM {name}\n\n' + "\n".join(lines) + "\n",
            "template": model["template"],
            "details": {"family": "gemma3", "quantization_level": "Q4_K_M"},
            "model_info": {"general.architecture": "gemma3", "gemma3.context_length": self.state.trained},
            "capabilities": self.state.capabilities,
        }
        if model["parameters"]:
            answer["parameters"] = parameter_lines(model["parameters"])
        if model["system"]:
            answer["system"] = model["system"]
        self._answer(200, answer)

    def _copy(self, name: str, body: Any) -> None:
        if self._missing(body["source"]):
            return
        self.state.models[body["destination"]] = self.state.models[body["source"]]
        self._answer(200)

    def _create(self, name: str, body: Any) -> None:
        base: dict[str, Any] = {"parameters": {}, "system": "", "template": "{{ .Prompt }}"}
        if "from" in body:
            if body["from"] not in self.state.models:
                self._stream({"error": f"pull model manifest: {body['from']}: file does not exist"})
                return
            base = self.state.models[body["from"]]
            weights = base["weights"]
        else:
            [weights] = body["files"].values()
            if not self.state.has(weights):
                self._answer(400, {"error": f"blob {weights} not found"})
                return
            weights = self.state.rewrites.get(weights, weights)
        self.state.put(
            name,
            weights,
            parameters={**base["parameters"], **body.get("parameters", {})},
            system=body.get("system", base["system"]),
            template=body.get("template", base["template"]),
        )
        self._stream({"status": "parsing GGUF"}, {"status": "writing manifest"}, {"status": "success"})

    def _load(self, name: str, body: Any) -> bool:
        if self.state.load_error:
            self._answer(500, {"error": self.state.load_error})
            return False
        weights = self.state.models[name]["weights"]
        # One runner for all models of the same weights, listed under the name that came first.
        name = next((key for key in self.state.running if self.state.models[key]["weights"] == weights), name)
        context = body.get("options", {}).get("num_ctx") or self.state.models[name]["parameters"].get("num_ctx", 4096)
        self.state.running[name] = {
            "name": name,
            "digest": self.state.models[name]["digest"],
            "size": 2000,
            "size_vram": 1500,
            "context_length": min(context, self.state.trained),
            "expires_at": "2319-03-03T02:30:20.333Z" if body.get("keep_alive") == -1 else "2026-11-21T02:53:06.09Z",
        }
        return True

    def _generate(self, name: str, body: Any) -> None:
        if self._missing(name):
            return
        if body.get("keep_alive") == 0:
            self.state.running.pop(name, None)
            self._answer(200, {"model": name, "response": "", "done": True, "done_reason": "unload"})
        elif "completion" not in self.state.capabilities:
            self._answer(400, {"error": f'"{name}" does not support generate'})
        elif self._load(name, body):
            self._answer(200, {"model": name, "response": "", "done": True, "done_reason": "load"})

    def _embed(self, name: str, body: Any) -> None:
        if not self._missing(name) and self._load(name, body):
            self._answer(200, {"model": name, "embeddings": []})

    def _delete(self, name: str, body: Any) -> None:
        if not self._missing(name):
            del self.state.models[name]
            if self.state.directory:
                self.state.manifest(name).unlink()
            self.state.running.pop(name, None)
            self._answer(200)

    def _blob(self, wanted: str, data: bytes) -> None:
        if self.command == "HEAD":
            self._answer(200 if self.state.has(wanted) else 404)
        elif digest(data) != wanted:
            self._answer(400, {"error": f'digest mismatch, expected "{wanted}", got "{digest(data)}"'})
        else:
            self.state.blobs.add(wanted)
            self._answer(201)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle of an answer are part of the tests."""


@contextmanager
def serve() -> Iterator[tuple[State, str]]:
    """A server on loopback; its state and its address."""
    state = State()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
