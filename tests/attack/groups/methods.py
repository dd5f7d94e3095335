"""Methods that a route does not take."""

from __future__ import annotations

from collections.abc import Callable

from tests.attack.groups.judge import refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

CASES = [
    ("PUT on a route", "PUT", "/api/chat"),
    ("PATCH on a route", "PATCH", "/v1/chat/completions"),
    ("DELETE on a route", "DELETE", "/v1/models"),
    ("DELETE of a model", "DELETE", "/v1/models/gemma3"),
    ("GET on a POST route", "GET", "/api/chat"),
    ("HEAD on a POST route", "HEAD", "/api/generate"),
    ("POST on a GET route", "POST", "/api/tags"),
    ("TRACE", "TRACE", "/v1/models"),
    ("method in lower case", "post", "/v1/chat/completions"),
    ("method that does not exist", "FETCH", "/v1/models"),
    ("methods of WebDAV", "PROPFIND", "/v1/models"),
    ("method with a control character", "GET\x01", "/v1/models"),
    ("very long method", "A" * 20_000, "/v1/models"),
]


def method(name: str, target: str) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        found = position.paced(
            position.bytes(name, target, body=position.chat()), patience=min(5, position.bounds.patience)
        )
        answer = found.first
        if name == "HEAD":
            # Its length is that of the body that a GET would have had.
            status = found.rest.split()[1:2] or [b"none"]
            return Verdict(status[0][:1] == b"4", status[0].decode("latin-1"))
        if not answer.status:
            return Verdict(found.ended, str(found))
        return refused(answer, (400, 404, 405, 411, 414, 501))

    return act


def override(position: Position) -> Verdict:
    """A route that takes POST, overridden to DELETE and GET: it must stay a POST."""
    names = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method")
    headers = [(name, "DELETE") for name in names]
    answer = position.ask("POST", "/api/delete?_method=POST", *headers, body={"model": "attack-no-such-model"})
    if not refused(answer, (400, 403, 404, 405)).held:
        return Verdict(False, f"POST /api/delete overridden to DELETE: {answer}")
    answer = position.ask("GET", "/api/chat", *[(name, "POST") for name in names], body=position.chat())
    return refused(answer, (400, 404, 405))


def rewrite(position: Position) -> Verdict:
    """Headers by which some proxies let the client name another path."""
    headers = [
        (name, "/api/show") for name in ("X-Original-URL", "X-Rewrite-URL", "X-Accel-Redirect", "X-Forwarded-Uri")
    ]
    answer = position.ask("POST", "/v1/embeddings-no-such", *headers, body={"model": position.access.model})
    return refused(answer, (400, 404))


def options(position: Position) -> Verdict:
    answer = position.ask("OPTIONS", "/v1/models", key=None)
    allowed = answer.header("allow") or answer.header("access-control-allow-methods")
    return Verdict(400 <= answer.status < 500 and not allowed, f"{answer.status}, methods told: {allowed or 'none'}")


ATTACKS = [
    *(
        Attack("methods", name, f"{verb[:10]} {target}", "400, 404, 405 or 501", method(verb, target))
        for name, verb, target in CASES
    ),
    Attack(
        "methods", "override headers", "X-HTTP-Method-Override and its kin", "the method stays what it is", override
    ),
    Attack(
        "methods",
        "rewrite headers",
        "X-Original-URL, X-Accel-Redirect and their kin",
        "the path stays what it is",
        rewrite,
    ),
    Attack("methods", "OPTIONS of a stranger", "which methods are there?", "4xx, no methods told", options),
]
