# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play that fills a mirror, a real docker-registry: what it prints as it runs, and what it returns."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_fake
from mirror_registry import MirrorRegistry

from tests import plays

WEIGHTS = os.urandom(4 * 2**20)

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Fill the mirror
      onprem.llm.model_mirror: "{{ arguments }}"
"""


class Site:
    def __init__(self, host: MirrorRegistry, registry: registry_fake.State, origin: str, place: Path) -> None:
        self.host, self.registry, self.origin, self.place = host, registry, origin, place

    def play(self, *more: str, **arguments: Any) -> tuple[int, str, dict[str, Any]]:
        """Exit status, output, and what the module returned."""
        given = {
            "data_dir": str(self.host.data_dir), "socket": str(self.host.socket), "registry": self.origin,
            "progress_interval": 1,
        }  # fmt: skip
        playbook, result = self.place / "play.yml", self.place / "result.json"
        playbook.write_text(PLAY, encoding="utf-8")
        result.unlink(missing_ok=True)
        every = {
            "arguments": {**given, **arguments},
            **plays.local(),
        }
        settings = plays.callback("results") | {"RESULTS_FILE": str(result)}
        done = plays.run(playbook, *more, inventory="hub,", variables=every, environment=settings, timeout=120)
        found = json.loads(result.read_text(encoding="utf-8"))["Fill the mirror"] if result.exists() else {}
        return done.returncode, done.stdout, found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    host = MirrorRegistry(tmp_path)
    host.start()
    with registry_fake.serve() as (registry, origin):
        yield Site(host, registry, origin, tmp_path)
    host.stop()


def test_a_mirror_that_is_filled_tells_of_itself(site: Site) -> None:
    pin = site.registry.put("tiny:1", WEIGHTS)
    path = site.place / "house.gguf"
    path.write_bytes(WEIGHTS[::-1])
    file = registry_fake.digest(WEIGHTS[::-1])[7:]
    wanted = {"models": [{"name": "tiny:1", "digest": pin}], "files": [{"sha256": file, "path": str(path)}]}
    status, output, found = site.play("--check", **wanted)
    assert status == 0, output
    assert (found["changed"], found["transfer"]["fetched_bytes"]) == (True, 0)
    assert found["missing"] == {"models": ["tiny:1"], "images": [], "files": [file]}
    assert site.host.registry.blobs() == {}
    site.registry.bucket = registry_fake.Bucket(2**20)
    status, output, found = site.play(**wanted)
    assert status == 0, output
    lines = [line for line in output.splitlines() if line.startswith("hub: mirror: ")]
    assert "8.0 MiB to be transferred from " in lines[0]
    shares = [int(told[1]) for line in lines[1:] if (told := re.match(r"hub: mirror: (\d+) %", line))]
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert (found["changed"], found["pending"]) == (True, None)
    assert found["missing"]["models"] == ["tiny:1"]
    assert len(WEIGHTS) <= found["transfer"]["fetched_bytes"] <= 1.05 * len(WEIGHTS)
    assert not path.exists(), "what the mirror has need not lie beside it"
    before = len(site.registry.requests)
    status, output, found = site.play(**wanted)
    assert (status, found["changed"], "to be transferred" in output) == (0, False, False)
    assert len(site.registry.requests) == before


def test_what_cannot_be_had_is_told_with_what_is_missing(site: Site) -> None:
    status, output, _found = site.play(models=[{"name": "none:1"}])
    assert status != 0
    assert "library/none:1: the registry" in output
    status, output, _found = site.play(images=[{"reference": "ollama/ollama:1", "digest": "latest"}])
    assert status != 0
    assert "ollama/ollama:1 has the digest 'latest'; it must be sha256: and 64" in output


def test_prune_says_what_would_go(site: Site) -> None:
    site.registry.put("tiny:1", WEIGHTS)
    assert site.play(models=[{"name": "tiny:1"}])[0] == 0
    status, output, found = site.play("--check", prune=True)
    assert status == 0, output
    assert found["changed"] is True
    assert found["removed"]["bytes"] > len(WEIGHTS)
    assert found["removed"]["manifests"][0].startswith("library/tiny@sha256:")
    assert site.host.registry.blobs() != {}
