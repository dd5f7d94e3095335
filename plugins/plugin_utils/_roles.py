# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where this collection's roles are, and which of them are meant."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleError

ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "roles")
# What replaced_variables are is data of the playbooks.
REPLACED = os.path.join(os.path.dirname(ROLES), "playbooks", "vars", "replaced.yml")


def short_names(roles: t.Iterable[str], known: t.Collection[str], what: str = "") -> list[str]:
    """Names of roles without the collection's before them.

    :arg known: the names that there are.
    :arg what: what the known ones have and others lack, for the message.
    :raises AnsibleError: one is not among them.
    """
    names = [role.rsplit(".", 1)[-1] for role in roles]
    for name in names:
        if name not in known:
            raise AnsibleError(f"roles: this collection has no role {name}{what}; it has {', '.join(known)}")
    return names
