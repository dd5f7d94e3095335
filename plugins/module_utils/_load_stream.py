# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One streamed chat completion over the OpenAI API, with the time of every piece.

What went wrong is part of the answer, never an exception: under load, refusals are figures like others.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import typing as t
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PATH = "/v1/chat/completions"
# No line of a stream comes near this.
MAX_LINE_BYTES = 2**20
_MAX_ERROR_BYTES = 64 * 2**10

OK = "ok"
# What a request can end with besides, in the order in which it is told. ``error`` is one that the server tells inside a
# stream of status 200, ``cut`` a stream without its end, ``invalid`` one whose end lacks the usage or is no JSON.
FAILURES = ("429", "4xx", "5xx", "error", "cut", "timeout", "unreached", "invalid")


@dataclass(frozen=True)
class Target:
    """Who is asked.

    :ivar url: scheme, address and port, without a path.
    :ivar api_key: sent as a bearer, where there is one.
    :ivar ca_path: a file of authorities in place of the system's, or None.
    :ivar server_name: the name in TLS and in ``Host``, where it is another than the address.
    """

    url: str
    api_key: str = field(default="", repr=False)
    ca_path: str | None = None
    server_name: str = ""

    def fault(self) -> str:
        """What is wrong with the address, or nothing."""
        try:
            parts = urlsplit(self.url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            return f"url: {self.url!r} is no address; scheme://address:port is needed"
        if not right or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            return f"url: {self.url!r} must be http:// or https://, an address and a port, without a path"
        return ""


class _NamedHttps(http.client.HTTPSConnection):
    """TLS with another name than the address."""

    def __init__(self, host: str, port: int, name: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._name, self._settings = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._settings.wrap_socket(self.sock, server_hostname=self._name)


class Connection:
    """A kept connection, opened anew after whatever broke it. Proxies of the environment are not followed, redirects
    neither.

    :param timeout: seconds that the server may be silent, and that a whole answer may take.
    :raises OSError: the file of authorities cannot be used.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        parts = urlsplit(target.url)
        host, self._timeout = str(parts.hostname), timeout
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=target.ca_path)
            # As in _http: authorities without extensions, which everybody else takes.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            self._connection: http.client.HTTPConnection = _NamedHttps(
                host, parts.port or 443, target.server_name or host, context, timeout
            )
        else:
            self._connection = http.client.HTTPConnection(host, parts.port or 80, timeout=timeout)
        self._headers = {"Content-Type": "application/json", "User-Agent": "onprem.llm benchmark"}
        if target.server_name:
            self._headers["Host"] = target.server_name
        if target.api_key:
            self._headers["Authorization"] = "Bearer " + target.api_key

    def close(self) -> None:
        self._connection.close()

    def ask(self, body: t.Mapping[str, t.Any]) -> Answer:
        """Ask, and read the stream to its end."""
        answer = Answer(sent=time.monotonic())
        try:
            self._connection.request("POST", PATH, json.dumps(body).encode(), self._headers)
            response = self._connection.getresponse()
            if response.status == 200:
                self._read(response, answer)
            else:
                answer.fail(_kind(response.status), _message(response.read(_MAX_ERROR_BYTES), response.status))
        except (socket.timeout, TimeoutError):
            answer.fail("timeout", f"nothing came for {self._timeout:g} seconds")
        except (OSError, http.client.HTTPException, ValueError) as error:
            kind = "cut" if answer.arrivals else "unreached"
            answer.fail(kind, str(error) or type(error).__name__)
        answer.ended = time.monotonic()
        if answer.outcome != OK:
            self.close()
        return answer

    def _read(self, response: http.client.HTTPResponse, answer: Answer) -> None:
        for line in iter(lambda: response.readline(MAX_LINE_BYTES), b""):
            now = time.monotonic()
            if now - answer.sent > self._timeout:
                answer.fail("timeout", f"the answer took longer than {self._timeout:g} seconds")
                return
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                response.read()
                if answer.completion_tokens is None:
                    answer.fail("invalid", "the stream ended without telling its usage")
                return
            try:
                event = json.loads(data)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                answer.fail("invalid", "a piece of the stream is no JSON object")
                return
            if event.get("error"):
                answer.fail("error", _told(event["error"]))
                return
            answer.take(event, now)
        answer.fail("cut", "the stream ended before its end")


@dataclass
class Answer:
    """What came of one request. Times are seconds of the monotonic clock.

    :ivar arrivals: when each piece with text came.
    :ivar prompt_tokens: tokens by the server's usage, or None where it told none; so ``completion_tokens``.
    """

    sent: float
    ended: float = 0.0
    outcome: str = OK
    reason: str = ""
    arrivals: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def fail(self, outcome: str, reason: str) -> None:
        self.outcome, self.reason = outcome, reason[:300]

    def take(self, event: t.Mapping[str, t.Any], now: float) -> None:
        """One event of the stream. A model that thinks says so before its answer, and that is text as well."""
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            delta = choice.get("delta") if isinstance(choice, dict) else None
            said = delta if isinstance(delta, dict) else {}
            if any(said.get(name) for name in ("content", "reasoning", "reasoning_content")):
                self.arrivals.append(now)
        usage = event.get("usage")
        if isinstance(usage, dict):
            for name in ("prompt_tokens", "completion_tokens"):
                count = usage.get(name)
                if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                    setattr(self, name, count)

    @property
    def first_token_seconds(self) -> float | None:
        """From the request to the first text, or None where none came."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece of text and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:])]

    @property
    def tokens(self) -> int:
        """Tokens that this request has cost, as far as known: by the usage, else a token a piece."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or len(self.arrivals))


def _kind(status: int) -> str:
    if status == 429:
        return "429"
    return "5xx" if status >= 500 else "4xx"


def _told(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _message(content: bytes, status: int) -> str:
    try:
        document = json.loads(content)
        return f"HTTP {status}: {_told(document.get('error', ''))}"
    except (ValueError, AttributeError):
        return f"HTTP {status}"
