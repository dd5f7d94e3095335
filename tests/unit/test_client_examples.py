# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""That the page's examples are found, and that one which prints something else is seen."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.clients import PAGE, Example, examples, run

PAIR = "## A\n```sh\necho one two\n```\n```text\none…\n```\n"


def test_page_has_each_client() -> None:
    found = examples(PAGE.read_text(encoding="utf-8"))
    code = "\n".join(example.code for example in found)
    assert all(client in code for client in ("curl ", "from openai import", "import ollama", "from langchain_openai"))
    for example in found:
        if example.language == "python":
            ast.parse(example.code)


def test_examples_are_numbered_under_their_heading() -> None:
    assert [example.name for example in examples(PAIR + PAIR.removeprefix("## A\n"))] == ["A", "A (2)"]


def test_example_without_its_output_is_told() -> None:
    with pytest.raises(ValueError, match="not followed by what it prints"):
        examples("## A\n```sh\ntrue\n```\n")


@pytest.mark.parametrize(
    ("output", "good"), [("one two\n", True), ("one\ntwo", True), ("two one", False), ("", False), ("one", True)]
)
def test_output_is_compared(output: str, good: bool) -> None:
    assert examples(PAIR)[0].matches(output) is good


def test_example_is_run() -> None:
    given = {"LLM_MODEL": "m"}
    assert run(Example("a", "sh", 'echo "$LLM_MODEL"\n', ""), Path(sys.executable), given) == (0, "m\n")
    assert run(Example("a", "python", "import sys; sys.exit(3)\n", ""), Path(sys.executable), given) == (3, "")
    code, output = run(Example("a", "sh", "echo $LLM_NO_SUCH\n", ""), Path(sys.executable), given)
    assert code != 0
    assert "LLM_NO_SUCH" in output
