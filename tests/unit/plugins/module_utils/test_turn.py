# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A turn ends in time, and what it brought is put down to its account."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import (
    _registry,
    _repository,
    _transfer,
    _transfer_options,
    _turn,
)

DATA = os.urandom(2**20)
GIVEN = {
    "connections": 3, "stall_timeout": 7.5, "transfer_seconds": 2.0, "reserve_bytes": 5, "progress_interval": 15.0,
}  # fmt: skip


def test_without_a_bound_there_is_always_time_left() -> None:
    turn = _turn.Turn(_transfer.Limits(connections=2))
    assert turn.left == float("inf")
    assert turn.bounded() == _transfer.Limits(connections=2)


def test_a_turn_that_is_over_asks_still_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(_turn.time, "monotonic", lambda: clock[0])
    turn = _turn.Turn(_transfer.Limits(seconds=10), _start=100.0)
    clock[0] = 104.0
    assert (turn.left, turn.bounded().seconds) == (6.0, 6.0)
    clock[0] = 111.0
    assert turn.left == 0.0
    assert 0 < turn.bounded().seconds < 1


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(_turn.time, "monotonic", lambda: next(clock))
    turn = _turn.Turn(_transfer.Limits(), _start=0.0)
    with turn.timed():
        pass
    with pytest.raises(KeyError), turn.timed():
        raise KeyError
    assert turn.account.result()["seconds"] == 3.5


def test_what_came_in_all_turns_is_all_that_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file beside others, at 2 MiB/s in turns of 0.2 seconds."""
    monkeypatch.setattr(_transfer, "_ENDING_SHARE", 0)
    fetched, shares = 0, []
    with registry_fake.serve() as (state, address), _transfer.Staging(str(tmp_path / "staging")) as staging:
        digest = registry_fake.digest(DATA)
        state.blobs[digest] = DATA
        state.bucket = registry_fake.Bucket(2 * 2**20)
        repository = _repository.Repository("http", address.partition("://")[2], "library/tiny")
        origin = _transfer.RegistryOrigin(_registry.Client(time_limit=None), repository, digest)
        for _number in range(50):
            turn = _turn.Turn(_transfer.Limits(seconds=0.2, stall_seconds=5))
            try:
                staged = turn.fetch(digest, len(DATA), [origin], staging, 1000, 5000 + len(DATA))
            except _turn.Pending as pending:
                shares.append((pending.done_bytes, pending.total_bytes))
            else:
                break
            finally:
                fetched += turn.account.fetched_bytes
        assert (staged.size, fetched) == (len(DATA), len(DATA))
    assert shares
    assert shares == sorted(shares)
    assert all(done >= 1000 and total == 5000 + len(DATA) for done, total in shares)


def test_what_comes_while_a_turn_ends_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections go on until each is revoked, after the end of the turn was noted."""
    revoke = _transfer._Lease.revoke

    def late(lease: _transfer._Lease) -> None:
        time.sleep(0.03)
        revoke(lease)

    monkeypatch.setattr(_transfer._Lease, "revoke", late)
    monkeypatch.setattr(_transfer, "_ENDING_SHARE", 0)
    fetched, turns, staged = 0, 0, None
    with registry_fake.serve() as (state, address), _transfer.Staging(str(tmp_path / "staging")) as staging:
        data = DATA * 16
        digest = registry_fake.digest(data)
        state.blobs[digest] = data
        state.bucket = registry_fake.Bucket(20 * 2**20)
        repository = _repository.Repository("http", address.partition("://")[2], "library/tiny")
        origin = _transfer.RegistryOrigin(_registry.Client(time_limit=None), repository, digest)
        while staged is None:
            turn = _turn.Turn(_transfer.Limits(seconds=0.1, stall_seconds=5))
            before = staging.held(digest)
            with suppress(_turn.Pending):
                staged = turn.fetch(digest, len(data), [origin], staging, 0, len(data))
            turns += 1
            fetched += turn.account.fetched_bytes
            assert staged or turn.account.fetched_bytes == staging.held(digest) - before
    assert (turns >= 2, fetched) == (True, len(data))


def test_pending_is_told_as_modules_do() -> None:
    given: dict[str, Any] = {"verified": ["a"]}
    assert _turn.Pending("verify", 1, 2).result(given) == {
        "phase": "verify", "done_bytes": 1, "total_bytes": 2, "resume": {"verified": ["a"]},
    }  # fmt: skip


def test_limits_are_what_the_options_say() -> None:
    _transfer_options.check(GIVEN)
    assert _transfer_options.limits(GIVEN) == _transfer.Limits(
        connections=3, stall_seconds=7.5, seconds=2.0, reserve_bytes=5
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("connections", 0), ("stall_timeout", 0.5), ("transfer_seconds", -1), ("reserve_bytes", -1)],
)
def test_a_number_that_cannot_be_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; [01] or more is needed"):
        _transfer_options.check({**GIVEN, name: value})


def test_the_proxy_holds_for_the_process_and_its_password_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert _transfer_options.use_proxy({"proxy": None, "no_proxy": []}) == set()
    assert os.environ == {}
    proxy = "http://site:p%40ss@proxy.example.com:3128"
    assert _transfer_options.use_proxy({"proxy": proxy, "no_proxy": ["a", "b"]}) == {"p%40ss", "p@ss"}
    assert os.environ == {
        "http_proxy": proxy, "HTTP_PROXY": proxy, "https_proxy": proxy, "HTTPS_PROXY": proxy,
        "no_proxy": "a,b", "NO_PROXY": "a,b",
    }  # fmt: skip
