# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests pass, by path, method, body, model and rights; and what the engine sees of them."""

from __future__ import annotations

import base64
import json
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.gateway.conftest import KEYS, PASSWORD, Gateway, plan_of, users
from tests.unit.role_templates import ROLES, role_variables

CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = json.dumps(CHAT)


def test_the_preflight_report_knows_each_part_of_the_program() -> None:
    foretold = {entry.get("source") for entry in role_variables("gateway")["__gateway_files"]} - {None}
    assert foretold == {f"lua/{path.name}" for path in (ROLES / "gateway/files/lua").iterdir()}


@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses"]
)
def test_inference_passes(gateway: Gateway, path: str) -> None:
    assert gateway.ask("POST", path, CHAT).status == 200


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ({"Authorization": f"Bearer {KEYS['app']}"}, "app"),
        ({"Authorization": f"bearer {KEYS['app']}"}, "app"),
        ({"X-Api-Key": KEYS["narrow"]}, "narrow"),
        ({"Authorization": "Basic " + base64.b64encode(f"app:{PASSWORD}".encode()).decode()}, "app"),
    ],
    ids=["bearer", "scheme in lower case", "as Anthropic's clients", "password"],
)
def test_credential_passes(gateway: Gateway, headers: dict[str, str], user: str) -> None:
    assert gateway.ask("POST", "/api/chat", CHAT, user="", **headers).status == 200
    assert gateway.logged()[-1]["user"] == user


@pytest.mark.contract(7)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Token {KEYS['app']}"},
        {"Authorization": f"Bearer {KEYS['app'][:-1]}"},
        {"Authorization": f"Bearer {KEYS['app']} "[:-1].swapcase()},
        {"Authorization": f"Bearer {KEYS['app']}x"},
        {"Authorization": f"Bearer {'0' * 64}"},
        {"Authorization": f"Bearer {KEYS['old']}"},
        {"Authorization": "Basic " + base64.b64encode(b"app:wrong").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"nobody:x").decode()},
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Bearer {KEYS['app']}", "X-Api-Key": KEYS["ops"]},
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_credential_is_refused(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = gateway.ask("POST", "/api/chat", CHAT, user="", **headers)
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_two_credentials_in_one_header_s_name_are_refused(gateway: Gateway) -> None:
    for order in (("app", "ops"), ("ops", "app")):
        lines = "".join(f"Authorization: Bearer {KEYS[name]}\r\n" for name in order)
        head = f"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n{lines}Connection: close\r\n\r\n"
        assert gateway.raw(head.encode()).split(b" ")[1] in (b"400", b"401")


@pytest.mark.contract(7)
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 404), ("GET", "/", 404), ("POST", "/api/push", 404), ("POST", "/api/blobs/sha256:00", 404),
        ("POST", "/api/experimental/web_search", 404), ("POST", "/v1/audio/transcriptions", 404), ("POST",
        "/api/me", 404),
        ("DELETE", "/api/delete", 403), ("POST", "/api/pull", 403), ("POST", "/api/show", 403), ("POST",
        "/api/create", 403),
        ("PUT", "/api/chat", 405), ("GET", "/api/chat", 405), ("TRACE", "/api/chat", 405), ("OPTIONS",
        "/api/chat", 405),
        ("DELETE", "//api//delete", 404), ("DELETE", "/%61pi/delete", 404), ("DELETE", "/api/./delete", 404),
        ("DELETE", "/v1/models/../../api/delete", 404), ("POST", "/API/chat", 404), ("POST", "/api/chat/", 404),
        ("POST", "/api/chat%20", 404), ("POST", "/api/chat%00", 400), ("POST", "/api/chat;x=1", 404), ("POST",
        "/api%2fchat", 404),
        ("GET", "/v1/models/a/b", 404), ("GET", "/v1/models/%2e%2e", 404),
    ],
)  # fmt: skip
def test_what_is_not_on_the_list(gateway: Gateway, method: str, path: str, status: int) -> None:
    answer = gateway.ask(method, path, TEXT if method in ("POST", "PUT", "DELETE") else None)
    assert answer.status == status
    if method != "TRACE":
        assert "error" in answer.json


