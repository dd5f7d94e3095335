# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.module_utils import _balancing


def planned_slots(plan: t.Mapping[str, t.Any]) -> dict[str, int]:
    try:
        return _balancing.planned_slots(plan)
    except _balancing.BalancingError as error:
        raise AnsibleFilterError(f"planned_slots: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"planned_slots": planned_slots}
