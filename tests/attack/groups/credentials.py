"""Credentials that are none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from tests.attack.groups.judge import refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

Headers = list[tuple[str, str]]


def bearer(*values: str) -> Headers:
    return [("Authorization", f"Bearer {value}") for value in values]


def basic(name: str, password: str) -> Headers:
    return [("Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())]


def mixed_case(key: str) -> str:
    """The key with the case of its first letter changed: what a comparison that ignores case takes for the same."""
    place = next(index for index, letter in enumerate(key) if letter.isalpha())
    return key[:place] + key[place].swapcase() + key[place + 1 :]


# Name, what is tried, and the headers.
CASES: list[tuple[str, str, Callable[[Position], Headers]]] = [
    ("no credential", "no Authorization at all", lambda p: []),
    ("empty header", "an Authorization without a value", lambda p: [("Authorization", "")]),
    ("empty key", "a bearer without a key", lambda p: [("Authorization", "Bearer ")]),
    ("wrong key", "a random key of the right length", lambda p: bearer("x" * 43)),
    (
        "one letter in another case",
        "a valid key with one letter's case changed",
        lambda p: bearer(mixed_case(p.user.api_key)),
    ),
    (
        "key in another case",
        "a valid key with upper and lower case swapped",
        lambda p: bearer(p.user.api_key.swapcase()),
    ),
    ("start of a key", "a valid key without its last character", lambda p: bearer(p.user.api_key[:-1])),
    ("end of a key", "a valid key without its first character", lambda p: bearer(p.user.api_key[1:])),
    ("key and a byte more", "a valid key with a character after it", lambda p: bearer(p.user.api_key + "A")),
    ("key and a NUL", "a valid key with a NUL after it", lambda p: bearer(p.user.api_key + "\0")),
    ("key and a word more", "a valid key, a space and a word", lambda p: bearer(p.user.api_key + " admin")),
    ("key in quotes", "a valid key in double quotes", lambda p: bearer(f'"{p.user.api_key}"')),
    (
        "key percent-encoded",
        "a valid key in percent-encoding",
        lambda p: bearer("".join(f"%{ord(c):02x}" for c in p.user.api_key)),
    ),
    (
        "key's SHA-256",
        "the digest that the gateway keeps, in place of the key",
        lambda p: bearer(hashlib.sha256(p.user.api_key.encode()).hexdigest()),
    ),
    ("pattern for a key", "a regular expression that any key matches", lambda p: bearer(".*")),
    ("user's name for a key", "the user's name, in place of a key", lambda p: bearer(p.user.name)),
    ("another scheme", "a valid key under the scheme Token", lambda p: [("Authorization", f"Token {p.user.api_key}")]),
    ("no scheme", "a valid key without a scheme", lambda p: [("Authorization", p.user.api_key)]),
    ("wrong key, then a valid one", "two Authorization headers", lambda p: bearer("x" * 43, p.user.api_key)),
    ("valid key, then a wrong one", "two Authorization headers", lambda p: bearer(p.user.api_key, "x" * 43)),
    (
        "two keys in one header",
        "a wrong and a valid bearer, with a comma",
        lambda p: bearer(f"{'x' * 43}, Bearer {p.user.api_key}"),
    ),
    (
        "key in a cookie",
        "a valid key as cookie",
        lambda p: [("Cookie", f"api_key={p.user.api_key}; Authorization=Bearer {p.user.api_key}")],
    ),
    (
        "key for a proxy",
        "a valid key in Proxy-Authorization",
        lambda p: [("Proxy-Authorization", f"Bearer {p.user.api_key}")],
    ),
    (
        "key in a look-alike header",
        "a valid key in Authorization_ and X-Authorization",
        lambda p: [("Authorization_", f"Bearer {p.user.api_key}"), ("X-Authorization", f"Bearer {p.user.api_key}")],
    ),
    (
        "user named by the client",
        "headers that name an admin",
        lambda p: [
            ("X-OnPrem-User", p.bystander.name),
            ("X-Remote-User", p.bystander.name),
            ("Remote-User", p.bystander.name),
        ],
    ),
    (
        "key as password",
        "basic authentication with the user's name and key",
        lambda p: basic(p.user.name, p.user.api_key),
    ),
    ("empty password", "basic authentication with the user's name alone", lambda p: basic(p.user.name, "")),
    ("wrong password", "basic authentication with a wrong password", lambda p: basic(p.user.name, "wrong")),
    (
        "basic without a colon",
        "basic authentication that is no pair",
        lambda p: [("Authorization", "Basic " + base64.b64encode(p.user.name.encode()).decode())],
    ),
    ("key as name", "basic authentication with the key as the name", lambda p: basic(p.user.api_key, "")),
    ("expired key", "a key past its end date", lambda p: bearer(p.dead_key("expired"))),
    ("revoked key", "a key that was taken back", lambda p: bearer(p.dead_key("revoked"))),
    ("key of a disabled user", "a key whose user is disabled", lambda p: bearer(p.dead_key("disabled"))),
]


def with_headers(headers: Callable[[Position], Headers]) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        # On a route that a valid key opens; and without a hint that a key was nearly right.
        answer = position.ask("GET", "/v1/models", *headers(position), key=None)
        return refused(answer, (400, 401))

    return act


def in_url(position: Position) -> Verdict:
    key = position.user.api_key
    targets = [f"/v1/models?{name}={key}" for name in ("api_key", "key", "token", "access_token")]
    targets.append(f"https://{position.user.name}:{key}@{position.host}/v1/models")
    answers = [position.ask("GET", target, key=None) for target in targets]
    passed = [answer for answer in answers if not refused(answer, (400, 401, 404)).held]
    return Verdict(not passed, str((passed or answers)[0]))


def of_a_megabyte(position: Position) -> Verdict:
    answer = position.ask("GET", "/v1/models", *bearer("x" * 2**20), key=None)
    return refused(answer, (400, 401, 431))


def timing(position: Position) -> Verdict:
    """Medians over interleaved requests on one connection: of a key that is right but for its end, and one that is
    wrong from its start. Some digests differ early too, so only a difference far above the network's noise tells."""
    import contextlib
    import statistics
    import time

    from tests.attack import wire

    key = position.user.api_key
    times: dict[str, list[float]] = {"near": [], "far": []}
    for _round in range(10):
        for kind, guess in (("near", key[:-1] + chr(ord(key[-1]) ^ 1)), ("far", "~" * len(key))):
            with contextlib.closing(position.connect()) as connection:
                began = time.perf_counter()
                data = position.bytes("GET", "/v1/models", *bearer(guess), key=None)
                if wire.exchange(connection, data).first.status in (401, 429):
                    times[kind].append(time.perf_counter() - began)
            time.sleep(0.05)
    if not all(times.values()):
        return Verdict(False, "no guess was refused")
    near, far = (statistics.median(times[kind]) * 1e3 for kind in ("near", "far"))
    return Verdict(near - far < 5, f"medians of {near:.2f} and {far:.2f} ms")


ATTACKS = [
    *(
        Attack("credentials", name, tries, "400 or 401 with a JSON error", with_headers(headers))
        for name, tries, headers in CASES
    ),
    Attack(
        "credentials", "key in the URL", "a valid key as a parameter, or before the host", "400, 401 or 404", in_url
    ),
    Attack("credentials", "key of 1 MB", "a bearer of a megabyte", "400, 401 or 431", of_a_megabyte),
    Attack(
        "credentials", "time of a near miss", "is a nearly right key refused later?", "no difference above 5 ms", timing
    ),
]
