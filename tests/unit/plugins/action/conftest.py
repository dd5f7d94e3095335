# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an action plugin in this process, with variables as an inventory gives them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from role_templates import trusted

Act = Callable[..., dict[str, Any]]


@pytest.fixture
def act() -> Act:
    def call(
        name: str, arguments: dict[str, Any], variables: dict[str, Any], module: Callable[..., Any] | None = None
    ) -> dict[str, Any]:
        """What the action ``name`` returns; ``module`` stands in for what it would run on the host."""
        given = trusted(variables)
        loader = DataLoader()
        task = SimpleNamespace(
            args=arguments, action=name, async_val=0, check_mode=True, diff=False, environment=[], no_log=False,
            _role=None, _parent=None, collections=[], delegate_to=None,
        )  # fmt: skip
        plugin = importlib.import_module(f"ansible_collections.onprem.llm.plugins.action.{name}")
        action = plugin.ActionModule(
            task=task,
            connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)),
            play_context=SimpleNamespace(check_mode=True, diff=False),
            loader=loader,
            templar=Templar(loader=loader, variables=given),
            shared_loader_obj=None,
        )
        if module:
            action._execute_module = module
        result: dict[str, Any] = action.run(task_vars=given)
        return result

    return call
