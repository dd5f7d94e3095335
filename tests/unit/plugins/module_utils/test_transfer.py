# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers from a registry on loopback that answers well, and in each way that it can answer badly."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from ansible_collections.onprem.llm.plugins.module_utils import _digest, _registry, _repository, _staging, _transfer
from ansible_collections.onprem.llm.plugins.module_utils._transfer import (
    Busy,
    Limits,
    Mismatch,
    NoSpace,
    Paused,
    RegistryOrigin,
    Staged,
    Staging,
    TransferError,
    UrlOrigin,
)
from registry_fake import Bucket, State, digest

MIB = 2**20
CHILD = Path(__file__).parents[2] / "transfer_child.py"
# A part is 1 MiB at least, so that each connection has two.
DATA = random.Random(1).randbytes(8 * MIB + 1234)
DIGEST = digest(DATA)
LONG = pytest.mark.long
QUICK = Limits(stall_seconds=1, attempts=2, backoff_seconds=0.02, part_bytes=MIB)
# Where nothing is to stall: this machine may be busy with other things.
PATIENT = replace(QUICK, stall_seconds=20, attempts=6)


class World:
    """Registries, a staging directory, and a transfer from the ones to the other."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.state, self.url = self.registry()
        self.staging = stack.enter_context(Staging(os.fspath(directory / "staging")))

    def registry(self, data: bytes = DATA) -> tuple[State, str]:
        state, url = self._stack.enter_context(registry_fake.serve())
        state.put("big:1b", data)
        return state, url

    def origin(self, url: str | None = None, content: str = DIGEST, timeout: float = 5) -> RegistryOrigin:
        client = _registry.Client(timeout=timeout, time_limit=None)
        return RegistryOrigin(client, _repository.parse_name("big:1b", url or self.url).repository, content)

    def fetch(self, *origins: Any, limits: Limits = QUICK, report: Any = None, size: int | None = len(DATA)) -> Staged:
        return _transfer.fetch(DIGEST, size, origins or [self.origin()], self.staging, limits, report)

    def content(self, staged: Staged) -> bytes:
        with open(os.open(staged.name, os.O_RDONLY, dir_fd=staged.dir_fd), "rb") as stream:
            return stream.read()

    @property
    def names(self) -> list[str]:
        return sorted(os.listdir(self.staging.path))

    def part_way(self, count: int = 3 * MIB) -> int:
        """Leave a transfer in the middle; the bytes that are held."""
        self.state.bucket = Bucket(8 * MIB)

        def interrupt(done: int, _total: int) -> None:
            if done > count:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_transfer, "_REPORT_SECONDS", 0.0)
            with pytest.raises(KeyboardInterrupt):
                self.fetch(report=interrupt, limits=PATIENT)
        self.state.bucket = None
        before = -1
        # What the server had under its hands goes nowhere, but counts.
        while before < self.state.sent:
            before = self.state.sent
            time.sleep(0.1)
        self.state.requests.clear()
        self.state.sent = 0
        held = self.staging.held(DIGEST)
        assert count <= held < len(DATA)
        return held


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_a_file_comes_whole_in_ranges_that_meet(world: World) -> None:
    told: list[tuple[int, int]] = []
    staged = world.fetch(report=lambda done, total: told.append((done, total)), limits=PATIENT)
    assert world.content(staged) == DATA
    assert (staged.size, staged.fetched_bytes, staged.held_bytes, staged.hashed) == (len(DATA), len(DATA), 0, True)
    assert world.state.sent == len(DATA), "each byte was asked for once"
    ranges = sorted(tuple(map(int, re.findall(r"\d+", one))) for one in world.state.ranges)
    assert [start for start, _last in ranges] == [0, *(last + 1 for _start, last in ranges[:-1])]
    assert len(ranges) >= 8
    assert told[-1] == (len(DATA), len(DATA))
    about = os.stat(world.staging.path)
    assert stat.S_IMODE(about.st_mode) == 0o700
    assert stat.S_IMODE(os.stat(staged.name, dir_fd=staged.dir_fd).st_mode) == 0o600
    again = world.fetch()
    assert (again.fetched_bytes, again.held_bytes) == (0, len(DATA)), "and what is whole does not come again"
    os.rename(staged.name, os.path.join(world.staging.path, "elsewhere"), src_dir_fd=staged.dir_fd)
    world.staging.discard(DIGEST)
    assert world.names == ["elsewhere"]


def test_a_file_of_no_bytes(world: World) -> None:
    empty = digest(b"")
    staged = _transfer.fetch(empty, 0, [world.origin(content=empty)], world.staging, QUICK)
    assert (staged.size, staged.fetched_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "times", "after", "most"),
    [
        ("500", 1, 0, 0),
        ("503", 1, 0, 0),
        ("cut", 5, 300_000, 0),
        ("cut", 1, 0, 0),
        ("short", 3, 0, 0),
        ("silent", 1, 0, 0),
        ("drip", 1, 0, 0),
        ("stall", 3, 400_000, 0),
        ("trickle", 2, 400_000, 100),
        ("redirect", -1, 0, 0),
        ("no size", -1, 0, 0),
        ("whole", -1, 0, 0),
        ("whole later", -1, 0, 4 * len(DATA)),
        ("whole, cut", 2, 3 * MIB, 6 * MIB),
        ("chunked", -1, 0, 0),
    ],
)
def test_what_ends_well(world: World, fault: str, times: int, after: int, most: int) -> None:
    """``most``: bytes that may come in vain."""
    world.state.fault, world.state.times, world.state.after = fault, times, after
    staged = world.fetch()
    assert world.content(staged) == DATA
    assert world.state.sent <= len(DATA) + most


@pytest.mark.parametrize("code", ["429", "503"])
def test_retry_after_is_kept_to(world: World, code: str) -> None:
    world.state.fault, world.state.times, world.state.retry_after = code, 1, "1"
    started = time.monotonic()
    world.fetch()
    assert 1 <= time.monotonic() - started < 5


def test_retry_after_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "MAX_RETRY_AFTER_SECONDS", 0.3)
    world.state.fault, world.state.times, world.state.retry_after = "429", 1, "999999999"
    started = time.monotonic()
    world.fetch()
    assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("404", "has none"),
        ("401", "asks for a login, and none is given"),
        ("403", "answered 403"),
        ("circle", "leads on after 5 redirects"),
        ("longer", "should have|has [0-9]+ bytes there"),
        ("shorter", "has 8389837 bytes there, and should have 8389842"),
        ("other range", "got the range 'bytes 1-"),
        ("no range", "got the range ''"),
        ("gzip", "encoding gzip"),
    ],
)
def test_what_would_be_the_same_again_is_not_asked_again(world: World, fault: str, said: str) -> None:
    world.state.fault = fault
    with pytest.raises(TransferError, match=said):
        world.fetch()
    assert len(world.state.ranges) <= (7 if fault == "circle" else 5)
    world.state.fault = ""
    assert world.content(world.fetch()) == DATA


@pytest.mark.parametrize(
    ("fault", "after", "said"),
    [
        ("500", 0, "answered 500 .*; 2 attempts in a row gained nothing"),
        ("429", 0, "answered 429"),
        ("cut", 0, "broke off at byte"),
        ("stall", 0, "less than 65536 bytes in 1 seconds; 2 attempts"),
        pytest.param("trickle", 0, "less than 65536 bytes in 1 seconds; 2 attempts", marks=LONG),
        pytest.param("silent", 0, "less than 65536 bytes in 1 seconds; 2 attempts", marks=LONG),
        pytest.param("drip", 0, "less than 65536 bytes in 1 seconds; 2 attempts", marks=LONG),
    ],
)
def test_what_goes_on_for_ever_ends_and_loses_nothing(world: World, fault: str, after: int, said: str) -> None:
    held = world.part_way()
    assert held >= 3 * MIB
    world.state.fault, world.state.after = fault, after
    started = time.monotonic()
    with pytest.raises(TransferError, match=said) as caught:
        world.fetch()
    assert time.monotonic() - started < 8
    assert f"of {len(DATA)} bytes are here and stay" in str(caught.value)
    assert world.staging.held(DIGEST) >= held
    world.state.fault, world.state.sent = "", 0
    staged = world.fetch()
    assert world.content(staged) == DATA
    assert world.state.sent <= len(DATA) - held


def test_a_server_that_is_not_there(world: World) -> None:
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:1 was not reached.*refused.*2 attempts in a row"):
        world.fetch(world.origin("http://127.0.0.1:1"))


def test_a_truncated_blob_gives_what_it_has(world: World) -> None:
    """Its server promises all of it, and always ends early."""
    world.state.blobs[DIGEST] = DATA
    world.state.fault, world.state.after = "whole, cut", 5 * MIB
    with pytest.raises(TransferError, match=r"broke off at byte 5242880.*2 attempts"):
        world.fetch()
    assert world.staging.held(DIGEST) == 5 * MIB


# --- wrong bytes ------------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_asked_for_once_more_and_then_named(world: World) -> None:
    world.state.fault = "wrong"
    wrong = digest(world_wrong())
    with pytest.raises(Mismatch, match=f"{DIGEST} has the digest {wrong}") as caught:
        world.fetch()
    assert (caught.value.digest, caught.value.found) == (DIGEST, wrong)
    assert world.state.sent == 2 * len(DATA)
    assert world.names == [], "nothing of it is kept"


def world_wrong() -> bytes:
    """What the fault "wrong" makes of it: each range begins with the file's first byte changed, if it has that."""
    return bytes([DATA[0] ^ 1]) + DATA[1:]


