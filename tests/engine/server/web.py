"""HTTP as Ollama's server speaks it: routing, JSON and streams in the same form, origin checks, bounded threads."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from .store import encode

JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
_JSON_LIMIT = 64 * 2**20
_CONNECTIONS = 1024
# Go's net/http sends a Content-Length of its own accord only for what fits into its buffer.
_BUFFER = 2048
_LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)


_GO_KINDS: dict[type, str] = {str: "string", bool: "bool", dict: "map", list: "slice"}
_LOCAL_NAMES = ("localhost", ".local", ".internal")


class Failure(Exception):
    """An answer that is an error: a status and a message for the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Response:
    """An answer with a whole body."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Stream:
    """An answer in pieces. ``failure`` puts an error into the stream once it has begun."""

    pieces: Iterator[bytes]
    content_type: str
    failure: Callable[[str], bytes]


Answer = Response | Stream
Route = Callable[["Request"], Answer]


def json_response(document: object, status: int = 200) -> Response:
    return Response(status, encode(document), JSON)


def ndjson(events: Iterator[dict[str, Any]]) -> Stream:
    """One JSON object a line, errors among them."""
    return Stream((encode(event) + b"\n" for event in events), NDJSON, lambda text: encode({"error": text}) + b"\n")


class Request:
    """One request; the body is read when asked for and never beyond its limit."""

    def __init__(self, handler: _Handler, parameter: str) -> None:
        self._handler = handler
        self.parameter = parameter
        self.headers = handler.headers

    def json(self, fields: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
        """The body as an object whose known fields have the right types. Failure 400 in the words of Go's decoder."""
        content = bytearray()
        while chunk := self.read(65536):
            content += chunk
            if len(content) > _JSON_LIMIT:
                raise Failure(400, "http: request body too large")
        if not content.strip():
            raise Failure(400, "missing request body")
        try:
            document, _ = json.JSONDecoder().raw_decode(content.decode(errors="replace").lstrip())
        except json.JSONDecodeError as error:
            text = content.decode(errors="replace").lstrip()
            if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
                raise Failure(400, "unexpected EOF") from error
            raise Failure(400, f"invalid character {text[error.pos]!r} looking for beginning of value") from error
        if not isinstance(document, dict):
            raise Failure(400, f"json: cannot unmarshal {_go_type(document)} into Go value of type api.Request")
        for name, kind in fields.items():
            value = document.get(name)
            wrong_boolean = isinstance(value, bool) and kind in (int, (int, float))
            if value is not None and (not isinstance(value, kind) or wrong_boolean):
                wanted = _GO_KINDS.get(kind, "number") if isinstance(kind, type) else "number"
                raise Failure(
                    400,
                    f"json: cannot unmarshal {_go_type(value)} into Go struct field Request.{name} of type {wanted}",
                )
        return document

    def read(self, size: int) -> bytes:
        return self._handler.read_body(size)

    def gone(self) -> bool:
        """Whether the client has closed its connection."""
        connection = self._handler.connection
        try:
            readable, _, _ = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True


