# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make bench-scale``: what site.yml's second run, preflight and verify cost the controller, by number of hosts and
by strategy; build/bench/scale.json.

A gateway and a node are real: two hosts of the test fleet, on which site.yml has run. Their second run is measured as
it is. Meanwhile every module keeps what it returned. The growing fleet is stubbed: each further node is a name of its
own, with a connection of its own to the same host, where each module is brought, imported and given its arguments as
ever, and then returns what was kept instead of working. So the controller does all that it does for as many real hosts;
what the hosts themselves would need of time is not in the seconds. Beside it run as many tasks as site.yml has, none
of which does anything (floor.yml): what Ansible itself takes. All share one machine, so ``wall_s`` has the hosts'
work in it, and CPU seconds are what is extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import docker
import yaml

from tests.fleet.hosts import ROOT, Fleet, FleetError
from tests.fleet.supplies import supply
from tests.scale import meter

INVENTORY = ROOT / "tests" / "scale" / "inventory"
STATE = ROOT / "build" / "scale"
MITOGEN = STATE / "mitogen"
FLOOR = Path(__file__).with_name("floor.yml")
RESULT = ROOT / "build" / "bench" / "scale.json"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
NODE, GATEWAY = "scale-gpu1", "scale-gw1"
HOST_FILES = "/opt/onprem-llm-scale"
PARTS = ("up", "real", "stubbed", "down")
STRATEGIES = ("linear", "mitogen_linear", "free")
# Goals: tasks of a second converge by node; CPU-seconds by task and host; seconds of a preflight of so many hosts.
MOST_TASKS, MOST_CPU_SECONDS, HOSTS, CORES, MOST_PREFLIGHT_SECONDS = 90, 0.1, 500, 8, 300
FORKS = 20
# A stubbed host shows the recorded one's certificate, whose name is another, and metrics that get no younger.
AS_RECORDED: dict[str, Any] = {"__pki_due": [], "__monitoring_looks": 1}
# As the inventory's, whose hosts are known by their addresses.
SSH = "-o UserKnownHostsFile={{ demo_state_directory }}/ssh/known_hosts"


def mitogen() -> str:
    """The directory of Mitogen's strategies, installed once. RuntimeError where it cannot be."""
    found = MITOGEN / "ansible_mitogen" / "plugins" / "strategy"
    if not found.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(MITOGEN)]
        told = subprocess.run([*pip, "--requirement", REQUIREMENTS], capture_output=True, text=True, check=False)
        if told.returncode != 0:
            raise RuntimeError(f"Mitogen cannot be installed:\n{told.stderr[-2000:]}")
    return str(found)


def settings(strategy: str) -> dict[str, str]:
    """Ansible's environment for a strategy; pipelining is on by ansible.cfg."""
    found = {"ANSIBLE_STRATEGY": strategy, "ANSIBLE_FORKS": str(FORKS)}
    if strategy.startswith("mitogen"):
        # Its strategy is a plugin that Ansible deprecates, and says so in every run.
        found |= {"ANSIBLE_STRATEGY_PLUGINS": mitogen(), "ANSIBLE_DEPRECATION_WARNINGS": "false"}
    return found


def _address(number: int) -> str:
    """Of a name that leads to the node: no two hosts of an inventory may have one."""
    return f"10.78.14.{50 + number}"


def answer(client: docker.DockerClient, count: int) -> None:
    """Let the node answer at the addresses of all names."""
    addresses = " ".join(_address(number) for number in range(2, count))
    script = f"for address in {addresses}; do ip address replace $address/24 dev eth0; done"
    code, output = client.containers.get(NODE).exec_run(["sh", "-ec", script])
    if code != 0:
        raise RuntimeError(output.decode(errors="replace"))


def prepare(client: docker.DockerClient, hosts: list[str]) -> None:
    """Bring the interpreters that keep and that repeat results, and let SSH take many connections at once."""
    hook = (Path(__file__).parent / "host" / "sitecustomize.py").read_text(encoding="utf-8")
    interpreters = "".join(
        f"printf '#!/bin/sh\\nPYTHONPATH={HOST_FILES}/hook SCALE_{verb.upper()}={HOST_FILES}/kept/%s exec"
        f' /usr/bin/python3 "$@"\\n\' "$2" >{HOST_FILES}/{verb}; chmod 755 {HOST_FILES}/{verb};'
        for verb in ("record", "replay")
    )
    script = (
        f"umask 0; cd /opt; mkdir -p {HOST_FILES}/hook {HOST_FILES}/kept/$2; touch {HOST_FILES}/kept/$2/calls.log;"
        f' printf %s "$1" >{HOST_FILES}/hook/sitecustomize.py; {interpreters}'
        " limit=/etc/ssh/sshd_config.d/scale.conf;"
        " [ -e $limit ] || { echo 'MaxStartups 500' >$limit; systemctl reload ssh; }"
    )
    for host in hosts:
        code, output = client.containers.get(host).exec_run(["sh", "-ec", script, "sh", hook, host])
        if code != 0:
            raise RuntimeError(f"{host}: {output.decode(errors='replace')}")


