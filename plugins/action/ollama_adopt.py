# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.onprem.llm.plugins.plugin_utils._turns import TurnsAction


class ActionModule(TurnsAction):
    MODULE = "onprem.llm.ollama_adopt"

    def subject(self) -> str:
        return f"models of {self._task.args.get('source')}"