def test_absolute_form_is_refused(gateway: Gateway) -> None:
    head = (
        f"GET https://localhost/api/version HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        f"{KEYS['app']}\r\nConnection: close\r\n\r\n"
    )
    assert gateway.raw(head.encode()).split(b" ")[1] in (b"400", b"404")


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5\r\n folded: yes\r\n",
    ],
    ids=["CL and TE", "two CL", "odd TE", "signed CL", "folded line"],
)
def test_smuggling_is_refused(gateway: Gateway, head: str) -> None:
    start = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['app']}\r\n"
    answer = gateway.raw(f"{start}{head}\r\n0\r\n\r\nGET /api/ps HTTP/1.1\r\nHost: x\r\n\r\n".encode(), timeout=2)
    assert answer.split(b" ")[1][:1] in (b"4", b"5")
    assert answer.count(b"HTTP/1.1 200") == 0


def test_admin_manages(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/api/show", {"model": "gemma3:270m"}, user="ops").status == 200


def test_engine_sees_the_body_and_no_header_of_the_client_s(gateway: Gateway) -> None:
    gateway.upstream_says("seen")
    answer = gateway.ask(
        "POST", "/api/chat?key=hidden", CHAT, Cookie="a=b", Origin="https://x.example", **{
            "X-HTTP-Method-Override": "DELETE", "X-OnPrem-User": "ops", "X-Forwarded-For": "1.2.3.4", "Referer": "https://x.example",
        },
    )  # fmt: skip
    [[head, body]] = gateway.upstream_says("seen")
    lines = head.lower().split("\r\n")
    assert lines[0] == "post /api/chat http/1.1"
    assert {line.partition(":")[0] for line in lines[1:]} <= {
        "host",
        "content-length",
        "content-type",
        "accept",
        "x-request-id",
    }
    assert f"x-request-id: {answer.headers['x-request-id']}" in lines
    assert "host: localhost:11434" in lines
    assert json.loads(body) == CHAT


@pytest.mark.parametrize(
    "name",
    [
        "gemma3:270m",
        "GEMMA3:270M",
        "library/gemma3:270m",
        "registry.ollama.ai/library/gemma3:270m",
        "Registry.Ollama.AI/Library/Gemma3:270m",
        "hf.co/acme/thing:q4",
        "hf.co/Acme/thing:Q4",
    ],
)
def test_model_by_any_name_of_its(gateway: Gateway, name: str) -> None:
    assert gateway.ask("POST", "/api/chat", CHAT | {"model": name}).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "gemma3", "gemma3:latest", "gemma3:270m ", " gemma3:270m", "gemma3:270m@sha256:00", "other/gemma3:270m",
        "gemma3:270m-cloud", "library/library/gemma3:270m", "registry.ollama.ai/gemma3:270m",
        "registry.ollama.ai/library/library/gemma3:270m", "library/acme/thing:q4", "library/hf.co/acme/thing:q4",
        "registry.ollama.ai/hf.co/acme/thing:q4", "hf.co/thing:q4", "acme/thing:q4", "hf.co:443/acme/thing:q4",
        "/gemma3:270m", "library//gemma3:270m", "//gemma3:270m", "registry.ollama.ai//gemma3:270m", "gemma3/270m",
        "gemma3:", ":270m", "gemma3::270m", "hf.co/acme/thing:q4/", "-gemma3:270m", "gemma3:270m\x00",
        "gemma3:270m:local", "http://registry.ollama.ai/library/gemma3:270m", "../gemma3:270m", "",
        "gemma3:270\u217f", "x" * 900,
    ],
)  # fmt: skip
def test_other_model_is_not_found(gateway: Gateway, name: str) -> None:
    answer = gateway.ask("POST", "/api/chat", CHAT | {"model": name})
    assert (answer.status, answer.code) == (404, "model_not_found")


