# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The models role on files of the controller, against a small Ollama: copied to be made or mended, not to verify."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama_fake
import pytest

from tests import plays

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the role gives its files to root")
NAMES = ("one", "other")
PLAY = """
- hosts: all
  gather_facts: false
  module_defaults:
    onprem.llm.ollama_model: {api_url: "{{ models_engine_url }}", models_dir: "{{ models_store_dir }}", timeout: 5}
  tasks:
    - ansible.builtin.include_role: {name: onprem.llm.models, tasks_from: %s}
"""


class Site:
    """Two models of files, and a server that has none of them yet."""

    def __init__(self, place: Path, url: str, state: ollama_fake.State) -> None:
        self.place, self.url, self.state = place, url, state
        for name in NAMES:
            self.file(name).write_bytes(self.weights(name))

    @staticmethod
    def weights(name: str) -> bytes:
        return b"GGUF and some weights of " + name.encode()

    def file(self, name: str) -> Path:
        return self.place / f"{name}.gguf"

    def blob(self, name: str) -> Path:
        return self.place / "models/blobs" / ollama_fake.digest(self.weights(name)).replace(":", "-")

    def play(self, tasks_from: str = "install", **more: Any) -> dict[tuple[str, str], str]:
        """What each task of the role said of each model: (task, model) → ok or changed."""
        wanted = [
            {
                "name": f"{name}:1",
                "context_length": 2048,
                "source": {
                    "type": "gguf",
                    "path": str(self.file(name)),
                    "sha256": ollama_fake.digest(self.weights(name))[7:],
                },
            }
            for name in NAMES
        ]
        given = {
            "models_engine_url": self.url, "models_store_dir": str(self.place / "models"),
            "models_files_dir": str(self.place / "files"), "models_mirrors": [],
            "models_staging_dir": str(self.place / "staging"),
            "__models_wanted": wanted,
            "__models_derived_pins": [], **plays.local(), **more,
        }  # fmt: skip
        (self.place / "play.yml").write_text(PLAY % tasks_from)
        done = plays.run(self.place / "play.yml", inventory="node1,", variables=given, timeout=300)
        assert done.returncode == 0, done.stdout
        found = {}
        for task, said in re.findall(
            r"(?ms)^TASK \[onprem.llm.models : (.*?)\] \**\n(.*?)(?=^TASK|^PLAY)", done.stdout
        ):
            items = re.findall(r"(?m)^(ok|changed): \[node1\] => \(item=(\w+):1\)", said)
            found.update({(task, name): state for state, name in items})
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state = ollama_fake.State()
    state.directory = tmp_path / "models"
    (state.directory / "blobs").mkdir(parents=True)
    with ollama_fake.serve(state) as (_state, url):
        yield Site(tmp_path, url, state)


COPY, PUT = "Copy files of the controller to the host", "Put the models into the engine's store"


def test_a_copy_is_made_of_what_lacks_or_is_damaged_and_none_to_verify_it(site: Site) -> None:
    first = site.play()
    assert {key: first[key] for key in first if key[0] in (COPY, PUT)} == {
        (task, name): "changed" for task in (COPY, PUT) for name in NAMES
    }
    assert [site.blob(name).read_bytes() for name in NAMES] == [site.weights(name) for name in NAMES]

    # Of the one even the file is gone, the other has a changed byte.
    site.file("one").unlink()
    site.blob("other").write_bytes(site.weights("other")[:-1] + b"?")
    second = site.play(models_verify_blobs=True, models_update=True)
    assert (COPY, "one") not in second
    assert (second[PUT, "one"], second[COPY, "other"], second[PUT, "other"]) == ("ok", "changed", "changed")
    assert site.blob("other").read_bytes() == site.weights("other")
    assert not (site.place / "files").exists()


@pytest.mark.contract(9)
def test_while_a_node_serves_only_models_of_new_names_are_brought(site: Site) -> None:
    """One that has other weights under its name would be served with the new ones at the next request."""
    served = ollama_fake.digest(b"what users have now")
    site.state.put("one:1", served)
    site.state.put("gone:1", served)
    found = site.play("prefetch", models_prune=True, models_update=True)
    assert {key[1] for key in found if key[0] in (COPY, PUT)} == {"other"}
    assert site.blob("other").read_bytes() == site.weights("other")
    assert site.state.models["one:1"]["weights"] == served
    assert "gone:1" in site.state.models
