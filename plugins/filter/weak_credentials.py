# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: weak_credentials
short_description: Find users whose key or password is the first that an attacker would try
version_added: 0.1.0
author: onprem.llm contributors (@onprem-llm)
description:
  - Compares the hashes of gateway users with those of the user's own name and of the words that default accounts,
    examples and word lists begin with.
  - A hash does not tell how long a key is. What this filter passes may be weak all the same.
  - Passwords are compared where the controller has C(openssl), which hashes them.
options:
  _input:
    description: Users with C(name), C(api_keys) and C(password_hash), as in C(gateway_users).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show whose credentials are weak
  ansible.builtin.debug:
    msg: "{{ gateway_users | onprem.llm.weak_credentials }}"
"""

RETURN = r"""
_value:
  description: Each weak credential with C(name) and C(kind), V(key) or V(password_hash).
  type: list
  elements: dict
"""

import subprocess

from ansible_collections.onprem.llm.plugins.module_utils import _credentials


def hashes(passwords: t.Sequence[str], setting: str) -> list[str]:
    """SHA-512-crypt hashes of passwords with the salt and the rounds of another hash; none where there is no openssl.

    The passwords go by standard input: they are no secrets, but where they match they are somebody's.
    """
    salt = setting.removeprefix("$6$").rpartition("$")[0]
    try:
        said = subprocess.run(
            ["openssl", "passwd", "-6", "-salt", salt, "-stdin"],
            input="".join(f"{password}\n" for password in passwords if password),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return []
    return said.stdout.split()


def weak_credentials(users: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, str]]:
    return _credentials.weak(users, hashes)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"weak_credentials": weak_credentials}