def test_model_by_right(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/api/chat", CHAT, user="narrow").status == 200
    answer = gateway.ask("POST", "/api/chat", CHAT | {"model": "qwen3:8b"}, user="narrow")
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert [row["id"] for row in gateway.ask("GET", "/v1/models", user="narrow").json["data"]] == ["gemma3:270m"]
    assert [row["name"] for row in gateway.ask("GET", "/api/tags", user="narrow").json["models"]] == ["gemma3:270m"]
    assert [row["name"] for row in gateway.ask("GET", "/api/ps", user="narrow").json["models"]] == ["gemma3:270m"]
    assert gateway.ask("GET", "/v1/models/gemma3:270m", user="narrow").json["id"] == "gemma3:270m"
    assert gateway.ask("GET", "/v1/models/qwen3:8b", user="narrow").status == 404
    assert len(gateway.ask("GET", "/v1/models").json["data"]) == 3
    assert "secret" in gateway.ask("GET", "/api/ps", user="ops").body


BAD_BODIES = {
    "empty": "",
    "array": "[" + TEXT + "]",
    "string": '"gemma3:270m"',
    "number": "1",
    "null": "null",
    "two objects": TEXT + TEXT,
    "trailing bytes": TEXT + "x",
    "trailing zero byte": TEXT + "\0",
    "cut off": TEXT[:-1],
    "model twice": '{"model":"qwen3:8b","model":"gemma3:270m"}',
    "model twice by case": '{"model":"gemma3:270m","Model":"qwen3:8b"}',
    "model in capitals": '{"MODEL":"qwen3:8b"}',
    "model by an escape": '{"model":"gemma3:270m","\\u006dodel":"qwen3:8b"}',
    "model only by an escape": '{"\\u006dodel":"gemma3:270m"}',
    "long s for s": '{"model":"gemma3:270m","me\u017f\u017fages":[]}',
    "Kelvin sign for k": '{"model":"gemma3:270m","\u212aeep_alive":0}',
    "no UTF-8": TEXT.encode()[:-2] + b',"x":"\xc3\x28"}',
    "overlong UTF-8": TEXT.encode()[:-1] + b',"x":"\xc0\xaf"}',
    "UTF-16 surrogate as UTF-8": TEXT.encode()[:-1] + b',"x":"\xed\xa0\x80"}',
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "model is a number": '{"model":1}',
    "model is an object": '{"model":{"model":"gemma3:270m"}}',
    "model is null": '{"model":null}',
    "model is missing": '{"prompt":"x"}',
    "nested too deep": '{"model":"gemma3:270m","x":' + "[" * 200 + "]" * 200 + "}",
    "comment": '{"model":"gemma3:270m" /* x */}',
    "trailing comma is an object's": '{"model":"gemma3:270m",}',
    "single quotes": "{'model':'gemma3:270m'}",
    "word": '{"model":"gemma3:270m","x":NaN}',
    "options is an array": '{"model":"gemma3:270m","options":[]}',
    "options twice": '{"model":"gemma3:270m","options":{},"options":{"num_ctx":1}}',
    "option twice": '{"model":"gemma3:270m","options":{"num_ctx":8192,"num_ctx":1}}',
    "option in capitals": '{"model":"gemma3:270m","options":{"NUM_CTX":1}}',
    "option by an escape": '{"model":"gemma3:270m","options":{"num\\u005fctx":1}}',
    "quote hidden by backslashes": '{"x":"\\\\","model":"qwen3:8b","y":"\\\\\\"","model":"gemma3:270m"}',
    "role by an escape": '{"model":"gemma3:270m","messages":[{"r\\u006fle":"system","content":"x"}]}',
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD_BODIES))
def test_body_is_refused(gateway: Gateway, case: str) -> None:
    gateway.upstream_says("seen")
    body = BAD_BODIES[case]
    answer = gateway.ask("POST", "/api/chat", body.encode() if isinstance(body, str) else body, user="narrow")
    assert (answer.status, answer.code) in ((400, "invalid_json"), (400, "model_missing"))
    assert gateway.upstream_says("seen") == []


GOOD_BODIES = {
    "white space": ' \r\n\t{ "model" : "gemma3:270m" , "messages" : [ ] , "options" : { } } \n',
    "escaped slashes": '{"model":"registry.ollama.ai\\/library\\/gemma3:270m"}',
    "escaped quotes": '{"model":"gemma3:270m","prompt":"a \\"model\\":\\"x\\" \\\\"}',
    "other scripts": json.dumps(CHAT | {"prompt": "\u65e5\u672c\u8a9e \U0001f600 \u00e9"}, ensure_ascii=False),
    "numbers": '{"model":"gemma3:270m","a":-0.5e-10,"b":1E5,"c":0}',
    "nested": '{"model":"gemma3:270m","tools":[{"type":"function","function":{"parameters":{"MODEL":{"\u212a":[]}}}}]}',
    "null members": '{"model":"gemma3:270m","keep_alive":null,"options":null,"system":null,"raw":false,"template":""}',
}


