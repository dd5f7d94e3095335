"""The collection as users have it: built into a tarball, and installed from that where no checkout is in sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Installed:
    """The collection in a directory of its own.

    :arg python: whose Ansible is used.
    :raises subprocess.CalledProcessError: it cannot be built or installed.
    """

    def __init__(self, directory: Path, python: Path | str = sys.executable) -> None:
        self.directory, self.python = directory, str(python)
        self.collections = directory / "collections"
        self.collections.mkdir(parents=True)
        (directory / "ansible.cfg").write_text("[defaults]\ninject_facts_as_vars = False\n", encoding="utf-8")
        build = ["galaxy", "collection", "build", "--force", "--output-path", str(directory), str(ROOT)]
        self.ansible(*build).check_returncode()
        (self.tarball,) = directory.glob("onprem-llm-*.tar.gz")
        install = ["galaxy", "collection", "install", "--offline", "--no-deps", "--collections-path"]
        self.ansible(*install, str(self.collections), str(self.tarball)).check_returncode()
        self.root = self.collections / "ansible_collections/onprem/llm"

    def ansible(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One of Ansible's programs, such as ``playbook``, that sees this collection and those of its own package."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
        return subprocess.run(
            [self.python, "-m", "ansible", *words],
            cwd=self.directory,
            env=kept | {
                "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
                "ANSIBLE_NOCOLOR": "1",
                "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip

    @property
    def playbooks(self) -> list[str]:
        """Names of all playbooks, as users call them."""
        return [f"onprem.llm.{path.stem}" for path in sorted((self.root / "playbooks").glob("*.yml"))]

    def inventory(self) -> Path:
        """One host that is this machine, as node and gateway, with nothing set that would make it serve."""
        host = {"box": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
        groups = {"cpu_nodes": {"hosts": host}, "llm_nodes": {"children": {"cpu_nodes": {}}}}
        path = self.directory / "hosts.json"
        path.write_text(json.dumps({"all": {"children": groups | {"gateways": {"hosts": host}}}}), encoding="utf-8")
        return path
