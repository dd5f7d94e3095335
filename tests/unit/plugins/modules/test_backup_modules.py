# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""backup_pack and backup_unpack: one list of places serves both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


def test_the_same_places_pack_and_unpack(run: Run, tmp_path: Path) -> None:
    plan, series = tmp_path / "plan.json", tmp_path / "series"
    plan.write_bytes(b"{}")
    series.mkdir()
    (series / "wanted").write_bytes(b"block")
    (series / "other").write_bytes(b"open")
    places = [{"name": "plan", "path": str(plan)}, {"name": "series", "path": str(series), "match": "^wanted$"}]
    given = {"path": str(tmp_path / "archive"), "places": places, "host": "node1", "version": "1.2.0"}
    packed = run("backup_pack", **given)
    assert (packed["places"], packed["size_bytes"], packed["files"]) == ({"plan": 2, "series": 5}, 7, 2)
    plan.write_bytes(b"[]")
    (series / "wanted").unlink()
    wanted = [str(plan), str(series / "wanted")]
    assert sorted(run("backup_unpack", check_mode=True, **given)["files"]) == wanted
    assert sorted(run("backup_unpack", **given)["files"]) == wanted
    assert (plan.read_bytes(), (series / "wanted").read_bytes()) == (b"{}", b"block")
    assert not run("backup_unpack", **given)["changed"]


@pytest.mark.parametrize("module", ["backup_pack", "backup_unpack"])
def test_a_place_has_a_name_and_a_path(run: Run, tmp_path: Path, module: str) -> None:
    given = {"path": str(tmp_path / "archive"), "places": [{"name": "plan"}], "host": "node1", "version": "1.2.0"}
    assert "missing required arguments: path found in places" in run(module, **given)["msg"]