def test_wrong_bytes_once(world: World) -> None:
    world.state.fault, world.state.times = "wrong", 1
    assert world.content(world.fetch()) == DATA
    assert world.state.sent == 2 * len(DATA)


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_wrong_bytes_are_asked_for_of_the_next_origin(world: World, seconds: float) -> None:
    world.state.fault = "wrong"
    other, url = world.registry()
    if seconds:
        world.state.bucket, other.bucket = Bucket(16 * MIB), Bucket(16 * MIB)
    origins = [world.origin(), world.origin(url)]
    staged, pauses = bounded(world, *origins, limits=replace(PATIENT, seconds=seconds))
    assert world.content(staged) == DATA
    assert bool(pauses) == bool(seconds)
    assert staged.origin == url.partition("//")[2]
    assert other.sent >= len(DATA)
    assert world.state.sent < 2 * len(DATA)


def bounded(world: World, *origins: Any, limits: Limits, most: int = 100) -> tuple[Staged, list[Paused]]:
    """Calls until it is done."""
    pauses: list[Paused] = []
    while True:
        try:
            return world.fetch(*origins, limits=limits), pauses
        except Paused as pause:
            pauses.append(pause)
            assert len(pauses) < most, "it never ends"


# --- calls that are bounded in time -----------------------------------------------------------------------------------


