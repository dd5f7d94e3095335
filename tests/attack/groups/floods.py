"""More than the limits allow. Others must not notice, and who is refused must be told when to come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.attack import wire
from tests.attack.groups.judge import refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position
from tests.attack.wire import Answer


def limited(answers: list[Answer], served: list[float], most: float) -> Verdict:
    """Held if some were refused, each with Retry-After and an error that clients read, and others were served."""
    refusals = [answer for answer in answers if answer.status == 429]
    seen = (
        f"{len(answers)} asked, {len(refusals)} times 429, a bystander served in {max(served, default=0):.2f} s at most"
    )
    if not refusals:
        return Verdict(False, seen)
    bad = [a for a in refusals if not a.is_refusal or not (a.header("retry-after") or "").isdigit()]
    if bad:
        return Verdict(False, f"{seen}; {len(bad)} refusals without Retry-After or JSON")
    others = {answer.status for answer in answers} - {200, 400, 401, 403, 404, 429}
    if others:
        return Verdict(False, f"{seen}; and {sorted(others)}")
    return Verdict(max(served, default=0) < most, seen)


def flood(build: Callable[[Position], bytes], fraction: float = 1.0) -> Callable[[Position], Verdict]:
    """Requests on one connection after another's answer, as fast as they are answered, and a bystander in between."""

    def act(position: Position) -> Verdict:
        answers: list[Answer] = []
        served: list[float] = []
        count = int(position.bounds.requests * fraction)
        time.sleep(position.bounds.forgotten)
        connection = None
        try:
            for number in range(count):
                if connection is None:
                    connection = position.connect()
                found = wire.exchange(connection, build(position), 1, position.bounds.patience)
                answers += found.answers[:1]
                if found.ended or not found.answers:
                    connection.close()
                    connection = None
                if number % (count // 5) == count // 10:
                    served.append(position.served())
        finally:
            if connection is not None:
                connection.close()
        return limited(answers, served, position.bounds.patience / 2)

    return act


def concurrent(position: Position) -> Verdict:
    """Generations at once, far above the user's limit."""
    body = {**position.chat(), "max_tokens": 16, "stream": True}
    count = position.bounds.connections * 2

    def one(_number: int) -> Answer:
        # An unanswered one waited as long as a client would.
        return position.send(position.bytes("POST", "/v1/chat/completions", body=body), patience=120).first

    time.sleep(position.bounds.forgotten)
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(one, number) for number in range(count)]
        time.sleep(0.3)
        served = [position.served() for _number in range(3)]
        answers = [task.result() for task in running]
    return limited(answers, served, position.bounds.patience / 2)


def body_said(position: Position) -> Verdict:
    """A length over the limit is refused before the body is sent."""
    data = position.bytes("POST", "/v1/chat/completions", ("Content-Length", str(position.access.body_max_bytes + 1)))
    return refused(position.paced(data, patience=min(position.bounds.patience, 5)).first, (413,))


def body_of_terabytes(position: Position) -> Verdict:
    data = position.bytes("POST", "/v1/chat/completions", ("Content-Length", str(10**13)))
    return refused(position.paced(data, patience=min(position.bounds.patience, 5)).first, (413,))


def body_in_chunks(position: Position) -> Verdict:
    """A body over the limit that does not say its length."""
    head = position.bytes("POST", "/v1/chat/completions", ("Transfer-Encoding", "chunked"))
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with contextlib.closing(position.connect()) as connection:
        connection.settimeout(position.bounds.patience)
        with contextlib.suppress(OSError):
            connection.sendall(head)
            for _number in range(position.access.body_max_bytes // 65536 + 64):
                connection.sendall(piece)
        found = wire.exchange(connection, b"0\r\n\r\n", 1, min(position.bounds.patience, 5))
    if found.first.status == 0 and found.ended:
        return Verdict(True, "cut off before the end")
    return refused(found.first, (413,))


def guesses(build: Callable[[Position, int], bytes]) -> Callable[[Position], Verdict]:
    counter = iter(range(10**9))
    return flood(lambda position: build(position, next(counter)), 0.5)


def innocent(position: Position) -> Verdict:
    """Wrong keys from one address must not shut out the users behind the same address."""
    for number in range(30):
        position.send(position.bytes("GET", "/v1/models", key=f"guess-{number}"))
    answer = position.ask("GET", "/v1/models", patient=False)
    return Verdict(answer.status == 200, f"a user behind the guesser's address gets {answer}")


ATTACKS = [
    Attack(
        "floods",
        "requests over the user's limit",
        "as fast as one connection goes",
        "429 with Retry-After and JSON, others served",
        flood(lambda p: p.bytes("GET", "/v1/models")),
    ),
    Attack(
        "floods",
        "guesses of keys",
        "wrong keys as fast as one connection goes",
        "429 with Retry-After and JSON, others served",
        guesses(lambda p, n: p.bytes("GET", "/v1/models", key=f"guess-{n:040}")),
    ),
    Attack(
        "floods",
        "requests without a key",
        "no credential, as fast as one connection goes",
        "429 with Retry-After and JSON, others served",
        flood(lambda p: p.bytes("GET", "/v1/models", key=None), 0.5),
    ),
    Attack(
        "floods",
        "paths that are none",
        "404 as fast as one connection goes",
        "429 with Retry-After and JSON, others served",
        flood(lambda p: p.bytes("GET", "/no-such-path")),
    ),
    Attack(
        "floods",
        "generations at once",
        "many streams of one user",
        "429 with Retry-After and JSON, others served",
        concurrent,
    ),
    Attack(
        "floods", "users behind a guesser", "30 wrong keys, then a right one from the same address", "200", innocent
    ),
    Attack("floods", "body over the limit", "a length that says so", "413", body_said),
    Attack("floods", "body of terabytes", "a length of 10^13", "413", body_of_terabytes),
    Attack("floods", "body over the limit in chunks", "more chunks than allowed", "413, or cut off", body_in_chunks),
]
