# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of the module ``bundle`` that are bound in time, as its action plugin makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _bundling, _digest


def test_a_bundle_that_is_read_before_it_is_added_to_tells_so_in_turns(
    tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    """What it lacks is announced after that."""
    place, content = tmp_path / "bundle", bytes(range(256)) * 12290
    digest = _digest.of_bytes(content)
    blob = place / _bundling.blob_path(digest)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    (tmp_path / "b").write_bytes(b"b")
    wants = {"files": [
        {"name": "a:1", "sha256": digest[7:], "path": "/controller/a", "size": len(content)},
        {"name": "b:1", "sha256": hashlib.sha256(b"b").hexdigest(), "path": str(tmp_path / "b"), "size": 1},
    ]}  # fmt: skip
    given: dict[str, Any] = {"path": str(place), "wants": wants, "version": "0.1.0", "reserve_bytes": 0}
    more: dict[str, Any] = {"announce": True}
    told = []
    while True:
        answer = run("bundle", transfer_seconds=1e-6, **given, **more)
        if not answer["pending"]:
            break
        more = {"resume": answer["pending"]["resume"]}
        told.append((answer["pending"]["phase"], answer["pending"]["done_bytes"]))
    size = len(content)
    assert told[:5] == [
        ("verify", 2**20), ("verify", 2**21), ("verify", 3 * 2**20), ("verify", size), ("announced", size)
    ]  # fmt: skip
    assert answer["sha256"] == hashlib.sha256((place / "bundle.json").read_bytes()).hexdigest()