def test_bounded_calls_come_to_the_end(world: World) -> None:
    world.state.bucket = Bucket(8 * MIB)
    staged, pauses = bounded(world, limits=replace(PATIENT, seconds=0.3))
    assert world.content(staged) == DATA
    done = [pause.done for pause in pauses]
    assert len(done) >= 2
    assert done == sorted(done)
    assert {(pause.total, pause.phase) for pause in pauses if pause.done < len(DATA)} == {(len(DATA), "transfer")}


def test_a_call_that_is_over_reads_what_it_has_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "_ENDING_SHARE", 20)
    world.state.bucket = Bucket(8 * MIB)
    staged, pauses = bounded(world, limits=replace(PATIENT, seconds=0.25))
    assert world.content(staged) == DATA
    assert len(pauses) >= 2
    assert world.state.sent == len(DATA), "each byte was sent once"


def test_the_pass_of_sha256_goes_on_over_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def rest(file: Any, *_more: Any) -> str:
        raise Paused(file.journal.done, file.journal.size)

    with monkeypatch.context() as patch:
        patch.setattr(_transfer, "_hashed", rest)
        with pytest.raises(Paused):
            world.fetch(limits=replace(PATIENT, seconds=20))
    # A call without time takes a MiB then.
    monkeypatch.setattr(_transfer, "_HASH_SECONDS", 0)
    staged, pauses = bounded(world, limits=replace(PATIENT, seconds=0.0001))
    assert [(pause.phase, pause.done, pause.hashed) for pause in pauses] == [
        ("verify", len(DATA), (number + 1) * MIB) for number in range(8)
    ] + [("verify", len(DATA), len(DATA))]
    assert world.content(staged) == DATA
    assert staged.origin == world.origin().label, "though the last call fetched nothing"
    assert world.state.sent == len(DATA)


