"""Every role is built the same way, and what it says of itself is so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rules import (
    ROLES,
    ROOT,
    foreign_default_faults,
    metadata_faults,
    missing_rooms,
    role_defaults,
    specification_faults,
    tool,
)

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


@each_role
def test_rooms(role: Path) -> None:
    assert missing_rooms(role) == []


@each_role
def test_metadata(role: Path) -> None:
    assert metadata_faults(role) == []


@pytest.mark.contract(2)
@each_role
def test_argument_specs_equal_defaults(role: Path) -> None:
    assert specification_faults(role) == []


@each_role
def test_readme_is_up_to_date(role: Path) -> None:
    """When this fails, run tools/role_readme.py."""
    assert (role / "README.md").read_text(encoding="utf-8") == tool("role_readme").readme(role)


def ansible_files() -> list[Path]:
    places = (ROOT / "roles", ROOT / "playbooks", ROOT / "inventories", ROOT / "molecule")
    return [path for place in places for path in place.rglob("*") if path.suffix in (".yml", ".j2") and path.is_file()]


def test_repeated_defaults_are_equal() -> None:
    defaults = role_defaults(ROLES)
    assert [fault for path in ansible_files() for fault in foreign_default_faults(path, defaults)] == []


# The gates can fail.


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A copy of a sound role, for a test to spoil."""
    return Path(shutil.copytree(ROOT / "roles/logrotate", tmp_path / "logrotate"))


def change(path: Path, *keys: str, **values: Any) -> None:
    """Set *values* in the mapping that *keys* lead to; None takes a key away."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    node = document
    for key in keys:
        node = node[key]
    node.update(values)
    for name in [name for name, value in values.items() if value is None]:
        del node[name]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


OPTIONS = ("argument_specs", "main", "options")


@pytest.mark.parametrize(
    ("file", "keys", "values", "fault"),
    [
        pytest.param("defaults", (), {"logrotate_keep": 15}, "15 in defaults is 14", id="other value"),
        pytest.param("defaults", (), {"logrotate_keep": "14"}, "'14' in defaults is 14", id="other type"),
        pytest.param("defaults", (), {"logrotate_keep": None}, "none in defaults", id="missing in defaults"),
        pytest.param("defaults", (), {"logrotate_new": 1}, "not in argument_specs", id="missing in argument_specs"),
        pytest.param(
            "specs", (*OPTIONS, "logrotate_keep"), {"default": None}, "none in argument_specs", id="no default"
        ),
        pytest.param(
            "specs", (*OPTIONS, "logrotate_keep"), {"required": True}, "is required", id="required with default"
        ),
        pytest.param("specs", (*OPTIONS, "logrotate_keep"), {"description": ""}, "no description", id="no description"),
        pytest.param("specs", OPTIONS, {"keep": {"description": "x"}}, "role's name", id="foreign name"),
    ],
)
def test_gate_sees_specification(
    role: Path, file: str, keys: tuple[str, ...], values: dict[str, Any], fault: str
) -> None:
    assert specification_faults(role) == []
    change(role / {"defaults": "defaults/main.yml", "specs": "meta/argument_specs.yml"}[file], *keys, **values)
    assert len(specification_faults(role)) == 1
    assert fault in specification_faults(role)[0]


def test_gate_leaves_internal_names_out(role: Path) -> None:
    change(role / "defaults/main.yml", __logrotate_internal=1)
    assert specification_faults(role) == []


def test_gate_sees_missing_room(role: Path) -> None:
    (role / "tasks/remove.yml").unlink()
    assert missing_rooms(role) == ["logrotate: tasks/remove.yml is missing"]


def test_gate_sees_metadata(role: Path) -> None:
    change(role / "meta/main.yml", "galaxy_info", license="MIT", description=None)
    assert len(metadata_faults(role)) == 2


def test_gate_sees_stale_readme(role: Path) -> None:
    before = tool("role_readme").readme(role)
    change(role / "meta/argument_specs.yml", *OPTIONS, "logrotate_keep", description="Something else.")
    assert tool("role_readme").readme(role) != before


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("{{ engine_port | default(1) }}", 1),
        ("{{ engine_port | default('11434') }}", 1),
        ("{{ engine_port|default( 1 ) }}", 1),
        ("{{ engine_port | default(11434) }} {{ engine_on | default(true) }}", 0),
        ("{{ engine_on | default(false) }}", 1),
        ("{{ engine_list | default([]) }} {{ other | default(1) }} {{ engine_port | default(omit) }}", 0),
        ("{{ engine_template | default(3) }}", 0),
    ],
)
def test_gate_sees_other_literal(tmp_path: Path, text: str, faults: int) -> None:
    path = tmp_path / "x.j2"
    path.write_text(text, encoding="utf-8")
    defaults = {"engine_port": 11434, "engine_on": True, "engine_list": [], "engine_template": "{{ x }}"}
    assert len(foreign_default_faults(path, defaults)) == faults


def test_readme_markup() -> None:
    markdown = tool("role_readme").markdown
    assert markdown("O(a_b) is V(x,y\\)), RV(c), C(d) or M(e.f.g)") == "`a_b` is `x,y)`, `c`, `d` or `e.f.g`"
    assert markdown("see L(the page,https://example.com/) and U(https://example.org)") == (
        "see [the page](https://example.com/) and <https://example.org>"
    )
