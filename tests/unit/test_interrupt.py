"""A killed run says what it had done: the callback on a small play, and the words made of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests import plays
from tests.interrupt import Run, interrupted

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: First
      ansible.builtin.debug:
      changed_when: true
      notify: [Reload, Restart]
    - name: Second
      ansible.builtin.debug:
    - name: Third
      ansible.builtin.debug:
      changed_when: true
  handlers:
    - name: Reload
      ansible.builtin.debug:
    - name: Restart gently
      listen: Restart
      ansible.builtin.debug:
"""


def play(tmp_path: Path, task: int) -> tuple[int, dict]:
    playbook, report = tmp_path / "play.yml", tmp_path / "report.json"
    playbook.write_text(PLAY, encoding="utf-8")
    run = plays.run(playbook, inventory="localhost,", environment=interrupted(task, report), own_session=True)
    return run.returncode, json.loads(report.read_text(encoding="utf-8"))


def test_killed_run_says_what_it_left(tmp_path: Path) -> None:
    code, record = play(tmp_path, 3)
    assert code == -9
    assert record == {
        "task": 3,
        "name": "Third",
        "passed": ["First", "Second"],
        "changed": [["localhost", "First"]],
        "handlers_lost": ["Reload", "Restart"],
        "handlers_run": [],
    }


def test_whole_run_loses_no_handler(tmp_path: Path) -> None:
    code, record = play(tmp_path, 0)
    assert code == 0
    assert (record["handlers_lost"], record["handlers_run"]) == ([], ["Reload", "Restart gently", "Restart"])
    assert [name for _, name in record["changed"]] == ["First", "Third"]


def test_words() -> None:
    killed = Run(True, 3, "Third", ("First", "Second"), (("a", "First"),), ("Reload",), ())
    assert killed.left == "1 changes, the last by 'First'; lost: 'Reload'"
    after = Run(False, 4, "", (), (("a", "Second"), ("a", "Third")), (), ("Reload", "Restart"))
    assert after.mended(killed) == "'Second'; 'Reload'"
    assert Run(False, 4, "", (), (("a", "Third"),), (), ()).mended(killed) == "it went on from there"
