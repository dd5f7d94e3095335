"""Kill site.yml (SIGKILL) at a task, and see that it was: ``python -m tests.interrupt INVENTORY TASK``.

Whether the next run converges is for the caller to see.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

from tests.fleet.hosts import ROOT


def interrupted_run(inventory: str, task: int) -> bool:
    """Run site.yml up to the start of its task number ``task``; False if it ended by itself before. RuntimeError if it
    failed instead."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "interrupt",
        "INTERRUPT_AT_TASK": str(task),
    }
    run = subprocess.run(
        ["ansible-playbook", "-i", inventory, "site.yml"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if run.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"site.yml failed before task {task}:\n{run.stdout[-4000:]}")
    return run.returncode == -signal.SIGKILL


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interrupt", description=__doc__)
    parser.add_argument("inventory")
    parser.add_argument("task", type=int)
    arguments = parser.parse_args()
    if not interrupted_run(arguments.inventory, arguments.task):
        print(f"site.yml has fewer than {arguments.task} tasks: nothing was interrupted", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
