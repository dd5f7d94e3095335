# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""That an open port is found, and what is judged of it."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator

import pytest

from tests.attack import scan
from tests.attack.access import Access, Machine, User
from tests.attack.groups import ports
from tests.attack.model import FAILED, HELD, NOT_TRIED, Attack, carry_out
from tests.attack.position import Position


class Fake:
    """A host of which is known what it would say; ``asked`` are the commands."""

    def __init__(self, answer: str = "") -> None:
        self.answer, self.asked = answer, []

    def run(self, command: list[str], given: str = "") -> str:
        self.asked.append(command)
        return self.answer


class Awake(Position):
    def alive(self) -> bool:
        return True


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def position(engine_port: int = 11434, inside: str = "") -> Position:
    machine = Machine("box", "box", ("127.0.0.1",), ("127.0.0.1", engine_port), gateway=False)
    access = Access(("127.0.0.1", 443), "", {"a": User("a", "user", "k")}, "m", {"box": machine}, "nobody")
    return Awake(access, {"box": Fake(inside)}, Fake())


def attack(name: str) -> Attack:
    return next(a for a in [*ports.ATTACKS, *ports.attacks(position().access.machines)] if a.name == name)


def test_open_port_is_found_among_all(listener: int) -> None:
    found = scan.open_ports((("127.0.0.1", port) for port in range(1, 65536)), patience=1)
    assert ("127.0.0.1", listener) in found


def test_silent_address_ends_with_patience() -> None:
    # TEST-NET-1 of RFC 5737, which nobody answers for.
    assert scan.open_ports([("192.0.2.1", port) for port in range(1, 200)], patience=0.2) == []


def test_a_link_local_address_is_tried_on_its_interface() -> None:
    number = socket.if_nametoindex("lo")
    assert scan.endpoint("fe80::1%lo", 22) == ("fe80::1", 22, 0, number)
    assert scan.endpoint("2001:db8::1", 22) == ("2001:db8::1", 22)
    with socket.socket(socket.AF_INET6) as connection:
        connection.setblocking(False)
        # By the interface's name it is no address at all, and every port looks closed.
        assert connection.connect_ex(scan.endpoint("fe80::1%lo", 22)) != errno.EINVAL


def test_open_engine_is_found(listener: int) -> None:
    assert carry_out(attack("engine's own port"), position(listener)).outcome == FAILED


def test_open_endpoint_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "open_ports", lambda targets: [target for target in targets if target[1] == 8443])
    result = carry_out(attack("endpoints of the nodes"), position())
    assert (result.outcome, result.seen) == (FAILED, "open: 127.0.0.1:8443")


@pytest.mark.parametrize(
    ("opened", "outcome", "seen"),
    [
        ({22}, HELD, "open: 22"),
        ({22, 11434}, FAILED, "not to be open: 127.0.0.1:11434"),
        (set(), FAILED, "without SSH, the others prove nothing"),
    ],
)
def test_what_may_be_open(opened: set[int], outcome: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "open_ports", lambda targets: [target for target in targets if target[1] in opened])
    result = carry_out(attack("every port of box, IPv4"), position())
    assert result.outcome == outcome
    assert seen in result.seen


def test_link_local_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "open_ports", lambda targets: [target for target in targets if target[1] in (22, 11434)])
    link = {"ifname": "eth0", "addr_info": [{"scope": "link", "local": "fe80::1"}]}
    assert carry_out(attack("every port of box, link-local"), position(inside=json.dumps([link]))).outcome == FAILED
    assert carry_out(attack("every port of box, link-local"), position(inside="[]")).outcome == NOT_TRIED


@pytest.mark.parametrize(
    ("opened", "outcome"), [((), HELD), ((("172.30.0.1", 22),), HELD), ((("172.30.0.2", 11434),), FAILED)]
)
def test_container_by_route(opened: tuple, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "open_ports", lambda targets: [target for target in targets if target in opened])
    look = {"own": ["127.0.0.1", "172.30.0.1"], "containers": ["172.30.0.2"], "ports": [9999]}
    here = position(inside=json.dumps(look))
    assert carry_out(attack("box by route"), here).outcome == outcome
    # Each route was taken away again.
    assert [command[3] for command in here.neighbour.asked] == ["add", "del"] * 2
