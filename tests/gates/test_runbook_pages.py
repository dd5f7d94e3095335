"""Every page of docs/runbooks has the form, and every command in it can be run. tests/runbooks runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rules import ROOT

from tests.runbooks import runs
from tests.runbooks.pages import CONTROLLER, INDEX, SECTIONS, Command, Page, pages, read

PAGES = pages()
COMMANDS = [(page, command) for page in PAGES for command in page.commands]
PLAYBOOKS = sorted({command.playbook for _page, command in COMMANDS if command.playbook})
# Built beside these pages; from the day that they are here they are held to the same.
COMING = {"upgrade", "rollback", "pin"}
WHERE = {CONTROLLER, "NODE", "HOST", "GATEWAY", "MIRROR"}
# Of Debian's and Ubuntu's own packages of priority required, important or standard, and what Ansible needs on any host.
BASE = {
    "apt": "apt", "apt-get": "apt", "cat": "coreutils", "cd": "bash", "cp": "coreutils", "df": "coreutils",
    "do": "bash", "done": "bash", "echo": "bash", "exit": "bash", "for": "bash", "grep": "grep", "head": "coreutils",
    "journalctl": "systemd", "ls": "coreutils", "mkdir": "coreutils", "modinfo": "kmod", "python3": "python3",
    "sha256sum": "coreutils", "systemctl": "systemd", "tail": "coreutils", "true": "bash",
}  # fmt: skip
# Of packages that a role installs, by the package's name.
INSTALLED = {
    "docker": "docker.io", "iptables": "iptables", "openssl": "openssl", "ufw": "ufw",
}  # fmt: skip

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def form_faults(page: Page) -> list[str]:
    """What is wrong with a page's form."""
    found = [] if list(page.sections) == SECTIONS else [f"its sections are {list(page.sections)}"]
    found += [f"{name} says nothing" for name, text in page.sections.items() if len(text.split()) < 5]
    if len(page.of("First look")) != 1:
        found.append(f"the first look is {len(page.of('First look'))} commands")
    found += [] if page.of("How to know that it worked") else ["nothing tells that it worked"]
    found += [f"{command.text}: on {command.where!r}" for command in page.commands if command.where not in WHERE]
    found += [
        f"{command.text}: on {command.where}"
        for command in page.commands
        if (command.text.split()[0] in ("ansible", "ansible-playbook")) != (command.where == CONTROLLER)
        and command.text.split()[0] not in ("openssl", "(cd")
    ]
    return found


def programs(text: str) -> list[str]:
    """First words of all commands of a line."""
    quoted = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    parts = re.split(r"\|\||&&|[|;(]|\bdo\b", quoted)
    return [part.split()[0] for part in parts if part.strip() and not part.strip().startswith("'")]


def sources(playbook: str) -> str:
    """The text of a playbook, with what it imports and includes."""
    path = ROOT / "playbooks" / f"{playbook}.yml"
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?:import_playbook|include_tasks|import_tasks): (\S+\.yml)", text):
        text += (path.parent / name).read_text(encoding="utf-8")
    return text + "".join(
        (path.parent / name).read_text(encoding="utf-8") for name in re.findall(r"vars_files: \[(\S+)\]", text)
    )


def options() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for point in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found |= set(point.get("options") or {})
    return found


def command_faults(command: Command) -> list[str]:
    """Why a command cannot be run."""
    parsed = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True, check=False)
    if parsed.returncode != 0:
        return [parsed.stderr]
    if not command.playbook:
        known = BASE | INSTALLED | ({"ansible": ""} if command.where == CONTROLLER else {})
        return [f"{name}: nothing installs it" for name in programs(command.text) if name not in known]
    if not (ROOT / "playbooks" / f"{command.playbook}.yml").is_file():
        return [] if command.playbook in COMING else [f"there is no playbook {command.playbook}"]
    text = sources(command.playbook)
    found = [
        f"{command.playbook} knows no {name}"
        for name in command.variables
        if not re.search(rf"\b{name}\b", text) and name not in options()
    ]
    words = command.words
    found += [
        f"{command.playbook} has no tag {value}"
        for option, value in zip(words, words[1:])
        if option == "--tags" and not re.search(rf"tags: \[.*\b{value}\b", text)
    ]
    return found


@each_page
def test_form(page: Page) -> None:
    assert form_faults(page) == []


@each_page
def test_commands(page: Page) -> None:
    assert [fault for command in page.commands for fault in command_faults(command)] == []


@each_page
def test_links(page: Page) -> None:
    index = INDEX.read_text(encoding="utf-8")
    assert f"(runbooks/{page.name}.md)" in index, "docs/runbooks.md leads to every page"
    titles = {title.lower() for title in re.findall(r"^### (\w+)$", index, re.MULTILINE)}
    for link, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", "".join(page.sections.values())):
        assert (INDEX.parent / "runbooks" / link).is_file(), link
        assert not anchor or anchor in titles, anchor


def test_there_are_enough_and_each_is_run() -> None:
    assert len(PAGES) >= 14
    described = runs.load()
    assert sorted(described) == [page.name for page in PAGES]
    real = [name for name, run in described.items() if run.real]
    assert len(real) >= 10
    assert [name for name, run in described.items() if not run.real and not run.why] == []


def test_programs_come_with_a_role() -> None:
    text = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "roles").rglob("*.yml") if path.parent.name != "meta"
    )
    assert [
        name for name, package in INSTALLED.items() if not re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", text)
    ] == []


def test_every_playbook_is_sound() -> None:
    there = [f"onprem.llm.{name}" for name in PLAYBOOKS if (ROOT / "playbooks" / f"{name}.yml").is_file()]
    assert len(there) >= 12
    said = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "--syntax-check", "-i", "inventories/demo", *there],
        cwd=ROOT, env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONPATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr


# The gates can fail.


def spoiled(tmp_path: Path, before: str, after: str) -> Page:
    text = (INDEX.parent / "runbooks/engine-down.md").read_text(encoding="utf-8")
    assert before in text
    path = tmp_path / "engine-down.md"
    path.write_text(text.replace(before, after), encoding="utf-8")
    return read(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("## Decision", "## Choice"),
        ("# on NODE\n", ""),
        ("# on NODE\n", "# on the controller\n"),
        ("docker ps --all", "docker ps\ndocker ps --all"),
    ],
)
def test_gate_sees_form(tmp_path: Path, before: str, after: str) -> None:
    assert form_faults(spoiled(tmp_path, before, after)) != []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("onprem.llm.site --limit", "onprem.llm.sites --limit", "no playbook sites"),
        ("onprem.llm.site --limit", "onprem.llm.site -e ollama_versoin=1 --limit", "knows no ollama_versoin"),
        ("onprem.llm.site --limit", "onprem.llm.site --tags olama --limit", "no tag olama"),
        ("docker ps --all", "dokcer ps --all", "dokcer: nothing installs it"),
        ("docker ps --all", "docker ps 'all", "unexpected EOF"),
    ],
)
def test_gate_sees_command(tmp_path: Path, before: str, after: str, said: str) -> None:
    page = spoiled(tmp_path, before, after)
    assert said in "".join(fault for command in page.commands for fault in command_faults(command))
