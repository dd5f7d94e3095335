"""A registry for the tests of push and pull: one that takes uploads, too, one at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests import registry


class _Handler(registry.Reader):
    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def _upload(self) -> Path:
        return self.server.directory / "upload"

    def do_POST(self) -> None:
        self._body()
        self._upload.write_bytes(b"")
        self.answer(202, Location=f"{self.server.url}/upload?state=1")

    def do_PATCH(self) -> None:
        with open(self._upload, "ab") as file:
            file.write(self._body())
        self.answer(202, Location=f"{self.server.url}/upload?state=2")

    def do_PUT(self) -> None:
        body = self._body()
        digest = self.path.partition("digest=")[2]
        if not digest:
            self.server.path(self.name).write_bytes(body)
            self.server.types[self.name] = self.headers.get("Content-Type", registry.MANIFEST)
            self.answer(201)
            return
        with open(self._upload, "rb") as file:
            right = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        if right:
            self._upload.rename(self.server.path(digest))
        self.answer(201 if right else 400)


class Registry(registry.Registry):
    def __init__(self, directory: Path, location: str | None = "#") -> None:
        super().__init__(directory, location, _Handler)
