# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys of gateway users over time: new ones, ends of old ones, and the file that has their digests."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _gateway

PREFIX = "onprem-llm_"
VARIABLE = "gateway_user_keys"
_HEAD = "# Digests of API keys, by user. Written by playbooks/rotate_credentials.yml; no key is here.\n"

Keys = dict[str, list[dict[str, str]]]


def new_key() -> str:
    """256 random bits that a person can tell for a key of this collection."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str) -> Keys:
    """The keys in a file's text.

    :raises ValueError: the text is not what :func:`render` makes.
    """
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "---")))
    found = json.loads(body) if body.strip() else {}
    keys = found.get(VARIABLE, {}) if isinstance(found, dict) else None
    if not isinstance(keys, dict) or not all(
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in keys.values()
    ):
        raise ValueError(f"it has no mapping {VARIABLE} of lists")
    for row in (row for rows in keys.values() for row in rows if row.get("ends")):
        _gateway.end_of(row["ends"])
    return keys


def render(keys: Keys) -> str:
    """YAML, and JSON but for its first lines."""
    return f"---\n{_HEAD}{json.dumps({VARIABLE: keys}, indent=2, sort_keys=True)}\n"


def instant(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ends_by(row: t.Mapping[str, str], moment: datetime.datetime) -> bool:
    return bool(row.get("ends")) and _gateway.end_of(row["ends"]) <= moment


def add(
    keys: Keys,
    users: t.Iterable[str],
    request: str,
    now: datetime.datetime,
    overlap: datetime.timedelta,
    make: t.Callable[[], str] = new_key,
) -> tuple[Keys, dict[str, str]]:
    """A new key for each user who has none of this request yet; the others end after the overlap, or when they would
    anyway.

    :return: all keys' digests, and the new keys by user.
    """
    found = {name: [dict(row) for row in rows] for name, rows in keys.items()}
    made: dict[str, str] = {}
    ends = instant(now + overlap)
    for name in users:
        rows = found.setdefault(name, [])
        if any(row.get("note") == request for row in rows):
            continue
        for row in rows:
            if not _ends_by(row, now + overlap):
                row["ends"] = ends
        made[name] = make()
        rows.append({"sha256": digest(made[name]), "note": request})
    return found, made


def drop(keys: Keys, users: t.Iterable[str], now: datetime.datetime) -> Keys:
    """Without the keys of these users that have ended."""
    names = set(users)
    return {name: [row for row in rows if name not in names or not _ends_by(row, now)] for name, rows in keys.items()}


def revoke(keys: Keys, users: t.Iterable[str], only: str = "") -> Keys:
    """Without any key of these users, or without those whose digest begins with ``only``. The users stay, with no
    keys.

    :raises ValueError: no key of theirs begins so.
    """
    names = set(users)
    if only and not any(row.get("sha256", "").startswith(only) for name in names for row in keys.get(name, [])):
        raise ValueError(only)
    found = {
        name: [row for row in rows if name not in names or not row.get("sha256", "").startswith(only)]
        for name, rows in keys.items()
    }
    return {**{name: [] for name in names}, **found}
