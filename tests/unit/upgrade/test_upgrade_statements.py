# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role upgrade states: faults, whom a drain would leave alone, and what an operator is told of a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.filter import container_toolkit
from role_templates import ROLES, evaluated, role_variables, trusted

NODE = {
    "inventory_hostname": "n1",
    "ansible_play_batch": ["n1"],
    "groups": {"llm_nodes": ["n1", "n2"], "gateways": ["g"]},
}


def stated(name: str, **given: Any) -> Any:
    variables = {**role_variables("upgrade"), **NODE, **given}
    return evaluated(variables[name], variables)


def test_the_defaults_are_no_fault() -> None:
    assert stated("__upgrade_faults") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"upgrade_drain_seconds": -1}, "upgrade_drain_seconds is -1; needed are seconds, 0 or more."),
        ({"upgrade_gate_seconds": 0}, "upgrade_gate_seconds is 0"),
        ({"upgrade_keep_releases": 1}, "releases, 2 or more"),
        ({"upgrade_speed_loss_percent": 120}, "a percentage from 0 to 100"),
        ({"upgrade_answer_agreement": 30}, "upgrade_answer_agreement is 30; needed is a share from 0 to 1."),
        ({"upgrade_prompts": []}, "upgrade_prompts is empty"),
    ],
)
def test_what_is_out_of_range_is_told(given: dict[str, Any], told: str) -> None:
    (fault,) = stated("__upgrade_faults", **given)
    assert told in fault


def status(**states: str) -> dict[str, Any]:
    """A gateway's answer: by node, the state of its server for one model."""
    servers = [{"backend": "model:chat", "node": node, "status": state} for node, state in states.items()]
    return {"results": [{"item": "g", "stdout": json.dumps({"servers": servers})}]}


@pytest.mark.parametrize(
    "states", [{"n1": "UP", "n2": "UP"}, {"n1": "UP"}, {"n2": "DOWN"}, {"n1": "UP", "n2": "UP 2/3"}]
)
def test_a_node_may_go_where_another_is_up_or_none_was_planned(states: dict[str, str]) -> None:
    assert stated("__upgrade_unserved", __upgrade_status=status(**states)) == []


@pytest.mark.parametrize("state", ["DOWN", "DRAIN", "MAINT", "DOWN 1/2"])
def test_a_node_may_not_go_where_the_others_are_out(state: str) -> None:
    (told,) = stated("__upgrade_unserved", __upgrade_status=status(n1="UP", n2=state))
    assert told == f"model:chat (by g: n2 is {state})"


def test_who_goes_at_the_same_time_does_not_count() -> None:
    both = {"__upgrade_status": status(n1="UP", n2="UP"), "ansible_play_batch": ["n1", "n2"]}
    assert len(stated("__upgrade_unserved", **both)) == 1


def said(**given: Any) -> str:
    failure = {"task": "Hold answers", "msg": "chat agrees by 0.01", "changed": True}
    known = {
        "__upgrade_back": False,
        "__upgrade_packages_kept": False,
        "__upgrade_found": {},
        "__upgrade_failure": failure,
        "__upgrade_left": "r1",
        "__upgrade_out_seconds": 74.3,
    }
    return " ".join(str(stated("__upgrade_said", **{**known, **given})).split())


def test_the_operator_is_told_what_failed_and_what_serves() -> None:
    text = said()
    assert text.startswith('n1: the upgrade failed at "Hold answers". chat agrees by 0.01 The release r1 is back')
    assert "out for 74 s" in text
    assert text.endswith("Nodes that had not had their turn are as they were.")


def test_the_operator_is_told_that_nothing_had_changed() -> None:
    assert "Nothing on the node had been changed" in said(__upgrade_failure={"task": "t", "msg": "m", "changed": False})


def test_the_operator_is_told_that_the_old_one_did_not_come_back() -> None:
    text = said(__upgrade_lost="Start its engine: no card.")
    assert "And r1 did not come back: Start its engine: no card. The node stays drained" in text
    assert "is back" not in text


def tasks(name: str) -> Any:
    return yaml.safe_load((ROLES / "upgrade" / "tasks" / name).read_text(encoding="utf-8"))


@pytest.mark.contract(9)
def test_a_node_is_put_back_before_its_failure_is_told() -> None:
    """A failing task ends the play for the whole batch; whoever is drained then stays so."""
    main = tasks("main.yml")
    names = [task["name"] for task in main]
    (whole,) = [task for task in main if "rescue" in task]
    assert not any("fail" in key for task in whole["rescue"] for key in task)
    assert names.index("Put it back into service") < names.index("Say what failed") == len(names) - 1


