"""Playbooks as a user runs them, for the tests that look at what is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "molecule" / os.environ["MOLECULE_SCENARIO_NAME"] / "inventory"


def play(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection on the scenario's hosts; errors stand in its output, as on a terminal."""
    # Molecule has settings of its own, for colours and for where errors go.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "FORCE_COLOR"))}
    environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [Path(sys.executable).parent / "ansible-playbook", f"--inventory={INVENTORY}", *arguments]
    return subprocess.run(
        [*command, ROOT / "playbooks" / name],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
