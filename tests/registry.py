"""Registries for tests: what they share, and one that gives out a directory and counts."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
MODEL = "application/vnd.ollama.image.model"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind: str, blob: tuple[str, int]) -> dict[str, object]:
    """What a manifest says of a blob, given by digest and size."""
    return {"mediaType": kind, "digest": blob[0], "size": blob[1]}


class Bucket:
    """A rate in bytes per second that all who send share."""

    def __init__(self, rate: float) -> None:
        self._rate, self._lock, self._free = rate, threading.Lock(), time.monotonic()

    def wait(self, count: int) -> None:
        """Until ``count`` bytes may be sent."""
        with self._lock:
            now = time.monotonic()
            # What went unused for longer than this is lost.
            self._free = max(self._free, now - 0.02) + count / self._rate
            pause = self._free - now
        if pause > 0:
            time.sleep(pause)


class Server(ThreadingHTTPServer):
    """A listener in a thread of its own, from the start. With ``tls``, by https."""

    daemon_threads = True
    bucket: Bucket | None = None

    def __init__(self, handler: type[Handler], tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), handler)
        self.scheme, self.guard = "https" if tls else "http", threading.Lock()
        if tls:
            # The handshake happens in the request's own thread, so that one client holds up no other.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{self.server_address[0]}:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def count(self, name: str, size: int) -> None:
        """Called for each ``size`` bytes of ``name`` that went out."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave in the middle, on purpose: Ollama asks for a header alone."""

    def __exit__(self, *_raised: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.head(status, {"Content-Length": str(len(body))} | headers)
        if self.command != "HEAD":
            self.send("", io.BytesIO(body), len(body))

    def send(self, name: str, stream: BinaryIO, size: int) -> None:
        """``size`` bytes of a stream, counted under ``name``, no faster than the server's bucket lets them."""
        while size > 0:
            bucket = self.server.bucket
            piece = stream.read(min(size, 16384 if bucket else 65536))
            if bucket:
                bucket.wait(len(piece))
            self.wfile.write(piece)
            self.server.count(name, len(piece))
            size -= len(piece)


class Registry(Server):
    """OCI distribution of blobs and manifests in a directory, to read, by ranges.

    :ivar sent: bytes that went out of each blob, by its digest's digits, and of each manifest.
    :ivar location: the header ``Location`` of every answer; ``#`` is what the fleet's mirror has there, since Ollama's
        downloader insists on one. None leaves it out.
    :ivar ranges: whether it knows of them.
    """

    def __init__(
        self,
        directory: Path,
        location: str | None = None,
        handler: type[Reader] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.directory, self.location = directory, location
        self.sent: Counter[str] = Counter()
        self.types: dict[str, str] = {}
        self.ranges = True
        super().__init__(handler or Reader, address=address)

    def count(self, name: str, size: int) -> None:
        # What has no name is a refusal.
        if name:
            with self.guard:
                self.sent[name] += size

    def blob(self, source: Path | bytes) -> tuple[str, int]:
        """Hold a blob: its digest and size."""
        if isinstance(source, bytes):
            found = digest(source)
            self.path(found).write_bytes(source)
        else:
            with source.open("rb") as stream:
                found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
            shutil.copyfile(source, self.path(found))
        return found, self.path(found).stat().st_size

    def path(self, name: str) -> Path:
        """The file of a blob by its digest, or of a manifest by ``<repository>:<tag>``."""
        return self.directory / name.removeprefix("sha256:").replace("/", "_")

    def manifest(self, repository: str, tag: str, kind: str, content: dict[str, Any]) -> str:
        """Hold a manifest under its tag and its digest, which is returned."""
        data = json.dumps({"schemaVersion": 2, "mediaType": kind, **content}).encode()
        found, _size = self.blob(data)
        for name in (tag, found):
            self.path(f"{repository}:{name}").write_bytes(data)
            self.types[f"{repository}:{name}"] = kind
        return found

    def model(self, name: str, tag: str, weights: Path, family: str, **more: tuple[str, bytes]) -> tuple[str, int]:
        """Hold a model of these weights under ``library/<name>``: their digest and size. ``more``: type and content."""
        layers = [(MODEL, self.blob(weights)), *((kind, self.blob(data)) for kind, data in more.values())]
        config = json.dumps({"model_format": "gguf", "model_family": family, "file_type": "F16"}).encode()
        content = {
            "config": descriptor(CONFIG, self.blob(config)),
            "layers": [descriptor(kind, blob) for kind, blob in layers],
        }
        self.manifest(f"library/{name}", tag, MANIFEST, content)
        return layers[0][1]


class Reader(Handler):
    server: Registry

    def head(self, status: int, headers: dict[str, str]) -> None:
        plain = {} if self.server.location is None else {"Location": self.server.location}
        super().head(status, plain | headers)

    @property
    def name(self) -> str:
        """What is asked for: a blob's digest, or ``<repository>:<tag>``."""
        found = re.fullmatch(r"/v2/(\S+)/(manifests|blobs)/(\S+)", self.path.partition("?")[0])
        return (f"{found[1]}:{found[3]}" if found[2] == "manifests" else found[3]) if found else "-"

    def do_GET(self) -> None:
        path = self.server.path(self.name)
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif not path.is_file():
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        else:
            self._file(path)

    do_HEAD = do_GET

    def _file(self, path: Path) -> None:
        size = path.stat().st_size
        asked = self.server.ranges and re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        kind = self.server.types.get(self.name, "application/octet-stream")
        headers = {"Content-Type": kind, "Content-Length": str(stop - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.head(206 if asked else 200, headers)
        if self.command != "HEAD":
            with path.open("rb") as stream:
                stream.seek(start)
                self.send(path.name, stream, stop - start)
