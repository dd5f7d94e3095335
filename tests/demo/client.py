"""A user's client: one streamed chat completion through the gateway, over TLS, with a key."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """A streamed answer with its times in seconds; tokens as the server counted them."""

    text: str
    first_token_seconds: float
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first over the time they took."""
        return (self.tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)


def complete(url: str, ca_file: str, api_key: str, model: str, prompt: str, max_tokens: int = 48) -> Completion:
    """Ask the OpenAI-compatible API at ``url``. RuntimeError carries the status and body of a refusal."""
    target = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=ca_file)
    connection = http.client.HTTPSConnection(target.hostname, target.port or 443, context=context, timeout=120)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        # The same answer each time, as far as the engine can.
        "seed": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    started = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise RuntimeError(f"{url} answered {response.status}: {response.read(2000).decode(errors='replace')}")
    text, first, tokens = "", 0.0, 0
    for line in response:
        data = line.decode().strip().removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RuntimeError(f"{url} answered an error in its stream: {event['error']}")
        for choice in event.get("choices", []):
            text += choice["delta"].get("content") or ""
            first = first or time.monotonic() - started
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    connection.close()
    return Completion(text, first, time.monotonic() - started, tokens)
