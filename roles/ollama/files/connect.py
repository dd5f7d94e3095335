# SPDX-License-Identifier: GPL-3.0-or-later
"""Print which of the given addresses (host:port) accept a TCP connection, on one line, each with its host as a number.

Runs on the host and inside the network of the engine's container, so it needs no file there and nothing but Python.
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def reached(address):
    host, _colon, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as connection:
            number = connection.getpeername()[0]
            return f"[{number}]:{port}" if ":" in number else f"{number}:{port}"
    except OSError:
        return ""


addresses = " ".join(sys.argv[1:]).split()
with ThreadPoolExecutor(len(addresses) or 1) as pool:
    print(*filter(None, pool.map(reached, addresses)))