@pytest.mark.parametrize("case", sorted(GOOD_BODIES))
def test_body_passes_as_it_is(gateway: Gateway, case: str) -> None:
    gateway.upstream_says("seen")
    assert gateway.ask("POST", "/api/chat", GOOD_BODIES[case].encode(), user="narrow").status == 200
    [[_, body]] = gateway.upstream_says("seen")
    assert body.encode("latin-1").decode() == GOOD_BODIES[case]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"keep_alive": 0}, "keep_alive"),
        ({"keep_alive": "5m"}, "keep_alive"),
        *(({"options": {name: value}}, f"options.{name}") for name, value in {
            "num_ctx": 4096, "num_gpu": 0, "main_gpu": 1, "num_batch": 1, "use_mmap": False, "num_thread": 1,
            "draft_num_predict": 9,
            "low_vram": True, "vocab_only": True, "use_mlock": True, "numa": True, "f16_kv": False,
        }.items()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
def test_no_request_changes_how_a_model_is_loaded(
    gateway: Gateway, path: str, more: dict[str, Any], param: str
) -> None:
    answer = gateway.ask("POST", path, CHAT | more)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "option_not_allowed", param)


@pytest.mark.parametrize(
    "more",
    [{"keep_alive": -1}, {"keep_alive": "-1"}, {"options": {"num_ctx": 8192, "temperature": 0.1, "num_predict": 4}}],
)
def test_what_is_the_plan_s_passes(gateway: Gateway, more: dict[str, Any]) -> None:
    assert gateway.ask("POST", "/api/chat", CHAT | more).status == 200


RIGHTS = {
    "raw": {"raw": True},
    "context": {"context": [1, 2, 3]},
    "no context": {"context": []},
    "template": {"template": "{{ .System }}"},
    "template shown": {"_debug_render_only": True},
    "system": {"system": "x"},
    "instructions": {"instructions": "x"},
    "system in a message": {"messages": [{"role": "user", "content": "x"}, {"content": "x", "role": "System"}]},
    "developer in a message": {"messages": [{"role": "developer", "content": "x"}]},
    "system in an input": {"input": [{"type": "message", "role": "system", "content": "x"}]},
}


@pytest.mark.parametrize("case", sorted(RIGHTS))
def test_what_needs_a_right(gateway: Gateway, case: str) -> None:
    body = CHAT | RIGHTS[case]
    answer = gateway.ask("POST", "/api/chat", body, user="narrow")
    assert (answer.status, answer.code) == (403, "right_missing")
    assert gateway.ask("POST", "/api/chat", body, user="free").status == 200
    by_default = not any(word in case for word in ("raw", "context", "template"))
    assert (gateway.ask("POST", "/api/chat", body).status == 200) == by_default


def test_a_user_s_models_are_by_their_exact_names(start: Any) -> None:
    """One whose namespace is the name of the engine's own, and one without a plan."""
    given = [user for user in users() if user["name"] == "app"]
    given[0]["models"] = ["acme/thing:q4", "library/thing:q4"]
    planned: Gateway = start(gateway_users=given, __gateway_node_models=plan_of("acme/thing:q4", "thing:q4"))
    open_to_all: Gateway = start(gateway_users=given, __gateway_node_models={})
    for gateway in (planned, open_to_all):
        for name, status in {
            "acme/thing:q4": 200, "registry.ollama.ai/acme/thing:q4": 200, "thing:q4": 200, "library/thing:q4": 200,
            "registry.ollama.ai/library/thing:q4": 200,
            "library/acme/thing:q4": 404, "library/library/thing:q4": 404, "registry.ollama.ai/thing:q4": 404,
            "registry.ollama.ai/acme/acme/thing:q4": 404, "hf.co/acme/thing:q4": 404, "acme/thing:q4-cloud": 404,
        }.items():  # fmt: skip
            assert gateway.ask("POST", "/api/chat", CHAT | {"model": name}).status == status, name


