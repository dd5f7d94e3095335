"""Host, Origin and what else a browser or a proxy says about where a request comes from."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Callable

from tests.attack import wire
from tests.attack.groups.judge import CLIENT_ERRORS, one_refusal
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

EVIL = "evil.example"


def no_permission(
    *headers: tuple[str, str], method: str = "GET", key: str | None = ""
) -> Callable[[Position], Verdict]:
    """No web page of another origin may read an answer."""

    def act(position: Position) -> Verdict:
        answer = position.ask(method, "/v1/models", *headers, key=key)
        told = [f"{name}: {value}" for name, value in answer.headers if name.startswith("access-control-allow")]
        return Verdict(
            answer.status != 0 and not told, f"{answer.status}, {told[0] if told else 'no permission given'}"
        )

    return act


def hosts(*values: str | None) -> Callable[[Position], Verdict]:
    """Hosts that HTTP/1.1 does not allow."""

    def act(position: Position) -> Verdict:
        extra = [("Host", value) for value in values[1:] if value is not None]
        found = position.paced(position.bytes("GET", "/v1/models", *extra, host=values[0]))
        return one_refusal(found, CLIENT_ERRORS)

    return act


def foreign_host(position: Position) -> Verdict:
    """A foreign Host without a credential is refused; with one, nothing of it comes back."""
    answers = [position.ask("GET", "/v1/models", key=key, host=EVIL) for key in (None, "")]
    told = [a for a in answers if EVIL.encode() in a.body or any(EVIL in value for _name, value in a.headers)]
    return Verdict(
        not told and answers[0].status in (400, 401, 404, 421),
        f"{answers[0]} and {answers[1].status}, " + ("repeated in the answer" if told else "repeated nowhere"),
    )


def redirect(position: Position) -> Verdict:
    """Plain HTTP redirects to the gateway's own name, and never to one that the client gives."""
    address = (position.access.gateway[0], position.access.http_port)
    try:
        connection = wire.connect(address, None)
    except OSError as error:
        return Verdict(True, f"plain HTTP is closed ({error})")
    with contextlib.closing(connection):
        found = wire.exchange(connection, position.bytes("GET", "//a/", key=None, host=EVIL))
    location = found.first.header("location") or ""
    held = found.first.status >= 300 and urllib.parse.urlsplit(location).hostname not in (EVIL, "a")
    return Verdict(held, f"{found.first.status} {location}")


def plain_http(position: Position) -> Verdict:
    """A key that was sent in clear is burnt, so plain HTTP must not make a client happy."""
    seen = []
    for port in {position.access.http_port, position.access.gateway[1]}:
        try:
            connection = wire.connect((position.access.gateway[0], port), None)
        except OSError:
            seen.append(f"{port}: closed")
            continue
        with contextlib.closing(connection):
            first = wire.exchange(
                connection, position.bytes("POST", "/v1/chat/completions", body=position.chat())
            ).first
        if first.status == 0 or first.status < 300:
            return Verdict(False, f"{port}: {first.status}")
        seen.append(f"{port}: {first.status}")
    return Verdict(True, ", ".join(seen))