@pytest.mark.parametrize("state", ["x", "5:little:AAAA", "-1:little:", "8389842:big:"])
def test_a_state_of_the_sha256_that_cannot_be_used_begins_anew(world: World, state: str) -> None:
    world.fetch(limits=replace(PATIENT, seconds=20))
    told = json.loads(journal(world).read_bytes())
    assert told["hashed"]
    journal(world).write_text(json.dumps({**told, "hashed": state}))
    staged, _pauses = bounded(world, limits=replace(PATIENT, seconds=5))
    assert world.content(staged) == DATA


def test_without_openssl_a_long_pass_of_sha256_is_left_to_the_next_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_digest, "_library", lambda: None)
    monkeypatch.setattr(_transfer, "_HASH_BYTES_PER_SECOND", 1000)
    with pytest.raises(Paused) as caught:
        world.fetch(limits=replace(QUICK, seconds=60))
    assert (caught.value.done, caught.value.phase) == (len(DATA), "verify")
    assert world.fetch(limits=replace(QUICK, seconds=60)).fetched_bytes == 0


@pytest.mark.parametrize(
    "fault",
    ["500", "trickle", "wrong", *(pytest.param(fault, marks=LONG) for fault in ("429", "stall", "drip", "cut"))],
)
def test_bounded_calls_of_what_goes_on_for_ever_end(world: World, fault: str) -> None:
    """A call may be shorter than the time after which a server has stalled."""
    world.state.fault = fault
    with pytest.raises(Mismatch if fault == "wrong" else TransferError):
        bounded(world, limits=replace(PATIENT if fault == "wrong" else QUICK, seconds=0.2))


def test_bounded_calls_reach_the_second_origin(world: World) -> None:
    world.state.fault = "stall"
    other, url = world.registry()
    staged, pauses = bounded(world, world.origin(), world.origin(url), limits=replace(QUICK, seconds=0.25))
    assert len(pauses) >= 5
    assert world.content(staged) == DATA
    assert other.sent >= len(DATA)


# --- origins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["404", "401", "500", "longer", "circle", "cut"])
def test_the_next_origin_goes_on_where_one_gave_out(world: World, fault: str) -> None:
    held = world.part_way()
    world.state.fault = fault
    other, url = world.registry()
    staged = world.fetch(world.origin(), world.origin(url))
    assert world.content(staged) == DATA
    assert other.sent <= len(DATA) - held
    assert staged.origin == url.partition("//")[2]


def test_each_origin_is_named_with_its_reason(world: World) -> None:
    world.state.fault = "404"
    with pytest.raises(TransferError, match=r"127.0.0.1:[0-9]+: .* has none; 127\.0\.0\.1:1: .*refused"):
        world.fetch(world.origin(), world.origin("http://127.0.0.1:1"))
    with pytest.raises(TransferError, match="nothing is named"):
        _transfer.fetch(DIGEST, 5, [], world.staging, QUICK)
    with pytest.raises(TransferError, match="is no sha256 digest"):
        _transfer.fetch("sha256:../../etc/passwd", 5, [world.origin()], world.staging, QUICK)


def test_one_slow_connection_does_not_hold_up_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer drips on above the floor, at a rate at which its part would take a minute."""
    monkeypatch.setattr(_transfer, "_STEAL_SECONDS", 0.6)
    monkeypatch.setattr(_transfer, "_STEAL_BYTES", 2**17)
    world.state.fault, world.state.times, world.state.after = "slow", 1, 2**15
    started = time.monotonic()
    staged = world.fetch(limits=replace(QUICK, stall_seconds=6))
    assert world.content(staged) == DATA
    assert time.monotonic() - started < 12


def test_nothing_comes_twice_where_it_is_read_slowly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an idle connection would take over has come already, and waits to be read."""
    monkeypatch.setattr(_transfer, "_STEAL_SECONDS", 0.2)
    monkeypatch.setattr(_transfer, "_STEAL_BYTES", 2**17)
    kept, threads = _transfer._Run.keep, []

    def slowly(run: _transfer._Run, offset: int, data: bytes, segments: Any) -> int:
        if threading.get_ident() not in threads:
            threads.append(threading.get_ident())
        time.sleep(len(data) / (MIB if threading.get_ident() == threads[0] else 4 * MIB))
        return kept(run, offset, data, segments)

    monkeypatch.setattr(_transfer._Run, "keep", slowly)
    assert world.content(world.fetch(limits=replace(PATIENT, connections=2, part_bytes=32 * MIB))) == DATA
    assert world.state.sent == len(DATA)


