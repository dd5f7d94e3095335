# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One streamed answer, from a server that says when each piece comes and how the stream ends."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils._load_stream import Answer, Connection, Target

from tests.unit.streaming_server import Script, serving

BODY = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 16}


def ask(script: Script, timeout: float = 10) -> Answer:
    with serving(lambda _number, _body: script) as (url, _server):
        return Connection(Target(url), timeout).ask(BODY)


def test_the_first_piece_with_text_is_the_first_token_and_usage_counts() -> None:
    answer = ask(Script(first=0.2, gap=0.05, pieces=5, tokens_a_piece=3))
    assert (answer.outcome, answer.prompt_tokens, answer.completion_tokens) == ("ok", 13, 15)
    assert answer.first_token_seconds is not None
    assert 0.2 <= answer.first_token_seconds < 1
    assert len(answer.gaps) == 4
    assert all(0.04 <= gap < 0.8 for gap in answer.gaps)
    assert answer.tokens == 28


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        (Script(status=429), "429", "HTTP 429: refused by the script"),
        (Script(status=401), "4xx", "HTTP 401: refused by the script"),
        (Script(status=503), "5xx", "HTTP 503: refused by the script"),
        (Script(status=502, words="<html>Bad Gateway</html>"), "5xx", "HTTP 502"),
        (Script(ending="cut"), "cut", "the stream ended before its end"),
        (Script(ending="error"), "error", "the runner has stopped"),
        (Script(ending="no JSON"), "invalid", "a piece of the stream is no JSON object"),
        (Script(ending="no usage"), "invalid", "the stream ended without telling its usage"),
        (Script(ending="silent", gap=0.6, pieces=1), "timeout", "nothing came for 0.3 seconds"),
        (Script(gap=0.1, pieces=10), "timeout", "the answer took longer than 0.3 seconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_went_wrong_is_told_apart(script: Script, outcome: str, reason: str) -> None:
    answer = ask(script, timeout=0.3 if outcome == "timeout" else 10)
    assert (answer.outcome, answer.reason) == (outcome, reason)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert Connection(Target(f"http://127.0.0.1:{port}"), 5).ask(BODY).outcome == "unreached"


def test_after_a_failure_the_connection_serves_again() -> None:
    scripts = [Script(ending="cut"), Script()]
    with serving(lambda number, _body: scripts[number]) as (url, _server):
        connection = Connection(Target(url), 10)
        assert [connection.ask(BODY).outcome for _number in scripts] == ["cut", "ok"]


def test_thinking_is_text_and_a_key_is_sent_and_never_shown() -> None:
    answer = Answer(sent=1.0)
    answer.take({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 2.0)
    answer.take({"choices": [{"delta": {"reasoning": "hm"}}]}, 3.0)
    answer.take({"choices": "nonsense", "usage": {"prompt_tokens": True, "completion_tokens": -1}}, 4.0)
    assert (answer.first_token_seconds, answer.prompt_tokens, answer.completion_tokens) == (2.0, None, None)
    with serving(lambda _number, _body: Script()) as (url, server):
        target = Target(url, api_key="secret-of-a-user", server_name="llm.example.net")
        Connection(target, 10).ask(BODY)
    assert server.headers[0]["Authorization"] == "Bearer secret-of-a-user"
    assert server.headers[0]["Host"] == "llm.example.net"
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a:99999", "http://a/v1", "https://u:p@a", "a:80", "http://a?x"]
)
def test_an_address_that_is_none(url: str) -> None:
    assert url in Target(url).fault()


def test_good_addresses() -> None:
    good: list[Any] = ["http://127.0.0.1:11434", "https://[fd77::1]:443/", "https://gw"]
    assert [Target(url).fault() for url in good] == ["", "", ""]
