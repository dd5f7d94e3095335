"""What a client can write into the logs, and what it must never find there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

from tests.attack.groups.credentials import basic
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

FORGED = '"} {"user":"forged","status":200}'
# All that may hold what a request said: logs, temporary files, and the journal.
SEARCH = """
import os, subprocess, sys
marker = sys.stdin.read().strip().encode()
found = []
for top in sys.argv[1:]:
    for directory, _names, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            try:
                if os.path.isfile(path) and os.path.getsize(path) < 64 * 2**20 and marker in open(path, "rb").read():
                    found.append(path)
            except OSError:
                pass
logs = {
    "the journal": ["journalctl", "-q", "-b", "-n", "20000", "-o", "cat"],
    "the engine's log": ["docker", "logs", "onprem-llm-ollama"],
}
for what, command in logs.items():
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    except OSError:
        continue
    if marker in out:
        found.append(what)
print("\\n".join(found))
"""


def injected(build: Callable[[Position], bytes], count: int = 1) -> Callable[[Position], Verdict]:
    """Each line stays one JSON object, there are as many as requests, and none names a forged user."""

    def act(position: Position) -> Verdict:
        size = position.log_size()
        position.send(build(position), answers=count)
        lines = [line for line in position.log_since(size) if line]
        users = set()
        for line in lines:
            try:
                line.encode()
                entry = json.loads(line)
            except ValueError:
                return Verdict(False, f"a line that is no JSON: {line[:60]}")
            if not isinstance(entry, dict):
                return Verdict(False, f"a line that is no object: {line[:60]}")
            users.add(str(entry.get("user")))
        forged = {user for user in users if user not in ("", "None", *position.access.users)}
        seen = f"{len(lines)} line{'s' * (len(lines) != 1)}" + (
            f", with the user {sorted(forged)[0][:30]}" if forged else ""
        )
        return Verdict(len(lines) <= count and not forged, seen)

    return act


def claimed_name(position: Position) -> Verdict:
    """Who gives a user's name and a wrong password is a stranger, and the log must not say otherwise."""
    name, size = position.bystander.name, position.log_size()
    answer = position.ask("GET", "/v1/models", *basic(name, "wrong"), key=None)
    lines = [line for line in position.log_since(size) if f'"user":"{name}"' in line.replace('": "', '":"')]
    return Verdict(
        answer.status in (400, 401) and not lines, f"{answer}, {f'logged as {name}' if lines else 'nobody named'}"
    )


def searched(build: Callable[[Position, str], bytes]) -> Callable[[Position], Verdict]:
    """A marker that a request carries is found in no log and no file of any host afterwards."""

    def act(position: Position) -> Verdict:
        marker = "marker-" + secrets.token_hex(16)
        position.paced(build(position, marker))
        for name, host in position.hosts.items():
            found = host.run(["python3", "-c", SEARCH, *position.log_places], marker).strip()
            if found:
                return Verdict(False, f"{name}: in {found.splitlines()[0]}")
        return Verdict(True, f"found nowhere on {len(position.hosts)} hosts")

    return act


def large_prompt(position: Position, marker: str) -> bytes:
    """More than any buffer bears, so that it goes to a file if anything does; its model does not exist."""
    text = (marker + " ") * (3 * 2**20 // len(marker))
    return position.bytes("POST", "/v1/chat/completions", body=position.chat("attack-no-such-model", user=text))


INJECTIONS: list[tuple[str, str, Callable[[Position], bytes]]] = [
    (
        "quotes in the path",
        "a path that closes the JSON string",
        lambda p: p.bytes("GET", "/" + FORGED.replace(" ", "%20")),
    ),
    (
        "quotes in the query",
        "a query that closes the JSON string",
        lambda p: p.bytes("GET", "/v1/models?" + FORGED.replace(" ", "%20")),
    ),
    (
        "line break in the path",
        "%0d%0a and a line of the log",
        lambda p: p.bytes("GET", "/a%0d%0a" + FORGED.replace(" ", "%20")),
    ),
    (
        "quotes in the name",
        "basic authentication with a name that closes the string",
        lambda p: p.bytes("GET", "/v1/models", *basic(FORGED, "x"), key=None),
    ),
    (
        "line break in the name",
        "basic authentication with a name of two lines",
        lambda p: p.bytes("GET", "/v1/models", *basic("a\n" + FORGED, "x"), key=None),
    ),
    (
        "quotes in the headers",
        "User-Agent, Referer, X-Request-ID",
        lambda p: p.bytes("GET", "/v1/models", ("User-Agent", FORGED), ("Referer", FORGED), ("X-Request-ID", FORGED)),
    ),
    (
        "control characters",
        "escape sequences of a terminal",
        lambda p: p.bytes("GET", "/v1/models", ("User-Agent", "\x1b[2J\x07"), ("X-Forwarded-For", "\x1b]0;a\x07")),
    ),
    (
        "bytes that are no UTF-8",
        "in path and headers",
        lambda p: p.bytes("GET", "/v1/\xff\xfe", ("User-Agent", "\xff\xc0")),
    ),
    ("quotes in the method", "a method that closes the string", lambda p: p.bytes('GET"}', "/v1/models")),
    (
        "quotes in the model",
        "a model that closes the string",
        lambda p: p.bytes("POST", "/v1/chat/completions", body=p.chat(FORGED)),
    ),
    (
        "line break in the model",
        "a model of two lines",
        lambda p: p.bytes("POST", "/v1/chat/completions", body=p.chat("a\n" + FORGED)),
    ),
]
SEARCHES: list[tuple[str, str, Callable[[Position, str], bytes]]] = [
    ("secret in the query", "a key as a parameter", lambda p, m: p.bytes("GET", f"/v1/models?api_key={m}")),
    ("secret in the path", "a key as a path", lambda p, m: p.bytes("GET", f"/v1/models/{m}")),
    (
        "secret in a wrong header",
        "a wrong key",
        lambda p, m: p.bytes("GET", "/v1/models", ("Authorization", f"Bearer {m}"), key=None),
    ),
    (
        "secret in a malformed request",
        "a key in a request that cannot be read",
        lambda p, m: p.bytes("GET", f"/v1/models?key={m}", ("X-A", "a\0b")),
    ),
    (
        "secret for a name",
        "a key as the name of basic authentication",
        lambda p, m: p.bytes("GET", "/v1/models", *basic(m, "x"), key=None),
    ),
    ("secret in the method", "a key as the method", lambda p, m: p.bytes(m, "/v1/models")),
    (
        "secret for a host",
        "a key as Host and in the TLS port's plain HTTP",
        lambda p, m: p.bytes("GET", "/v1/models", host=f"{m}.example"),
    ),
    (
        "prompt",
        "a question that is answered",
        lambda p, m: p.bytes(
            "POST", "/v1/chat/completions", body={**p.chat(), "messages": [{"role": "user", "content": m}]}
        ),
    ),
    ("large prompt", "a question of 3 MB", large_prompt),
]

ATTACKS = [
    *(
        Attack("logs", f"log: {name}", tries, "one JSON object a line, no forged user", injected(build))
        for name, tries, build in INJECTIONS
    ),
    Attack("logs", "log: claimed name", "a user's name and a wrong password", "401, and nobody named", claimed_name),
    *(
        Attack("logs", f"log: {name}", tries, "found in no log, no file, no journal", searched(build))
        for name, tries, build in SEARCHES
    ),
]
