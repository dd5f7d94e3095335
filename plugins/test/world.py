# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _networks


def is_world(text: t.Any) -> bool:
    return _networks.is_world(str(text))


class TestModule:
    def tests(self) -> dict[str, t.Callable[..., bool]]:
        return {"world": is_world}
