# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade_lock: one run holds it; a dead one of the same controller loses it; another's is refused with the way out."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
A, B = {"run": "a", "user": "ops"}, {"run": "b", "user": "dev"}


def test_it_is_taken_held_and_given_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "state" / "upgrade.lock"
    first = run("upgrade_lock", path=str(path), owner=A)
    assert (first["taken"], first["changed"]) == (True, True)
    again = run("upgrade_lock", path=str(path), owner=A)
    assert (again["taken"], again["changed"]) == (True, False)
    other = run("upgrade_lock", path=str(path), owner=B)
    assert (other["taken"], other["changed"], other["holder"]["run"]) == (False, False, "a")
    kept = run("upgrade_lock", path=str(path), owner=B, state="free")
    assert not kept["changed"]
    assert path.exists()
    assert run("upgrade_lock", path=str(path), owner=A, state="free")["changed"]
    assert not path.exists()
    assert os.listdir(path.parent) == []


def test_check_mode_takes_nothing(run: Run, tmp_path: Path) -> None:
    assert run("upgrade_lock", check_mode=True, path=str(tmp_path / "upgrade.lock"), owner=A)["changed"]
    assert os.listdir(tmp_path) == []


def test_only_the_named_run_is_replaced(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "upgrade.lock"
    run("upgrade_lock", path=str(path), owner=A)
    assert not run("upgrade_lock", path=str(path), owner=B, taken_from="z")["taken"]
    assert run("upgrade_lock", path=str(path), owner=B, taken_from="a")["taken"]
    assert json.loads(path.read_text(encoding="utf-8"))["run"] == "b"


def test_a_damaged_lock_is_somebodys(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "upgrade.lock"
    path.write_text("{", encoding="utf-8")
    assert run("upgrade_lock", path=str(path), owner=A)["holder"] == {}
    assert run("upgrade_lock", path=str(path), owner=A, taken_from="unknown")["taken"]


@pytest.fixture
def action() -> Any:
    return importlib.import_module("ansible_collections.onprem.llm.plugins.action.upgrade_lock")


def test_a_process_is_known_by_number_and_start(action: Any) -> None:
    assert action.started(os.getpid())
    with subprocess.Popen(["sleep", "30"]) as child:
        born = action.started(child.pid)
        assert born
        assert int(born) >= int(action.started(os.getpid()))
        child.kill()
    assert action.started(child.pid) is None


def test_the_owner_is_who_runs_the_play(action: Any) -> None:
    own = action.owner("rollback.yml")
    assert own["pid"] == os.getppid()
    assert own["started"] == action.started(os.getppid())
    assert own == {**action.owner("rollback.yml"), "since": own["since"]}
