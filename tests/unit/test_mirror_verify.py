# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks/verify.yml says of what a mirror holds."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from role_templates import ROLES, evaluated, role_variables, trusted

CHAT = {"name": "qwen3:8b", "source": {"type": "registry", "digest": "sha256:" + "a" * 64}}
HOUSE = {"name": "house:1", "source": {"type": "gguf", "sha256": "b" * 64, "url": "https://files.example.com/house"}}
IMAGE = {"reference": "ollama/ollama:0.32.15", "digest": "sha256:" + "c" * 64}
NOTHING: dict[str, list[str]] = {"models": [], "images": [], "files": []}


def node(*models: dict[str, Any]) -> dict[str, Any]:
    """A node whose facts this play has gathered."""
    plan = {"schema": 1, "instances": [{"name": "ollama", "models": list(models)}]} if models else None
    return {"ansible_facts": {"ansible_local": {"onprem_llm": {"plan": plan, "release": None}}}}


def verified(
    nodes: dict[str, Any], held: dict[str, Any], limited: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the module is asked for, and the check of what the mirror holds.

    :param limited: whether the mirror alone is in the run.
    """
    tasks = yaml.safe_load((ROLES / "model_mirror/tasks/verify.yml").read_text(encoding="utf-8"))
    asked, told = (
        next(task for task in tasks if task["name"] == name)
        for name in ("See what the mirror lacks", "Tell what was found")
    )
    known = {
        **role_variables("model_mirror"),
        "inventory_hostname": "mirror01",
        "groups": {"llm_nodes": list(nodes), "model_mirrors": ["mirror01"]},
        "hostvars": {"mirror01": {}, **nodes},
        "ansible_play_hosts_all": ["mirror01", *([] if limited else nodes)],
        "model_mirror_images": [IMAGE],
        "__model_mirror_asked": {"results": []},
        "__model_mirror_sockets": {"stdout_lines": []},
        "__model_mirror_listen": "192.0.2.41:8444",
        "__model_mirror_held": held,
    }
    wanted = {
        name: evaluated(trusted(asked["onprem.llm.model_mirror"][name]), known | trusted(asked["vars"]))
        for name in ("models", "images", "files")
    }
    told_variables = known | trusted(told["vars"])
    results = evaluated(told_variables["__model_mirror_results"], told_variables)
    return wanted, next(item for item in results if item["check"] == "It holds what the fleet wants")


def test_the_mirror_is_asked_for_what_the_plans_in_force_want() -> None:
    wanted, check = verified({"gpu1": node(CHAT), "gpu2": node(HOUSE, CHAT)}, {"missing": NOTHING})
    assert wanted == {
        "models": [{"name": "qwen3:8b", "digest": CHAT["source"]["digest"]}],
        "images": [IMAGE],
        "files": [{"sha256": "b" * 64, "url": "https://files.example.com/house"}],
    }
    assert (check["ok"], check["found"]) == (True, "1 models, 1 images, 1 files")


def test_what_is_not_there_is_named() -> None:
    held = {"missing": {**NOTHING, "models": ["qwen3:8b"]}, "msg": "and upstream does not give it"}
    _, check = verified({"gpu1": node(CHAT)}, held)
    assert (check["ok"], check["found"]) == (False, "without qwen3:8b")


def test_a_registry_that_is_down_holds_nothing() -> None:
    _, check = verified({"gpu1": node(CHAT)}, {"missing": NOTHING, "msg": "the registry does not answer"})
    assert (check["ok"], check["found"]) == (False, "the registry does not answer")


@pytest.mark.parametrize("facts", [{}, node(), {"ansible_facts": {"ansible_local": {"onprem_llm": "error loading"}}}])
def test_a_fleet_whose_plans_are_not_known_cannot_pass(facts: dict[str, Any]) -> None:
    _, check = verified({"gpu1": facts, "gpu2": {}}, {"missing": NOTHING})
    said = "nothing says what that is; not known is the plan of gpu1, gpu2"
    assert (check["ok"], check["found"]) == (False, said)


def test_a_node_that_was_not_reached_is_named() -> None:
    _, check = verified({"gpu1": node(CHAT), "gpu2": {}}, {"missing": NOTHING})
    assert (check["ok"], check["found"]) == (True, "1 models, 1 images, 0 files; not known is the plan of gpu2")


def test_a_mirror_alone_is_not_asked_what_nobody_of_the_run_knows() -> None:
    _, check = verified({"gpu1": {}, "gpu2": {}}, {"missing": NOTHING}, limited=True)
    said = "nothing says what that is; not known is the plan of gpu1, gpu2"
    assert (check["ok"], check["asked"], check["found"]) == (True, False, said)


def test_a_mirror_alone_that_is_down_fails() -> None:
    _, check = verified({"gpu1": {}}, {"msg": "the registry does not answer"}, limited=True)
    assert (check["ok"], check["asked"]) == (False, True)
