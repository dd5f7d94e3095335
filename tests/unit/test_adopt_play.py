# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play that takes over another store's models: what it prints as it runs, and what it returns."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store

from tests import plays

WEIGHTS = os.urandom(3 * 2**20 + 5)

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Take them over
      onprem.llm.ollama_adopt: "{{ arguments }}"
"""


@pytest.mark.parametrize("mode", [0o644, 0o600], ids=["linked", "copied"])
def test_it_tells_how_far_it_is(tmp_path: Path, mode: int) -> None:
    source, destination = tmp_path / "theirs", tmp_path / "ours" / "models"
    digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    blob, manifest = Path(store.blob_path(str(source), digest)), Path(store.manifest_path(str(source), "house:1"))
    for path in (blob, manifest, destination):
        path.parent.mkdir(parents=True)
    blob.write_bytes(WEIGHTS)
    blob.chmod(mode)
    layers = [{"mediaType": store.WEIGHTS_TYPE, "digest": digest, "size": len(WEIGHTS)}]
    manifest.write_text(json.dumps({"layers": layers}))
    playbook, result = tmp_path / "play.yml", tmp_path / "result.json"
    playbook.write_text(PLAY, encoding="utf-8")
    # A turn is over after a MiB.
    arguments = {"source": str(source), "destination": str(destination), "transfer_seconds": 0.001}

    def play(*more: str) -> tuple[str, dict[str, Any]]:
        settings = plays.callback("results") | {"RESULTS_FILE": str(result)}
        variables = {"arguments": arguments, **plays.local()}
        done = plays.run(playbook, *more, inventory="node1,", variables=variables, environment=settings, timeout=120)
        assert done.returncode == 0, done.stdout
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["Take them over"]
        return done.stdout, found

    output, found = play("--check")
    assert (found["changed"], found["adopted"], "taking its files over" in output) == (True, ["house:1"], False)
    assert not destination.exists()
    output, found = play()
    told = re.findall(rf"node1: models of {source}: taking its files over: (\d+) %, \S+ MiB of 3.0 MiB", output)
    assert [int(share) for share in told][:3] == [33, 66, 99]
    assert (found["changed"], found["adopted"], found["kept"], found["pending"]) == (True, ["house:1"], [], None)
    size = len(WEIGHTS)
    assert (found["linked_bytes"], found["copied_bytes"]) == ((size, 0) if mode == 0o644 else (0, size))
    assert Path(store.blob_path(str(destination), digest)).read_bytes() == WEIGHTS
    output, found = play()
    assert (found["changed"], found["kept"], "taking its files over" in output) == (False, ["house:1"], False)
