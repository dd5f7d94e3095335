# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action upgrade_lock: what it makes of the holder that the module found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

Act = Callable[..., dict[str, Any]]
lock = importlib.import_module("ansible_collections.onprem.llm.plugins.action.upgrade_lock")


class Module:
    """Stands in for the module, on a host where a holder has the lock."""

    def __init__(self, holder: dict[str, Any] | None) -> None:
        self.holder = holder
        self.asked: list[dict[str, Any]] = []

    def __call__(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.asked.append(module_args)
        over = module_args.get("taken_from")
        if self.holder is None or over == str(self.holder.get("run") or "unknown"):
            self.holder = module_args["owner"]
        return {"taken": self.holder["run"] == module_args["owner"]["run"], "holder": self.holder, "changed": True}


def held(**given: Any) -> dict[str, Any]:
    known = {"run": "r1", "user": "ops", "controller": "c1", "since": "2026-11-22T12:00:00Z", "playbook": "upgrade.yml"}
    return {**known, **given}


def test_a_free_lock_is_taken(act: Act) -> None:
    assert not act("upgrade_lock", {}, {}, Module(None)).get("failed")


def test_another_controllers_is_refused_with_the_way_out(act: Act) -> None:
    result = act("upgrade_lock", {}, {}, Module(held(boot="elsewhere", pid=1, started="1")))
    assert result["failed"]
    assert "begun 2026-11-22T12:00:00Z by ops on c1" in result["msg"]
    assert "-e upgrade_break_lock=r1" in result["msg"]


def test_it_is_taken_over_where_the_operator_says_so(act: Act) -> None:
    module = Module(held(boot="elsewhere", pid=1, started="1"))
    assert not act("upgrade_lock", {"break_run": "r1"}, {}, module).get("failed")
    assert module.asked[-1]["taken_from"] == "r1"


def test_a_living_run_of_this_controller_keeps_it(act: Act) -> None:
    own = lock.owner("upgrade.yml")
    result = act("upgrade_lock", {}, {}, Module({**own, "run": "r1"}))
    assert f"Its process {own['pid']} lives" in result["msg"]


@pytest.mark.parametrize("dead", [{"pid": 2**22 + 1, "started": "5"}, {"started": "an earlier process"}])
def test_a_dead_run_of_this_controller_loses_it(act: Act, dead: dict[str, Any]) -> None:
    module = Module({**lock.owner("upgrade.yml"), "run": "r1", **dead})
    assert not act("upgrade_lock", {}, {}, module).get("failed")


def test_who_was_slower_is_told(act: Act) -> None:
    class Faster(Module):
        def __call__(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
            return {"taken": False, "holder": self.holder}

    result = act("upgrade_lock", {"break_run": "r1"}, {}, Faster(held(boot="elsewhere")))
    assert "another run took the lock" in result["msg"]
