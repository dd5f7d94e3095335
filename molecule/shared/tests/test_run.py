"""What the runs themselves did and cost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import SCENARIO

MOST_EXECUTIONS = 90


@pytest.mark.contract(1)
def test_second_run_changed_nothing(executions: dict) -> None:
    assert executions["hosts"]
    for host, recap in executions["hosts"].items():
        assert (recap["changed"], recap["failures"], recap["unreachable"]) == (0, 0, 0), host


def test_second_run_executes_few_modules(executions: dict, node) -> None:
    if node.name not in executions["hosts"]:
        pytest.fail(f"{node.name} was not in the run")
    assert executions["hosts"][node.name]["executions"] <= MOST_EXECUTIONS


@pytest.mark.contract(10)
def test_interrupted_run_was_made_good(executions: dict) -> None:
    """`make test-long` kills at every tenth task; here it was one, before converge, and the run after that changed
    nothing any more."""
    if SCENARIO != "single":
        pytest.skip("the first run of this scenario was not interrupted")
    record = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "interrupted.json"
    killed = json.loads(record.read_text(encoding="utf-8"))
    assert killed["task"] == 60
    assert killed["changed"]
    assert sum(recap["changed"] for recap in executions["hosts"].values()) == 0
