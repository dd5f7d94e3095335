# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's own configuration in a real HAProxy on this machine, before nodes of a script.

HAProxy need not be installed: its packages are fetched by apt and unpacked below build/.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import node as nodes
from ansible_collections.onprem.llm.plugins.filter.balanced_models import balanced_models
from ansible_collections.onprem.llm.plugins.filter.derived_models import derived_models
from ansible_collections.onprem.llm.plugins.filter.gateway_node_models import gateway_node_models
from role_templates import evaluated, role_variables, trusted

from tests import packages

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "roles/balancer/files/balancer.py"
UNPACKED = ROOT / "build/packages"
ENDPOINT = "endpoint.onprem-llm.internal"
PATIENCE = 20.0
FILTERS = {
    f"onprem.llm.{function.__name__}": function for function in (balanced_models, derived_models, gateway_node_models)
}  # fmt: skip


def executable(name: str = "haproxy") -> tuple[str, dict[str, str]]:
    """Path of a program that has a package of its name, and the environment that it needs.

    RuntimeError where apt cannot give it.
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found:
        return found, dict(os.environ)
    place = UNPACKED / name
    program = place / "usr/sbin" / name
    if not program.exists():
        packages.know()
        plan = subprocess.run(
            ["apt-get", "--simulate", "--no-install-recommends", "install", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        missing = re.findall(r"^Inst (\S+)", plan.stdout, re.MULTILINE)
        if not missing:
            raise RuntimeError(f"apt knows no {name}: {plan.stderr.strip()}")
        packages.unpack(missing, place)
    libraries = ":".join(str(path) for path in (place / "usr/lib").glob("*-linux-gnu"))
    return str(program), {**os.environ, "LD_LIBRARY_PATH": libraries}


def program() -> Any:
    """The role's program, as a module."""
    if "balancer" not in sys.modules:
        spec = importlib.util.spec_from_file_location("balancer", PROGRAM)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["balancer"] = module
    return sys.modules["balancer"]


def rendered(template: str, **given: Any) -> str:
    """A template of the role, with its defaults and variables and these."""
    variables = {
        **role_variables("gateway"), **role_variables("balancer"), "inventory_hostname": "gw1", "hostvars": {},
        "groups": {"gateways": ["gw1"]}, "ansible_managed": "made by a test", **given,
    }  # fmt: skip
    source = (ROOT / "roles/balancer/templates" / template).read_text(encoding="utf-8")
    text: str = evaluated(trusted(source), variables, FILTERS)
    return text


class Balancer:
    """HAProxy as the unit runs it. Also the context in which it is stopped."""

    def __init__(self, fleet: list[nodes.Node], models: dict[str, dict[str, int]], **given: Any) -> None:
        """:param models: slots by node and model."""
        self.directory = Path(tempfile.mkdtemp(prefix="lb"))
        self.fleet = {node.name: node for node in fleet}
        self.drained = self.directory / "drained"
        self.drained.mkdir()
        self._models, self._given = models, given
        self.config = self.directory / "haproxy.cfg"
        self._process: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self, **given: Any) -> None:
        """Write the configuration, with other variables where they are given."""
        self._given = {**self._given, **given}
        upstreams = [{"name": n.name, "address": "127.0.0.1", "port": n.port} for n in self.fleet.values()]
        served = {
            name: [{"name": model, "shares": model, "slots": slots} for model, slots in models.items()]
            for name, models in self._models.items()
        }
        authority = next(iter(self.fleet.values())).authority
        text = rendered(
            "haproxy.cfg.j2",
            gateway_upstreams=upstreams,
            __gateway_node_models=served,
            __balancer_run=str(self.directory),
            __balancer_certificate=authority.issue("gateway-client")[0],
            **{"balancer_check_interval_seconds": 1, "balancer_slow_start_seconds": 1, **self._given},
        )
        text = text.replace("/etc/onprem-llm/pki/ca.crt", authority.ca)
        # Another user, and another root, are the system's to give.
        text = re.sub(r"(?m)^ +(user|group|chroot) .*\n", "", text).replace(" user root group www-data", "")
        self.config.write_text(text, encoding="utf-8")

    def check(self) -> subprocess.CompletedProcess[str]:
        program, environment = executable()
        return subprocess.run(
            [program, "-c", "-q", "-f", str(self.config)], env=environment, capture_output=True, text=True, check=False
        )

    def helper(self, *arguments: str) -> Any:
        command = [
            sys.executable,
            "-I",
            str(PROGRAM),
            "--run",
            str(self.directory),
            "--configuration",
            str(self.config),
        ]
        command += ["--drained", str(self.drained), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return json.loads(answer) if answer else None

    def inside(self) -> Any:
        """The program's own object for this HAProxy, in this process."""
        options = {"run": str(self.directory), "configuration": str(self.config), "drained": str(self.drained)}
        return program().Balancer(argparse.Namespace(**options))

    def start(self) -> Balancer:
        program, environment = executable()
        self.helper("state")
        command = [program, "-W", "-f", str(self.config), "-S", f"{self.directory}/master.sock,mode,600"]
        self.log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(command, env=environment, stderr=self.log, stdout=self.log)
        self._await(lambda: (self.directory / "gateway.sock").exists() and self._answers(), "no socket")
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.status())
        except subprocess.CalledProcessError:
            return False

    def reload(self) -> None:
        """As the unit does it."""
        assert self.check().returncode == 0
        before = self.workers()
        self.helper("reload", str(self.master))
        assert set(self.workers()) - set(before)
        self._await(self._answers, "no answer after the reload")

    @property
    def master(self) -> int:
        assert self._process
        return self._process.pid

    def workers(self) -> list[int]:
        text = b""
        with socket.socket(socket.AF_UNIX) as master, contextlib.suppress(OSError):
            # A master that reads its configuration anew answers nobody for a moment.
            master.settimeout(5)
            master.connect(f"{self.directory}/master.sock")
            master.sendall(b"show proc\n")
            master.shutdown(socket.SHUT_WR)
            while part := master.recv(65536):
                text += part
        return [int(line.split()[0]) for line in text.decode().splitlines() if re.match(r"\d+\s+worker", line)]

    def status(self) -> list[dict[str, Any]]:
        servers: list[dict[str, Any]] = self.helper("status")["servers"]
        return servers

    def up(self, backend: str) -> set[str]:
        return {s["node"] for s in self.status() if s["backend"] == backend and s["status"].startswith("UP")}

    def await_up(self, backend: str, names: set[str]) -> float:
        """Seconds until exactly these nodes are up for a backend."""
        began = time.monotonic()
        self._await(lambda: self.up(backend) == names, f"{backend} has {self.up(backend)}, not {names}")
        return time.monotonic() - began

    def _await(self, condition: Any, message: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{message}; {(self.directory / 'log').read_text(encoding='utf-8')}"
            time.sleep(0.05)

    def reset(self) -> None:
        """As at the beginning, whatever a test has left that failed."""
        for node in self.fleet.values():
            node.reset()
        left = list(self.drained.iterdir())
        for mark in left:
            mark.unlink()
        if self._process is None:
            self.start()
        elif left:
            self.helper("apply")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise
            self._process = None

    def __enter__(self) -> Balancer:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        for node in self.fleet.values():
            node.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