def inventory(count: int, verb: str) -> Path:
    """An inventory of ``count`` names, a gateway and nodes that are all the one node, whose modules keep what they
    return (``record``) or repeat it (``replay``)."""
    data: dict[str, Any] = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
    groups = data["all"]["children"]
    nodes, gateways = groups["llm_nodes"]["children"]["gpu_nodes"]["hosts"], groups["gateways"]["hosts"]
    interpreter = {"ansible_python_interpreter": f"{HOST_FILES}/{verb}"}
    groups["llm_nodes"]["children"]["gpu_nodes"]["hosts"] = {NODE: {**nodes[NODE], **interpreter}} | {
        f"scale-n{number:03}": {
            "ansible_host": _address(number),
            "ansible_ssh_common_args": f"{SSH} -o HostKeyAlias={nodes[NODE]['ansible_host']}",
            **interpreter,
        }
        for number in range(2, count)
    }
    gateways[GATEWAY].update(interpreter)
    directory = STATE / f"inventory-{verb}-{count}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.yml").write_text(yaml.safe_dump(data), encoding="utf-8")
    link = directory / "group_vars"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(ROOT / "inventories" / "demo" / "group_vars", directory))
    return directory


def told(cost: meter.Cost) -> dict[str, Any]:
    """The figures of a run, and the CPU seconds that a task costs on a host."""
    executions = {host: recap["executions"] for host, recap in cost.hosts.items() if recap["executions"] > 1}
    total = sum(executions.values())
    recap = {key: sum(row[key] for row in cost.hosts.values()) for key in ("changed", "failures", "unreachable")}
    row = {name: value for name, value in asdict(cost).items() if name not in ("hosts", "output", "peak_bytes")}
    return {
        **row,
        "peak_mib": round(cost.peak_bytes / 2**20),
        "hosts": len(executions),
        "executions": total,
        "tasks_per_node": max(executions.values(), default=0),
        "cpu_s_per_task_host": round(cost.cpu_s / total, 4) if total else None,
        **recap,
    }


def line(rows: list[dict[str, Any]], value: str) -> tuple[float, float]:
    """Least squares through ``value`` by hosts: what a run costs at all, and each host more."""
    count = len(rows)
    mean_x, mean_y = sum(row["hosts"] for row in rows) / count, sum(row[value] for row in rows) / count
    spread = sum((row["hosts"] - mean_x) ** 2 for row in rows)
    slope = sum((row["hosts"] - mean_x) * (row[value] - mean_y) for row in rows) / spread if spread else 0.0
    return mean_y - slope * mean_x, slope


