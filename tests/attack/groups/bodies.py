"""Bodies that mean one model to the gateway and another to the engine.

The engine decodes JSON with Go's encoding/json: names match whatever their case, with Unicode's simple folding, and of
two the last one counts. It does not look at Content-Type.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

from tests.attack.groups.judge import CLIENT_ERRORS, refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position

Body = Callable[[str, str], bytes]
TEXT = '"messages":[{"role":"user","content":"One"}],"max_tokens":1,"stream":false'


def with_model(*pairs: str) -> Body:
    """A chat whose model is said by ``pairs``: %(own)s and %(other)s are the allowed model and the forbidden one."""

    def build(own: str, other: str) -> bytes:
        return ("{" + ",".join([*(pair % {"own": own, "other": other} for pair in pairs), TEXT]) + "}").encode()

    return build


def zstd(data: bytes) -> bytes:
    """A frame of one raw block (RFC 8878): the standard library cannot compress, and need not."""
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + (len(data) << 3 | 1).to_bytes(3, "little") + data


OTHER = with_model('"model":"%(other)s"')
NAMES: list[tuple[str, str, Body]] = [
    ("forbidden model", "the model itself", OTHER),
    (
        "model twice, forbidden last",
        "two names, of which Go takes the last",
        with_model('"model":"%(own)s"', '"model":"%(other)s"'),
    ),
    (
        "model twice, forbidden first",
        "two names, of which others take the first",
        with_model('"model":"%(other)s"', '"model":"%(own)s"'),
    ),
    (
        "Model in another case",
        '"model" allowed, "Model" forbidden',
        with_model('"model":"%(own)s"', '"Model":"%(other)s"'),
    ),
    ("MODEL alone", '"MODEL" is what Go takes for "model"', with_model('"MODEL":"%(other)s"')),
    ("escaped name", '"\\u006dodel" behind "model"', with_model('"model":"%(own)s"', '"\\u006dodel":"%(other)s"')),
    (
        "escaped value",
        "the forbidden model in escapes",
        lambda own, other: with_model('"model":"' + "".join(f"\\u{ord(c):04x}" for c in other) + '"')(own, other),
    ),
    ("nested model", "an object in place of the model", with_model('"model":{"model":"%(other)s"}')),
    ("list of models", "a list in place of the model", with_model('"model":["%(own)s","%(other)s"]')),
    ("number for a model", "a number in place of the model", with_model('"model":1')),
    ("null for a model", "null in place of the model", with_model('"model":null')),
    ("no model", "a body without a model", with_model('"no":"%(other)s"')),
    ("empty model", "an empty model", with_model('"model":""')),
    ("array body", "the request in a list", lambda own, other: b"[" + OTHER(own, other) + b"]"),
    ("string body", "the request as a string", lambda own, other: json.dumps(OTHER(own, other).decode()).encode()),
    ("byte order mark", "a BOM before the body", lambda own, other: b"\xef\xbb\xbf" + OTHER(own, other)),
    ("UTF-16 body", "the body in UTF-16", lambda own, other: OTHER(own, other).decode().encode("utf-16")),
    (
        "two documents",
        "an allowed request, and another behind it",
        lambda own, other: with_model('"model":"%(own)s"')(own, other) + OTHER(own, other),
    ),
    (
        "bytes after the body",
        "an allowed request, and NULs behind it",
        lambda own, other: with_model('"model":"%(own)s"')(own, other) + b"\0\0}",
    ),
    (
        "comment in the body",
        "JSON with a comment",
        lambda own, other: (
            b'{/*"model":"' + own.encode() + b'",*/"model":"' + other.encode() + b'",' + TEXT.encode() + b"}"
        ),
    ),
    ("invalid UTF-8", "a name with a byte that is none", lambda own, other: b'{"mod\xff":1,' + OTHER(own, other)[1:]),
    ("lone surrogate", "a name with half a pair", with_model('"model\\ud800":"x"', '"model":"%(other)s"')),
    ("NUL in the name", "a forbidden model and a NUL", with_model('"model":"%(other)s\\u0000"')),
    ("space around the name", "a forbidden model in spaces", with_model('"model":" %(other)s "')),
    (
        "name in another case",
        "a forbidden model in upper case",
        lambda own, other: with_model(f'"model":"{other.upper()}"')(own, other),
    ),
    (
        "name with its registry",
        "registry.ollama.ai/library/ before the name",
        with_model('"model":"registry.ollama.ai/library/%(other)s"'),
    ),
    ("name with its namespace", "library/ before the name", with_model('"model":"library/%(other)s"')),
    (
        "name with a scheme",
        "https://registry.ollama.ai/library/ before the name",
        with_model('"model":"https://registry.ollama.ai/library/%(other)s"'),
    ),
    ("name with a path", "an allowed model, ../ and a forbidden one", with_model('"model":"%(own)s/../%(other)s"')),
    (
        "name without its tag",
        "a forbidden model without :latest, or with it twice",
        lambda own, other: with_model(
            f'"model":"{other.removesuffix(":latest") if other.endswith(":latest") else other + ":latest"}"'
        )(own, other),
    ),
    ("name with a digest", "a forbidden model and @sha256:", with_model('"model":"%(other)s@sha256:' + "0" * 64 + '"')),
    (
        "deep body",
        "10 000 levels before the model",
        lambda own, other: b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"," + OTHER(own, other)[1:],
    ),
]

CODINGS: list[tuple[str, str, list[tuple[str, str]], Callable[[bytes], bytes]]] = [
    ("gzip", "a body in gzip", [("Content-Encoding", "gzip")], gzip.compress),
    ("deflate", "a body in deflate", [("Content-Encoding", "deflate")], zlib.compress),
    ("zstd", "a body in zstd", [("Content-Encoding", "zstd")], zstd),
    ("unknown coding", "a body said to be in br", [("Content-Encoding", "br")], lambda data: data),
    ("form", "a body said to be a form", [("Content-Type", "application/x-www-form-urlencoded")], lambda data: data),
    ("charset", "a body said to be in UTF-7", [("Content-Type", "application/json; charset=utf-7")], lambda data: data),
]


def forbidden(build: Body) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        user, other = position.restricted, position.forbidden
        own = (user.models or ("",))[0]
        answer = position.ask("POST", "/v1/chat/completions", body=build(own, other), key=user.api_key)
        return refused(answer, CLIENT_ERRORS)

    return act


def coded(headers: list[tuple[str, str]], code: Callable[[bytes], bytes]) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        user, other = position.restricted, position.forbidden
        data = code(OTHER((user.models or ("",))[0], other))
        answer = position.ask("POST", "/v1/chat/completions", *headers, body=data, key=user.api_key)
        return refused(answer, CLIENT_ERRORS)

    return act


def every_route(position: Position) -> Verdict:
    user, other = position.restricted, position.forbidden
    bodies = {
        "/api/chat": position.chat(other),
        "/api/generate": position.generate(model=other),
        "/api/embed": {"model": other, "input": "a"},
        "/api/embeddings": {"model": other, "prompt": "a"},
        "/v1/completions": {"model": other, "prompt": "a", "max_tokens": 1},
        "/v1/embeddings": {"model": other, "input": "a"},
        "/v1/messages": position.chat(other),
        "/v1/responses": {"model": other, "input": "a"},
    }
    for path, body in bodies.items():
        verdict = refused(position.ask("POST", path, body=body, key=user.api_key), CLIENT_ERRORS)
        if not verdict.held:
            return Verdict(False, f"{path}: {verdict.seen}")
    return Verdict(True, f"refused on {len(bodies)} routes")


def lists(position: Position) -> Verdict:
    """What is not allowed is not told either."""
    user, other = position.restricted, position.forbidden
    for path in ("/api/tags", "/v1/models", "/api/ps", f"/v1/models/{other}"):
        answer = position.ask("GET", path, key=user.api_key)
        if answer.status == 200 and other.encode() in answer.body:
            return Verdict(False, f"{path} tells {other}")
    answer = position.ask("GET", "/v1/models", key=user.api_key)
    own = (user.models or ("",))[0]
    return Verdict(answer.status == 200 and own.encode() in answer.body, f"/v1/models: {answer.status}, {own} alone")


def model_in_query(position: Position) -> Verdict:
    user, other = position.restricted, position.forbidden
    answer = position.ask(
        "POST", f"/v1/embeddings?model={other}", ("X-OnPrem-Model", other), body=b"{}", key=user.api_key
    )
    return refused(answer, CLIENT_ERRORS)


def own_model_serves(position: Position) -> Verdict:
    """Without it, the refusals of the others prove nothing."""
    user = position.restricted
    own = (user.models or ("",))[0]
    paths = {"/v1/chat/completions": position.chat(own), "/v1/embeddings": {"model": own, "input": "a"}}
    answers = [position.ask("POST", path, body=body, key=user.api_key, patient=True) for path, body in paths.items()]
    return Verdict(any(answer.status == 200 for answer in answers), " and ".join(map(str, answers)))


ATTACKS = [
    Attack("bodies", "allowed model", "the user's own model, as a control", "200", own_model_serves),
    *(Attack("bodies", name, tries, "a refusal", forbidden(build)) for name, tries, build in NAMES),
    *(
        Attack("bodies", f"coding: {name}", tries, "a refusal", coded(headers, code))
        for name, tries, headers, code in CODINGS
    ),
    Attack(
        "bodies",
        "forbidden model on every route",
        "chat, generate, embed and their kin",
        "a refusal on each",
        every_route,
    ),
    Attack(
        "bodies",
        "forbidden model in a list",
        "/api/tags, /v1/models, /api/ps, /v1/models/<model>",
        "it is not told",
        lists,
    ),
    Attack(
        "bodies", "forbidden model in the query", "and in a header of the gateway's own", "a refusal", model_in_query
    ),
]
