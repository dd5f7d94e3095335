# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hashes are those of keys and passwords that anybody would try first."""

from __future__ import annotations

import hashlib
import typing as t

# What examples, default accounts and public word lists begin with. The empty one is what a shell variable that was
# never set hashes to; with a newline, what `echo KEY | sha256sum` makes of it.
WORDS = (
    "",
    "123456",
    "12345678",
    "admin",
    "apikey",
    "changeme",
    "default",
    "key",
    "letmein",
    "llm",
    "ollama",
    "openai",
    "password",
    "qwerty",
    "secret",
    "sk-1234",
    "test",
    "token",
)


def weak(
    users: t.Iterable[t.Mapping[str, t.Any]], hashes: t.Callable[[t.Sequence[str], str], t.Container[str]]
) -> list[dict[str, str]]:
    """Each user's key or password that is a word of :data:`WORDS` or the user's own name, in lower case or as written.

    :arg hashes: hashes passwords with the salt and the rounds of another hash, as crypt(3) does.
    """
    found = []
    for user in users:
        name = str(user.get("name") or "")
        words = sorted({*WORDS, name, name.lower()})
        keys = [key.get("sha256") for key in user.get("api_keys") or []]
        known = {hashlib.sha256((word + end).encode()).hexdigest() for word in words for end in ("", "\n")}
        if any(str(key).lower() in known for key in keys):
            found.append({"name": name, "kind": "key"})
        password = str(user.get("password_hash") or "")
        if password.startswith("$6$") and password in hashes(words, password):
            found.append({"name": name, "kind": "password_hash"})
    return found
