"""The inventories that this repository shows are ones that its own preflight accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import plays

ROOT = Path(__file__).resolve().parents[2]


def check(inventory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return plays.run("tests/gates/check_inventory.yml", *arguments, inventory=inventory)


def test_example_has_known_variables_of_the_right_types() -> None:
    result = check("inventories/example")
    assert result.returncode == 0, result.stdout


@pytest.mark.contract(2)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("ollama_verison=0.32.15", "ollama_version"),
        ('{"docker_packages_hold": "perhaps"}', "docker_packages_hold"),
        ("docker_source=elsewhere", "upstream"),
    ],
)
def test_fault_is_told_with_what_would_be_right(fault: str, told: str) -> None:
    result = check("inventories/example", "-e", fault)
    assert result.returncode != 0
    assert told in result.stdout


def test_an_inventory_without_hosts_is_no_success(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {}}\n", encoding="utf-8")
    result = plays.run("playbooks/site.yml", inventory=inventory)
    assert result.returncode != 0
    assert "llm_nodes: the group has no host; put the inference nodes into its children" in result.stdout


@pytest.mark.contract(2)
def test_site_starts_with_the_preflight() -> None:
    text = (ROOT / "playbooks" / "site.yml").read_text(encoding="utf-8")
    assert text.index("import_playbook: preflight.yml") < text.index("hosts:")