@pytest.mark.contract(9)
def test_the_batches_begin_with_one_and_end_at_the_first_failure() -> None:
    for playbook in ("upgrade.yml", "rollback.yml"):
        plays = yaml.safe_load((ROLES.parent / "playbooks" / playbook).read_text(encoding="utf-8"))
        (turn,) = [play for play in plays if "serial" in play and "llm_nodes" in play["hosts"]]
        assert turn["serial"][0] == "1"
        assert turn["max_fail_percentage"] == "{{ upgrade_max_fail_percentage | default(0) }}"


@pytest.mark.contract(9)
def test_what_is_gone_back_to_is_kept_before_the_change() -> None:
    (whole,) = [task for task in tasks("main.yml") if "rescue" in task]
    steps = [task["ansible.builtin.include_tasks"] for task in whole["block"]]
    assert [step.split(".")[0].split("'")[-1] for step in steps] == ["prefetch", "drain", "keep", "back", "gate"]


DOCKER: dict[str, Any] = {
    "docker_source": "distribution",
    "__docker_packages": {"docker.io": "", "runc": ""},
    "__docker_outstanding": [],
    "__docker_installed": {},
    "__docker_replaced": [],
    "group_names": ["cpu_nodes"],
}


def wanted(**given: Any) -> Any:
    return stated("__upgrade_packages_wanted", **{**DOCKER, **given})


def test_a_distributions_docker_is_brought_to_what_apt_offers_unless_forbidden() -> None:
    assert wanted() == {"docker.io": "", "runc": ""}
    assert wanted(upgrade_distribution_packages=False) == {}


def test_of_a_pinned_docker_moves_what_is_not_as_pinned() -> None:
    given = {
        "docker_source": "upstream",
        "__docker_packages": {"docker-ce": "5:29.6.1-", "docker-ce-cli": "5:29.6.1-", "containerd.io": "2.2.6-"},
        "__docker_outstanding": ["docker-ce", "docker-ce-cli", "containerd.io"],
        # The second is the wanted one and only not held, the third is not there.
        "__docker_installed": {"docker-ce": {"version": "5:29.5.0-1"}, "docker-ce-cli": {"version": "5:29.6.1-1"}},
        "__docker_replaced": ["docker-ce"],
    }
    assert wanted(**given) == {"docker-ce": "5:29.6.1-", "containerd.io": "2.2.6-"}


@pytest.mark.parametrize(
    ("family", "there", "found"),
    [
        ("Debian", "1.19.0-1", {"nvidia-container-toolkit": "1.20.0-"}),
        ("Debian", "1.20.0-1", {}),
        ("RedHat", "1.19.0-1", {}),
    ],
)
def test_the_toolkit_moves_where_apt_can_say_how(family: str, there: str, found: dict[str, str]) -> None:
    name = "nvidia-container-toolkit"
    state = {"outstanding": [name], "packages": {name: "1.20.0-"}}
    info = {"toolkit": {"packages": [{"name": name, "version": there}]}}
    assert found == wanted(
        group_names=["gpu_nodes"], upgrade_distribution_packages=False, ansible_facts={"os_family": family},
        __nvidia_container_toolkit_state=state, nvidia_driver_gpu_info=info,
    )  # fmt: skip


def test_the_role_docker_is_given_exact_versions_where_the_distribution_has_none() -> None:
    moves = [
        {"name": "docker.io", "old": "26", "new": "28"},
        {"name": "tini", "old": "1", "new": ""},
    ]
    assert stated("__upgrade_docker_candidates", **DOCKER, __upgrade_moves={"moves": moves}) == {"docker.io": "28"}
    upstream = {**DOCKER, "docker_source": "upstream"}
    assert stated("__upgrade_docker_candidates", **upstream, __upgrade_moves={"moves": moves}) == {}


def test_the_docker_role_installs_the_versions_that_it_is_given() -> None:
    variables = {**role_variables("docker"), "docker_source": "distribution"}
    variables |= {"ansible_facts": {"distribution_release": "trixie"}, "inventory_hostname": "n1"}
    assert set(evaluated(variables["__docker_packages"], variables).values()) == {""}
    # As look.yml asks it: what is given may be a template of what apt has said, which was asked for these packages.
    given = {
        **variables, **role_variables("upgrade"), "docker_source": "distribution",
        "__docker_candidates": trusted("{{ __upgrade_docker_candidates }}"),
        "__upgrade_moves": {"moves": [{"name": "docker.io", "new": "28.5.2+dfsg4-5"}, {"name": "tini", "new": ""}]},
    }  # fmt: skip
    packages = evaluated(given["__docker_packages"], given)
    assert (packages["docker.io"], "tini" in packages) == ("28.5.2+dfsg4-5", False)


