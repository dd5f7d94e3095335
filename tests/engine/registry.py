"""A registry for the tests of push and pull: OCI distribution over plain HTTP on loopback, blobs in a directory.

With a ``Location`` header of ``#`` on everything, as the fleet's model mirror has it: Ollama's downloader insists on
one.
"""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", path: Path | None = None, **headers: str) -> None:
        self.send_response(status)
        size = path.stat().st_size if path else len(body)
        plain = {} if self.server.location is None else {"Location": self.server.location}
        for name, value in (plain | headers | {"Content-Length": str(size)}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body)
        if path:
            with open(path, "rb") as file:
                self.connection.sendfile(file)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _path(self) -> Path:
        name = re.sub(r"[^\w.-]", "_", self.path.partition("?")[0])
        return self.server.directory / (name.rpartition("_blobs_")[2] if "_blobs_" in name else name)

    def do_GET(self) -> None:
        path = self._path()
        if self.path == "/v2/":
            self._answer(200, b"{}")
        elif path.is_file():
            self._answer(200, path=path)
        else:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        (self.server.directory / "upload").write_bytes(b"")
        self._answer(202, Location=f"http://{self.headers['Host']}/upload?state=1")

    def do_PATCH(self) -> None:
        with open(self.server.directory / "upload", "ab") as file:
            file.write(self._body())
        self._answer(202, Location=f"http://{self.headers['Host']}/upload?state=2")

    def do_PUT(self) -> None:
        body = self._body()
        digest = self.path.partition("digest=")[2]
        if not digest:
            self._path().write_bytes(body)
            self._answer(201)
            return
        upload = self.server.directory / "upload"
        with open(upload, "rb") as file:
            right = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        if right:
            upload.rename(self.server.directory / digest.replace(":", "_"))
        self._answer(201 if right else 400)


class Registry(ThreadingHTTPServer):
    """The listener, in a thread of its own; one upload at a time. ``location``: None leaves the header out."""

    daemon_threads = True

    def __init__(self, directory: Path, location: str | None = "#") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory, self.location = directory, location
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is none of the registry's errors: Ollama asks for a header alone."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"
