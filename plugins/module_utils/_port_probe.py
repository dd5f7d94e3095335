# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which TCP ports of other hosts accept a connection from here, and which of those a firewall's rules explain."""

from __future__ import annotations

import ipaddress
import socket
import typing as t
from concurrent.futures import ThreadPoolExecutor

# Each waits on the network, and a port that a firewall drops answers nothing: it is waited for to the end.
MOST_AT_ONCE = 256


def accepts(address: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection is accepted within ``timeout`` seconds."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def open_ports(
    targets: t.Sequence[tuple[str, int]],
    timeout: float,
    ask: t.Callable[[str, int, float], bool] = accepts,
) -> list[tuple[str, int]]:
    """Those of the targets (address, port) that accept a connection, all tried side by side."""
    if not targets:
        return []
    with ThreadPoolExecutor(min(len(targets), MOST_AT_ONCE)) as pool:
        answers = list(pool.map(lambda target: ask(target[0], target[1], timeout), targets))
    return [target for target, answer in zip(targets, answers) if answer]


def source_address(address: str) -> str | None:
    """The address of this host from which packets to ``address`` leave; None where there is no way to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # UDP sends nothing here; the kernel only chooses.
            probe.connect((address, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def explained(port: int, source: str | None, rules: t.Iterable[t.Mapping[str, t.Any]]) -> bool:
    """Whether one of the rules opens the port to ``source``.

    :arg rules: mappings of port (a number, or a range such as 8000:8010) and from (an address, a network, or any).
    :raises ValueError: a rule's port or network is none.
    """
    for rule in rules:
        first, _colon, last = str(rule["port"]).partition(":")
        if not int(first) <= port <= int(last or first):
            continue
        if rule["from"] == "any":
            return True
        network = ipaddress.ip_network(rule["from"], strict=False)
        if source and ipaddress.ip_address(source) in network:
            return True
    return False