def test_a_role_below_the_engine_is_due_by_what_it_would_do() -> None:
    nothing: dict[str, list[str]] = {"note": ["a note"], "install": [], "change": [], "restart": [], "interrupt": []}
    results = [
        {"item": "docker", "outlook": nothing},
        {"item": "nvidia_driver", "outlook": {**nothing, "change": ["x"]}},
    ]
    assert [due["item"] for due in stated("__upgrade_below_due", __upgrade_below={"results": results})] == [
        "nvidia_driver"
    ]


def test_what_is_below_the_engine_is_in_the_order_of_the_site() -> None:
    assert stated("__upgrade_roles_below", group_names=["cpu_nodes"]) == ["docker"]
    assert stated("__upgrade_roles_below", group_names=["gpu_nodes"]) == [
        "docker",
        "nvidia_driver",
        "nvidia_container_toolkit",
    ]


def test_whether_packages_went_back_is_told() -> None:
    assert "So are its packages." in said(__upgrade_packages_kept=True)
    found = {"below": ["docker"]}
    assert "Its packages stay as they are now." in said(__upgrade_packages_kept=False, __upgrade_found=found)
    assert "packages" not in said()


GATEWAY: dict[str, Any] = {
    "__gateway_packages": ["nginx", "lua-cjson"],
    "__gateway_installed": {"nginx": "1.26", "lua-cjson": "2.1"},
    "__gateway_nginx_is_ours": True,
    "__balancer_is_ours": True,
    "__balancer_installed": "3.0",
}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["nginx", "lua-cjson", "haproxy"]),
        ({"__gateway_nginx_is_ours": False}, ["haproxy"]),
        ({"__balancer_is_ours": False}, ["nginx", "lua-cjson"]),
        ({"groups": {"llm_nodes": ["n1"], "gateways": ["g"]}}, ["nginx", "lua-cjson"]),
        ({"upgrade_distribution_packages": False}, []),
    ],
)
def test_of_a_gateway_moves_what_came_with_the_collection(given: dict[str, Any], names: list[str]) -> None:
    assert stated("__upgrade_gateway_wanted", **{**GATEWAY, **given}) == dict.fromkeys(names, "")


def test_a_gateway_that_failed_is_told_by_what_became_of_it() -> None:
    def told(**given: Any) -> str:
        known = {"__upgrade_failure": {"task": "Have nginx read", "msg": "emerg"}, "__upgrade_lost": "", **given}
        return " ".join(str(stated("__upgrade_gateway_said", **known)).split())

    assert "None of its packages had been changed." in told()
    changed = {"__upgrade_gateway_changed": True, "__upgrade_packages": {"lost": []}}
    assert "The packages that were there are back, and serve." in told(**changed)
    assert "And they did not go back: x" in told(**{**changed, "__upgrade_lost": "x"})
    assert "stay as they are now" in told(**{**changed, "__upgrade_packages": {"lost": ["nginx 1"]}})


def test_the_toolkits_own_decision_says_what_moves() -> None:
    """With the role's variables and its filter, as look.yml has them on a node with a GPU."""
    name = "nvidia-container-toolkit-base"
    gpu = {"index": 0, "uuid": "GPU-a", "mig_mode": None, "mig_devices": []}
    package = {"name": name, "version": "1.19.0-1", "held": True}
    there = {
        "version": "1.19.0", "packages": [package], "record": {"installed": [name]}, "units_enabled": True,
        "refresh_path_unit": "active",
    }  # fmt: skip
    variables = {
        **role_variables("upgrade"), **role_variables("nvidia_container_toolkit"), **NODE, **DOCKER,
        "group_names": ["gpu_nodes"], "upgrade_distribution_packages": False,
        "ansible_facts": {"os_family": "Debian", "architecture": "x86_64"},
        "nvidia_driver_gpu_info": {"gpus": [gpu], "cdi": {"specs": []}, "toolkit": there, "driver": {}},
    }  # fmt: skip
    filters = {f"onprem.llm.{key}": value for key, value in container_toolkit.FilterModule().filters().items()}
    assert evaluated(variables["__upgrade_packages_wanted"], variables, filters) == {name: "1.20.0-"}
