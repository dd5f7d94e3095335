"""ollama_model against the stand-in: models with texts of their own answer by them, in the memory of their base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine import models
from tests.engine.conftest import Engine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories/example/company-assistant.Modelfile"
SYSTEM = "You are a clerk of the water works."
# The same every time.
SETTLED = {"temperature": 0, "seed": 7, "num_predict": 24}
QUESTION = [{"role": "user", "content": "how long is the water"}]

Model = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def engine(start: Callable[..., Engine], generative: Path) -> Engine:
    engine = start(OLLAMA_CONTEXT_LENGTH="2048", OLLAMA_NUM_PARALLEL="1")
    engine.add("base:1", generative, parameters={"top_k": 40, "stop": ["<|never|>"]})
    return engine


@pytest.fixture
def model(engine: Engine) -> Model:
    """The module as a task runs it, and its result; it fails where ``says`` is given, with these words."""

    def run(says: str = "", check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {
            "api_url": f"http://127.0.0.1:{engine.port}", "models_dir": str(engine.home / "models"), **arguments
        }  # fmt: skip
        command = [
            str(Path(sys.executable).with_name("ansible")), "localhost", "--inventory", "localhost,",
            "--connection", "local", "--module-name", "onprem.llm.ollama_model", "--args", json.dumps(given),
            *(["--check"] if check else []),
        ]  # fmt: skip
        settings = {
            "ANSIBLE_COLLECTIONS_PATH": str(Path(sys.executable).parents[1] / "collections"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "0",
        }
        ended = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
        result: dict[str, Any] = json.loads(ended.stdout[ended.stdout.index("=> {") + 3 :])
        assert bool(ended.returncode) is bool(says), result
        assert says in str(result.get("msg", ""))
        return result

    return run


def twice(model: Model, **arguments: Any) -> dict[str, Any]:
    """The result of the first of two runs, of which the second changes nothing."""
    done = model(**arguments)
    assert done["changed"]
    assert model(check=True, **arguments)["changed"] is False
    assert model(**arguments)["changed"] is False
    return done


def answer(engine: Engine, name: str, *before: dict[str, str], **options: Any) -> dict[str, Any]:
    found = engine.post("/api/chat", model=name, messages=[*before, *QUESTION], options=SETTLED | options)
    return {"text": found["message"]["content"], "prompt_tokens": found["prompt_eval_count"]}


def test_a_system_message_is_in_effect_and_shares_the_runner(engine: Engine, model: Model) -> None:
    arguments = {"name": "clerk", "source": "model", "from": "base:1"}
    twice(model, system=SYSTEM, parameters={"temperature": 0.3}, **arguments)
    engine.post("/api/generate", model="base:1", keep_alive=-1)
    runners = engine.runners()
    asked = answer(engine, "clerk")
    told = answer(engine, "base:1", {"role": "system", "content": SYSTEM})
    plain = answer(engine, "base:1")
    assert asked == told, "the same as if each request brought it"
    assert asked["prompt_tokens"] > plain["prompt_tokens"]
    assert asked["text"] != plain["text"]
    assert engine.runners() == runners
    assert set(engine.loaded()) == {"base:1"}

    assert twice(model, system="", parameters={"top_k": None}, **arguments)["differences"] == [
        "temperature",
        "top_k",
        "system",
    ]
    assert answer(engine, "clerk") == plain
    assert engine.runners() == runners


def test_an_emptied_system_message_is_gone_from_a_model_that_inherits_one(engine: Engine, model: Model) -> None:
    twice(model, name="clerk:2", source="model", system=SYSTEM, **{"from": "base:1"})
    arguments = {"name": "nobody", "source": "model", "from": "clerk:2", "system": ""}
    assert twice(model, **arguments)["model"]["system"] == ""
    assert answer(engine, "nobody")["prompt_tokens"] == answer(engine, "base:1")["prompt_tokens"]
    assert engine.post("/api/show", model="clerk:2")["system"] == SYSTEM


def test_the_company_assistant_of_the_example(engine: Engine, model: Model, tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    [origin] = [line for line in text.splitlines() if line.startswith("FROM ")]
    text = text.replace(origin, "FROM base:1")
    done = twice(model, name="company-assistant", source="modelfile", modelfile=text)["model"]
    assert done["system"].startswith("あなたは")
    assert done["system"].count("\n") == 2
    assert done["parameters"] == {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "stop": ["<|never|>"]}
    assert [message["role"] for message in done["messages"]] == ["user", "assistant"]
    system = {"role": "system", "content": done["system"]}
    told = answer(engine, "base:1", system, *done["messages"], top_p=0.9)
    assert answer(engine, "company-assistant") == told
    model(name="company-assistant", source="modelfile", modelfile=text + "SYTEM a\n", says="did you mean SYSTEM?")


def test_licences_messages_and_versions_come_back_as_they_went(engine: Engine, model: Model) -> None:
    first = {"name": "licensed", "source": "model", "from": "base:1", "license": ["MIT", 'so "to" say\nby lines']}
    twice(model, requires="0.17.0", messages=[{"role": "user", "content": ' "a"\nb '}], **first)
    second = {"name": "licensed:2", "source": "model", "from": "licensed", "license": ["more"]}
    done = twice(model, **second)["model"]
    assert done["requires"] == "0.17.0"
    assert done["messages"] == [{"role": "user", "content": ' "a"\nb '}]
    assert engine.post("/api/show", model="licensed:2")["license"] == 'MIT\nso "to" say\nby lines\nmore'
    assert model(**second | {"messages": []})["differences"] == ["messages"]


def test_an_adapter_counts_and_takes_the_place_of_the_model_without_it(
    engine: Engine, model: Model, tmp_path: Path
) -> None:
    strong = models.write_adapter(tmp_path / "strong.gguf", strength=4.0)
    none = models.write_adapter(tmp_path / "none.gguf", strength=0.0)
    arguments = {"name": "tuned", "source": "model", "from": "base:1"}
    done = twice(model, adapters=[{"path": str(strong), "sha256": models.sha256(strong)}], **arguments)
    assert done["model"]["adapters"] == [f"sha256:{models.sha256(strong)}"]
    plain = answer(engine, "base:1")
    before = engine.runners()
    assert model(check=True, state="loaded", **arguments)["changed"], "what serves the base does not serve it"
    tuned = answer(engine, "tuned")
    assert tuned["text"] != plain["text"]
    assert set(engine.loaded()) == {"tuned:latest"}
    assert len(engine.runners()) == 1
    assert engine.runners() != before

    text = f"FROM base:1\nADAPTER {none}\n"
    assert model(name="tuned", source="modelfile", modelfile=text)["differences"] == ["adapters"]
    assert answer(engine, "tuned") == plain, "one of zeros changes nothing"


def test_an_adapter_of_another_shape(engine: Engine, model: Model, tmp_path: Path) -> None:
    other = models.write_adapter(tmp_path / "other.gguf", size="small")
    arguments = {"source": "model", "from": "base:1", "adapters": [{"path": str(other)}]}
    model(name="unfit", state="loaded", says="llama-server process has terminated", **arguments)


def test_a_private_name(engine: Engine, model: Model) -> None:
    name = "models.test:5000/team/clerk:1"
    twice(model, name=f"https://{name}", source="model", system=SYSTEM, **{"from": "base:1"})
    assert (engine.home / "models/manifests/models.test:5000/team/clerk/1").is_file()
    assert engine.post("/api/show", model=name)["system"] == SYSTEM
    model(name="../../clerk", source="model", says="is no model's name", **{"from": "base:1"})
