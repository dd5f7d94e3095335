"""docs/memory.md's example by hand is the account's, term by term, and its header numbers are the model's."""

# The page writes the signs of multiplication and subtraction, as people do.
# ruff: noqa: RUF001
from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _text
from test_planning_page import tool

from tests.memory import headers
from tests.memory.data import HEADERS

# name = expression = value, and a remark after two spaces or more.
LINE = re.compile(r"^(?P<name>[\w.]+) = (?P<expression>[\w.+×−/() ]+?) = (?P<value>\d+)(?: {2,}.*)?$")
FORMULAS = re.compile(r"```text\n(.*?)```", re.DOTALL)
PART = re.compile(r"^### ", re.MULTILINE)


def text() -> str:
    return str(tool().MEMORY_PAGE.read_text(encoding="utf-8"))


def parts(page: str) -> list[tuple[list[str], dict[str, Any]]]:
    """The lines of formulas of each part of the example, and the variables of the command that ends it."""
    made = tool()
    made.write_headers()
    example = page.split("\n## An example by hand\n", 1)[1].split("\n## ", 1)[0]
    found = []
    for part in PART.split(example)[1:]:
        ((command, _printed),) = made.BLOCK.findall(part)
        lines = [line for block in FORMULAS.findall(part) for line in block.splitlines()]
        found.append((lines, made.variables(command)))
    return found


def by_hand(lines: list[str], known: dict[str, int]) -> dict[str, int]:
    """What the lines say, each computed from those before; ``known`` grows with them."""
    stated: dict[str, int] = {}
    for line in lines:
        match = LINE.match(line)
        assert match, f"no formula: {line}"
        expression = match["expression"].replace("×", "*").replace("−", "-")
        names = {name.replace(".", "_"): value for name, value in known.items()}
        value = eval(expression.replace(".", "_"), {"__builtins__": {}}, names)
        assert value == int(match["value"]), line
        stated[match["name"]] = known[match["name"]] = int(value)
    return stated


def check(page: str) -> int:
    """Hold every part against what the tool answers; how many terms were compared."""
    known: dict[str, int] = {}
    compared = 0
    for lines, given in parts(page):
        stated = by_hand(lines, known)
        printed = tool().answer(given)
        head = next(index for index, line in enumerate(printed) if line.startswith("device "))
        terms, totals = {}, 0
        for line in printed[head + 1 : printed.index("its rules")]:
            device, term, size = line.split()[:3]
            if term == "total":
                totals += int(size)
            else:
                terms[f"{device}.{term}"] = int(size)
        terms.pop("token.active_bytes")
        # What a part does not repeat is as it was in the one before.
        assert {name: known.get(name) for name in terms} == terms
        assert {name for name in stated if "." in name} <= set(terms)
        columns, row = (re.split(r" {2,}", line.strip()) for line in printed[1:3])
        plan = dict(zip(columns, row))
        assert plan["memory"] == _text.human_bytes(known["memory"])
        assert plan["of"] == _text.human_bytes(known["of"])
        assert known["memory"] == totals == sum(size for name, size in terms.items() if name.startswith("gpu"))
        compared += len(terms)
    return compared


def test_each_term_by_hand_is_what_the_tool_prints() -> None:
    assert check(text()) >= 30


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("gpu0.weights = 32 × base + 16 × small", "gpu0.weights = 31 × base + 16 × small"),
        ("gpu0.kv_cache = 32 × layer = 4294967296", "gpu0.kv_cache = 31 × layer = 4160749568"),
        ("gpu1.compute = 3 × E + 3 × F + 8 × E + 4 × M + 4 × (I + 128) = 427901440",
         "gpu1.compute = 3 × E + 3 × F + 8 × E + 4 × M + 4 × I = 427900928"),
        ("of = (24564 − 640 − 1024) × 1048576 = 24012390400", "of = (24564 − 640) × 1048576 = 25086132224"),
    ],
)  # fmt: skip
def test_a_wrong_figure_would_be_seen(right: str, wrong: str) -> None:
    page = text()
    assert right in page
    with pytest.raises(AssertionError):
        check(page.replace(right, wrong))


def test_the_header_is_the_models() -> None:
    said = dict(re.findall(r"^\| `(llama\.[\w.]+)` \| (\d+) \|$", text(), re.MULTILINE))
    contents = headers.from_text((HEADERS / "llama3.1-8b.txt").read_text(encoding="utf-8"))
    metadata = {entry.key: str(entry.value) for entry in contents.metadata}
    assert len(said) >= 8
    assert said == {key: metadata[key] for key in said}
