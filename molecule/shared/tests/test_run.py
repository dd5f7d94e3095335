"""What the run itself cost."""

import pytest

MOST_EXECUTIONS = 90


def test_second_run_changed_nothing(executions: dict) -> None:
    assert executions["hosts"]
    for host, recap in executions["hosts"].items():
        assert (recap["changed"], recap["failures"], recap["unreachable"]) == (0, 0, 0), host


def test_second_run_executes_few_modules(executions: dict, node) -> None:
    if node.name not in executions["hosts"]:
        pytest.fail(f"{node.name} was not in the run")
    assert executions["hosts"][node.name]["executions"] <= MOST_EXECUTIONS
