"""Kill site.yml (SIGKILL) at a task, and see that it was: ``python -m tests.interrupt INVENTORY TASK REPORT``.

Whether the next run converges is for the caller to see.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import plays


@dataclass(frozen=True)
class Run:
    """A run of site.yml, up to where it was killed or to its end.

    ``passed`` has the names of the tasks before that one, ``changed`` host and task of every change, handlers left out.
    """

    killed: bool
    task: int
    name: str
    passed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]
    handlers_lost: tuple[str, ...]
    handlers_run: tuple[str, ...]

    @property
    def left(self) -> str:
        """What a killed run left, in words."""
        last = f", the last by {self.changed[-1][1]!r}" if self.changed else ""
        lost = f"; lost: {', '.join(map(repr, self.handlers_lost))}" if self.handlers_lost else ""
        return f"{len(self.changed)} changes{last}{lost}"

    def mended(self, earlier: Run) -> str:
        """What this run did where the earlier one, killed, had gone past already, or had lost a handler, in words."""
        again = list(dict.fromkeys(name for _, name in self.changed if name in earlier.passed))
        handled = [name for name in dict.fromkeys(self.handlers_run) if name in earlier.handlers_lost]
        return "; ".join(map(repr, again + handled)) or "it went on from there"


def interrupted(task: int, report: Path) -> dict[str, str]:
    """Settings of a play that is killed at the start of its task number ``task`` (0: never) and says what it did."""
    return plays.callback("interrupt") | {"INTERRUPT_AT_TASK": str(task), "INTERRUPT_FILE": str(report)}


def run_site(inventory: str, report: Path, task: int = 0) -> Run:
    """Run site.yml up to the start of its task number ``task``, or to its end where it has fewer, or none was given.

    RuntimeError if it failed instead.
    """
    run = plays.run("site.yml", inventory=inventory, environment=interrupted(task, report), own_session=True)
    if run.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"site.yml failed before task {task}:\n{run.stdout[-4000:]}")
    record = json.loads(report.read_text(encoding="utf-8"))
    return Run(
        killed=run.returncode == -signal.SIGKILL,
        task=record["task"],
        name=record["name"],
        passed=tuple(record["passed"]),
        changed=tuple(tuple(change) for change in record["changed"]),
        handlers_lost=tuple(record["handlers_lost"]),
        handlers_run=tuple(record["handlers_run"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interrupt", description=__doc__)
    parser.add_argument("inventory")
    parser.add_argument("task", type=int)
    parser.add_argument("report", type=Path, help="file for what the run had done by then")
    arguments = parser.parse_args()
    run = run_site(arguments.inventory, arguments.report, arguments.task)
    if not run.killed:
        print(f"site.yml has fewer than {arguments.task} tasks: nothing was interrupted", file=sys.stderr)
        return 1
    print(f"killed at task {run.task} ({run.name}), which left {run.left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
