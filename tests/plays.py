"""Playbooks as a user runs them: the one place from which the tests start ``ansible-playbook``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def callback(name: str) -> dict[str, str]:
    """Settings that turn on one of ``tests/callbacks``."""
    return {"ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"), "ANSIBLE_CALLBACKS_ENABLED": name}


def local() -> dict[str, object]:
    """Variables of a host that is this machine, with pipelining as ``ansible.cfg`` has it for others."""
    return {
        "ansible_connection": "local",
        "ansible_pipelining": True,
        "ansible_python_interpreter": sys.executable,
    }


def start(
    playbook: str | Path,
    *arguments: str | Path,
    inventory: str | Path | None = None,
    variables: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    own_session: bool = False,
) -> subprocess.Popen[str]:
    """A play that runs. Errors stand in its output, as on a terminal.

    :param inventory: without it, ``ansible.cfg`` says which.
    :param variables: extra variables.
    :param environment: settings beyond the repository's own.
    :param own_session: whether it can be killed with all its processes.
    """
    # Who runs the tests has settings, too, for colours and for where errors go; Molecule has.
    given = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "FORCE_COLOR"))}
    given |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **(environment or {})}
    options = [f"--inventory={inventory}"] if inventory else []
    # The last ones win over files of variables among the arguments.
    told = ["--extra-vars", json.dumps(variables)] if variables else []
    return subprocess.Popen(
        [Path(sys.executable).with_name("ansible-playbook"), *options, *arguments, *told, playbook],
        cwd=ROOT,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_session,
    )


def ended(play: subprocess.Popen[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """The play's exit status and output. It is killed where it takes longer than ``timeout`` seconds."""
    with play:
        try:
            output, _none = play.communicate(timeout=timeout)
        except BaseException:
            play.kill()
            raise
    return subprocess.CompletedProcess(play.args, play.returncode, output)


def run(
    playbook: str | Path, *arguments: str | Path, timeout: float | None = None, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """As :func:`start`, to its end."""
    return ended(start(playbook, *arguments, **settings), timeout)


def play(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection on the hosts of the Molecule scenario that runs."""
    inventory = ROOT / "molecule" / os.environ["MOLECULE_SCENARIO_NAME"] / "inventory"
    return run(ROOT / "playbooks" / name, *arguments, inventory=inventory, timeout=600)
