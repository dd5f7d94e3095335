"""playbooks/status.yml on hosts that are this machine, and on one that does not answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import fleet_sample as sample
import pytest
import yaml

from tests import plays

GROUPS = {"llm_nodes": sample.NODES, "gateways": (sample.GATEWAY,)}


def lay_out(directory: Path, program: Path = sample.PROGRAMS / "fleet_status.py", **more: dict[str, Any]) -> Path:
    """An inventory whose hosts have their files below a directory each."""
    hosts = {
        name: {
            **plays.local(),
            "status_program": str(program),
            "status_root": str(directory / name),
            **more.get(name, {}),
        }
        for names in GROUPS.values()
        for name in names
    }
    children = {group: {"hosts": {name: hosts[name] for name in names}} for group, names in GROUPS.items()}
    inventory = directory / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"children": children}}), encoding="utf-8")
    return inventory


@pytest.fixture
def well(tmp_path: Path) -> Path:
    now = time.time()
    for node in sample.NODES:
        sample.write_node(tmp_path / node, node, now)
    sample.write(tmp_path / sample.GATEWAY, "metrics.prom", sample.gateway_metrics(now))
    return tmp_path


def row(output: str, host: str) -> str:
    return next(line for line in output.splitlines() if line.startswith(host + " "))


def test_a_line_a_host(well: Path) -> None:
    run = plays.run("playbooks/status.yml", inventory=lay_out(well), variables={"strict": True})
    assert run.returncode == 0, run.stdout
    cells = row(run.stdout, "gpu01").split("  ")
    assert [cell.strip() for cell in cells if cell.strip()] == [
        "gpu01", "node", "ok", "0.32.15", "2 of 2", "8", "79.9 GiB of 90.0 GiB", "-", "-",
    ]  # fmt: skip
    assert "10 of 20, 2 wait" in row(run.stdout, "gw01")
    assert "Alerts are not known: no monitoring server was asked." in run.stdout
    assert "changed=0" in run.stdout


def test_what_is_wrong_is_told_and_fails_only_where_asked(well: Path, tmp_path: Path) -> None:
    sample.write_node(well / "gpu02", "gpu02", time.time(), states={"bge-m3": "failed"})
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
    inventory = lay_out(well, cpu01=away)
    told = tmp_path / "status.json"
    run = plays.run("playbooks/status.yml", inventory=inventory, variables={"status_file": str(told)})
    assert run.returncode == 0, run.stdout
    assert "failing" in row(run.stdout, "gpu02")
    assert "gpu02: bge-m3:latest could not be loaded  [LLMModelNotReady]" in run.stdout
    assert "unreachable" in row(run.stdout, "cpu01")
    fleet = json.loads(told.read_text(encoding="utf-8"))
    states = {host["host"]: host["state"] for host in fleet["hosts"]}
    assert states == {"gpu01": "ok", "gpu02": "failing", "cpu01": "unreachable", "gw01": "ok"}
    assert all(host["functions"] for host in fleet["hosts"])
    strict = plays.run("playbooks/status.yml", inventory=inventory, variables={"strict": True})
    assert strict.returncode == 2, strict.stdout
    assert "cpu01 is unreachable; gpu02 is failing" in strict.stdout


def test_a_host_without_the_program(well: Path, tmp_path: Path) -> None:
    run = plays.run("playbooks/status.yml", inventory=lay_out(well, tmp_path / "nowhere.py"))
    assert run.returncode == 0, run.stdout
    assert "gw01: it has no status program yet: run site.yml" in run.stdout