def test_one_read_does_not_make_a_slow_reader_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look may meet the moment in which a block was read, and is not written yet."""
    there, here = socket.socketpair()
    with there, here:
        lease: Any = object.__new__(_transfer._Lease)
        lease._response, lease._piled_up = here, -math.inf
        assert not lease.read_slowly
        there.sendall(bytes(_transfer.LEAST_BYTES))
        assert lease.look(time.monotonic()) == _transfer.LEAST_BYTES
        here.recv(_transfer.LEAST_BYTES, socket.MSG_WAITALL)
        assert lease.read_slowly
        now = time.monotonic()
        monkeypatch.setattr(_transfer.time, "monotonic", lambda: now + 10)
        assert not lease.read_slowly


def test_a_call_that_is_over_reads_what_has_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long this host takes to read it, since it was sent."""
    kept = _transfer._Run.keep

    def slowly(run: _transfer._Run, offset: int, data: bytes, segments: Any) -> int:
        time.sleep(len(data) / MIB)
        return kept(run, offset, data, segments)

    monkeypatch.setattr(_transfer._Run, "keep", slowly)
    with pytest.raises(Paused):
        world.fetch(limits=replace(PATIENT, connections=1, part_bytes=32 * MIB, seconds=0.5))
    assert world.staging.held(DIGEST) >= 2 * MIB
    monkeypatch.setattr(_transfer._Run, "keep", kept)
    assert world.content(world.fetch(limits=PATIENT)) == DATA
    assert world.state.sent == len(DATA)


def test_a_call_asks_for_what_it_has_the_time_for(world: World) -> None:
    """Whatever a connection may bring, its first request is small where the call has an end."""
    world.fetch(limits=replace(PATIENT, connections=1, part_bytes=32 * MIB, seconds=60))
    assert len(world.state.requests) == 2
    assert world.state.sent == len(DATA)


# --- addresses --------------------------------------------------------------------------------------------------------


def test_a_file_at_an_address(world: World) -> None:
    """Its size is asked for. The login stands in the address, and is told to no other host."""
    other, elsewhere = world.registry()
    world.state.login, world.state.fault, world.state.elsewhere = ("me", "p@ss"), "redirect", elsewhere
    host = world.url.partition("//")[2]
    origin = UrlOrigin(f"http://me:p%40ss@{host}/v2/library/big/blobs/{DIGEST}")
    assert origin.label == host
    staged = world.fetch(origin, size=None)
    assert world.content(staged) == DATA
    assert set(world.state.authorizations) == {world.state.basic()}
    assert set(other.authorizations) == {""}
    assert other.sent <= len(DATA) + 1


def test_an_address_that_is_wrong(world: World) -> None:
    with pytest.raises(TransferError, match="'ftp://host/x' is no address of http or https"):
        UrlOrigin("ftp://me:secret@host/x")
    world.state.login = ("me", "other")
    with pytest.raises(TransferError, match="the user 'me' may not read there") as caught:
        world.fetch(UrlOrigin(f"{world.url}/v2/library/big/blobs/{DIGEST}", login=("me", "secret")))
    assert "secret" not in str(caught.value)
    world.state.fault = "no size"
    world.state.login = None
    with pytest.raises(TransferError, match="its size is not known"):
        world.fetch(UrlOrigin(f"{world.url}/v2/library/big/blobs/{DIGEST}"), size=None)


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_no_room_is_known_before_the_first_byte(world: World) -> None:
    with pytest.raises(NoSpace, match="the reserve among them") as caught:
        world.fetch(limits=replace(QUICK, reserve_bytes=2**60))
    assert caught.value.needed == 2**60 + len(DATA)
    assert caught.value.free == pytest.approx(world.staging.free_bytes, rel=0.01)
    assert world.state.requests == []


