# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade.yml and rollback.yml played on this machine: the role upgrade, its modules and the plays are real; Docker,
engine and balancer are `node_programs`, and so are the roles ollama and models. What they write goes to directories
that are laid over this machine's in a namespace of their own, which needs root. With engines: `make bench-upgrade`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = Path(__file__).with_name("node_programs.py")
LAID_OVER = ("etc", "opt", "usr/local", "var/lib")
FIRST, GOOD, SILENT, NONSENSE = "0.32.15", "0.32.16", "0.32.17", "0.32.18"
pytestmark = [pytest.mark.long, pytest.mark.contract(9)]

ENGINE_VARIABLES = {
    "__ollama_image_references": ["{{ ollama_image_id }}"], "__ollama_image_reference": "{{ ollama_image_id }}",
    "__ollama_images_mirrored": [], "__ollama_image_upstream": "", "__ollama_image_from_mirror": False,
    "__ollama_certificates": [], "ollama_mirror_fallback": False,
}  # fmt: skip
# What look.yml reads of Docker's role, whose outlook is of what it is given.
DOCKER_VARIABLES = {
    "docker_source": "distribution",
    "__docker_packages": {"docker.io": ""},
    "__docker_outlook": {
        "install": "{{ __docker_candidates | default({}) | dictsort | map('join', ' ') | list }}",
        "restart": "{{ ['docker.service (restart)'] if __docker_candidates | default({}) else [] }}",
    },
}
NOTHING = [{"name": "Nothing", "ansible.builtin.debug": {"msg": "nothing"}}]