def _go_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", list: "array", dict: "object", type(None): "null"}.get(type(value), "number")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300
    server: Server

    def setup(self) -> None:
        super().setup()
        # Bytes of the body that are still to come: of the whole (None where it is chunked), and of the present chunk.
        self._left: int | None = 0
        self._chunk = 0

    # The body

    def read_body(self, size: int) -> bytes:
        if self._left is None:
            return self._read_chunked(size)
        data = self.rfile.read(min(size, self._left))
        self._left -= len(data)
        if not data and self._left:
            raise ConnectionResetError("the client ended in the middle of its body")
        return data

    def _read_chunked(self, size: int) -> bytes:
        if self._chunk == 0:
            self._chunk = int(self.rfile.readline(1024).split(b";")[0].strip() or b"0", 16)
            if self._chunk == 0:
                while self.rfile.readline(65536).strip():
                    pass
                self._left = 0
                return b""
        data = self.rfile.read(min(size, self._chunk))
        if not data:
            raise ConnectionResetError("the client ended in the middle of its body")
        self._chunk -= len(data)
        if self._chunk == 0:
            self.rfile.readline(8)
        return data

    # The answer

    def _answer(self) -> None:
        self._started, self._status = time.monotonic(), 0
        self._chunk = 0
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        length = self.headers.get("Content-Length", "0")
        self._left = None if chunked else int(length) if length.isdigit() else 0
        try:
            self._send(self._route())
            # As Go: a small rest of the body is read and dropped, a large one ends the connection.
            for _ in range(4):
                if not self.read_body(65536):
                    break
            else:
                self.close_connection = True
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self._log()

    def _route(self) -> Answer:
        path = unquote(urlsplit(self.path).path)
        refused = self.server.refusal(self.headers.get("Host", ""), self.headers.get("Origin", ""))
        if refused or self.command == "OPTIONS":
            return Response(403 if refused else 204)
        route, parameter, allowed = self.server.find(self.command, path)
        if route is None:
            if allowed:
                return Response(405, b"405 method not allowed", "text/plain", {"Allow": ", ".join(allowed)})
            return Response(404, b"404 page not found", "text/plain")
        request = Request(self, parameter)
        try:
            return route(request)
        except Exception as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> Response:
        status, message = self.server.explain(error)
        return self.server.error_response(urlsplit(self.path).path, status, message)

    def _send(self, answer: Answer) -> None:
        if isinstance(answer, Response):
            pieces: Iterator[bytes] = iter((answer.body,)) if answer.body else iter(())
            if len(answer.body) <= _BUFFER or self.command == "HEAD":
                extra = {"Content-Length": str(len(answer.body))}
                # A success without a body or a type, such as a blob that is there, has no length on HEAD either.
                bare = self.command == "HEAD" and not answer.content_type
                self._start(answer.status, answer.content_type, answer.headers | ({} if bare else extra))
                if self.command != "HEAD" and answer.status not in (204, 304):
                    self.wfile.write(answer.body)
                return
            self._stream(answer.status, answer.content_type, pieces)
            return
        try:
            first = next(answer.pieces, b"")
        except ConnectionError:
            raise
        except Exception as error:
            self._send(self._failure(error))
            return
        with contextlib.closing(_chain(first, answer)) as whole:
            self._stream(200, answer.content_type, whole, answer)

    def _stream(self, status: int, content_type: str, pieces: Iterator[bytes], answer: Stream | None = None) -> None:
        chunked = self.request_version != "HTTP/1.0"
        self._start(status, content_type, {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"})
        self.close_connection = self.close_connection or not chunked
        try:
            for piece in pieces:
                self._write(piece, chunked)
        except ConnectionError:
            raise
        except Exception as error:
            if answer is None:
                raise
            self._write(answer.failure(self.server.explain(error)[1]), chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, piece: bytes, chunked: bool) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def _start(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self._status = status
        self.send_response_only(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Date", self.date_time_string())
        self.end_headers()

    def _log(self) -> None:
        took = time.monotonic() - self._started
        now = time.strftime("%Y/%m/%d - %H:%M:%S")
        client, target = self.client_address[0], json.dumps(self.path)
        line = f"[GIN] {now} | {self._status:3d} | {took * 1000:12.3f}ms | {client:>15} | {self.command:<8} {target}"
        print(line, file=sys.stderr, flush=True)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


def _chain(first: bytes, answer: Stream) -> Generator[bytes, None, None]:
    try:
        yield first
        yield from answer.pieces
    finally:
        close = getattr(answer.pieces, "close", None)
        if close:
            close()


class Server(ThreadingHTTPServer):
    """The listener. Routes are (method, path); a path that ends in ``/*`` takes the rest as its parameter."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        routes: dict[tuple[str, str], Route],
        explain: Callable[[Exception], tuple[int, str]],
        error_response: Callable[[str, int, str], Response],
        origins: tuple[str, ...] = (),
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._routes, self.explain, self.error_response, self._origins = routes, explain, error_response, origins
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)
        self._loopback = address[0].startswith("127.") or address[0] in ("::1", "localhost")

    def server_bind(self) -> None:
        # Without HTTPServer's look-up of the host's own name, which waits for a resolver that may not be there.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def refusal(self, host: str, origin: str) -> bool:
        """Whether a foreign page (any listener) or a rebound name (a loopback listener) is to be turned away."""
        own = origin.partition("://")[2] == host or any(allowed in ("*", origin) for allowed in self._origins)
        if origin and not own and not _LOCAL_ORIGIN.fullmatch(origin):
            return True
        name = re.sub(r":\d+$", "", host).strip("[]")
        if not self._loopback or not name or name.endswith(_LOCAL_NAMES) or name == socket.gethostname():
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return True
        return not (address.is_private or address.is_loopback or address.is_unspecified)

    def find(self, method: str, path: str) -> tuple[Route | None, str, list[str]]:
        """The route of a path, its parameter, and the methods that the path allows."""
        for pattern in (path, path[: path.rfind("/")] + "/*"):
            allowed = [known for known, where in self._routes if where == pattern]
            if allowed:
                parameter = "" if pattern == path else path[len(pattern) - 1 :]
                return self._routes.get((method, pattern)), parameter, allowed
        return None, "", []
