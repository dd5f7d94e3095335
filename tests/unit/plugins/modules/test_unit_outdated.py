# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""unit_outdated against a systemctl that answers as systemd 252 does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
# Started on 2026-11-21 at 10:00:00.5 UTC, reloaded half an hour later.
STARTED = 1795255200.5
RELOADED = STARTED + 1800
ANSWER = """ActiveState={state}
UnitFileState=enabled
ActiveEnterTimestamp=Sat 2026-11-21 10:00:00.500000 UTC
StateChangeTimestamp=Sat 2026-11-21 10:30:00.500000 UTC
NeedDaemonReload={reload}
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a systemctl first in PATH that shows one state for every unit."""

    def answer(text: str, code: int = 0) -> None:
        program = tmp_path / "bin" / "systemctl"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\necho 'Failed to connect to bus' >&2\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return answer


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "conf.d" / "below" / "site.conf"
    path.parent.mkdir(parents=True)
    path.write_text("a site\n")
    (path.parent / "dangling").symlink_to("nowhere")
    return path


@pytest.mark.parametrize(
    ("written", "reloads", "outdated"),
    [
        (STARTED - 1, False, False),
        (STARTED + 0.25, False, True),
        (STARTED + 0.25, True, False),
        (RELOADED + 0.25, True, True),
    ],
)
@pytest.mark.parametrize("pattern", ["conf.d", "conf.d/below/*.conf", "conf.d/below/site.conf"])
def test_files_newer_than_the_unit(
    run: Run,
    systemctl: Callable[..., None],
    tmp_path: Path,
    site: Path,
    written: float,
    reloads: bool,
    outdated: bool,
    pattern: str,
) -> None:
    systemctl(ANSWER.format(state="active", reload="no"))
    os.utime(site, (written, written))
    unit = {"name": "nginx.service", "files": [str(tmp_path / pattern), str(tmp_path / "absent")], "reloads": reloads}
    result = run("unit_outdated", units=[unit], check_mode=True)
    assert result["outdated"] == ({"nginx.service": [str(site)]} if outdated else {})
    assert result["changed"] is outdated
    assert result["unread"] == []


def test_unit_whose_file_systemd_has_not_read(run: Run, systemctl: Callable[..., None]) -> None:
    systemctl(ANSWER.format(state="inactive", reload="yes"))
    result = run("unit_outdated", units=[{"name": "a.timer"}, {"name": "b.timer"}])
    assert (result["unread"], result["outdated"], result["changed"]) == (["a.timer", "b.timer"], {}, True)


def test_unit_that_does_not_run_is_not_outdated(run: Run, systemctl: Callable[..., None], site: Path) -> None:
    systemctl("ActiveState=inactive\nActiveEnterTimestamp=\nStateChangeTimestamp=\nNeedDaemonReload=no\n")
    result = run("unit_outdated", units=[{"name": "absent.service", "files": [str(site)]}])
    assert (result["outdated"], result["changed"]) == ({}, False)


@pytest.mark.parametrize(
    ("state", "boot", "down"),
    [
        ("active", "enabled", []),
        ("active", "static", []),
        ("active", "disabled", ["a.timer"]),
        ("inactive", "enabled", ["a.timer"]),
        ("inactive", "", ["a.timer"]),
    ],
)
def test_unit_that_does_not_run_or_would_not_at_boot(
    run: Run, systemctl: Callable[..., None], state: str, boot: str, down: list[str]
) -> None:
    systemctl(ANSWER.format(state=state, reload="no").replace("=enabled", f"={boot}"))
    result = run("unit_outdated", units=[{"name": "a.timer"}])
    assert (result["down"], result["changed"]) == (down, False)


def test_host_without_systemd(run: Run, systemctl: Callable[..., None]) -> None:
    systemctl("", code=1)
    result = run("unit_outdated", units=[{"name": "nginx.service"}])
    assert result["failed"]
    assert result["msg"] == "systemd does not tell of nginx.service: Failed to connect to bus"
