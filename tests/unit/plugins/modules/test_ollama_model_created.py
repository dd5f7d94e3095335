# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that ollama_model creates: every field, by options or by a Modelfile, and that twice is once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama_fake
import pytest

Run = Callable[..., dict[str, Any]]
WEIGHTS = b"GGUF and some weights"
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()


class Server:
    """The server, and the module told where it is."""

    def __init__(self, state: ollama_fake.State, url: str, run: Run) -> None:
        self.state, self.url, self._run = state, url, run

    def model(self, name: str = "mine:1", **arguments: Any) -> dict[str, Any]:
        return self._run("ollama_model", name=name, api_url=self.url, timeout=5, **arguments)

    def info(self, **arguments: Any) -> dict[str, Any]:
        return self._run("ollama_model_info", api_url=self.url, timeout=5, **arguments)

    def quartet(self, changed: bool = True, **arguments: Any) -> dict[str, Any]:
        """Check mode, do, check mode again, do again; the result of doing."""
        before = dict(self.state.models)
        assert self.model(check_mode=True, **arguments)["changed"] is changed
        assert self.state.models == before, "check mode touched the server"
        done = self.model(**arguments)
        assert done["changed"] is changed, done
        assert self.model(check_mode=True, **arguments)["changed"] is False
        assert self.model(**arguments)["changed"] is False
        return done


@pytest.fixture
def server(run: Run) -> Iterator[Server]:
    with ollama_fake.serve() as (state, url):
        yield Server(state, url, run)


CLERK = """\
FROM base:1
# of the house
SYSTEM \"\"\"You are a clerk.
Say "no" politely.\"\"\"
PARAMETER temperature 0.3
PARAMETER stop "User: "
LICENSE for the house alone
MESSAGE user Hello
MESSAGE assistant "Good day. "
REQUIRES v0.17.0
"""
SINGLE = {
    "source": "model",
    "from": "base:1",
    "system": 'You are a clerk.\nSay "no" politely.',
    "parameters": {"temperature": 0.3, "stop": "User: "},
    "license": ["for the house alone"],
    "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day. "}],
    "requires": "0.17.0",
}


def put_base(server: Server, directory: Path | None = None) -> None:
    """A model with something in every field, as a library's."""
    server.state.directory = directory
    server.state.put(
        "base:1", DIGEST, parameters={"stop": ["<|end|>"], "top_k": 5}, system="Be kind.", template="[{{ .Prompt }}]",
        license=["MIT"], messages=[{"role": "user", "content": "Hi"}], renderer="house", parser="house",
        requires="0.14.0",
    )  # fmt: skip


def test_a_modelfile_says_what_the_single_options_say(server: Server) -> None:
    put_base(server)
    done = server.quartet(name="clerk", source="modelfile", modelfile=CLERK)
    by_file = server.state.models.pop("clerk:latest")
    server.quartet(name="clerk", **SINGLE)
    assert server.state.models["clerk:latest"] == by_file
    assert done["model"]["system"] == SINGLE["system"]
    assert done["model"]["messages"] == SINGLE["messages"]
    assert done["model"]["parameters"] == {"stop": ["User: "], "temperature": 0.3, "top_k": 5}
    assert by_file["license"] == ["MIT", "for the house alone"]
    assert (by_file["template"], by_file["renderer"], by_file["requires"]) == ("[{{ .Prompt }}]", "house", "0.17.0")
    assert server.state.asked("/api/create")[0]["parameters"] == {"temperature": 0.3, "stop": ["User: "]}


