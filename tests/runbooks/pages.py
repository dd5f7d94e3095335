"""The pages of docs/runbooks: their form, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "runbooks"
INDEX = ROOT / "docs" / "runbooks.md"
SECTIONS = [
    "Symptom",
    "First look",
    "Decision",
    "Steps",
    "How to know that it worked",
    "How to go back",
    "What it costs users",
]
CONTROLLER = "the controller"
COLLECTION = "onprem.llm."


@dataclass(frozen=True)
class Command:
    """One line of a page. ``where`` is "the controller" or a placeholder for a host; ``by_hand``: no test runs it."""

    section: str
    where: str
    by_hand: bool
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def playbook(self) -> str:
        """Name of the collection's playbook that it runs, or an empty text."""
        found = re.match(r"ansible-playbook onprem\.llm\.(\w+)", self.text)
        return found[1] if found else ""

    @property
    def variables(self) -> Iterator[str]:
        """Names that it gives with -e."""
        words = self.words
        for option, value in zip(words, words[1:]):
            if option == "-e" and not value.startswith("@"):
                yield from re.findall(r'"(\w+)":', value) if value.startswith("{") else [value.partition("=")[0]]


@dataclass(frozen=True)
class Page:
    name: str
    title: str
    sections: dict[str, str]
    commands: list[Command]

    def of(self, section: str) -> list[Command]:
        return [command for command in self.commands if command.section == section]


def _commands(section: str, text: str) -> Iterator[Command]:
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        where, by_hand = "", False
        for line in block.splitlines():
            if line.startswith("# on "):
                where, _comma, how = line.removeprefix("# on ").partition(", ")
                by_hand = how == "by hand"
            elif line:
                yield Command(section, where, by_hand, line)


def read(path: Path) -> Page:
    """A page as it stands."""
    head, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() + "\n" for part in parts}
    commands = [command for name, text in sections.items() for command in _commands(name, text)]
    return Page(path.stem, head.strip().removeprefix("# "), sections, commands)


def pages() -> list[Page]:
    return [read(path) for path in sorted(DIRECTORY.glob("*.md"))]
