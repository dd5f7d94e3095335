"""Which of many TCP ports accept a connection, thousands tried side by side."""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import time
from collections.abc import Iterable

# Longer than the second after which the kernel sends a lost SYN again.
PATIENCE = 1.3
MOST_AT_ONCE = 8192
SPARE_DESCRIPTORS = 256


def open_ports(targets: Iterable[tuple[str, int]], patience: float = PATIENCE) -> list[tuple[str, int]]:
    """Those of the targets (address, port) that accept a connection within ``patience`` seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = max(64, min(MOST_AT_ONCE, hard - SPARE_DESCRIPTORS))
    waiting, found, todo = {}, [], iter(targets)
    try:
        with selectors.DefaultSelector() as selector:
            exhausted = False
            while not exhausted or waiting:
                while not exhausted and len(waiting) < room:
                    target = next(todo, None)
                    if target is None:
                        exhausted = True
                        break
                    begun = begin(target)
                    if begun is True:
                        found.append(target)
                    elif begun:
                        selector.register(begun, selectors.EVENT_WRITE, target)
                        waiting[begun] = time.monotonic() + patience
                for key, _events in selector.select(0.02):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        found.append(key.data)
                    drop(selector, waiting, connection)
                now = time.monotonic()
                # Those that began first come first.
                while waiting and (oldest := next(iter(waiting.items())))[1] < now:
                    drop(selector, waiting, oldest[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return sorted(found)


def endpoint(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What a socket takes. Of a link-local address with its interface (fe80::1%eth0) it wants the interface's number,
    and refuses the name."""
    plain, _percent, interface = address.partition("%")
    return (plain, port, 0, socket.if_nametoindex(interface)) if interface else (address, port)


def begin(target: tuple[str, int]) -> socket.socket | bool:
    """A connection under way; True if it is made already, False if it cannot be."""
    connection = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    connection.setblocking(False)
    code = connection.connect_ex(endpoint(*target))
    if code == errno.EINPROGRESS:
        return connection
    connection.close()
    return code == 0


def drop(selector: selectors.BaseSelector, waiting: dict[socket.socket, float], connection: socket.socket) -> None:
    selector.unregister(connection)
    del waiting[connection]
    with contextlib.suppress(OSError):
        connection.close()
