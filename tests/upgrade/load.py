"""A steady load of short and long streams from the official client, which never tries anything twice."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import httpx
import openai

# Tokens of a short answer and of a long one.
SHORT, LONG = 8, 160
PROMPTS = ("The three largest cities of Japan are", "One, two, three,", "Once upon a time there was")
PATIENCE = 300


@dataclass
class Request:
    """One request. Moments are seconds of the monotonic clock; ``ended`` is 0 while it runs."""

    tokens_wanted: int
    began: float
    first: float = 0.0
    ended: float = 0.0
    chunks: int = 0
    gap: float = 0.0
    finish: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Refused, cut, or ended without saying why."""
        return bool(self.error) or (self.ended > 0 and self.finish not in ("length", "stop"))


@dataclass
class Load:
    """``short`` and ``long`` are how many workers send requests of each kind, one after the other."""

    url: str
    ca_file: str
    key: str
    model: str
    short: int = 2
    long: int = 1
    requests: list[Request] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        kinds = [SHORT] * self.short + [LONG] * self.long
        self._threads = [threading.Thread(target=self._work, args=(tokens,), daemon=True) for tokens in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; those that run come to their end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _work(self, tokens: int) -> None:
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=PATIENCE,
            http_client=openai.DefaultHttpxClient(verify=self.ca_file),
        )  # fmt: skip
        number = 0
        while not self._stop.is_set():
            number += 1
            self._ask(client, tokens, PROMPTS[number % len(PROMPTS)])

    def _ask(self, client: openai.OpenAI, tokens: int, prompt: str) -> None:
        request = Request(tokens, time.monotonic())
        self.requests.append(request)
        try:
            stream = client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], max_tokens=tokens, stream=True, seed=4
            )
            last = 0.0
            for chunk in stream:
                now = time.monotonic()
                request.first = request.first or now
                request.gap = max(request.gap, now - last if last else 0.0)
                last = now
                request.chunks += 1
                for choice in chunk.choices:
                    request.finish = choice.finish_reason or request.finish
        except (openai.OpenAIError, httpx.HTTPError) as error:
            request.error = f"{type(error).__name__}: {error}"[:300]
        request.ended = time.monotonic()
        if request.failed:
            # Whoever is refused at once would otherwise ask a hundred times a second.
            time.sleep(0.5)


def figures(requests: list[Request]) -> dict[str, object]:
    """What a phase's requests came to."""
    ended = [request for request in requests if request.ended]
    good = [request for request in ended if not request.failed]
    failed = [request for request in requests if request.failed or not request.ended]
    return {
        "sent": len(requests),
        "long": sum(request.tokens_wanted == LONG for request in requests),
        "failed": len(failed),
        "longest_token_gap_s": round(max((request.gap for request in good), default=0.0), 2),
        "longest_first_token_s": round(max((request.first - request.began for request in good), default=0.0), 2),
        "errors": sorted({request.error or "it ended without a reason" for request in failed})[:10],
    }
