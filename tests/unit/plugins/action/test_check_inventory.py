# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""check_inventory: every fault of a host at once, with variable, value and what would be right, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.onprem.llm.plugins.action import check_inventory

Act = Callable[..., dict[str, Any]]
Check = Callable[..., dict[str, Any]]

SPECS = {
    "engine": {
        "engine_version": {"type": "str", "required": True},
        "engine_port": {"type": "int", "default": 1},
        "engine_mode": {"type": "str", "choices": ["fast", "safe"], "default": "safe"},
        "engine_open": {"type": "bool", "default": False},
        "engine_hosts": {"type": "list", "elements": "str", "default": []},
        "engine_limits": {"type": "dict", "options": {"memory": {"type": "int"}, "cpus": {"type": "float"}}},
    },
    "engine_proof": {"engine_proof_level": {"type": "int", "default": 1}},
    "gateway": {
        "gateway_password": {"type": "str", "no_log": True, "default": ""},
        "gateway_retries": {"type": "int", "no_log": True, "default": 1},
        "gateway_users": {
            "type": "list",
            "elements": "dict",
            "options": {
                "name": {"type": "str", "required": True},
                "role": {"type": "str", "choices": ["user", "admin"]},
                "key": {"type": "str", "no_log": True},
                "age": {"type": "int"},
            },
        },
    },
}


@pytest.fixture
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for role, options in SPECS.items():
        path = tmp_path / role / "meta" / "argument_specs.yml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump({"argument_specs": {"main": {"options": options}}}))
    (tmp_path / "without_specs").mkdir()
    monkeypatch.setattr(check_inventory, "ROLES", str(tmp_path))
    return tmp_path


@pytest.fixture
def check(act: Act) -> Callable[..., dict[str, Any]]:
    def call(
        variables: dict[str, Any],
        roles: Sequence[str] = ("engine", "gateway"),
        foreign: Sequence[str] = (),
        unset: bool = False,
        tell: bool = True,
    ) -> dict[str, Any]:
        """What the action says of a host with these variables; ``unset`` takes away those that have no value."""
        given = {"inventory_hostname": "node1", "engine_version": "1.2.3", **variables}
        given = {name: value for name, value in given.items() if not (unset and value is None)}
        return act("check_inventory", {"roles": list(roles), "foreign": list(foreign), "tell": tell}, given)

    return call


@pytest.fixture
def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replaced.yml"
    entries = [
        {"name": "engine_egress", "since": "1.2.0", "instead": "engine_hosts"},
        {"name": "engine_mode", "since": "1.3.0", "works_until": "2.0.0", "instead": "engine_version"},
    ]
    path.write_text(yaml.safe_dump({"replaced_variables": entries}))
    monkeypatch.setattr(check_inventory, "REPLACED", str(path))


@pytest.mark.usefixtures("roles", "replaced")
def test_replaced_variables(check: Check) -> None:
    found = check({"engine_egress": "secret value", "engine_mode": "fast"}, tell=False)
    assert [fault["message"] for fault in found["faults"]] == [
        "engine_egress: is no variable any more since 1.2.0; instead: engine_hosts"
    ]
    assert found["faults"][0]["role"] == "engine"
    assert found["warnings"] == ["engine_mode: works until 2.0.0; from 1.3.0 on, engine_version"]
    assert "warnings" not in check({})


def test_the_list_of_replaced_variables() -> None:
    """What is no more is in no specification, what still works is; and the page of upgrades names each."""
    known = {name for options in check_inventory.specifications(check_inventory.ROLES).values() for name in options}
    page = (Path(check_inventory.ROLES).parent / "docs/upgrading.md").read_text(encoding="utf-8")
    for name, entry in check_inventory.replaced(check_inventory.REPLACED).items():
        assert set(entry) <= {"name", "since", "works_until", "instead"}
        assert (name in known) == ("works_until" in entry)
        assert f"`{name}`" in page


@pytest.mark.usefixtures("roles")
def test_a_good_inventory_passes(check: Check) -> None:
    users = [{"name": "alice", "role": "admin", "key": "{{ secret_of_alice }}", "age": 5}]
    good = {
        "engine_port": "8080", "engine_mode": "{{ 'fast' if true }}", "engine_hosts": ["a"],
        "engine_limits": {"cpus": 2},
        "gateway_users": users, "secret_of_alice": "k" * 40, "other": 3, "engines": 1, "__engine_internal": 1,
    }  # fmt: skip
    result = check(good)
    assert not result.get("failed"), result
    assert (result["changed"], result["checked"]) == (False, 6)


