# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.plugin_utils._turns import TurnsAction


class ActionModule(TurnsAction):
    MODULE = "onprem.llm.model_mirror"

    def subject(self) -> str:
        return "mirror"

    def conclude(self, answer: dict[str, t.Any], first: dict[str, t.Any]) -> None:
        # The first call saw the mirror as it was, and each one after it was called for more to bring.
        if not answer.get("failed"):
            answer["missing"], answer["changed"] = first.get("missing", {}), True
