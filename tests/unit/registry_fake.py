# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model registry on loopback that answers well, or in each way that a registry can answer badly."""

from __future__ import annotations

import base64
import io
import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.registry import MODEL, Bucket, Handler, Server, digest

PROJECTOR = "application/vnd.ollama.image.projector"


@dataclass
class State:
    """``fault`` is the way in which blobs are answered badly, for the first ``times`` of their answers or, with -1, for
    ever; ``requests`` are (path, range) of each request, ``authorizations`` their headers of that name; ``sent`` counts
    the bytes of blobs that went out.

    ``bucket`` bounds the rate. ``login`` is asked for in the way ``challenge`` (basic or bearer), the latter by tokens
    of ``realm``, which is this server's own unless another is set; ``anonymous`` clients get tokens, too, if so.
    ``elsewhere`` is where "redirect" leads. ``after`` is the byte of an answer at which "cut", "stall" and "trickle"
    begin, and what "slow" sends each second.
    """

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    fault: str = ""
    times: int = -1
    after: int = 0
    sent: int = 0
    retry_after: str = ""
    bucket: Bucket | None = None
    login: tuple[str, str] | None = None
    challenge: str = "basic"
    realm: str = ""
    token: str = "first"
    anonymous: bool = False
    elsewhere: str = ""

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
        self.blobs[digest(b"{}")] = b"{}"
        return digest(weights)

    @property
    def paths(self) -> list[str]:
        return [path for path, _range in self.requests]

    @property
    def ranges(self) -> list[str]:
        return [range_ for path, range_ in self.requests if "/blobs/" in path or "/cdn/" in path]

    def basic(self) -> str:
        user, password = self.login or ("", "")
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Handler(Handler):
    server: _Server

    def _send(self, body: bytes) -> None:
        self.send("", io.BytesIO(body), len(body))

    def _fault(self) -> str:
        """What is wrong with this answer. A fault counts down with each of the blobs' answers that it spoils."""
        state = self.server.state
        with self.server.guard:
            if state.times == 0:
                return ""
            if state.times > 0:
                state.times -= 1
            return state.fault

    def do_GET(self) -> None:
        state = self.server.state
        state.requests.append((self.path, self.headers.get("Range", "")))
        state.authorizations.append(self.headers.get("Authorization", ""))
        if self.path.startswith("/token"):
            self._token()
        elif state.login and not self.path.startswith("/cdn/") and not self._may():
            self._challenge()
        elif self.path.startswith("/cdn/"):
            self._range(state.blobs[self.path[5:]], "")
        elif "/blobs/" not in self.path:
            self._manifest(state.fault)
        else:
            self._blob(self._fault())

    def _may(self) -> bool:
        state = self.server.state
        wanted = state.basic() if state.challenge == "basic" else f"Bearer {state.token}"
        return self.headers.get("Authorization") == wanted

    def _challenge(self) -> None:
        state = self.server.state
        realm = state.realm or f"{self.server.scheme}://{self.headers['Host']}/token"
        told = {
            "basic": 'Basic realm="models"',
            "bearer": f'Bearer realm="{realm}",service="models",scope="repository:library/big:pull"',
        }.get(state.challenge, state.challenge)
        self.answer(401, WWW_Authenticate=told)

    def _token(self) -> None:
        state = self.server.state
        if state.fault == "no token":
            self.answer(200, b"{}")
        elif not state.anonymous and self.headers.get("Authorization") != state.basic():
            self.answer(401)
        else:
            self.answer(200, json.dumps({"token": state.token}).encode())

    def _manifest(self, fault: str) -> None:
        state = self.server.state
        if self._anywhere(fault):
            return
        if self.path in state.manifests:
            assert "application/vnd.docker.distribution.manifest.v2+json" in self.headers["Accept"]
            self.answer(200, state.manifests[self.path])
        else:
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def _anywhere(self, fault: str) -> bool:
        """The faults that any answer may have."""
        if fault == "silent":
            time.sleep(3)
            self.close_connection = True
        elif fault == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _index in range(60):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif fault.isdigit():
            self.answer(int(fault), **({"Retry_After": self.server.state.retry_after}))
        else:
            return False
        return True

    def _blob(self, fault: str) -> None:
        state = self.server.state
        name = self.path.rpartition("/")[2]
        if self._anywhere(fault):
            return
        if name not in state.blobs:
            self.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        elif fault == "redirect":
            host = state.elsewhere or f"{self.server.scheme}://{self.headers['Host']}"
            self.answer(307, Location=f"{host}/cdn/{name}")
        elif fault == "circle":
            self.answer(307, Location=self.path)
        else:
            self._range(state.blobs[name], fault)

    def _range(self, data: bytes, fault: str) -> None:
        state = self.server.state
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked
        if fault == "shorter":
            data = data[:-5]
        if fault == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        if int(asked[1]) >= len(data):
            self.answer(416, Content_Range=f"bytes */{len(data)}")
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        part, size, where = data[first : last + 1], len(data), f"{first}-{last}"
        if fault == "whole" or (fault == "whole later" and first):
            self.answer(200, data)
        elif fault == "whole, cut":
            self.head(200, {"Content-Length": str(len(data))})
            self._break_off(data)
        elif fault == "chunked":
            self.head(200, {"Transfer-Encoding": "chunked"})
            for piece in (data + b"and more", b""):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        elif fault == "no range":
            self.answer(206, part)
        elif fault == "gzip":
            self.answer(206, part, Content_Range=f"bytes {where}/{size}", Content_Encoding="gzip")
        else:
            if fault == "other range":
                where = f"{first + 1}-{last}"
            if fault == "longer" or (fault == "grows" and first):
                size += 1
            shown = "*" if fault == "no size" else str(size)
            self.head(206, {"Content-Length": str(len(part)), "Content-Range": f"bytes {where}/{shown}"})
            if fault == "short":
                self._send(part[:-5])
                self.close_connection = True
            elif fault == "cut":
                self._break_off(part)
            elif fault == "stall":
                self._send(part[: state.after])
                time.sleep(3)
                self.close_connection = True
            elif fault == "slow":
                for start in range(0, len(part), state.after):
                    self._send(part[start : start + state.after])
                    time.sleep(1)
            elif fault == "trickle":
                self._send(part[: state.after])
                for byte in part[state.after :]:
                    self._send(bytes([byte]))
                    time.sleep(0.05)
            else:
                self._send(part)

    def _break_off(self, body: bytes) -> None:
        self._send(body[: self.server.state.after])
        self.close_connection = True


class _Server(Server):
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.state = State()
        super().__init__(_Handler, tls)

    @property
    def bucket(self) -> Bucket | None:  # type: ignore[override]
        return self.state.bucket

    def count(self, name: str, size: int) -> None:
        with self.guard:
            self.state.sent += size


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[tuple[State, str]]:
    """A running registry: its state, and its address with scheme. With ``tls``, by https."""
    with _Server(tls) as server:
        yield server.state, server.url
