"""Users at the limit, a bounded number of each kind, until a moment is reached.

Readers take a stream to its end. Leavers go away in the middle. Askers send small requests, some on a connection that
stays and some on a fresh one. Strangers have wrong keys.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE = 120
# Between a refusal and the next try.
PAUSE = 0.5


@dataclass
class Load:
    """``counts``: answers by status. An answer cut short is ``broken``, a leaver's is ``left``."""

    address: tuple[str, int]
    context: ssl.SSLContext
    key: str
    model: str
    until: float
    counts: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self.address, context=self.context, timeout=PATIENCE)

    def count(self, what: str, tokens: int = 0) -> None:
        with self._lock:
            self.counts[what] += 1
            self.tokens += tokens

    def question(self) -> tuple[str, dict[str, str]]:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "One, two, three,"}],
            "max_tokens": 24,
            "stream": True,
        }
        return json.dumps(body), {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def read(self) -> None:
        connection = self.connection()
        while time.monotonic() < self.until:
            connection.request("POST", "/v1/chat/completions", *self.question())
            answer = connection.getresponse()
            lines = [line for line in answer if line.startswith(b"data: ")]
            # By lines alone http.client does not notice the end of a body, and takes no further request.
            answer.read()
            ended = answer.status != 200 or (lines and lines[-1].strip() == b"data: [DONE]")
            self.count(str(answer.status) if ended else "broken", len(lines))
            if answer.status != 200:
                time.sleep(PAUSE)
        connection.close()

    def leave(self) -> None:
        while time.monotonic() < self.until:
            connection = self.connection()
            connection.request("POST", "/v1/chat/completions", *self.question())
            answer = connection.getresponse()
            if answer.status == 200:
                answer.readline()
                self.count("left")
            else:
                self.count(str(answer.status))
            # The answer holds the socket, too, so both are closed for the other side to see it.
            answer.close()
            connection.close()
            time.sleep(PAUSE)

    def ask(self) -> None:
        connection, number = self.connection(), 0
        while time.monotonic() < self.until:
            number += 1
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {self.key}"})
            answer = connection.getresponse()
            answer.read()
            self.count(str(answer.status))
            if number % 10 == 0:
                connection.close()
            time.sleep(0.1)
        connection.close()

    def guess(self) -> None:
        while time.monotonic() < self.until:
            connection = self.connection()
            connection.request("GET", "/v1/models", headers={"Authorization": "Bearer not-a-key"})
            answer = connection.getresponse()
            answer.read()
            self.count("200" if answer.status == 200 else "refused")
            connection.close()
            time.sleep(PAUSE)

    def run(self, streams: int) -> list[threading.Thread]:
        """Start all of them: ``streams`` readers, a quarter as many leavers and askers each, and one stranger."""
        kinds: list[Callable[[], None]] = [self.read] * streams
        kinds += [self.leave, self.ask] * max(1, streams // 4) + [self.guess]
        threads = [threading.Thread(target=self.guarded, args=(kind,), daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        return threads

    def guarded(self, kind: Callable[[], None]) -> None:
        """A connection that breaks is counted, and another one taken."""
        while time.monotonic() < self.until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                kind()
                return
            self.count("broken")
            time.sleep(PAUSE)