def test_what_is_held_needs_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held = world.part_way()
    monkeypatch.setattr(Staging, "free_bytes", property(lambda _self: len(DATA) - held))
    assert world.content(world.fetch()) == DATA


def test_the_reserve_is_kept_while_others_fill_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.state.bucket = Bucket(4 * MIB)
    ends = time.monotonic() + 0.5
    monkeypatch.setattr(Staging, "free_bytes", property(lambda _self: 2**40 if time.monotonic() < ends else 999))
    with pytest.raises(NoSpace) as caught:
        world.fetch(limits=replace(QUICK, reserve_bytes=1000))
    assert caught.value.free == 999
    assert 0 < world.staging.held(DIGEST) < len(DATA)


@contextmanager
def small_disk(path: Path) -> Iterator[str]:
    """A file system of 6 MiB, in the mount namespace that the tests run in.

    :raises OSError: mounting is not permitted here.
    """
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", path], capture_output=True)
    if mounted.returncode != 0:
        raise OSError(mounted.stderr.decode())
    try:
        yield os.fspath(path)
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], None]]]:
    """A staging directory whose disk is full after some MiB, and what makes room on it. Where mounting is not
    permitted, the kernel's answer is played."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(small_disk(tmp_path / "disk"))
        except OSError:
            left = [5 * MIB]
            real = os.pwrite

            def pwrite(handle: int, data: bytes, offset: int) -> int:
                if left[0] < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                left[0] -= len(data)
                return real(handle, data, offset)

            monkeypatch.setattr(os, "pwrite", pwrite)
            yield os.fspath(tmp_path / "staging"), lambda: left.__setitem__(0, 2**40)
        else:
            yield (
                path,
                lambda: subprocess.run(["mount", "-o", "remount,size=32m", path], check=True) and None,
            )


def test_a_disk_that_fills_up_keeps_what_is_there(
    world: World, full_disk: tuple[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, grow = full_disk
    real = Staging.free_bytes.fget
    with Staging(path) as staging:
        # Another program fills it meanwhile: at the beginning there seems to be room.
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "free_bytes", property(lambda _self: 2**40))
            with pytest.raises(NoSpace) as caught:
                _transfer.fetch(DIGEST, len(DATA), [world.origin()], staging, QUICK)
        assert real(staging) >= 0
        held = staging.held(DIGEST)
        assert 2 * MIB <= held < len(DATA)
        # On a full disk there may be no room for the last journal, which is then behind by a MiB and what came since;
        # where there is, it has what other connections wrote after the first found the disk full.
        assert abs(len(DATA) - held - caught.value.needed) <= 4 * MIB
        grow()
        world.state.requests.clear()
        staged = _transfer.fetch(DIGEST, len(DATA), [world.origin()], staging, QUICK)
        assert world.content(staged) == DATA
        asked = [list(map(int, re.findall(r"[0-9]+", one))) for one in world.state.ranges]
        assert sum(last + 1 - start for start, last in asked) == len(DATA) - held


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_an_interrupted_transfer_goes_on(world: World) -> None:
    held = world.part_way()
    staged = world.fetch()
    assert world.content(staged) == DATA
    assert staged.held_bytes == held
    assert world.state.sent == len(DATA) - held


def child(world: World, *wait: str, limits: str = '{"part_bytes": 1048576}', size: int = len(DATA)) -> Any:
    command = [sys.executable, CHILD, world.url, DIGEST if size == len(DATA) else BIG, str(size), world.staging.path]
    return subprocess.Popen([*map(str, command), limits, *wait], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed(world: World, when: float, size: int = len(DATA)) -> None:
    """A transfer of another process, killed when that share of the file has been sent."""
    started = world.state.sent
    process = child(world, size=size)
    while world.state.sent - started < when * size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()


BIG = ""


def test_a_killed_transfer_goes_on_in_another_process(world: World) -> None:
    world.state.bucket = Bucket(16 * MIB)
    killed(world, 0.5)
    held = world.staging.held(DIGEST)
    assert held >= 0.25 * len(DATA)
    out, err = child(world).communicate(timeout=60)
    assert json.loads(out or err)["held"] == held
    assert hashlib.sha256(Path(world.staging.path, f"{DIGEST[7:]}.part").read_bytes()).hexdigest() == DIGEST[7:]
    assert world.state.sent - len(DATA) <= 2.5 * MIB, "the journal is behind by a MiB, and the sockets' buffers"


@LONG
def test_at_half_of_64_mib_a_kill_costs_a_twentieth_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(2).randbytes(64 * MIB)
    monkeypatch.setattr(sys.modules[__name__], "BIG", world.state.put("big:1b", data))
    world.state.bucket = Bucket(25e6)
    killed(world, 0.5, len(data))
    out, err = child(world, size=len(data)).communicate(timeout=120)
    assert json.loads(out or err)["held"] > 0.4 * len(data)
    refetched = world.state.sent - len(data)
    print(f"refetched {refetched} bytes, {refetched / len(data):.2%}")
    assert refetched <= 0.05 * len(data)


@LONG
def test_killed_again_and_again(world: World) -> None:
    data = random.Random(3).randbytes(64 * MIB)
    sys.modules[__name__].BIG = world.state.put("big:1b", data)  # type: ignore[attr-defined]
    world.state.bucket = Bucket(25e6)
    for _kill in range(8):
        killed(world, 0.1, len(data))
    out, err = child(world, size=len(data)).communicate(timeout=120)
    assert json.loads(out or err)["fetched"] < 0.5 * len(data)
    assert world.state.sent <= 1.3 * len(data)


def test_two_processes_at_once_fetch_once(world: World) -> None:
    world.state.bucket = Bucket(6 * MIB)
    first = child(world, "30")
    while not world.state.sent:
        time.sleep(0.01)
    second = child(world, "30")
    with (
        pytest.raises(Busy, match=r"by another process, for longer than 0\.3 seconds"),
        world.staging.lock(DIGEST, 0.3),
    ):
        pass
    with pytest.raises(Busy):
        world.fetch()
    results = [json.loads(process.communicate(timeout=60)[0]) for process in (first, second)]
    assert [result["fetched"] for result in results] == [len(DATA), 0]
    assert world.state.sent == len(DATA)
    assert [name for name in world.names if name.endswith(".lock")] == []


def test_a_lock_outlives_no_process(world: World) -> None:
    world.state.bucket = Bucket(6 * MIB)
    killed(world, 0.2)
    with world.staging.lock(DIGEST), pytest.raises(Busy, match="by this process"), world.staging.lock(DIGEST):
        pass


# --- the journal ------------------------------------------------------------------------------------------------------


def journal(world: World, synced: bool = False) -> Path:
    return Path(world.staging.path) / f"{DIGEST[7:]}{'.synced' if synced else ''}.json"


DAMAGES: list[Callable[[dict[str, Any]], bytes]] = [
    lambda found: b"",
    lambda found: b"\0" * 200,
    lambda found: b"[]",
    lambda found: b"[" * 100_000,
    lambda found: json.dumps(found).encode()[:-20],
    lambda found: json.dumps({**found, "version": 2}).encode(),
    lambda found: json.dumps({**found, "size": 5}).encode(),
    lambda found: json.dumps({**found, "segments": []}).encode(),
    lambda found: json.dumps({**found, "segments": [[0, 5, 9]]}).encode(),
    lambda found: json.dumps({**found, "segments": [[0, len(DATA) + 1, len(DATA)]]}).encode(),
    lambda found: json.dumps({**found, "segments": [[0, 0.5, len(DATA)]]}).encode(),
    lambda found: json.dumps({**found, "segments": [[5, 5, len(DATA)]]}).encode(),
    lambda found: json.dumps({**found, "segments": "x"}).encode(),
    lambda found: json.dumps({**found, "patience": [1]}).encode(),
    lambda found: json.dumps({**found, "wrong": "x"}).encode(),
    lambda found: json.dumps({key: value for key, value in found.items() if key != "boot"}).encode(),
]


def test_a_journal_that_cannot_be_trusted_begins_anew(world: World) -> None:
    held = world.part_way(MIB)
    whole = journal(world).read_bytes()
    found = json.loads(whole)
    assert found["version"] == 1
    for damage in DAMAGES:
        journal(world).write_bytes(damage(found))
        assert world.staging.held(DIGEST) == 0, damage(found)[:500]
    journal(world).write_bytes(whole)
    assert world.staging.held(DIGEST) == held
    journal(world).write_bytes(b"")
    assert world.content(world.fetch()) == DATA
    assert world.state.sent == len(DATA)


def test_a_part_of_another_size_begins_anew(world: World) -> None:
    world.part_way(MIB)
    with open(Path(world.staging.path) / f"{DIGEST[7:]}.part", "ab") as stream:
        stream.write(b"x")
    assert world.staging.held(DIGEST) == 0
    assert world.content(world.fetch()) == DATA


def test_a_journal_without_its_part_means_nothing(world: World) -> None:
    world.part_way(MIB)
    os.unlink(Path(world.staging.path) / f"{DIGEST[7:]}.part")
    assert world.staging.held(DIGEST) == 0
    assert world.content(world.fetch()) == DATA


def test_after_a_crash_of_the_host_what_was_synced_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of the boot before tells of bytes that did not reach the disk: here, they are zeros."""
    monkeypatch.setattr(_transfer, "_SYNC_SECONDS", 0.4)
    held = world.part_way(4 * MIB)
    synced = json.loads(journal(world, synced=True).read_bytes())
    kept = sum(position - start for start, position, _end in synced["segments"])
    assert 0 < kept < held
    with open(Path(world.staging.path) / f"{DIGEST[7:]}.part", "r+b") as stream:
        for start, position, end in synced["segments"]:
            assert start <= position
            stream.seek(position)
            stream.write(bytes(end - position))
    monkeypatch.setattr(_staging, "_boot", lambda: "another")
    assert world.staging.held(DIGEST) == kept
    assert world.content(world.fetch()) == DATA
    assert world.state.sent == len(DATA) - kept


