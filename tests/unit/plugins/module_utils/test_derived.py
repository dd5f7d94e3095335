# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""models_derived: what is right becomes what ollama_model takes, and what is wrong is told before anything changes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _derived

SERVED = ["gemma3:4b", "bge-m3", "http://models.test:5000/team/house:1"]
CATALOG = ["qwen3:8b", "gemma3:4b"]
FILES = {
    "/srv/clerk": "FROM gemma3:4b\nSYSTEM あなたは\nMESSAGE user Hello\nLICENSE a\nPARAMETER stop b\n".encode("utf-16"),
    "/srv/wrong": b"FROM gemma3:4b\n\nSYTEM a\n",
}


def read(path: str) -> bytes:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def derive(*entries: Any) -> _derived.Derived:
    return _derived.derive(list(entries), SERVED, CATALOG, read)


def test_single_fields() -> None:
    given = {
        "name": "clerk", "from": "gemma3:4b", "system": "", "template": "[{{ .Prompt }}]", "license": "MIT",
        "parameters": {"temperature": 1, "stop": None}, "messages": [{"role": "user", "content": "Hello"}],
        "requires": "v0.17.0",
    }  # fmt: skip
    found = derive(given)
    assert found.faults == []
    assert found.models == [
        {**given, "license": ["MIT"], "parameters": {"temperature": 1.0, "stop": None}, "requires": "0.17.0"}
    ]


def test_a_modelfile_by_text_and_by_path() -> None:
    found = derive(
        {"name": "clerk", "from": "gemma3:4b", "modelfile_path": "/srv/clerk"},
        {"name": "judge", "modelfile": 'FROM bge-m3:latest\nSYSTEM """a\u3000b"""\n'},
    )
    assert found.faults == []
    assert found.models == [
        {
            "name": "clerk", "from": "gemma3:4b", "system": "あなたは", "parameters": {"stop": ["b"]}, "license": ["a"],
            "messages": [{"role": "user", "content": "Hello"}],
        },
        {"name": "judge", "from": "bge-m3", "system": "ab"},
    ]  # fmt: skip
    assert found.notes == ["judge: line 2: Ollama leaves U+3000 out of what SYSTEM says"]


def test_a_model_of_a_private_registry() -> None:
    found = derive({"name": "models.test:5000/team/clerk:1", "from": "models.test:5000/team/house:1", "system": "a"})
    assert found.faults == []
    assert found.models[0]["from"] == SERVED[2]


CLERK = {"name": "clerk", "from": "gemma3:4b"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown from": ({"from": "gemma3:4bb"}, "no model of any workload; did you mean gemma3:4b?"),
    "nothing like it": ({"from": "x"}, "these are served: bge-m3"),
    "no from": ({"from": None}, "from is needed"),
    "catalog name": ({"name": "qwen3:8b"}, "its name is the name of a catalog model, qwen3:8b"),
    "served name": ({"name": "bge-m3:latest"}, "the workloads' model bge-m3"),
    "path tricks": ({"name": "../../etc/passwd"}, "is no model's name"),
    "path tricks in the tag": ({"name": "clerk:../x"}, "is no model's name"),
    "unknown field": ({"sytem": "a"}, "there is no field sytem, did you mean system?"),
    "adapters": ({"adapters": []}, "there is no field adapters"),
    "both forms": ({"modelfile": "FROM a\n", "modelfile_path": "/srv/clerk"}, "exclude one another"),
    "Modelfile and field": ({"modelfile": "FROM gemma3:4b\n", "system": "a"}, "exclude one another"),
    "relative path": ({"modelfile_path": "clerk"}, "an absolute path on the controller"),
    "no file": ({"modelfile_path": "/srv/gone"}, "cannot be read on the controller: No such file"),
    "unknown instruction": ({"modelfile_path": "/srv/wrong"}, "line 3: there is no instruction SYTEM; did you mean"),
    "another FROM": ({"modelfile": "FROM bge-m3\n"}, "from is gemma3:4b, and its Modelfile has FROM bge-m3"),
    "adapter": ({"modelfile": "FROM gemma3:4b\nADAPTER /a\n"}, "its memory is in no plan"),
    "draft": ({"modelfile": "FROM gemma3:4b\nDRAFT /a\n"}, "DRAFT, whose memory is in no plan"),
    "num_ctx in a Modelfile": (
        {"modelfile": "FROM gemma3:4b\nPARAMETER num_ctx 8192\n"},
        "num_ctx decides how a model is loaded",
    ),
    "unknown parameter": ({"parameters": {"temprature": 1}}, "did you mean temperature?"),
    "parameters are no mapping": ({"parameters": [1]}, "a mapping such as {temperature: 0.3}"),
    "system is no text": ({"system": 1}, "system is 1; a text is needed"),
    "licence is no text": ({"license": [1]}, "a list of texts is needed"),
    "message of a stranger": ({"messages": [{"role": "tool", "content": "a"}]}, "a mapping of role (system, user"),
    "messages are no list": ({"messages": {}}, "a list of mappings of role and content"),
    "requires": ({"requires": "new"}, "REQUIRES is 'new'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_faults(case: str) -> None:
    given, says = WRONG[case]
    [fault] = derive({**CLERK, **given}).faults
    assert fault.startswith("models_derived: ")
    assert says in fault


@pytest.mark.parametrize(
    "name", ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"]
)
def test_parameters_of_loading(name: str) -> None:
    [fault] = derive({**CLERK, "parameters": {name: 1}}).faults
    assert f"the parameter {name} decides how a model is loaded" in fault
    assert "gemma3:4b anew, otherwise than the plan says" in fault


def test_twice_and_what_is_no_entry() -> None:
    found = derive(CLERK, {**CLERK, "name": "clerk:latest"}, "clerk", {"from": "gemma3:4b"})
    assert len(found.models) == 1
    assert [fault.split(";")[0] for fault in found.faults] == [
        "models_derived: clerk:latest: its name is there twice",
        "models_derived has 'clerk'",
        "models_derived has {'from': 'gemma3:4b'}",
    ]
    assert "a list of mappings" in _derived.derive({}, SERVED, CATALOG, read).faults[0]
