"""The gateway as its users and its enemies meet it."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass

import pytest

from tests.demo.client import complete

CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "One, two,"}], "max_tokens": 4}
EMBED = {"model": "tiny-embedding:latest", "input": "a text"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@pytest.fixture(scope="session")
def ask(gateway, ca_file: str):
    context = ssl.create_default_context(cafile=ca_file)

    def request(method: str, path: str, body: dict | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPSConnection(gateway.address, timeout=60, context=context)
        content = json.dumps(body) if body is not None else None
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
        connection.close()
        return answer

    return request


def bearer(secrets: dict, user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secrets['users'][user]['api_key']}"}


def test_completion_streams(gateway, ca_file: str, secrets: dict) -> None:
    key = secrets["users"]["app"]["api_key"]
    answer = complete(f"https://{gateway.address}", ca_file, key, CHAT["model"], "One, two,", max_tokens=24)
    assert answer.tokens >= 8
    assert answer.first_token_seconds < answer.seconds * 0.8


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/api/chat", CHAT | {"stream": False, "options": {"num_predict": 4}})],
)
def test_user_chats(ask, secrets: dict, path: str, body: dict) -> None:
    assert ask("POST", path, body, **bearer(secrets, "app")).status == 200


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_user_embeds(ask, secrets: dict, path: str) -> None:
    answer = ask("POST", path, EMBED, **bearer(secrets, "app"))
    assert answer.status == 200, answer.body
    vector = answer.json["data"][0]["embedding"] if "data" in answer.json else answer.json["embeddings"][0]
    assert len(vector) >= 8


def test_password_serves_as_well(ask, secrets: dict) -> None:
    pair = f"app:{secrets['users']['app']['password']}"
    header = "Basic " + base64.b64encode(pair.encode()).decode()
    assert ask("POST", "/v1/chat/completions", CHAT, Authorization=header).status == 200


def test_health_asks_nobody_who_they_are(ask) -> None:
    assert ask("GET", "/healthz").status == 200


def refusals(secrets: dict) -> dict[str, dict[str, str]]:
    key = secrets["users"]["app"]["api_key"]
    return {
        "no credential": {},
        "wrong key": {"Authorization": f"Bearer {'x' * 43}"},
        "empty key": {"Authorization": "Bearer "},
        "key in another case": {"Authorization": f"Bearer {key.swapcase()}"},
        "start of a key": {"Authorization": f"Bearer {key[:-1]}"},
        "digest in place of the key": {"Authorization": "Bearer " + "0" * 64},
        "wrong password": {"Authorization": "Basic " + base64.b64encode(b"app:wrong").decode()},
        "another scheme": {"Authorization": f"Token {key}"},
    }


@pytest.mark.contract(7)
@pytest.mark.parametrize("case", sorted(refusals({"users": {"app": {"api_key": "x"}}})))
def test_no_credential_no_answer(ask, secrets: dict, case: str) -> None:
    answer = ask("POST", "/v1/chat/completions", CHAT, **refusals(secrets)[case])
    assert answer.status in (401, 429)
    assert "error" in answer.json
    if answer.status == 401:
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/delete"),
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("POST", "/api/push"),
        ("DELETE", "//api//delete"),
    ],
)
def test_user_manages_nothing(ask, secrets: dict, method: str, path: str) -> None:
    answer = ask(method, path, {"model": CHAT["model"]}, **bearer(secrets, "app"))
    assert answer.status in (403, 404)
    assert "error" in answer.json
    assert ask("POST", "/v1/chat/completions", CHAT, **bearer(secrets, "app")).status == 200


def test_what_is_not_allowed_is_not_found(ask, secrets: dict) -> None:
    for path in ("/metrics", "/v1/unknown", "/.git/config"):
        answer = ask("GET", path, **bearer(secrets, "app"))
        assert answer.status == 404
        assert "error" in answer.json


@pytest.mark.contract(7)
def test_plain_http_only_redirects(gateway) -> None:
    connection = http.client.HTTPConnection(gateway.address, 80, timeout=10)
    connection.request("GET", "/v1/models")
    response = connection.getresponse()
    assert response.status in (301, 308)
    assert response.headers["Location"].startswith("https://")


def test_access_log_names_the_user(logged, ask, secrets: dict) -> None:
    answer = ask("POST", "/v1/chat/completions", CHAT, **bearer(secrets, "app"))
    line = logged(request_id=answer.headers["x-request-id"])
    assert (line["user"], line["status"]) == ("app", 200)
