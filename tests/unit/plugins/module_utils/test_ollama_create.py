# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What real servers of two releases show of the models that they created is what was wanted of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _modelfile
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_api as api
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_create as create

RECORDINGS = Path(__file__).resolve().parents[3] / "engine" / "recordings"
WEIGHTS = "sha256:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
BASE = create.Fields(parameters={"num_ctx": 512})
CLERK = create.Fields(parameters={"temperature": 0.3, "num_ctx": 256}, system="You are a clerk.")
MODELFILE = "FROM gemma3:270m\nSYSTEM You are a clerk.\nPARAMETER temperature 0.3\nPARAMETER num_ctx 256\n"


class Recorded(api.Client):
    """A client of a server that answers as it did when it was recorded, with both models there."""

    def __init__(self, version: str) -> None:
        super().__init__("http://127.0.0.1", 1)
        steps = json.loads((RECORDINGS / f"{version}.json").read_text(encoding="utf-8"))["recordings"]
        self.steps: dict[str, dict[str, Any]] = {step["name"]: step for step in steps}

    def request(self, method: str, path: str, body: Any = None) -> Any:
        name = {"/api/tags": "tags two", "/api/show": "show"}[path]
        if path == "/api/show" and body["model"] == "assistant:latest":
            name = "show derived"
        step = self.steps[name]
        assert (step["request"]["method"], step["request"]["path"]) == (method, path)
        return json.loads(step["response"]["body"])

    def created(self, name: str) -> dict[str, Any]:
        """The body of a request to create."""
        return dict(self.steps[name]["request"]["body"])

    def there(self, name: str) -> api.Model:
        found = self.model(name)
        assert found is not None
        return found


@pytest.fixture(params=["0.17.7", "0.32.15"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_of_a_file(recorded: Recorded) -> None:
    asked = recorded.created("create from gguf")
    assert {**BASE.request(), "model": "gemma3:270m", "files": {"model.gguf": WEIGHTS}} == asked
    assert api.differences(recorded.there("gemma3:270m"), BASE.wanted(WEIGHTS)) == []


@pytest.mark.parametrize("name", ["create with system", "create same again"])
def test_of_another_model(recorded: Recorded, name: str) -> None:
    base, derived = recorded.there("gemma3:270m"), recorded.there("assistant")
    assert {**CLERK.request(base), "model": "assistant", "from": "gemma3:270m"} == recorded.created(name)
    assert CLERK.emptied(base) == ()
    assert api.differences(derived, CLERK.wanted(base.weights_digest, base)) == []
    assert derived.weights_digest == base.weights_digest == WEIGHTS


def test_by_a_modelfile(recorded: Recorded) -> None:
    base = recorded.there("gemma3:270m")
    fields = create.of_modelfile(_modelfile.content(_modelfile.parse(MODELFILE)), None)
    assert api.differences(recorded.there("assistant"), fields.wanted(base.weights_digest, base)) == []


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"system": "You are a baker."}, ["system"]),
        ({"system": None}, ["system"]),
        ({"parameters": {"temperature": 0.3}}, ["num_ctx"]),
        ({"parameters": {"temperature": 0.4, "num_ctx": 256}}, ["temperature"]),
        ({"parameters": {"temperature": 0.3, "num_ctx": 256, "top_k": 40}}, ["top_k"]),
        ({"parameters": {"temperature": 0.3, "num_ctx": None}}, ["num_ctx"]),
        ({"template": "{{ .System }}"}, ["template"]),
        ({"license": ("MIT",)}, ["license"]),
        ({"messages": (_modelfile.Message("user", "Hello"),)}, ["messages"]),
        ({"adapter": "sha256:" + "a" * 64}, ["adapters"]),
        ({"renderer": "qwen3-coder"}, ["renderer"]),
        ({"parser": "qwen3-coder"}, ["parser"]),
        ({"requires": "0.17.0"}, ["requires"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, (dict, list)) else str(value),
)
def test_what_is_wanted_otherwise_is_named(recorded: Recorded, more: dict[str, Any], found: list[str]) -> None:
    base = recorded.there("gemma3:270m")
    fields = create.Fields(**{"parameters": CLERK.parameters, "system": CLERK.system, **more})
    assert api.differences(recorded.there("assistant"), fields.wanted(base.weights_digest, base)) == found


def test_other_weights_are_named(recorded: Recorded) -> None:
    base = recorded.there("gemma3:270m")
    assert api.differences(recorded.there("assistant"), CLERK.wanted("sha256:" + "b" * 64, base)) == ["weights"]
