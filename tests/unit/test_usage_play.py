"""playbooks/usage.yml on two gateways that are this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays

COUNTED = {
    "requests": 3,
    "failed": 0,
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "engine_seconds": 3600,
    "gpu_seconds": 1800,
}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    hosts: dict[str, Any] = {}
    for name, requests in {"gw1": 3, "gw2": 4}.items():
        ledger = tmp_path / f"{name}.json"
        months = {"2026-11": {"ann": {"chat:q4": {**COUNTED, "requests": requests}}}}
        ledger.write_text(json.dumps({"schema": 1, "months": months}), encoding="utf-8")
        hosts[name] = {**plays.local(), "ansible_become": False, "usage_ledger_file": str(ledger)}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"children": {"gateways": {"hosts": hosts}}}}), encoding="utf-8")
    return inventory


def test_both_gateways_are_counted(fleet: Path, tmp_path: Path) -> None:
    table = tmp_path / "usage.csv"
    run = plays.run(
        "playbooks/usage.yml", inventory=fleet, variables={"usage_month": "2026-11", "usage_file": str(table)}
    )
    assert run.returncode == 0, run.stdout
    assert "2026-11,ann,chat:q4,7,0,20,40,2.0,1.0" in table.read_text(encoding="utf-8")
    assert table.stat().st_mode & 0o777 == 0o600
    line = next(line for line in run.stdout.splitlines() if "ann" in line and "chat:q4" in line)
    assert line.split() == ["ann", "chat:q4", "7", "0", "20", "40", "2.000", "1.000"]


def test_a_gateway_that_counted_nothing_and_a_wrong_month(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "gw2.json").unlink()
    run = plays.run("playbooks/usage.yml", inventory=fleet, variables={"usage_month": "2026-11"})
    assert run.returncode == 0, run.stdout
    wrong = plays.run("playbooks/usage.yml", inventory=fleet, variables={"usage_month": "november"})
    assert wrong.returncode != 0
    assert "such as 2026-11" in wrong.stdout
