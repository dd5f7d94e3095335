"""HTTP/1.1 by hand: bytes as they are written here go out, and answers are read without a library's good manners."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from dataclasses import dataclass, field

READ_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers in lower case. A cut one has the body that came."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> object:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def is_refusal(self) -> bool:
        """Whether it is an error in the form that OpenAI's clients read, which no engine gives below /api."""
        content = self.json
        error = content.get("error") if isinstance(content, dict) else None
        return self.status >= 400 and isinstance(error, dict) and {"message", "type", "code"} <= error.keys()

    def __str__(self) -> str:
        return str(self.status) if self.is_refusal or self.status < 400 else f"{self.status} without a JSON error"


@dataclass
class Exchange:
    """What came back on one connection. ``rest``: bytes that are no answer; ``ended``: the other side closed."""

    answers: list[Answer] = field(default_factory=list)
    rest: bytes = b""
    ended: bool = False
    seconds: float = 0.0

    @property
    def first(self) -> Answer:
        return self.answers[0] if self.answers else Answer(0)

    def __str__(self) -> str:
        if self.answers:
            return ", then ".join(map(str, self.answers))
        if self.rest:
            return f"no answer but {self.rest[:40]!r}"
        return "closed without an answer" if self.ended else f"no answer for {self.seconds:.1f} s"


def connect(
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    name: str | None = None,
    timeout: float = 10,
) -> socket.socket:
    """A connection, over TLS with a ``context``; ``name`` goes into SNI."""
    plain = socket.create_connection(address, timeout=timeout)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=name) if context else plain
    except BaseException:
        plain.close()
        raise


def exchange(
    connection: socket.socket, data: bytes, answers: int = 1, patience: float = 10, quiet: float = 1
) -> Exchange:
    """Send, and read until ``answers`` have come, the other side closes, or ``patience`` seconds have passed; once one
    is there, ``quiet`` seconds without another."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        # Who refuses early does not read to the end.
        connection.sendall(data)
    found, received, deadline = Exchange(), b"", began + patience
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            piece = connection.recv(READ_BYTES)
        except TimeoutError:
            break
        except OSError:
            piece = b""
        received += piece
        found.ended = not piece
        known = len(found.answers)
        found.answers, found.rest = parse(received, found.ended)
        if found.ended or len(found.answers) >= answers:
            break
        if len(found.answers) > known:
            deadline = time.monotonic() + quiet
    found.seconds = time.monotonic() - began
    return found


def parse(received: bytes, ended: bool) -> tuple[list[Answer], bytes]:
    """All answers in ``received``, without interim ones, and the bytes that make none."""
    answers = []
    while received:
        answer, after = parse_one(received, ended)
        if answer is None:
            break
        received = after
        if answer.status >= 200 or answer.status == 101:
            answers.append(answer)
    return answers, received


def parse_one(received: bytes, ended: bool) -> tuple[Answer | None, bytes]:
    head, gap, rest = received.partition(b"\r\n\r\n")
    if not gap or not head.startswith(b"HTTP/1."):
        return None, received
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = tuple((k.strip().lower(), v.strip()) for k, _colon, v in (line.partition(":") for line in lines[1:]))
    fields = dict(headers)
    if status < 200 or status in (204, 304):
        return Answer(status, headers), rest
    if "chunked" in fields.get("transfer-encoding", ""):
        body, after, whole = dechunk(rest)
    elif "content-length" in fields:
        length = int(fields["content-length"])
        body, after, whole = rest[:length], rest[length:], len(rest) >= length
    else:
        body, after, whole = rest, b"", False
    if whole or ended:
        return Answer(status, headers, body), after
    return None, received


def dechunk(data: bytes) -> tuple[bytes, bytes, bool]:
    """Body, what follows it, and whether the last chunk was there."""
    body = b""
    while True:
        size, gap, rest = data.partition(b"\r\n")
        try:
            length = int(size.split(b";")[0], 16)
        except ValueError:
            return body, data, False
        if not gap or len(rest) < length + 2:
            return body + rest[:length], b"", False
        body, data = body + rest[:length], rest[length + 2 :]
        if length == 0:
            return body, data, True


def request(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes = b"", version: str = "HTTP/1.1"
) -> bytes:
    """A request's bytes. Nothing is added, corrected or checked; text is Latin-1, so any byte can be said."""
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