def test_what_is_not_given_is_the_bases(server: Server) -> None:
    put_base(server)
    server.quartet(name="clerk", source="model", **{"from": "base:1"})
    made, base = server.state.models["clerk:latest"], server.state.models["base:1"]
    assert {**made, "digest": ""} == {**base, "digest": ""}
    # The server adds them itself; as it shows a list of one, it would be none any more.
    assert "parameters" not in server.state.asked("/api/create")[0]


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({"system": "You are a judge."}, ["system"]),
        ({"license": ["for all"]}, ["license"]),
        ({"license": None}, ["license"]),
        ({"messages": [{"role": "user", "content": "Hello"}]}, ["messages"]),
        ({"requires": "0.18.0"}, ["requires"]),
        ({"renderer": "other"}, ["renderer"]),
        ({"parser": "other"}, ["parser"]),
        ({"template": "({{ .Prompt }})"}, ["template"]),
        ({"parameters": {"temperature": 0.3}}, ["stop"]),
        ({"parameters": {"temperature": 0.3, "stop": "User: ", "top_k": None}}, ["top_k"]),
        ({"parameters": {"temperature": 0.3, "stop": "User: ", "seed": None}}, []),
    ],
)
def test_each_field_is_compared(server: Server, change: dict[str, Any], differences: list[str]) -> None:
    put_base(server)
    server.quartet(name="clerk", **SINGLE)
    wanted = {key: value for key, value in {**SINGLE, **change}.items() if value is not None}
    assert server.quartet(name="clerk", changed=bool(differences), **wanted)["differences"] == differences


def test_a_parameter_that_is_taken_away(server: Server) -> None:
    put_base(server)
    arguments = {"name": "clerk", "source": "model", "from": "base:1", "parameters": {"stop": None}}
    assert server.quartet(**arguments)["model"]["parameters"] == {"top_k": 5}
    assert server.state.asked("/api/create")[0]["parameters"] == {"stop": None}


@pytest.mark.parametrize(
    ("empty", "left"),
    [
        ({"system": ""}, {"template", "messages"}),
        ({"messages": []}, {"system", "template"}),
        ({"template": ""}, {"system", "messages"}),
        ({"system": "", "messages": [], "template": ""}, set()),
    ],
)
def test_a_field_that_is_emptied(server: Server, tmp_path: Path, empty: dict[str, Any], left: set[str]) -> None:
    put_base(server, tmp_path)
    arguments = {"name": "clerk", "source": "model", "from": "base:1", **empty}
    refused = server.model(**arguments)
    assert refused["failed"]
    assert "give models_dir" in refused["msg"]
    assert "clerk:latest" not in server.state.models, "what cannot be had is not begun"
    done = server.quartet(models_dir=str(tmp_path), **arguments)["model"]
    [base] = server.info(name="base:1")["models"]
    assert {name for name in ("system", "template", "messages") if done[name] == base[name]} == left
    assert server.state.models["base:1"]["system"] == "Be kind."


def test_an_empty_system_in_a_modelfile_takes_the_bases_away(server: Server, tmp_path: Path) -> None:
    put_base(server, tmp_path)
    arguments = {"name": "clerk", "source": "modelfile", "models_dir": str(tmp_path)}
    assert server.quartet(modelfile='FROM base:1\nSYSTEM ""\n', **arguments)["model"]["system"] == ""


def test_the_template_is_compared_where_the_server_shows_the_files_own(server: Server) -> None:
    put_base(server)
    server.state.native_template = "{% for message in messages %}"
    arguments = {"name": "clerk", "source": "model", "from": "base:1"}
    server.quartet(template='[{{ .Prompt }}\n"a"]', **arguments)
    assert server.quartet(template="({{ .Prompt }})", **arguments)["differences"] == ["template"]


def test_an_adapter(server: Server, tmp_path: Path) -> None:
    put_base(server, tmp_path / "models")
    adapter = tmp_path / "adapter.gguf"
    adapter.write_bytes(b"GGUF adapter")
    digest = "sha256:" + hashlib.sha256(b"GGUF adapter").hexdigest()
    arguments = {"name": "clerk", "models_dir": str(tmp_path / "models")}
    derived = {"source": "model", "from": "base:1", **arguments}
    done = server.quartet(adapters=[{"path": str(adapter)}], **derived)
    assert done["model"]["adapters"] == [digest]
    assert server.state.asked("/api/create")[0]["adapters"] == {"adapter.gguf": digest}
    assert (tmp_path / "models/blobs" / digest.replace(":", "-")).read_bytes() == b"GGUF adapter"
    text = f"FROM base:1\nADAPTER {adapter}\n"
    server.quartet(changed=False, source="modelfile", modelfile=text, **arguments)
    adapter.unlink()
    server.quartet(changed=False, adapters=[{"path": str(adapter), "sha256": digest[7:]}], **derived)
    assert "cannot read" in server.model(adapters=[{"path": str(adapter)}], **derived)["msg"]
    assert server.quartet(**derived)["differences"] == ["adapters"]