def test_engine_s_own_web_tools_are_refused(gateway: Gateway) -> None:
    answer = gateway.ask(
        "POST", "/v1/messages", CHAT | {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    )
    assert (answer.status, answer.code) == (400, "tool_not_allowed")


def test_encoded_body_is_refused(gateway: Gateway) -> None:
    for encoding in ("zstd", "gzip", "Identity, zstd"):
        answer = gateway.ask("POST", "/v1/responses", TEXT, **{"Content-Encoding": encoding})
        assert (answer.status, answer.code) == (415, "unsupported_encoding")


def test_large_body_passes_and_over_the_limit_is_refused(gateway: Gateway) -> None:
    gateway.upstream_says("seen")
    image = "A" * (3 << 20)
    assert gateway.ask("POST", "/api/chat", CHAT | {"images": [image]}).status == 200
    [[_, body]] = gateway.upstream_says("seen")
    assert json.loads(body)["images"] == [image]
    assert gateway.ask("POST", "/api/chat", CHAT | {"images": [image], "keep_alive": 0}).code == "option_not_allowed"
    assert gateway.ask("POST", "/api/chat", CHAT | {"images": ["A" * (2 << 20)]}, user="small").status == 413
    chunks = (b'{"x":"', *[b"A" * 65536] * 24, b'"}')
    connection = gateway.connection()
    connection.request(
        "POST", "/api/chat", iter(chunks), {"Authorization": f"Bearer {KEYS['small']}"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    assert gateway.ask("POST", "/api/chat", b"{" + b" " * (33 << 20)).code == "request_too_large"


def test_chunked_body_passes(gateway: Gateway) -> None:
    connection = gateway.connection()
    connection.request(
        "POST",
        "/api/chat",
        iter([TEXT[:5].encode(), TEXT[5:].encode()]),
        {"Authorization": f"Bearer {KEYS['app']}"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 200


def test_body_of_a_get_is_refused(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/api/ps", TEXT).status == 400


def test_pages_of_listed_origins_alone(gateway: Gateway) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = gateway.ask("OPTIONS", "/v1/chat/completions", user="", Origin="https://chat.example.com", **preflight)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    for origin in ("https://evil.example", "null", "https://chat.example.com.evil.example", "HTTPS://CHAT.EXAMPLE.COM"):
        answer = gateway.ask("OPTIONS", "/v1/chat/completions", user="", Origin=origin, **preflight)
        assert answer.status == 401
        assert "access-control-allow-origin" not in answer.headers
    refused = gateway.ask("POST", "/api/chat", CHAT, user="", Origin="https://chat.example.com")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://chat.example.com")
    basic = "Basic " + base64.b64encode(f"app:{PASSWORD}".encode()).decode()
    assert (
        gateway.ask("POST", "/api/chat", CHAT, user="", Authorization=basic, Origin="https://evil.example").status
        == 403
    )


def test_log_has_no_secret_and_tells_what_happened(gateway: Gateway) -> None:
    answer = gateway.ask(
        "POST",
        "/api/chat",
        CHAT | {"options": {"num_predict": 7}},
        **{"X-Evil": 'a"}\n{"user":"forged"'.replace("\n", "")},
    )
    gateway.ask("GET", f"/api/ps?api_key={KEYS['app']}")
    gateway.ask("GET", f"/{KEYS['app']}")
    [row] = [row for row in gateway.logged() if row["request_id"] == answer.headers["x-request-id"]]
    assert (row["user"], row["model"], row["route"], row["completion_tokens"]) == (
        "app",
        "gemma3:270m",
        "/api/chat",
        "7",
    )
    # nginx takes each of them from its own cached clock, which moves a millisecond at a time.
    moments = [float(row["upstream_header_time"]), float(row["upstream_time"]), row["request_time"]]
    assert moments[0] >= 0
    assert all(later >= earlier - 0.0011 for earlier, later in pairwise(moments)), moments
    assert int(row["prompt_tokens"]) > 0
    for path in (gateway.site.directory / "var/log/nginx").iterdir():
        assert KEYS["app"] not in path.read_text(encoding="utf-8", errors="replace"), path


def test_a_body_with_too_many_names_is_refused(gateway: Gateway) -> None:
    many = ",".join(f'"x{number}":0' for number in range(600))
    for body in (f'{{"model":"gemma3:270m",{many}}}', f'{{"model":"gemma3:270m","options":{{{many}}}}}'):
        answer = gateway.ask("POST", "/api/chat", body)
        assert (answer.status, answer.code) == (400, "invalid_json")


@pytest.mark.contract(7)
def test_a_body_of_a_get_request_is_not_read(gateway: Gateway) -> None:
    start = f"GET /api/version HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['app']}\r\n"
    # Neither sends what it announces, and both are answered.
    for head in ("Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n"):
        assert gateway.raw(f"{start}{head}\r\n".encode(), timeout=2).split(b" ")[1] == b"400"


@pytest.mark.contract(7)
def test_a_wrong_password_takes_as_long_whoever_is_named(gateway: Gateway) -> None:
    def fastest(name: str) -> float:
        connection = gateway.connection()
        token = base64.b64encode(f"{name}:wrong".encode()).decode()
        seconds = []
        for _ in range(12):
            started = time.monotonic()
            connection.request("GET", "/api/version", headers={"Authorization": f"Basic {token}"})
            response = connection.getresponse()
            response.read()
            assert response.status == 401
            seconds.append(time.monotonic() - started)
        return min(seconds)

    # The first has a password, the second only keys, and nobody has the third name.
    slow = fastest("app")
    assert fastest("ops") > slow / 2
    assert fastest("nobody") > slow / 2
