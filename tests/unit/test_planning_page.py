"""docs/planning.md and docs/memory.md show what their commands print now."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays

ROOT = Path(__file__).resolve().parents[2]


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("planning_page", ROOT / "tools/planning_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _headers() -> None:
    tool().write_headers()


@pytest.mark.parametrize(("path", "least"), [("planning.md", 7), ("memory.md", 4)])
def test_answers_are_those_of_now(path: str, least: int) -> None:
    """When this fails, run `make docs`."""
    made = tool()
    assert {page.name for page in made.PAGES} == {"planning.md", "memory.md"}
    page = (ROOT / "docs" / path).read_text(encoding="utf-8")
    assert len(made.BLOCK.findall(page)) >= least
    assert made.page(page) == page


def test_a_wrong_answer_would_be_seen() -> None:
    made = tool()
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.page(page.replace("<= ", "< ")) == page


def test_the_wishes_shown_are_ones_that_there_are() -> None:
    page = tool().PAGE.read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```yaml\n", 1)[1].split("```", 1)[0])["models_workloads"]
    specification = yaml.safe_load((ROOT / "roles/models/meta/argument_specs.yml").read_text(encoding="utf-8"))
    options = specification["argument_specs"]["main"]["options"]["models_workloads"]["options"]
    assert set().union(*shown) <= set(options)


@pytest.mark.parametrize("path", ["planning.md", "memory.md"])
def test_the_playbook_prints_the_same_and_writes_it(tmp_path: Path, path: str) -> None:
    made = tool()
    command = made.BLOCK.findall((ROOT / "docs" / path).read_text(encoding="utf-8"))[0][0]
    given = made.variables(command)
    written = tmp_path / "plan.json"
    settings = {"plan_json": str(written), "models_read_headers": "never"}
    result = plays.run("playbooks/plan.yml", *shlex.split(command)[3:], variables=settings)
    assert result.returncode == 0, result.stdout
    for line in made.answer(given):
        assert f"  {line}\n" in result.stdout
    assert json.loads(written.read_text(encoding="utf-8"))["plan"]["instances"][0]["name"] == "ollama"
