# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and native calls that hang, crash or fail never hold the caller."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bounded


def test_a_command_that_hangs_is_left(tmp_path: Path) -> None:
    script = tmp_path / "hangs"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    start = time.monotonic()
    with pytest.raises(_bounded.NotAnswering, match=r"0\.2 seconds"):
        _bounded.run_bounded([str(script)], 0.2)
    assert time.monotonic() - start < 5


def test_a_command_gives_status_and_both_streams() -> None:
    assert _bounded.run_bounded(["/bin/sh", "-c", "echo $LC_ALL; echo no >&2; exit 3"], 5) == (3, "C\n", "no\n")


def test_a_function_apart_gives_what_json_knows() -> None:
    assert _bounded.call_apart(lambda: {"a": [1, None, "ä" * 100_000]}, 5) == {"a": [1, None, "ä" * 100_000]}


def test_a_function_apart_changes_nothing_here_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    found: list[int] = []

    def speak() -> int:
        found.append(1)
        os.write(1, b"noise")
        return os.getpid()

    assert _bounded.call_apart(speak, 5) != os.getpid()
    assert (found, capfd.readouterr().out) == ([], "")


@pytest.mark.parametrize(
    "function", [lambda: os.kill(os.getpid(), 9), lambda: 1 / 0, lambda: os._exit(1), lambda: {1, 2}]
)
def test_a_function_apart_that_dies_or_raises_gives_nothing(function) -> None:
    assert _bounded.call_apart(function, 5) is None


def test_a_function_apart_that_hangs_is_left_and_no_child_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, children = os.fork, []

    def remembered() -> int:
        child = fork()
        children.append(child)
        return child

    monkeypatch.setattr(os, "fork", remembered)
    start = time.monotonic()
    with pytest.raises(_bounded.NotAnswering):
        _bounded.call_apart(lambda: time.sleep(60), 0.2)
    assert time.monotonic() - start < 5
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
