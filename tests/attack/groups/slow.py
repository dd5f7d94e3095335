"""Clients that take their time. Each is bounded in number and seconds; meanwhile somebody else must be served."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator

from tests.attack import wire
from tests.attack.groups.judge import refused
from tests.attack.model import Attack, Verdict
from tests.attack.position import Position


@contextlib.contextmanager
def connections(position: Position, count: int) -> Iterator[list[ssl.SSLSocket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(position.connect())) for _number in range(count)]


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has neither answered nor closed."""
    connection.settimeout(0.001)
    try:
        return connection.recv(4096) == b"never"
    except (TimeoutError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def drip(position: Position, head: bytes, drops: bytes, every: float) -> Verdict:
    """Many connections that send one byte each now and then. Held if others are served, and if all are cut off."""
    worst, began, sent = 0.0, time.monotonic(), 0
    with connections(position, position.bounds.connections) as held:
        for connection in held:
            connection.sendall(head)
        left = list(held)
        while left and time.monotonic() < began + position.bounds.slow:
            worst = max(worst, position.served())
            for connection in list(left):
                try:
                    if not is_open(connection):
                        raise OSError
                    connection.sendall(drops[sent % len(drops) :][:1])
                except OSError:
                    left.remove(connection)
            sent += 1
            time.sleep(every)
        spent = time.monotonic() - began
    served = f"a bystander served in {worst:.2f} s at most"
    if left:
        return Verdict(False, f"{len(left)} of {len(held)} still open after {spent:.0f} s; {served}")
    return Verdict(worst < position.bounds.patience / 2, f"all cut off within {spent:.0f} s; {served}")


def headers(position: Position) -> Verdict:
    head = position.bytes("GET", "/v1/models")[:-2] + b"X-Slow: "
    return drip(position, head, b"a", 1)


def cut_off(position: Position, left: int, count: int, began: float, worst: float) -> Verdict:
    spent = time.monotonic() - began
    seen = f"{left} of {count} open after {spent:.0f} s, a bystander served in {worst:.2f} s at most"
    return Verdict(left == 0 and worst < position.bounds.patience / 2, seen)


def no_handshake(position: Position) -> Verdict:
    """Connections that say nothing at all, not even hello."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(contextlib.closing(socket.create_connection(position.access.gateway, 10)))
            for _number in range(position.bounds.connections)
        ]
        worst = 0.0
        while any(map(is_open, held)) and time.monotonic() < began + position.bounds.slow * 1.75:
            worst = max(worst, position.served())
            time.sleep(1)
        left = sum(map(is_open, held))
    return cut_off(position, left, len(held), began, worst)


def body_of_a_stranger(position: Position) -> Verdict:
    """A stranger's body must not be waited for."""
    data = position.bytes("POST", "/v1/chat/completions", ("Content-Length", "1000"), key=None)
    found = position.paced(data + b'{"model":', patience=min(position.bounds.patience, 5))
    verdict = refused(found.first, (400, 401))
    return Verdict(verdict.held, f"{found} after {found.seconds:.1f} s")


def silent_body(position: Position) -> Verdict:
    """A user's body that stops: cut off in time, with others served meanwhile."""
    data = position.bytes("POST", "/v1/chat/completions", ("Content-Length", "1000")) + b'{"model":'
    began, worst = time.monotonic(), 0.0
    with connections(position, position.bounds.connections // 4) as held:
        for connection in held:
            connection.sendall(data)
        while any(map(is_open, held)) and time.monotonic() < began + position.bounds.slow:
            worst = max(worst, position.served())
            time.sleep(1)
        left = sum(map(is_open, held))
    return cut_off(position, left, len(held), began, worst)


def slow_read(position: Position) -> Verdict:
    """Streams that nobody reads: the others are served, and what was left behind frees its place."""
    body = {**position.chat(), "stream": True, "max_tokens": 64}
    worst, began = 0.0, time.monotonic()
    with contextlib.ExitStack() as stack:
        for _number in range(4):
            plain = socket.socket(socket.AF_INET6 if ":" in position.access.gateway[0] else socket.AF_INET)
            # A window so small that even a short answer does not fit.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            plain.settimeout(10)
            stack.enter_context(contextlib.closing(plain))
            plain.connect(position.access.gateway)
            connection = position.context().wrap_socket(plain, server_hostname=position.access.gateway[0])
            stack.enter_context(contextlib.closing(connection))
            connection.sendall(position.bytes("POST", "/v1/chat/completions", body=body))
        while time.monotonic() < began + min(position.bounds.slow, 8):
            worst = max(worst, position.served())
            time.sleep(0.5)
    answer = position.ask(
        "POST", "/v1/embeddings", body=json.dumps({"model": position.access.model, "input": ""}).encode()
    )
    held = worst < position.bounds.patience / 2 and answer.status not in (0, 502, 503, 504)
    return Verdict(
        held, f"a bystander served in {worst:.2f} s at most, and the user again afterwards ({answer.status})"
    )


def left_alone(position: Position) -> Verdict:
    """Clients that go away: the engine must not go on writing for them, so that somebody is answered soon."""
    body = {**position.chat(), "stream": True, "max_tokens": 2000}
    for _number in range(8):
        with contextlib.closing(position.connect()) as connection:
            connection.sendall(position.bytes("POST", "/v1/chat/completions", body=body))
            time.sleep(0.2)
    began = time.monotonic()
    found = position.paced(position.bytes("POST", "/v1/chat/completions", body=position.chat()), patience=30)
    spent = time.monotonic() - began
    return Verdict(found.first.status == 200 and spent < position.bounds.patience, f"{found.first} after {spent:.1f} s")


def idle(position: Position) -> Verdict:
    """Connections that stay open after an answer are cut off or leave room for others."""
    held: list[ssl.SSLSocket] = []
    with contextlib.ExitStack() as stack:
        # Who is let in no more has filled the room, which a bystander then notices.
        with contextlib.suppress(OSError):
            while len(held) < position.bounds.connections * 5:
                held.append(stack.enter_context(contextlib.closing(position.connect())))
                wire.exchange(held[-1], position.bytes("GET", "/healthz", key=None), 1, position.bounds.patience)
        spent = position.served()
    return Verdict(spent < position.bounds.patience / 2, f"{len(held)} idle; a bystander served in {spent:.2f} s")


ATTACKS = [
    Attack("slow", "slow headers", "a byte a second (slowloris)", "all cut off, others served", headers),
    Attack("slow", "no handshake", "connections that say nothing", "all cut off, others served", no_handshake),
    Attack("slow", "body of a stranger", "a stranger's body that stops", "a refusal at once", body_of_a_stranger),
    Attack("slow", "silent body", "a user's body that stops", "all cut off, others served", silent_body),
    Attack("slow", "slow read", "streams that nobody reads", "others served", slow_read),
    Attack("slow", "clients that go away", "long answers whose clients leave", "the next is answered soon", left_alone),
    Attack("slow", "idle connections", "many that stay open after an answer", "others served", idle),
]
