# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gateway_keys: the two files that it writes, and who may read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def add(run: Run, place: Path, request: str, **more: Any) -> dict[str, Any]:
    paths = {"path": str(place / "gateways/keys.yml"), "handout": str(place / f"{request}.json")}
    return run("gateway_keys", **{"users": ["app"], "state": "added", "request": request, **paths, **more})


def test_keys_and_their_handout(run: Run, tmp_path: Path, umask: int) -> None:
    place = tmp_path / "inventory"
    assert add(run, place, "first", check_mode=True)["changed"]
    assert not place.exists()
    first = add(run, place, "first")
    keys, handout = place / "gateways/keys.yml", place / "first.json"
    assert (first["changed"], first["made"]) == (True, ["app"])
    assert first["digests"]["app"][0]["sha256"] in keys.read_text(encoding="utf-8")
    assert list(json.loads(handout.read_text(encoding="utf-8"))) == ["app"]
    # The inventory is its owner's: what the umask withholds stays withheld.
    assert keys.stat().st_mode & 0o777 == 0o644 & ~umask
    assert handout.stat().st_mode & 0o777 == 0o600
    assert not add(run, place, "first", handout=str(tmp_path / "more.json"))["changed"]
    keys.chmod(0o666)
    assert add(run, place, "second")["changed"]
    assert keys.stat().st_mode & 0o777 == 0o644 & ~umask
    assert sorted(os.listdir(place)) == ["first.json", "gateways", "second.json"]
    assert os.listdir(place / "gateways") == ["keys.yml"]


def test_a_file_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = add(run, tmp_path, "first", path=str(tmp_path / "keys.yml"), handout=str(tmp_path / "file/first.json"))
    assert result["failed"]
    assert result["msg"] == f"cannot write {tmp_path}/file: File exists"
    assert sorted(os.listdir(tmp_path)) == ["file"]
