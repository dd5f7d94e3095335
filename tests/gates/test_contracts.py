"""Every contract between the parts has a test that names it; and those contracts that the files themselves show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rules import ROOT, load

from tests.plays import run as run_playbook


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contracts", ROOT / "tools/contracts.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


contracts = tool()


def test_every_contract_has_a_test() -> None:
    assert contracts.faults(contracts.collect()) == []


def test_page_is_up_to_date() -> None:
    """When this fails, run `make docs`."""
    assert contracts.PAGE.read_text(encoding="utf-8") == contracts.render(contracts.collect())


def test_gate_sees_contracts(tmp_path: Path) -> None:
    (tmp_path / "molecule/shared").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "molecule/shared/x.yml").write_text("---\n# contract: 1\n# contract: one\n", encoding="utf-8")
    (tmp_path / "tests/test_x.py").write_text(
        "@pytest.mark.contract(2)\n@pytest.mark.parametrize('a', [1])\ndef test_a(): ...\n"
        "@pytest.mark.contract(99)\ndef test_b(): ...\ndef test_c(): ...\n"
        "@pytest.mark.contract(3)\ndef helper(): ...\n",
        encoding="utf-8",
    )
    found = contracts.collect(tmp_path)
    assert found == {1: ["molecule/shared/x.yml"], 2: ["tests/test_x.py::test_a"], 99: ["tests/test_x.py::test_b"]}
    assert len(contracts.faults(found)) == len(contracts.CONTRACTS) - 2 + 1


def tasks(path: Path) -> list[dict[str, Any]]:
    """Every task of a file with the conditions of the blocks around it in ``when``, as one text."""

    def walk(nodes: Any, conditions: str) -> list[dict[str, Any]]:
        found = []
        for node in nodes if isinstance(nodes, list) else []:
            if not isinstance(node, dict):
                continue
            own = f"{conditions} {node.get('when', '')}"
            found.append({**node, "when": own})
            for part in ("block", "rescue", "always"):
                found += walk(node.get(part), own)
        return found

    return walk(load(path), "")


ROLE_TASKS = [path for path in sorted((ROOT / "roles").glob("*/*/*.yml")) if path.parts[-2] in ("tasks", "handlers")]


@pytest.mark.contract(4)
def test_daemon_json_has_one_owner() -> None:
    files = [path for path in (ROOT / "roles").rglob("*") if path.suffix in (".yml", ".j2", ".py") and path.is_file()]
    naming = {path.relative_to(ROOT / "roles").parts[0] for path in files if "daemon.json" in path.read_text("utf-8")}
    writing = {
        path.relative_to(ROOT / "roles").parts[0]
        for path in ROLE_TASKS
        for task in tasks(path)
        # Messages may name it.
        if "daemon.json" in str({key: value for key, value in task.items() if key not in ("name", "vars", "when")})
        and not {"ansible.builtin.assert", "ansible.builtin.fail", "onprem.llm.check_results"} & task.keys()
    }
    assert "docker" in naming
    assert writing - {"docker"} == set()


@pytest.mark.contract(5)
def test_nothing_reboots_without_consent() -> None:
    reboots = [
        task for path in ROLE_TASKS for task in tasks(path) if re.search(r"'(ansible\.builtin\.)?reboot'", str(task))
    ]
    assert reboots
    assert [task["name"] for task in reboots if "nvidia_driver_reboot == 'allow'" not in task["when"]] == []
    assert load(ROOT / "roles/nvidia_driver/defaults/main.yml")["nvidia_driver_reboot"] == ""


@pytest.mark.contract(5)
@pytest.mark.parametrize(("consent", "faulty"), [("", True), ("allow", False), ("forbid", False)])
def test_a_reboot_that_is_due_and_nobody_decided_on_is_a_fault(consent: str, faulty: bool) -> None:
    """With a driver that runs and a newer one on the disk."""
    given = {"nvidia_driver_reboot": consent}
    run = run_playbook("tests/gates/reboot_consent.yml", inventory="localhost,", variables=given)
    assert run.returncode == 0, run.stdout
    said = re.search(r"FAULTS(.*) END", " ".join(run.stdout.split()))
    assert said
    assert ("nvidia_driver_reboot" in said[1]) is faulty, said[1]
    assert ("a newer driver is on the disk" in said[1]) is faulty, said[1]


@pytest.mark.contract(6)
def test_site_proves_the_models_after_everything_that_may_take_a_gpu() -> None:
    """What restarts Docker, loads drivers or recreates the container comes before the proof."""
    plays = load(ROOT / "playbooks/site.yml")
    proofs = [
        number
        for number, play in enumerate(plays)
        for task in play.get("post_tasks", [])
        if "'tasks_from': 'proof'" in str(task)
    ]
    assert len(proofs) == 1
    risky = {
        f"onprem.llm.{role}" for role in ("docker", "nvidia_driver", "nvidia_container_toolkit", "ollama", "models")
    }
    imported = [
        {
            (task.get("ansible.builtin.import_role") or task["ansible.builtin.include_role"])["name"]
            for task in play.get("tasks", [])
        }
        for play in plays
    ]
    assert risky <= set().union(*imported)
    late = risky & set().union(*imported[proofs[0] + 1 :])
    assert not late
