"""What holds for every file of the repository."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from rules import (
    ROOT,
    bare_fact_faults,
    installed_collections,
    load,
    machine_path_faults,
    module_faults,
    requirement_faults,
    tool,
    tracked_files,
    yaml_faults,
)

from tests import long

ANSIBLE = ("roles", "playbooks", "inventories", "molecule")


def relative(path: Path) -> Path:
    return path.relative_to(ROOT)


def ansible_files(*suffixes: str) -> list[Path]:
    return [
        path
        for path in tracked_files()
        if path.suffix in suffixes and relative(path).parts[0] in (*ANSIBLE, "site.yml")
    ]


def machine_paths() -> list[str]:
    """Directories of the machine that the test runs on: checkout, Python environment and the user's home."""
    return [f"{path}/" for path in {ROOT, Path(sys.prefix), Path.home()} if len(path.parts) > 2]


@pytest.mark.contract(3)
def test_yaml() -> None:
    # What the refusals set is wrong on purpose.
    files = [path for path in ansible_files(".yml", ".yaml") if path.name != "refusals.yml"]
    assert [fault for path in files for fault in yaml_faults(path)] == []


def test_the_page_of_refusals_is_up_to_date() -> None:
    """When this fails, run `make docs`."""
    made = tool("preflight_page")
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text


def test_the_page_of_faults_is_up_to_date_and_has_no_miss() -> None:
    """When this fails, run `python -m tests.faults --write`, then `make docs`."""
    made = tool("diagnosis_page")
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text
    results = json.loads(made.RESULTS.read_text(encoding="utf-8"))
    faults = load(made.FAULTS)
    assert len(faults) >= 25
    assert [fault["fault"] for fault in faults if not results.get(fault["fault"], {}).get("hit")] == []
    assert [fault["fault"] for fault in faults if results[fault["fault"]]["first"] != fault["first"]] == []


def test_the_table_of_long_tests_is_up_to_date() -> None:
    """When this fails, run `python -m tests.long --write PART` of a part."""
    results = json.loads(long.RESULTS.read_text(encoding="utf-8"))
    assert long.table(results) in long.PAGE.read_text(encoding="utf-8")


@pytest.mark.contract(3)
def test_templates_pin_what_they_name() -> None:
    floating = re.compile(r"^\s*image:\s*\S*:latest\b", re.MULTILINE)
    assert [
        str(relative(path)) for path in ansible_files(".j2") if floating.search(path.read_text(encoding="utf-8"))
    ] == []


def test_facts_are_read_from_ansible_facts() -> None:
    assert [fault for path in ansible_files(".yml", ".j2") for fault in bare_fact_faults(path)] == []


def test_no_path_of_one_machine() -> None:
    assert [fault for path in tracked_files() for fault in machine_path_faults(path, machine_paths())] == []


def test_requirements_are_what_is_installed() -> None:
    requirements, galaxy = load(ROOT / "requirements.yml"), load(ROOT / "galaxy.yml")
    assert requirement_faults(requirements, galaxy["dependencies"], installed_collections()) == []


@pytest.mark.contract(3)
def test_python_requirements_are_pinned() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [
        line for line in lines if line and not re.fullmatch(r"#.*|[\w.\[\]-]+==[\w.!+]+(\s*(;|--hash=).*)?", line)
    ] == []


MODULES = sorted((ROOT / "plugins/modules").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_documentation(path: Path) -> None:
    assert module_faults(path) == []


def test_module_utils_know_nothing_of_ansible_core() -> None:
    """But for its HTTP client, which tests/run.py's tests on the newest core go by."""
    known = [
        path.name
        for path in sorted((ROOT / "plugins" / "module_utils").glob("*.py"))
        if re.search(r"^\s*(from|import) ansible\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert known == ["_http.py"]


def test_every_action_plugin_is_documented_as_a_module() -> None:
    actions = {path.stem for path in (ROOT / "plugins/action").glob("[a-z]*.py")}
    assert actions - {path.stem for path in MODULES} == set()


def test_every_filter_and_lookup_is_documented() -> None:
    for path in [path for kind in ("filter", "lookup") for path in (ROOT / "plugins" / kind).glob("[a-z]*.py")]:
        assert path.with_suffix(".yml").is_file() or "DOCUMENTATION = " in path.read_text(encoding="utf-8"), path.name


# The gates can fail.


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("- apt: {name: x, state: latest}", 1),
        ("services: {a: {image: 'ollama/ollama:latest'}}", 1),
        ("ollama_version: latest", 1),
        ("models: ['gemma3:latest']\nname: latest", 0),
        ("- command: x\n  ignore_errors: true", 1),
        ("- command: x\n  no_log: true", 1),
        ('- block: [{command: x, no_log: "{{ pki_secure_logging }}"}]', 0),
        ("a: !vault |\n  x\nb: !unsafe '{{'", 0),
        ("a: [", 1),
    ],
)
def test_gate_sees_yaml(tmp_path: Path, text: str, faults: int) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text, encoding="utf-8")
    assert len(yaml_faults(path)) == faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("{{ ansible_distribution }}", 1),
        ("{{ ansible_default_ipv4.address }} {{ ansible_default_ipv4.gateway }}", 1),
        ("{{ ansible_facts['ansible_local']['x'] }} {{ ansible_facts.distribution }}", 0),
        ("{{ ansible_host }} {{ ansible_check_mode }} {{ ansible_failed_result.msg }} {{ ansible_loop_var }}", 0),
    ],
)
def test_gate_sees_bare_facts(tmp_path: Path, text: str, faults: int) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text, encoding="utf-8")
    assert len(bare_fact_faults(path)) == faults


def test_gate_sees_machine_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("/".join(["", "home", "somebody", "x"]) + f" {ROOT}/y /etc/home/x $HOME/x", encoding="utf-8")
    assert len(machine_path_faults(path, [f"{ROOT}/"])) == 2


def test_gate_sees_requirements() -> None:
    requirements = {"collections": [{"name": "a.b", "version": "1.0.0"}, {"name": "c.d", "version": "2.0.0"}]}
    dependencies = {"a.b": ">=1.0.0", "c.d": ">=2.0.0"}
    assert requirement_faults(requirements, dependencies, {"a.b": "1.0.0", "c.d": "2.0.0"}) == []
    assert len(requirement_faults(requirements, dependencies, {"a.b": "1.0.1", "c.d": "2.0.0"})) == 1
    assert len(requirement_faults(requirements, {"a.b": ">=1.0.0"}, {"a.b": "1.0.0", "c.d": "2.0.0"})) == 1
    assert len(requirement_faults(requirements, {**dependencies, "e.f": "*"}, {"a.b": "1.0.0", "c.d": "2.0.0"})) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("module: gpu_info", "module: other"),
        ("short_description:", "x:"),
        ("EXAMPLES =", "_EXAMPLES ="),
        ("onprem.llm.gpu_info", "gpu_info"),
        ("returned:", "x:"),
        ("  - onprem.llm.attributes.info\n", ""),
    ],
)
def test_gate_sees_module_documentation(tmp_path: Path, old: str, new: str) -> None:
    text = (ROOT / "plugins/modules/gpu_info.py").read_text(encoding="utf-8")
    path = tmp_path / "gpu_info.py"
    path.write_text(text, encoding="utf-8")
    assert module_faults(path) == []
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert module_faults(path) != []