def extrapolated(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the goal's number of hosts would take by the line, with all cores of the goal busy with it and nothing
    waited for: the least that it can be."""
    fixed, each = line(rows, "cpu_s")
    cpu = fixed + each * HOSTS
    memory, more = line(rows, "peak_mib")
    return {
        "hosts": HOSTS,
        "cores": CORES,
        "cpu_s": round(cpu),
        "cpu_s_per_host": round(each, 3),
        "seconds": round(cpu / CORES),
        "peak_mib": round(memory + more * HOSTS),
    }


class Bench:
    """Runs, each kept as soon as it is measured."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self.result: dict[str, Any] = {"forks": FORKS, "real": {}, "stubbed": {}}

    def measure(self, kind: str, name: str, playbook: str, hosts: Path, strategy: str) -> dict[str, Any]:
        cost = meter.run(playbook, hosts, settings(strategy), AS_RECORDED if kind == "stubbed" else None)
        row = {"playbook": playbook, "strategy": strategy, **told(cost)}
        log = STATE / "logs" / f"{kind}-{name}-{strategy}-{row['hosts']}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(cost.output, encoding="utf-8")
        self.result[kind].setdefault(name, []).append(row)
        write(self.result)
        print(f"bench-scale: {kind} {name} {json.dumps(row)}", file=sys.stderr, flush=True)
        return row

    def real(self) -> None:
        """The two hosts as they are. Their modules keep what they return, which costs the controller nothing."""
        prepare(self.client, [NODE, GATEWAY])
        keeping = inventory(2, "record")
        for name, playbook in (("site", "site.yml"), ("verify", "playbooks/verify.yml")):
            row = self.measure("real", name, playbook, keeping, "linear")
            if row["returncode"] != 0:
                raise RuntimeError(f"{playbook} failed; {STATE / 'logs'} has what it said")
        for strategy in STRATEGIES[1:]:
            self.measure("real", "site", "site.yml", INVENTORY, strategy)
        self.measure("real", "preflight", "playbooks/preflight.yml", INVENTORY, "linear")

    def stubbed(self, counts: list[int], strategies: list[str]) -> None:
        """The growing fleet."""
        for count in counts:
            answer(self.client, count)
            hosts = inventory(count, "replay")
            for strategy in strategies:
                self.measure("stubbed", "site", "site.yml", hosts, strategy)
            for name in ("preflight", "verify"):
                self.measure("stubbed", name, f"playbooks/{name}.yml", hosts, "linear")
            self.measure("stubbed", "floor", str(FLOOR), hosts, "linear")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that the goals are about, from all rows."""
    rows = [(kind, row) for kind in ("real", "stubbed") for row in result[kind].get("site", [])]
    by_strategy: dict[str, Any] = {}
    for strategy in dict.fromkeys(row["strategy"] for _kind, row in rows):
        mine = [(kind, row) for kind, row in rows if row["strategy"] == strategy and row["returncode"] == 0]
        if mine:
            # The largest fleet has the least share of what a run costs at all.
            by_strategy[strategy] = max(mine, key=lambda item: item[1]["hosts"])[1]["cpu_s_per_task_host"]
    real = [row["tasks_per_node"] for row in result["real"].get("site", []) if row["strategy"] == "linear"]
    found: dict[str, Any] = {
        "tasks_per_node": real[0] if real else None,
        "cpu_s_per_task_host": by_strategy,
        "seconds": {},
        "at_500": {},
    }
    floor = [row["cpu_s_per_task_host"] for row in result["stubbed"].get("floor", [])]
    if floor and "linear" in by_strategy:
        found["times_the_floor"] = round(by_strategy["linear"] / floor[-1], 2)
    for name, all_rows in result["stubbed"].items():
        for strategy in dict.fromkeys(row["strategy"] for row in all_rows):
            mine = [row for row in all_rows if row["strategy"] == strategy]
            found["seconds"][f"{name} {strategy}"] = {str(row["hosts"]): row["wall_s"] for row in mine}
            if len({row["hosts"] for row in mine}) > 1:
                found["at_500"][f"{name} {strategy}"] = extrapolated(mine)
    return found


def goals(result: dict[str, Any]) -> Iterator[str]:
    """The goals that were missed, a sentence each."""
    if (result["tasks_per_node"] or 0) > MOST_TASKS:
        yield f"{result['tasks_per_node']} tasks a node, of {MOST_TASKS} at most"
    best = min(result["cpu_s_per_task_host"].values(), default=None)
    if best is not None and best > MOST_CPU_SECONDS:
        yield f"{best} CPU seconds a task and host under the best setting, of {MOST_CPU_SECONDS} at most"
    preflight = result["at_500"].get("preflight linear", {}).get("seconds", 0)
    if preflight > MOST_PREFLIGHT_SECONDS:
        yield f"preflight over {HOSTS} hosts would take {preflight} s, of {MOST_PREFLIGHT_SECONDS} at most"


def write(result: dict[str, Any]) -> None:
    result.update(summary(result))
    result["missed"] = list(goals(result))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[4, 8, 16], help="sizes of the stubbed fleet")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=[*STRATEGIES, "mitogen_free"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="for a part of it")
    arguments = parser.parse_args()
    client = docker.from_env(timeout=300)
    fleet = Fleet.load("scale")
    bench = Bench(client)
    if arguments.parts != list(PARTS) and RESULT.is_file():
        bench.result = json.loads(RESULT.read_text(encoding="utf-8"))
    try:
        if "up" in arguments.parts:
            supply(client, fleet.state)
            fleet.up(client)
            first = meter.run("site.yml", INVENTORY, settings("linear"))
            if first.returncode != 0:
                raise RuntimeError(f"site.yml failed:\n{first.output[-3000:]}")
        if "real" in arguments.parts:
            bench.result["real"] = {}
            bench.real()
        if "stubbed" in arguments.parts:
            bench.result["stubbed"] = {}
            bench.stubbed(arguments.hosts, arguments.strategies)
        if "down" in arguments.parts:
            fleet.down(client)
    except (FleetError, RuntimeError, OSError) as error:
        print(f"bench-scale: {error}", file=sys.stderr)
        return 1
    write(bench.result)
    print(
        json.dumps({name: value for name, value in bench.result.items() if name not in ("real", "stubbed")}, indent=1)
    )
    for sentence in bench.result["missed"]:
        print(f"bench-scale: missed: {sentence}", file=sys.stderr)
    return int(bool(bench.result["missed"]))


if __name__ == "__main__":
    sys.exit(main())