def test_after_a_crash_of_the_host_without_a_sync_all_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.part_way(MIB)
    assert not journal(world, synced=True).exists()
    monkeypatch.setattr(_staging, "_boot", lambda: "another")
    assert world.staging.held(DIGEST) == 0
    assert world.content(world.fetch()) == DATA


def test_data_that_lags_behind_its_journal_is_found_by_its_digest(world: World) -> None:
    """A kernel that lost writes without a boot, or a disk that lied about a sync."""
    world.part_way()
    with open(Path(world.staging.path) / f"{DIGEST[7:]}.part", "r+b") as stream:
        stream.write(bytes(5000))
    assert world.content(world.fetch()) == DATA
    assert len(DATA) < world.state.sent < 2 * len(DATA), "asked for once more from its start"


def test_the_wall_clock_does_not_matter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.state.bucket = Bucket(8 * MIB)
    chance = random.Random(4)
    monkeypatch.setattr(time, "time", lambda: chance.uniform(0, 4e9))
    world.state.fault, world.state.times, world.state.after = "cut", 3, 300_000
    staged, pauses = bounded(world, limits=replace(PATIENT, seconds=0.5))
    assert world.content(staged) == DATA
    assert pauses


# --- the directory ----------------------------------------------------------------------------------------------------


def test_the_staging_directory_is_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    (tmp_path / "file").write_text("")
    for name, said in (("open", "mode 0755"), ("link", "Not a directory|symbolic"), ("file", "Not a directory")):
        with pytest.raises(TransferError, match=said), Staging(os.fspath(tmp_path / name)):
            pass
    with pytest.raises(TransferError, match="No such file"), Staging(os.fspath(tmp_path / "no" / "where")):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives directories away")
def test_a_staging_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(TransferError, match="has the owner 12345"), Staging(os.fspath(tmp_path / "theirs")):
        pass


def test_links_in_the_staging_directory_lead_nowhere(world: World, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    for suffix in (".part", ".json", ".new"):
        (Path(world.staging.path) / f"{DIGEST[7:]}{suffix}").symlink_to(tmp_path / "victim")
    assert world.content(world.fetch()) == DATA
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_files_that_nobody_has_written_to_for_a_week(world: World) -> None:
    world.part_way(MIB)
    assert world.staging.stale() == []
    path = Path(world.staging.path) / f"{DIGEST[7:]}.part"
    os.utime(path, (0, time.time() - 8 * 24 * 3600))
    assert world.staging.stale() == [DIGEST]
    with world.staging.lock(DIGEST):
        assert world.staging.stale() == []
    world.staging.discard(DIGEST)
    assert world.names == []
