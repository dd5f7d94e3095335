# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks/verify.yml says of the models of a node."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.onprem.llm.plugins.filter.listed_name import FilterModule
from role_templates import ROLES, evaluated, trusted


@pytest.mark.parametrize(
    ("loaded", "asleep"),
    [
        ([{"name": "qwen3:8b", "serves": ["clerk:latest", "qwen3:8b"]}], []),
        ([{"name": "qwen3:8b", "serves": ["qwen3:8b"]}], ["clerk:latest"]),
        ([], ["qwen3:8b", "clerk:latest"]),
    ],
)
def test_a_model_that_another_ones_runner_serves_is_in_memory(loaded: list[dict[str, Any]], asleep: list[str]) -> None:
    tasks = yaml.safe_load((ROLES / "models/tasks/verify.yml").read_text(encoding="utf-8"))
    [told] = [task for task in tasks if task["name"] == "Tell what was found"]
    variables = {
        **trusted(told["vars"]),
        "__models_wanted": [{"name": "qwen3:8b"}, {"name": "clerk"}],
        "__models_installed": {"loaded": loaded, "missing": []},
    }
    filters = {f"onprem.llm.{name}": function for name, function in FilterModule().filters().items()}
    assert sorted(evaluated(variables["__models_asleep"], variables, filters)) == sorted(asleep)
