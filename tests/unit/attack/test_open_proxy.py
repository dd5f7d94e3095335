# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An attack that cannot fail proves nothing: each is carried out on a gateway that does everything wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from certificates import Authority
from open_proxy import OpenProxy

from tests.attack.access import Access, Machine, User
from tests.attack.groups import ATTACKS, tls
from tests.attack.model import FAILED, HELD, NOT_TRIED, Attack, Result, carry_out
from tests.attack.position import Bounds, Position, run_here

MODELS = ("small:latest", "large:latest")
KEY = "sk-0123456789-abcdefghijklmnopqrstuvwxyz-ABC"
SILENT = "no longer answers"
BOUNDS = Bounds(patience=1, quiet=0.15, slow=1.5, connections=10, requests=30, settle=0, logged=0.15, forgotten=0)
# What a gateway has to be wrong in another way for; each has a test of its own below or in test_ports.py.
ELSEWHERE = {
    "certificate",
    "no name, foreign name",
    "early data",
    "allowed model",
    "users behind a guesser",
    "engine's own port",
    "endpoints of the nodes",
    "rights of nginx's workers",
}


class InProcess:
    """This machine as a host; its programs in Python run right here, which is ten times faster."""

    _one_at_a_time = threading.Lock()

    def run(self, command: list[str], given: str = "") -> str:
        if command[:2] != ["python3", "-c"]:
            return run_here(command, given)
        output = io.StringIO()
        with (
            self._one_at_a_time,
            contextlib.redirect_stdout(output),
            mock.patch.object(sys, "argv", ["-c", *command[3:]]),
            mock.patch.object(sys, "stdin", io.StringIO(given)),
        ):
            exec(compile(command[2], "<host>", "exec"), {"__name__": "__main__"})
        return output.getvalue()


def named(name: str) -> Attack:
    return next(attack for attack in ATTACKS if attack.name == name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's files with a secret in each place where none may be."""
    root = tmp_path_factory.mktemp("root")
    # The last directories of the way there are the test's own, and closed to others.
    for directory in (root, root.parent, root.parent.parent):
        directory.chmod(0o755)
    files = {
        "proc/7/cmdline": f"curl\0-H\0Authorization: Bearer {KEY}\0",
        "proc/8/environ": f"API_KEY={KEY}\0",
        "var/log/app.log": f"GET /?key={KEY}\n",
        "etc/app.conf": f"key = {KEY}\n",
        "root/notes": KEY,
        "etc/ssl/app.key": "-----BEGIN PRIVATE KEY-----\n",
        "etc/nginx/onprem-llm-gateway.keys": "0123456789abcdef",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o644)
    (root / "root/notes").chmod(0o600)
    (root / "etc/nginx/onprem-llm-gateway.keys").chmod(0o666)
    return root


@pytest.fixture
def proxy(authority: Authority, tmp_path: Path) -> Iterator[OpenProxy]:
    found = OpenProxy(authority.issue("proxy"), tmp_path / "access.log", MODELS)
    yield found
    found.stop()


def position(proxy: OpenProxy, ca_file: str, leaky: Path) -> Position:
    users = {
        "app": User("app", "user", KEY, "a password"),
        "ops": User("ops", "admin", KEY.swapcase(), "another password"),
        "guest": User("guest", "user", "g" * 43, models=MODELS[:1]),
    }
    machine = Machine("box", "box", ("127.0.0.1",), ("127.0.0.1", proxy.engine), gateway=True)
    access = Access(
        ("127.0.0.1", proxy.https),
        ca_file,
        users,
        MODELS[0],
        {"box": machine},
        "nobody",
        MODELS,
        {state: f"{state}-{'k' * 40}" for state in ("expired", "revoked", "disabled")},
        http_port=proxy.http,
        body_max_bytes=2**20,
    )
    places = (str(proxy.log.parent),)
    here = InProcess()
    return Position(access, {"box": here}, here, BOUNDS, str(proxy.log), places, str(leaky))


@pytest.fixture(scope="module")
def results(authority: Authority, leaky: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Of every attack, each on a gateway of its own. They mostly wait, so some are carried out side by side."""
    directory = tmp_path_factory.mktemp("logs")
    certificate = authority.issue("open")

    def once(place: Path, attack: Attack) -> Result:
        place.mkdir()
        proxy = OpenProxy(certificate, place / "access.log", MODELS)
        try:
            return carry_out(attack, position(proxy, authority.ca, leaky))
        finally:
            proxy.stop()

    def one(number: int, attack: Attack) -> Result:
        result = once(directory / str(number), attack)
        # A busy machine may let the proxy answer too late.
        return once(directory / f"{number}-again", attack) if SILENT in result.seen else result

    with ThreadPoolExecutor(6) as pool:
        return {result.name: result for result in pool.map(one, *zip(*enumerate(ATTACKS)))}


@pytest.mark.parametrize("name", [attack.name for attack in ATTACKS if attack.name not in ELSEWHERE])
def test_attack_succeeds(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    assert result.outcome == FAILED, result.seen
    # By what was seen, not because the attack itself broke.
    assert "Error:" not in result.seen
    assert SILENT not in result.seen


def test_names_are_unique_and_told() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    assert set(names) >= ELSEWHERE
    assert len(names) >= 60
    assert all(attack.tries and attack.expected for attack in ATTACKS)


@pytest.mark.parametrize("name", ["certificate", "no name, foreign name"])
def test_foreign_certificate_is_seen(name: str, proxy: OpenProxy, tmp_path: Path, leaky: Path) -> None:
    result = carry_out(named(name), position(proxy, Authority(tmp_path, "another").ca, leaky))
    assert result.outcome == FAILED
    assert "certificate" in result.seen or "verif" in result.seen


@pytest.mark.parametrize(("most", "outcome"), [("16384", FAILED), ("0", HELD)])
def test_early_data_is_seen(
    most: str, outcome: str, proxy: OpenProxy, authority: Authority, leaky: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"CONNECTED(00000003)\n    Max Early Data: {most}\n"
    monkeypatch.setattr(tls, "openssl", lambda *given, **more: output)
    assert carry_out(named("early data"), position(proxy, authority.ca, leaky)).outcome == outcome


def test_refusal_of_everything_is_no_proof(authority: Authority, tmp_path: Path, leaky: Path) -> None:
    shut = OpenProxy(authority.issue("proxy"), tmp_path / "access.log", MODELS, bans=1)
    shut.guesses = 1
    try:
        assert carry_out(named("allowed model"), position(shut, authority.ca, leaky)).outcome == FAILED
    finally:
        shut.stop()


def test_ban_of_an_address_is_seen(authority: Authority, tmp_path: Path, leaky: Path) -> None:
    banning = OpenProxy(authority.issue("proxy"), tmp_path / "access.log", MODELS, bans=20)
    try:
        assert carry_out(named("users behind a guesser"), position(banning, authority.ca, leaky)).outcome == FAILED
    finally:
        banning.stop()


def test_dead_gateway_is_no_shut_gateway(proxy: OpenProxy, authority: Authority, leaky: Path) -> None:
    proxy.stop()
    here = position(proxy, authority.ca, leaky)
    assert carry_out(named("no credential"), here).outcome == FAILED


def test_what_the_fleet_lacks_is_told(proxy: OpenProxy, authority: Authority, leaky: Path) -> None:
    here = position(proxy, authority.ca, leaky)
    here.access = dataclasses.replace(here.access, dead_keys={})
    result = carry_out(named("expired key"), here)
    assert (result.outcome, result.seen) == (NOT_TRIED, "access.json has no dead_keys.expired")
