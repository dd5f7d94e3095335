# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _text


def human_bytes(value: t.Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise AnsibleFilterError(f"human_bytes: {value!r} is no whole number of bytes")
    return _text.human_bytes(value)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"human_bytes": human_bytes}