class Machine:
    """This machine with other directories laid over its own, and a collection whose other roles are small."""

    def __init__(self, place: Path) -> None:
        self.place = place
        mounts = [f"mount -t tmpfs tmpfs {place}/over"]
        for directory in LAID_OVER:
            upper = f"{place}/over/{directory.replace('/', '-')}"
            mounts.append(f"mkdir {upper} {upper}.work")
            mounts.append(
                f"mount -t overlay overlay -o lowerdir=/{directory},upperdir={upper},workdir={upper}.work /{directory}"
            )
        (place / "over").mkdir()
        script = " && ".join([*mounts, "echo ready", "exec sleep 3600"])
        self.world = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert self.world.stdout
        if self.world.stdout.readline().strip() != "ready":
            self.world.wait()
            pytest.skip("no namespace with overlays can be made here")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._collection()
        self._plays()
        (place / "bin").mkdir()
        for name in ("docker", "apt-get", "apt-mark", "dpkg", "dpkg-query"):
            program = place / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAMS} {name} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        self.run(sys.executable, PROGRAMS, "install", FIRST)
        self.engine = subprocess.Popen(
            [*self.inside, sys.executable, PROGRAMS, "engine", str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.engine.stdout
        self.engine.stdout.readline()

    @property
    def inside(self) -> list[str]:
        return ["nsenter", "--mount", f"--target={self.world.pid}"]

    def close(self) -> None:
        for process in (self.engine, self.world):
            process.kill()
            process.wait()

    def run(self, *command: object) -> str:
        return subprocess.run([*self.inside, *map(str, command)], capture_output=True, text=True, check=True).stdout

    def read(self, path: str) -> Any:
        return json.loads(self.run("cat", path))

    @property
    def version(self) -> str:
        return str(self.read("/etc/onprem-llm/release.json")["engine"]["version"])

    def _collection(self) -> None:
        home = self.place / "ansible_collections/onprem/llm"
        for part in ("plugins", "meta", "roles/upgrade", "roles/balancer"):
            shutil.copytree(ROOT / part, home / part)
        shutil.copy(ROOT / "galaxy.yml", home)
        install = f"{sys.executable} {PROGRAMS} install {{{{ ollama_version }}}}"
        roles = {
            "ollama/vars/main.yml": ENGINE_VARIABLES,
            "ollama/tasks/gather.yml": NOTHING,
            "ollama/tasks/prefetch.yml": NOTHING,
            "ollama/tasks/hold.yml": NOTHING,
            "ollama/tasks/stop.yml": NOTHING,
            "models/tasks/prefetch.yml": NOTHING,
            "models/tasks/main.yml": NOTHING,
            "docker/vars/main.yml": DOCKER_VARIABLES,
            "docker/tasks/gather.yml": NOTHING,
            "docker/tasks/verify.yml": NOTHING,
            "docker/tasks/main.yml": [
                {
                    "name": "Install",
                    "ansible.builtin.command": "apt-get install docker.io_{{ __docker_candidates['docker.io'] }}_amd64",
                }
            ],
            "nvidia_container_toolkit/tasks/gather.yml": NOTHING,
            "ollama/tasks/proof.yml": [
                {"name": "See the plan", "ansible.builtin.assert": {"that": "'engine' in ollama_plan"}},
            ],
            "ollama/tasks/main.yml": [
                {"name": "Install", "ansible.builtin.command": install},
                {
                    "name": "Start the engine", "ansible.builtin.fail": {"msg": "The engine does not start."},
                    "when": f"ollama_version == '{SILENT}'",
                },
            ],
        }  # fmt: skip
        for path, content in roles.items():
            (home / "roles" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "roles" / path).write_text(yaml.safe_dump(content), encoding="utf-8")
        # Files and models come back as they do on a node; what is started is not there.
        back = home / "roles/upgrade/tasks/back.yml"
        tasks = [task for task in yaml.safe_load(back.read_text(encoding="utf-8")) if "onprem.llm.kept_release" in task]
        tasks[:0] = [
            {
                "name": "Packages",
                "ansible.builtin.include_tasks": "packages_back.yml",
                "when": "__upgrade_packages_kept",
            }
        ]
        back.write_text(yaml.safe_dump(tasks), encoding="utf-8")
        packages = home / "roles/upgrade/tasks/packages_back.yml"
        tasks = [task for task in yaml.safe_load(packages.read_text("utf-8")) if "onprem.llm.kept_packages" in task]
        packages.write_text(yaml.safe_dump(tasks), encoding="utf-8")
        # This machine's own Docker runs on.
        below = home / "roles/upgrade/tasks/below.yml"
        tasks = yaml.safe_load(below.read_text("utf-8"))
        tasks = [task for task in tasks if "ansible.builtin.systemd_service" not in task]
        below.write_text(yaml.safe_dump(tasks), encoding="utf-8")

    def _plays(self) -> None:
        """Without the preflight, of which the upgrade needs what is drifting, and without hosts that are not there."""
        changes = "{{ drift | default(['/etc/onprem-llm/plan.json', '/opt/onprem-llm/ollama/compose.yml']) }}"
        outlook = {"__preflight_host": {"outlook": {"install": [], "change": changes}}}
        for name in ("upgrade.yml", "rollback.yml"):
            kept = []
            for play in yaml.safe_load((ROOT / "playbooks" / name).read_text(encoding="utf-8")):
                if "llm_nodes" in play.get("hosts", ""):
                    kept.append({**play, "become": False, "gather_facts": False})
                    kept[-1].pop("gather_subset", None)
            kept[0]["tasks"].insert(0, {"name": "Know what drifts", "ansible.builtin.set_fact": outlook})
            (self.place / name).write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        hosts = {"llm_nodes": {"hosts": {"n1": {}, "n2": {}}}, "gateways": {"hosts": {"g1": {}}}}
        inventory = {"all": {"children": hosts, "vars": plays.local()}}
        (self.place / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def play(
        self, name: str, version: str = FIRST, killed_at: str = "", check: bool = False, **more: Any
    ) -> tuple[int, str]:
        """Exit status and output of a playbook on the node n1."""
        variables = {
            "ollama_version": version, "ollama_image_id": "sha256:" + version[-1] * 64,
            "ollama_image_archive": "/nowhere", "models_engine_url": f"http://127.0.0.1:{self.port}",
            "__upgrade_models_dir": "/var/lib/onprem-llm/models", **more,
        }  # fmt: skip
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{self.place}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}",
        }
        environment |= {"PATH": f"{self.place}/bin:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
        environment |= {**plays.callback("interrupt"), "INTERRUPT_AT_NAME": killed_at} if killed_at else {}
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [program, f"--inventory={self.place}/hosts.yml", "--limit=n1", "--extra-vars", json.dumps(variables)]
        command += [*(["--check"] if check else []), self.place / name]
        done = subprocess.run(
            [*self.inside, "setsid", "--wait", *map(str, command)], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def drained(self) -> list[str]:
        return self.run("sh", "-c", "ls /etc/onprem-llm/drained 2>/dev/null || true").split()

    def left(self) -> list[str]:
        """What a run that is over leaves of its own."""
        return self.run("sh", "-c", "ls /var/lib/onprem-llm 2>/dev/null || true").split()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("a namespace of mounts needs root")
    found = Machine(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_upgrades_and_the_way_back(machine: Machine) -> None:
    """There, past a bad release, and back."""
    status, told = machine.play("upgrade.yml", GOOD, check=True)
    assert status == 0, told
    assert f"engine   {FIRST} -> {GOOD}" in told
    assert (machine.version, machine.left()) == (FIRST, [])

    status, told = machine.play("upgrade.yml", GOOD)
    assert status == 0, told
    assert (machine.version, machine.drained(), machine.left()) == (GOOD, [], [])
    assert f"and runs engine {GOOD}" in told

    status, told = machine.play("upgrade.yml", GOOD, drift=[])
    assert status == 0, told
    assert "Nothing to do" in told

    for version, why in (
        (
            NONSENSE,
            "agrees with its answers before by 0.00; at least 0.3 is needed: it said 'Tokyo, and', and says 'zzz'",
        ),
        (SILENT, "The engine does not start."),
    ):
        status, told = machine.play("upgrade.yml", version)
        assert status != 0
        assert why in told
        assert f"-{GOOD} is back, has passed the gate, and serves" in told
        assert (machine.version, machine.drained(), machine.left()) == (GOOD, [], ["upgrade-failed.log"])

    status, told = machine.play("upgrade.yml", "0.32.14")
    assert status != 0
    assert f"older than {GOOD}, which runs" in told

    status, told = machine.play("rollback.yml", NONSENSE)
    assert status == 0, told
    assert (machine.version, machine.drained()) == (FIRST, [])
    status, told = machine.play("rollback.yml", upgrade_release=GOOD)
    assert status == 0, told
    assert machine.version == GOOD
    status, told = machine.play("rollback.yml", upgrade_release="0.9.0")
    assert status != 0
    assert "no release '0.9.0' is kept" in told


@pytest.mark.contract(10)
@pytest.mark.parametrize("task", ["Tell the balancer", "Hold its version against the plan's", "Count until here"])
def test_a_run_that_is_killed_is_taken_up_again(machine: Machine, task: str) -> None:
    status, _told = machine.play("upgrade.yml", GOOD, killed_at=task)
    assert status not in (0, 1, 2)
    journal = machine.read("/var/lib/onprem-llm/upgrade.json")
    assert journal["step"] in ("draining", "changing")
    status, told = machine.play("upgrade.yml", GOOD)
    assert status == 0, told
    assert "that run is dead" in told
    assert (machine.version, machine.drained(), machine.left()) == (GOOD, [], [])


def test_a_killed_upgrade_can_be_given_up(machine: Machine) -> None:
    machine.play("upgrade.yml", GOOD, killed_at="Hold its version against the plan's")
    assert machine.version == GOOD
    status, told = machine.play("rollback.yml")
    assert status == 0, told
    assert (machine.version, machine.drained(), machine.left()) == (FIRST, [], [])


def test_two_at_once_are_refused(machine: Machine) -> None:
    holder = {
        "run": "r9",
        "user": "ann",
        "controller": "c2",
        "boot": "another",
        "pid": 1,
        "since": "2026-11-22T12:00:00Z",
    }
    machine.run("mkdir", "-p", "/var/lib/onprem-llm")
    machine.run("sh", "-c", f"echo '{json.dumps(holder)}' >/var/lib/onprem-llm/upgrade.lock")
    status, told = machine.play("upgrade.yml", GOOD)
    assert status != 0
    assert "begun 2026-11-22T12:00:00Z by ann on c2" in told
    assert (machine.version, machine.drained()) == (FIRST, [])
    status, told = machine.play("upgrade.yml", GOOD, upgrade_break_lock="r9")
    assert status == 0, told
    assert machine.version == GOOD


def test_a_damaged_record_stops_the_run_before_anything_changes(machine: Machine) -> None:
    machine.run("sh", "-c", "echo '{' >/etc/onprem-llm/release.json")
    status, told = machine.play("upgrade.yml", GOOD)
    assert status != 0
    assert "release.json is damaged" in told
    assert (machine.drained(), machine.left()) == ([], [])


def test_docker_moves_with_the_engine_and_both_go_back(machine: Machine) -> None:
    """A bad engine takes back the Docker that came with it; by itself Docker moves, and then nothing is to be done."""

    def installed() -> str:
        return machine.run("cat", "/var/lib/onprem-llm-dpkg/docker.io")

    machine.run("sh", "-c", "printf 28.5.2 >/etc/apt/offered")
    status, told = machine.play("upgrade.yml", check=True, drift=[])
    assert status == 0, told
    assert "package  docker.io 26.1.5 -> 28.5.2" in told
    assert "restart  docker.service (restart)" in told
    assert "back     packages go back to these versions" in told
    assert (installed(), machine.left()) == ("26.1.5", [])

    status, told = machine.play("upgrade.yml", NONSENSE)
    assert status != 0
    assert f"-{FIRST} is back, has passed the gate, and serves" in told
    assert "So are its packages." in told
    assert (machine.version, installed(), machine.drained()) == (FIRST, "26.1.5", [])

    status, told = machine.play("upgrade.yml", drift=[])
    assert status == 0, told
    assert (machine.version, installed()) == (FIRST, "28.5.2")
    status, told = machine.play("upgrade.yml", drift=[])
    assert "Nothing to do" in told
    machine.run("sh", "-c", "printf 28.5.3 >/etc/apt/offered")
    status, told = machine.play("upgrade.yml", drift=[], upgrade_distribution_packages=False)
    assert "Nothing to do" in told, told


def test_a_killed_upgrade_that_is_given_up_brings_docker_back(machine: Machine) -> None:
    machine.run("sh", "-c", "printf 28.5.2 >/etc/apt/offered")
    machine.play("upgrade.yml", GOOD, killed_at="Hold its version against the plan's")
    assert machine.run("cat", "/var/lib/onprem-llm-dpkg/docker.io") == "28.5.2"
    status, told = machine.play("rollback.yml")
    assert status == 0, told
    assert machine.run("cat", "/var/lib/onprem-llm-dpkg/docker.io") == "26.1.5"
    assert (machine.version, machine.drained()) == (FIRST, [])