def test_a_modelfile_of_a_file(server: Server, tmp_path: Path) -> None:
    server.state.directory = tmp_path / "models"
    server.state.put("other:1", "sha256:" + "b" * 64)
    (tmp_path / "mine.gguf").write_bytes(WEIGHTS)
    text = f"FROM {tmp_path}/mine.gguf\nSYSTEM You are a clerk.\n"
    done = server.quartet(source="modelfile", modelfile=text, sha256=DIGEST, models_dir=str(tmp_path / "models"))
    assert (done["model"]["weights_digest"], done["model"]["system"]) == (DIGEST, "You are a clerk.")


def test_diff_of_a_derived_model(server: Server) -> None:
    put_base(server)
    would = server.model(name="clerk", check_mode=True, diff=True, **SINGLE)["diff"]
    did = server.model(name="clerk", diff=True, **SINGLE)["diff"]
    for state in (would["after"], did["after"]):
        # The manifest's digest is known once it is there.
        state.pop("manifest_digest", None)
    assert would == did
    assert would["after"]["system"] == SINGLE["system"]
    assert did["after"]["messages"] == SINGLE["messages"]
    assert did["after"]["license_sha256"].startswith("sha256:")


def test_names_with_a_registry(server: Server) -> None:
    put_base(server)
    arguments = {"source": "model", "from": "base:1", "system": "You are a clerk."}
    server.quartet(name="models.test:5000/team/clerk:1", **arguments)
    server.quartet(changed=False, name="http://models.test:5000/team/clerk:1", **arguments)
    assert "models.test:5000/team/clerk:1" in server.state.models
    server.quartet(name="judge", **{**arguments, "from": "https://models.test:5000/team/clerk:1"})
    assert server.info(wanted=[{"name": "http://models.test:5000/team/clerk:1"}])["missing"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"modelfile": "FROM base:1\nSYTEM a\n"}, "modelfile: line 2: there is no instruction SYTEM; did you mean"),
        ({"modelfile": "SYSTEM a\n"}, "modelfile: there is no FROM"),
        ({"modelfile": "FROM base:1\nDRAFT /srv/draft.gguf\n"}, "DRAFT is not supported"),
        ({"modelfile": "FROM ./mine.gguf\n"}, "FROM is ./mine.gguf; the absolute path"),
        ({"modelfile": "FROM base:1\nADAPTER mine.gguf\n"}, "ADAPTER is mine.gguf; the absolute path"),
        ({"modelfile": "FROM base:1\n", "system": "a"}, "mutually exclusive"),
        ({"modelfile": "FROM base:1\n", "parameters": {"seed": 1}}, "holds the parameters itself"),
        ({"modelfile": "FROM base:1\n", "source": "gguf", "sha256": DIGEST}, "missing: gguf"),
        ({"source": "modelfile"}, "modelfile"),
        ({"source": "registry", "messages": []}, "messages is of a created model; source is registry"),
        ({"source": "model", "from": "base:1", "requires": "soon"}, "REQUIRES is 'soon'"),
        ({"source": "model", "from": "base:1", "parameters": {"temprature": 1}}, "did you mean temperature?"),
        ({"source": "model", "from": "../base"}, "is no model's name"),
        ({"source": "model", "from": "base:1", "name": "../../etc/passwd"}, "is no model's name"),
        (
            {"source": "model", "from": "base:1", "adapters": [{"path": "/a"}, {"path": "/b"}]},
            "adapters has 2; Ollama takes one",
        ),
        ({"source": "model", "from": "base:1", "messages": [{"role": "tool", "content": "a"}]}, "role"),
    ],
)
def test_wrong_fields(server: Server, arguments: dict[str, Any], says: str) -> None:
    put_base(server)
    if "source" not in arguments:
        arguments = {"source": "modelfile", **arguments}
    result = server.model(**arguments)
    assert result["failed"]
    assert says in result["msg"]
    assert server.state.asked("/api/create") == []
