"""Spellings of paths that lead past the list of routes."""

from __future__ import annotations

from collections.abc import Callable

from tests.attack.groups.judge import refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

# Management that every engine has, and that changes nothing: what it tells is no user's to know.
CASES = [
    ("management as it is", "/api/show"),
    ("double slash at the start", "//api/show"),
    ("double slash inside", "/api//show"),
    ("single dot", "/api/./show"),
    ("two dots", "/api/tags/../show"),
    ("two dots below an open route", "/v1/models/../../api/show"),
    ("encoded dots", "/v1/models/%2e%2e/%2e%2e/api/show"),
    ("encoded slashes", "/v1/models/..%2f..%2fapi%2fshow"),
    ("encoded letter", "/%61pi/show"),
    ("encoded letter at the end", "/api/sho%77"),
    ("encoded twice", "/%2561pi/show"),
    ("encoded slash", "/api%2fshow"),
    ("upper case", "/API/SHOW"),
    ("slash at the end", "/api/show/"),
    ("encoded NUL at the end", "/api/show%00"),
    ("encoded space at the end", "/api/show%20"),
    ("encoded newline at the end", "/api/show%0a"),
    ("parameter after a semicolon", "/api/show;x=1"),
    ("suffix", "/api/show.json"),
    ("query", "/api/show?path=/v1/models"),
    ("fragment", "/api/show#/v1/models"),
    ("backslashes", "\\api\\show"),
    ("backslash inside", "/v1/models/..\\..\\api\\show"),
    ("overlong UTF-8", "/api%c0%afshow"),
    ("full-width letters", "/\u00ef\u00bd\u0081pi/show"),
    ("network path", "//127.0.0.1:11434/api/show"),
]


def management(target: str) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        answer = position.ask("POST", target, body={"model": position.access.model})
        return refused(answer, (400, 403, 404, 405))

    return act


def first_refused(*requests: tuple[str, str]) -> Callable[[Position], Verdict]:
    """Each of the requests, by method and target."""

    def act(position: Position) -> Verdict:
        seen = []
        for method, target in requests:
            verdict = refused(position.ask(method, target), (400, 403, 404, 405, 414))
            seen.append(verdict.seen)
            if not verdict.held:
                return Verdict(False, f"{method} {target[:60]}: {verdict.seen}")
        return Verdict(True, ", ".join(sorted(set(seen))))

    return act


def absolute(target: Callable[[Position], str], method: str = "POST") -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        body = {"model": position.access.model} if method == "POST" else None
        return refused(position.ask(method, target(position), body=body), (400, 403, 404, 405, 421))

    return act


ATTACKS = [
    *(
        Attack(
            "paths",
            name,
            f"POST {target.encode('ascii', 'backslashreplace').decode()} as a user",
            "400, 403, 404 or 405",
            management(target),
        )
        for name, target in CASES
    ),
    Attack(
        "paths",
        "absolute form, own host",
        "POST https://<gateway>/api/show",
        "a refusal",
        absolute(lambda p: f"https://{p.host}/api/show"),
    ),
    Attack(
        "paths",
        "absolute form of an open route",
        "GET https://<gateway>/v1/models",
        "a refusal",
        absolute(lambda p: f"https://{p.host}/v1/models", "GET"),
    ),
    Attack(
        "paths",
        "absolute form, another host",
        "GET http://169.254.169.254/latest/meta-data/",
        "a refusal",
        absolute(lambda p: "http://169.254.169.254/latest/meta-data/", "GET"),
    ),
    Attack(
        "paths",
        "absolute form, the engine",
        "GET http://127.0.0.1:11434/api/tags",
        "a refusal",
        absolute(lambda p: "http://127.0.0.1:11434/api/tags", "GET"),
    ),
    Attack(
        "paths",
        "tunnel",
        "CONNECT 127.0.0.1:11434, and to the gateway itself",
        "400, 404 or 405",
        first_refused(("CONNECT", "127.0.0.1:11434"), ("CONNECT", "/v1/models")),
    ),
    Attack(
        "paths",
        "internals of the gateway",
        "locations that are its own",
        "400, 403 or 404",
        first_refused(
            *(
                ("GET", path)
                for path in (
                    "/_error",
                    "/_authenticate",
                    "/@engine",
                    "/nginx_status",
                    "/basic_status",
                    "/.well-known/../_error",
                )
            )
        ),
    ),
    Attack(
        "paths",
        "what scanners look for",
        "files and consoles of other software",
        "404",
        first_refused(
            *(
                ("GET", path)
                for path in (
                    "/.git/config",
                    "/.env",
                    "/metrics",
                    "/debug/pprof/",
                    "/server-status",
                    "/etc/passwd",
                    "/",
                    "/index.html",
                    "/favicon.ico",
                    "/v1/unknown",
                )
            )
        ),
    ),
    Attack(
        "paths",
        "very long path",
        "a path of 100 kB",
        "400, 404 or 414",
        first_refused(("GET", "/v1/models/" + "a" * 100_000)),
    ),
    Attack(
        "paths",
        "very long query",
        "a query of 100 kB",
        "400, 404 or 414",
        first_refused(("GET", "/v1/models?" + "a" * 100_000)),
    ),
]
