# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts load on an endpoint in steps, within bounds of time and of tokens.

Each step is a closed loop: so many streams, each asking again as soon as its answer has ended.
"""

from __future__ import annotations

import random
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils._load_figures import failed_share, step_figures
from ansible_collections.onprem.llm.plugins.module_utils._load_stream import OK, Answer, Connection, Target

PREFIX_CACHE = ("cold", "warm")
MOST_STREAMS = 256
# Words of the two requests by which the tokens of a word are measured.
_FEW, _MANY = 64, 192
# The least that tells one prompt from another, and what a warm prompt has of its own.
_OWN_WORDS = 8
# After a failure a stream waits, so that refusals do not use up the step in an instant.
_AFTER_FAILURE_SECONDS = 0.2
# Beyond it, more load would only be more refusals.
_HOPELESS = 0.5
_ASSIGNMENT = "Go on with this text, at length and without an end: "
# Short words of everyday English, most of which are one token to most tokenizers.
WORDS = (
    "apple", "bread", "cloud", "door", "earth", "field", "glass", "hand", "iron", "juice", "king", "lamp", "moon",
    "night", "ocean", "paper", "queen", "river", "stone", "table", "under", "valley", "water", "young", "blue",
    "green", "red", "white", "black", "north", "south", "east", "west", "spring", "summer", "winter", "fire",
    "wind", "rain", "snow", "light", "dark", "long", "short", "high", "low", "fast", "slow",
)  # fmt: skip


class LoadError(Exception):
    """The endpoint gave no answer by which a load could be measured; the text says why."""


@dataclass(frozen=True)
class Step:
    """One point of a curve: streams at once, tokens asked for, and whether the prompts' beginning is known already."""

    concurrency: int
    prompt_tokens: int
    answer_tokens: int
    prefix_cache: str


@dataclass(frozen=True)
class Bounds:
    """What a run may take.

    :ivar requests_per_stream: requests of a step by its streams.
    :ivar step_seconds: after which a step sends nothing more.
    :ivar total_seconds: after which nothing more is sent at all.
    :ivar total_tokens: of prompts and answers together, counted before they are asked for.
    :ivar timeout: seconds that an answer may take, and the server may be silent.
    """

    requests_per_stream: int
    step_seconds: float
    total_seconds: float
    total_tokens: int
    timeout: float


def steps_of(
    concurrency: t.Iterable[int], prompt_tokens: t.Iterable[int], answer_tokens: t.Iterable[int], cache: t.Iterable[str]
) -> list[Step]:
    """All combinations, each curve from its lowest concurrency on."""
    return [
        Step(streams, prompt, answer, prefix)
        for prefix in dict.fromkeys(cache)
        for prompt in dict.fromkeys(prompt_tokens)
        for answer in dict.fromkeys(answer_tokens)
        for streams in sorted(set(concurrency))
    ]


def faults(steps: t.Sequence[Step], bounds: Bounds) -> list[str]:
    """What is wrong with the wishes, a sentence each."""
    found = []
    for name, values, most in (
        ("concurrency", {step.concurrency for step in steps}, MOST_STREAMS),
        ("prompt_tokens", {step.prompt_tokens for step in steps}, 10**6),
        ("answer_tokens", {step.answer_tokens for step in steps}, 10**6),
    ):
        found += [f"{name}: {value} must be from 1 to {most}" for value in sorted(values) if not 1 <= value <= most]
    if not steps:
        found.append("concurrency, prompt_tokens, answer_tokens and prefix_cache: each needs a value")
    for name, value in vars(bounds).items():
        if value <= 0:
            found.append(f"{name}: {value:g} must be above 0")
    return found


def most_tokens(steps: t.Iterable[Step], bounds: Bounds) -> int:
    """What all steps would ask for without a bound, priming of warm prompts included."""
    return sum(
        step.concurrency * bounds.requests_per_stream * (step.prompt_tokens + step.answer_tokens)
        + (step.concurrency * (step.prompt_tokens + 1) if step.prefix_cache == "warm" else 0)
        for step in steps
    )


class Budget:
    """Tokens and time that are left, for many threads."""

    def __init__(self, bounds: Bounds) -> None:
        self._lock = threading.Lock()
        self._tokens = bounds.total_tokens
        self._used = 0
        self._deadline = time.monotonic() + bounds.total_seconds
        self.stopped = ""

    @property
    def used(self) -> int:
        """Tokens that were used or are being asked for."""
        return self._used

    def take(self, tokens: int) -> bool:
        """Whether so many more may be asked for; they count from now on."""
        with self._lock:
            if time.monotonic() >= self._deadline:
                self.stopped = self.stopped or "total_seconds are over"
            elif self._used + tokens > self._tokens:
                self.stopped = self.stopped or "total_tokens are used up"
            else:
                self._used += tokens
                return True
            return False

    def settle(self, taken: int, used: int) -> None:
        """So many of those that were taken have really been used."""
        with self._lock:
            self._used += used - taken


