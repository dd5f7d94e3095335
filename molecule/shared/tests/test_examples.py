"""The examples of docs/clients.md, as a user of this fleet runs them. One scenario is enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SCENARIO

from tests.clients import PAGE, Example, examples, python, run, variables

pytestmark = pytest.mark.skipif(SCENARIO != "single", reason="the scenario single runs them")


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return python()


@pytest.mark.parametrize("example", examples(PAGE.read_text(encoding="utf-8")), ids=lambda example: example.name)
def test_example(example: Example, interpreter: Path, gateway, ca_file: str, secrets: dict) -> None:
    key = secrets["users"]["app"]["api_key"]
    environment = variables(f"https://{gateway.address}", ca_file, key, "gemma3:270m", "tiny-embedding:latest")
    code, output = run(example, interpreter, environment)
    assert code == 0, output
    assert example.matches(output), output
