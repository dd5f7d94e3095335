"""driver.yml's shape, of which tests/driver has the run."""

from __future__ import annotations

from pathlib import Path

import yaml

PLAYBOOK = Path(__file__).resolve().parents[2] / "playbooks" / "driver.yml"


def test_what_cannot_be_done_is_refused_while_the_node_serves() -> None:
    plays = yaml.safe_load(PLAYBOOK.read_text(encoding="utf-8"))
    imported = [play.get("ansible.builtin.import_playbook") for play in plays]
    first = [task.get("ansible.builtin.import_role", {}).get("tasks_from") for task in plays[0]["tasks"]]
    assert "preflight" in first
    assert imported == [None, "drain.yml", None, "undrain.yml"]


def test_no_play_asks_what_the_role_works_out_by_its_own_path() -> None:
    """role_path, by which the role reads its release's data, is nothing outside of a role."""
    assert "__nvidia_driver_" not in PLAYBOOK.read_text(encoding="utf-8")