def forged_address(position: Position) -> Verdict:
    """The log must name the address that asked, not one that it gives."""
    size = position.log_size()
    headers = [(name, "203.0.113.66") for name in ("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "Client-IP")]
    position.ask("GET", "/v1/models", *headers, ("Forwarded", "for=203.0.113.66"))
    lines = [line for line in position.log_since(size) if "203.0.113.66" in line]
    return Verdict(not lines, lines[0][:120] if lines else "the log names the neighbour")


def upgrade(protocol: str, *headers: tuple[str, str]) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        answer = position.ask("GET", "/v1/models", ("Connection", "Upgrade"), ("Upgrade", protocol), *headers)
        return Verdict(answer.status not in (0, 101), str(answer.status))

    return act


def response_headers(position: Position) -> Verdict:
    answer = position.ask("GET", "/v1/models")
    wanted = ("strict-transport-security", "x-content-type-options", "cache-control")
    missing = [name for name in wanted if not answer.header(name)]
    version = [
        value
        for name, value in answer.headers
        if name in ("server", "x-powered-by", "via") and any(c.isdigit() for c in value)
    ]
    faults = [f"without {name}" for name in missing] + [f"tells {value}" for value in version]
    return Verdict(answer.status == 200 and not faults, ", ".join(faults) or "complete, and no version told")


def split_answer(position: Position) -> Verdict:
    """A line break in what the answer may repeat."""
    bad = "a%0d%0aSet-Cookie:%20evil=1"
    answers = [
        position.ask("GET", f"/v1/models/{bad}"),
        position.ask("GET", "/v1/models", ("X-Request-ID", "a\u2028Set-Cookie: evil=1".encode().decode("latin-1"))),
    ]
    told = [answer for answer in answers if answer.header("set-cookie")]
    repeated = [answer for answer in answers if b"evil" in json.dumps(dict(answer.headers)).encode()]
    return Verdict(
        not told and not repeated, "repeated in a header" if told or repeated else "no header of the client's"
    )


KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
PREFLIGHT = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization"))
ATTACKS = [
    Attack(
        "origins",
        "foreign origin",
        "Origin: https://evil.example with a key",
        "no permission given",
        no_permission(("Origin", f"https://{EVIL}")),
    ),
    Attack(
        "origins", "origin null", "Origin: null with a key", "no permission given", no_permission(("Origin", "null"))
    ),
    Attack(
        "origins",
        "origin that ends alike",
        "Origin: https://localhost.evil.example",
        "no permission given",
        no_permission(("Origin", f"https://localhost.{EVIL}")),
    ),
    Attack(
        "origins",
        "preflight",
        "OPTIONS of a foreign page",
        "no permission given",
        no_permission(("Origin", f"https://{EVIL}"), *PREFLIGHT, method="OPTIONS", key=None),
    ),
    Attack(
        "origins",
        "private network preflight",
        "Access-Control-Request-Private-Network",
        "no permission given",
        no_permission(
            ("Origin", f"http://{EVIL}"),
            ("Access-Control-Request-Private-Network", "true"),
            *PREFLIGHT,
            method="OPTIONS",
            key=None,
        ),
    ),
    Attack("origins", "no Host", "HTTP/1.1 without Host", "one refusal", hosts(None)),
    Attack("origins", "two Hosts", "Host twice", "one refusal", hosts("a.example", "b.example")),
    Attack("origins", "Host with a path", "Host: a.example/api", "one refusal", hosts("a.example/api/show")),
    Attack("origins", "Host with spaces", "Host: a b", "one refusal", hosts("a.example b.example")),
    Attack(
        "origins",
        "foreign Host",
        "Host: evil.example (DNS rebinding)",
        "a stranger is refused, nothing is repeated",
        foreign_host,
    ),
    Attack(
        "origins", "foreign Host in a redirect", "plain HTTP with Host: evil.example", "no redirect to it", redirect
    ),
    Attack(
        "origins",
        "plain HTTP",
        "a question in clear, to the redirect and to the TLS port",
        "a redirect or a refusal",
        plain_http,
    ),
    Attack("origins", "forged address", "X-Forwarded-For and its kin", "the log names the neighbour", forged_address),
    Attack(
        "origins",
        "WebSocket",
        "Upgrade: websocket",
        "no 101",
        upgrade("websocket", ("Sec-WebSocket-Version", "13"), KEY),
    ),
    Attack(
        "origins", "HTTP/2 in clear", "Upgrade: h2c", "no 101", upgrade("h2c", ("HTTP2-Settings", "AAMAAABkAAQAAP__"))
    ),
    Attack(
        "origins",
        "answer's headers",
        "is a client protected from itself?",
        "security headers, no version",
        response_headers,
    ),
    Attack("origins", "split answer", "line breaks in what may be repeated", "no header of the client's", split_answer),
]