@pytest.mark.usefixtures("roles")
@pytest.mark.contract(2)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("engine_port", "soon", "engine_port is 'soon'; a whole number is needed"),
        ("engine_port", [1], "engine_port is [1]; a whole number is needed"),
        ("engine_mode", "warp", "engine_mode is 'warp'; one of fast, safe is needed"),
        ("engine_open", "maybe", "engine_open is 'maybe'; true or false is needed"),
        ("engine_version", None, "engine_version has no value; a text is needed"),
        (
            "engine_limits",
            {"memry": 1},
            "engine_limits is {'memry': 1}: engine_limits.memry. Supported parameters include: ",
        ),
        ("engine_limits", {"memory": "x"}, "engine_limits is {'memory': 'x'}: argument 'memory'"),
        ("engine_mode", "{{ nowhere }}", "engine_mode cannot be evaluated: 'nowhere' is undefined"),
        ("engine_versoin", "2", "engine_versoin: no role has this variable; did you mean engine_version?"),
        ("gateway_xyzzy", 1, "gateway_xyzzy: no role has this variable; the role gateway has none like it"),
        ("engine_proof_levle", 1, "engine_proof_levle: no role has this variable; did you mean engine_proof_level?"),
    ],
)
def test_a_fault_names_variable_value_and_what_would_be_right(
    name: str, value: Any, message: str, check: Check
) -> None:
    result = check({name: value})
    assert result["failed"]
    [fault] = result["faults"]
    assert fault["variable"] == name
    assert fault["message"].startswith(message)
    assert result["msg"].startswith("1 fault in the variables of node1:\n- " + message)


@pytest.mark.usefixtures("roles")
def test_all_faults_are_told_at_once(check: Check) -> None:
    result = check({"engine_port": "a", "engine_mode": "b", "gatway": 1, "gateway_user": [], "engine_open": "c"})
    found = sorted(fault["variable"] for fault in result["faults"])
    assert found == ["engine_mode", "engine_open", "engine_port", "gateway_user"]
    assert result["msg"].startswith("4 faults in the variables of node1:")


@pytest.mark.usefixtures("roles")
def test_faults_may_be_kept_for_a_report_on_all_hosts(check: Check) -> None:
    result = check({"engine_port": "a"}, tell=False)
    assert not result.get("failed")
    assert [fault["role"] for fault in result["faults"]] == ["engine"]


@pytest.mark.usefixtures("roles")
def test_a_required_variable_that_is_not_set(check: Check) -> None:
    result = check({"engine_version": None}, roles=["onprem.llm.engine"], unset=True)
    assert "engine_version is not set, and the role engine needs it; a text is needed" in result["msg"]


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gateway_password", ["pa55word-of-alice"]),
        ("gateway_retries", "pa55word-of-alice"),
        ("gateway_users", "pa55word-of-alice"),
        ("gateway_users", ["pa55word-of-alice"]),
        ("gateway_users", [{"name": "a", "key": ["pa55word-of-alice"]}]),
        ("gateway_users", [{"name": "a", "role": "pa55word-of-alice"}]),
        ("gateway_users", [{"name": "a", "age": "pa55word-of-alice"}]),
        ("gateway_users", [{"key": "pa55word-of-alice"}]),
        ("gateway_users", [{"name": "a", "kye": "pa55word-of-alice"}]),
        ("gateway_password", "{{ 'pa55word-of-alice' | no_such_filter }}"),
        ("gateway_password", "{{ pa55word-of-alice }}"),
    ],
)
def test_a_secret_is_never_shown(name: str, value: Any, check: Check) -> None:
    result = check({name: value})
    assert "pa55word" not in str(result)
    # A list passes for a text; whatever fails is named.
    assert name in result.get("msg", name)


@pytest.mark.usefixtures("roles")
def test_a_fault_inside_a_secret_is_still_located(check: Check) -> None:
    message = check({"gateway_users": [{"name": "a", "kye": "x"}]})["msg"]
    assert "gateway_users.kye. Supported parameters include: age, key, name, role" in message
    assert "name" in check({"gateway_users": [{"key": "pa55word"}]})["msg"]


@pytest.mark.usefixtures("roles")
def test_what_depends_on_facts_is_left_for_later(check: Check) -> None:
    later = {"engine_mode": "{{ ansible_facts['x'] }}", "engine_hosts": "{{ hostvars['b'].x }}"}
    by_way = {"engine_port": "{{ base + 1 }}", "base": "{{ other['port'] }}", "other": "{{ ansible_facts['x'] }}"}
    assert not check({**later, **by_way}).get("failed")
    assert "engine_port cannot be evaluated" in check({"engine_port": "{{ base.x }}", "base": {}})["msg"]


@pytest.mark.usefixtures("roles")
def test_outputs_of_roles_and_foreign_variables_are_no_faults(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    monkeypatch.setattr(check_inventory, "OUTPUTS", frozenset({"engine_plan"}))
    assert not check({"engine_plan": {}, "gateway_of_someone": 1}, foreign=["gateway_of_*"]).get("failed")


@pytest.mark.usefixtures("roles")
def test_an_unknown_role_is_refused(check: Check) -> None:
    with pytest.raises(AnsibleError, match="no role without_specs with a meta"):
        check({}, roles=["engine", "without_specs"])


def test_every_role_of_the_collection_can_be_read() -> None:
    specs = check_inventory.specifications(check_inventory.ROLES)
    assert {"ollama", "models", "gateway"} <= set(specs)
    for role, options in specs.items():
        assert all(name.startswith(role + "_") for name in options), role