class Prompts:
    """Texts of a wanted number of tokens, by what the server counts of them.

    :param seed: what they are drawn by; another one gives other texts, which no cache knows.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()
        self._tokens_a_word, self._fixed = 1.0, 0.0

    def learn(self, few: int, many: int) -> None:
        """From the tokens that the server told of two prompts.

        :raises LoadError: the longer one had no more.
        """
        self._tokens_a_word = (many - few) / (_MANY - _FEW)
        if self._tokens_a_word <= 0:
            raise LoadError(f"the server counts {few} tokens of {_FEW} words and {many} of {_MANY}: its usage is wrong")
        self._fixed = few - _FEW * self._tokens_a_word

    def words(self, tokens: int) -> int:
        return max(round((tokens - self._fixed) / self._tokens_a_word), 2 * _OWN_WORDS)

    def text(self, words: int, cache: str) -> str:
        """A prompt that begins as no other (``cold``), or ends as no other (``warm``)."""
        with self._lock:
            self._count += 1
            own = random.Random(f"{self._seed} {self._count}")
        if cache == "cold":
            return _ASSIGNMENT + " ".join(own.choices(WORDS, k=words))
        shared = random.Random(f"{self._seed} {words}").choices(WORDS, k=words - _OWN_WORDS)
        return _ASSIGNMENT + " ".join(shared + own.choices(WORDS, k=_OWN_WORDS))


class Load:
    """A run against one target.

    :param model: as the target knows it.
    :param seed: of the prompts.
    """

    def __init__(self, target: Target, model: str, bounds: Bounds, seed: int) -> None:
        self._target, self._model, self._bounds = target, model, bounds
        self._prompts = Prompts(seed)
        self.budget = Budget(bounds)

    def _body(self, text: str, tokens: int) -> dict[str, t.Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "seed": 0,
            "max_tokens": tokens,
        }

    def _ask(self, connection: Connection, text: str, prompt_tokens: int, answer_tokens: int) -> Answer | None:
        taken = prompt_tokens + answer_tokens
        if not self.budget.take(taken):
            return None
        answer = connection.ask(self._body(text, answer_tokens))
        # What a failure has cost is not told; it counts as little as was seen of it.
        self.budget.settle(taken, answer.tokens)
        return answer

    def calibrate(self) -> None:
        """Have the model loaded, and learn how many tokens a word has.

        :raises LoadError: the endpoint does not answer as it should.
        """
        counted = []
        connection = Connection(self._target, self._bounds.timeout)
        try:
            for words in (_FEW, _MANY):
                answer = self._ask(connection, self._prompts.text(words, "cold"), 4 * words, 1)
                if answer is None:
                    raise LoadError(f"nothing could be asked: {self.budget.stopped}")
                if answer.outcome != OK or answer.prompt_tokens is None:
                    raise LoadError(
                        f"{self._target.url} gives no answer of {self._model} to measure by: "
                        f"{answer.reason or 'its usage has no prompt_tokens'}"
                    )
                counted.append(answer.prompt_tokens)
        finally:
            connection.close()
        self._prompts.learn(*counted)

    def run(self, steps: t.Sequence[Step]) -> list[dict[str, t.Any]]:
        """The figures of the steps, in their order, as far as the bounds let them run; of a curve nothing beyond the
        step that failed by half.

        :raises LoadError: as :meth:`calibrate`.
        """
        self.calibrate()
        rows: list[dict[str, t.Any]] = []
        hopeless = set()
        for step in steps:
            curve = (step.prompt_tokens, step.answer_tokens, step.prefix_cache)
            if curve in hopeless:
                continue
            figures = self._step(step)
            if figures is None:
                break
            rows.append({**vars(step), **figures})
            if failed_share(figures) > _HOPELESS:
                hopeless.add(curve)
            if self.budget.stopped:
                break
        return rows

    def _step(self, step: Step) -> dict[str, t.Any] | None:
        words = self._prompts.words(step.prompt_tokens)
        if step.prefix_cache == "warm":
            self._streams(step, words, 1, 1)
        answers, begun, closed = self._streams(step, words, self._bounds.requests_per_stream, step.answer_tokens)
        return step_figures(answers, begun, closed) if answers else None

    def _streams(self, step: Step, words: int, each: int, answer_tokens: int) -> tuple[list[Answer], float, float]:
        """All answers of ``step.concurrency`` streams; when they began, and when the first had nothing more to ask."""
        left = step.concurrency * each
        lock = threading.Lock()
        answers: list[Answer] = []
        idle: list[float] = []
        # Everything is ready before the first request is sent.
        gate = threading.Barrier(step.concurrency + 1)
        ends = time.monotonic() + self._bounds.step_seconds

        def stream() -> None:
            nonlocal left
            connection = Connection(self._target, self._bounds.timeout)
            gate.wait()
            try:
                while True:
                    with lock:
                        if left <= 0 or time.monotonic() >= ends:
                            break
                        left -= 1
                    text = self._prompts.text(words, step.prefix_cache)
                    answer = self._ask(connection, text, step.prompt_tokens, answer_tokens)
                    if answer is None:
                        break
                    with lock:
                        answers.append(answer)
                    if answer.outcome != OK:
                        time.sleep(min(_AFTER_FAILURE_SECONDS, max(0.0, ends - time.monotonic())))
            finally:
                with lock:
                    idle.append(time.monotonic())
                connection.close()

        threads = [threading.Thread(target=stream, daemon=True) for _number in range(step.concurrency)]
        for thread in threads:
            thread.start()
        gate.wait()
        begun = time.monotonic()
        for thread in threads:
            thread.join()
        return answers, begun, min(idle)
