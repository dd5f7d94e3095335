# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's main() in this process, as core hands it its arguments, and gives what it returned."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> Run:
    def call(name: str, /, check_mode: bool = False, diff: bool = False, **arguments: Any) -> dict[str, Any]:
        module = importlib.import_module(f"ansible_collections.onprem.llm.plugins.modules.{name}")
        given = {**arguments, "_ansible_check_mode": check_mode, "_ansible_diff": diff}
        given.update(_ansible_remote_tmp=str(tmp_path), _ansible_keep_remote_files=False)
        with ExitStack() as stack:
            stack.enter_context(patch_module_args(given))
            stack.enter_context(pytest.raises(SystemExit))
            module.main()
        output = capsys.readouterr().out
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return result

    assert basic is not None
    return call
