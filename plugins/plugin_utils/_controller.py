# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions that stay on the controller: they see the inventory and what other tasks registered, and ask no host."""

from __future__ import annotations

import typing as t
from abc import abstractmethod

from ansible.plugins.action import ActionBase


class ControllerAction(ActionBase):
    """Answers by the task's arguments and variables alone, and changes no host, so check mode leaves nothing out."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    # As an argument_spec has them.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {}

    @abstractmethod
    def answer(self, arguments: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        """What the task returns, beside that nothing has changed.

        :arg arguments: those of the task, checked, with their defaults.
        :arg variables: those of the task's host.
        """

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _given, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        result.update(changed=False)
        result.update(self.answer(arguments, task_vars or {}))
        return result
