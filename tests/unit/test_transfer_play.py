# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play that transfers a model, from a registry on loopback into a small Ollama's store: what it prints as it runs."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama_fake
import pytest
import registry_fake

from tests import plays

WEIGHTS = b"GGUF" + bytes(range(256)) * (2**20 // 64)
PASSWORD = "word-of-the-fleet"

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Have the model
      onprem.llm.ollama_model: "{{ arguments }}"
      delegate_to: "{{ delegate | default(omit) }}"
      no_log: "{{ secret | default(false) }}"
"""


class Site:
    def __init__(self, ollama: ollama_fake.State, url: str, registry: registry_fake.State, origin: str, place: Path):
        self.ollama, self.url, self.registry, self.origin, self.place = ollama, url, registry, origin, place

    def result(self) -> dict[str, Any]:
        """What the last play's module returned."""
        had = json.loads((self.place / "result.json").read_text(encoding="utf-8"))["Have the model"]
        return {name: had[name] for name in ("changed", "transfer", "pending")}

    def started(self, *more: str, variables: dict[str, Any] | None = None, **arguments: Any) -> subprocess.Popen[str]:
        """A play that runs."""
        given = {
            "name": "mine:1", "api_url": self.url, "models_dir": str(self.place / "data" / "models"),
            "progress_interval": 1,
            "origins": [{"url": self.origin, "username": "fleet", "password": PASSWORD}],
        }  # fmt: skip
        playbook = self.place / "play.yml"
        playbook.write_text(PLAY, encoding="utf-8")
        inventory = self.place / "hosts.yml"
        vars_of_all = plays.local()
        inventory.write_text(json.dumps({"all": {"hosts": {"node1": None, "node2": None}, "vars": vars_of_all}}))
        every = {
            "arguments": {**given, **arguments},
            **(variables or {}),
        }
        settings = plays.callback("results") | {"RESULTS_FILE": str(self.place / "result.json")}
        return plays.start(playbook, "--limit=node1", *more, inventory=inventory, variables=every, environment=settings)

    def play(self, *more: str, variables: dict[str, Any] | None = None, **arguments: Any) -> tuple[int, str]:
        """Exit status and output."""
        return ended(self.started(*more, variables=variables, **arguments))


def ended(play: subprocess.Popen[str]) -> tuple[int, str]:
    done = plays.ended(play, timeout=120)
    return done.returncode, done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ollama_fake.serve() as (ollama, url), registry_fake.serve() as (registry, origin):
        ollama.directory = tmp_path / "data" / "models"
        ollama.directory.mkdir(parents=True)
        registry.blobs[registry_fake.digest(b"{}")] = b"{}"
        registry.put("mine:1", WEIGHTS)
        registry.login = ("fleet", PASSWORD)
        yield Site(ollama, url, registry, origin, tmp_path)


def test_a_long_transfer_tells_of_itself(site: Site) -> None:
    site.registry.bucket = registry_fake.Bucket(0.7 * 2**20)
    status, output = site.play("-v")
    assert status == 0, output
    lines = [line for line in output.splitlines() if line.startswith("node1: mine:1: ")]
    origin = re.escape(site.origin[7:])
    assert re.fullmatch(
        rf"node1: mine:1: 4.0 MiB to be transferred from {origin}, [\d.]+ [GT]iB free on the disk", lines[0]
    )
    assert len(lines) >= 3
    shares = []
    for line in lines[1:]:
        told = re.fullmatch(rf"node1: mine:1: (\d+) %, [\d.]+ [KM]iB of 4.0 MiB(.*), from {origin}", line)
        assert told, line
        shares.append(int(told[1]))
    assert shares == sorted(shares)
    assert any(re.search(r", [\d.]+ [KM]iB/s, \d+ s left, from", line) for line in lines), lines
    found = site.result()
    assert found["changed"] is True
    assert found["pending"] is None
    assert len(WEIGHTS) + 2 <= found["transfer"]["fetched_bytes"] <= 1.3 * len(WEIGHTS)
    assert found["transfer"]["total_bytes"] == len(WEIGHTS) + 2
    assert PASSWORD not in output
    sent = site.registry.sent
    status, output = site.play()
    assert (status, site.result()) == (0, {"changed": False, "transfer": None, "pending": None})
    assert (site.registry.sent, "to be transferred" in output) == (sent, False)


def test_check_mode_says_what_would_come(site: Site) -> None:
    status, output = site.play("--check", "--diff")
    assert status == 0, output
    found = site.result()
    assert (found["changed"], found["transfer"]["fetched_bytes"]) == (True, 0)
    assert found["transfer"]["total_bytes"] == len(WEIGHTS) + 2
    assert "+weights_digest" in output.replace(" ", "") or registry_fake.digest(WEIGHTS) in output
    assert site.ollama.models == {}


def test_what_is_here_of_a_failed_transfer_is_kept(site: Site) -> None:
    whole = dict(site.registry.manifests)
    site.registry.bucket = registry_fake.Bucket(2**20)
    # The tag is gone after the second look at it.
    looks = iter(range(100))

    class Once(dict[str, bytes]):
        def __contains__(self, key: object) -> bool:
            return key in whole and next(looks) < 2

        def __getitem__(self, key: str) -> bytes:
            return whole[key]

    site.registry.manifests = Once(whole)
    status, output = site.play()
    assert status != 0
    assert "no registry gives it" in output
    assert re.search(r"node1: mine:1: \d+ %", output)
    site.registry.manifests, site.registry.bucket = whole, None
    status, output = site.play()
    assert status == 0, output
    assert site.result()["transfer"]["held_bytes"] > 2**17
    assert site.result()["transfer"]["fetched_bytes"] < len(WEIGHTS)


def test_delegated_and_secret(site: Site) -> None:
    site.registry.put("secret:1", WEIGHTS[::-1])
    of_node2 = "inventory_hostname == 'node2'"
    status, output = site.play(
        "--limit=node1,node2",
        variables={"delegate": "node2", "secret": f"{{{{ {of_node2} }}}}"},
        name=f"{{{{ 'secret:1' if {of_node2} else 'mine:1' }}}}",
    )
    assert status == 0, output
    assert {"mine:1", "secret:1"} <= set(site.ollama.models)
    assert "node1 -> node2: mine:1: 4.0 MiB to be transferred" in output
    assert "secret:1" not in output, "no_log is for the lines, too"


def test_a_killed_play_is_gone_on_from(site: Site) -> None:
    """What was served before is served meanwhile, and what had come does not come again."""
    assert site.play()[0] == 0
    served = dict(site.ollama.models)
    newer = WEIGHTS[::-1]
    site.registry.put("mine:1", b"GGUF" + newer)
    site.registry.sent, site.registry.bucket = 0, registry_fake.Bucket(2 * 2**20)
    play = site.started(update=True)
    while site.registry.sent < len(newer) // 2:
        assert play.poll() is None, play.communicate()[0]
        time.sleep(0.02)
    play.kill()
    play.communicate()
    # Its module ends with its turn; nobody calls it again.
    before, since = site.registry.sent, time.monotonic()
    while time.monotonic() - since < 2:
        time.sleep(0.05)
        if site.registry.sent != before:
            before, since = site.registry.sent, time.monotonic()
    assert before < len(newer)
    assert site.ollama.models == served
    site.registry.bucket = None
    status, output = site.play(update=True)
    assert status == 0, output
    assert site.result()["changed"] is True
    assert site.registry.sent <= 1.25 * len(newer)
    blob = registry_fake.digest(b"GGUF" + newer).replace(":", "-")
    assert (site.place / "data/models/blobs" / blob).read_bytes() == b"GGUF" + newer


def test_two_plays_at_once_bring_it_once(site: Site) -> None:
    site.registry.bucket = registry_fake.Bucket(2 * 2**20)
    plays = [site.started(), site.started()]
    for status, output in map(ended, plays):
        assert status == 0, output
    assert site.registry.sent <= 1.25 * len(WEIGHTS)
    assert site.play()[0] == 0
    assert site.result()["changed"] is False
