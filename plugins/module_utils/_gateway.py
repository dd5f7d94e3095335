# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users and models as the gateway's own program reads them, and what is wrong with users as an inventory states them.

A user is a mapping with ``name`` and, each optional, ``role``, ``enabled``, ``api_keys`` (``sha256``, ``ends``,
``note``), ``password_hash``,
``certificates`` (``sha256`` or ``subject``, ``note``), ``models``, ``rights`` and ``limits``.
"""

from __future__ import annotations

import datetime
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _model_name
from ansible_collections.onprem.llm.plugins.module_utils._catalog import local_name

User = t.Mapping[str, t.Any]

RIGHTS = ("raw", "template", "system")
# Of the limits of a user: what each counts in.
LIMITS = {
    "requests_per_second": "requests a second",
    "burst": "requests at once",
    "concurrency": "requests at a time",
    "body_mib": "MiB",
    "daily_tokens": "tokens a day, 0 for no bound",
}
MIB = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PASSWORD_HASH = re.compile(r"\$6\$(rounds=[1-9][0-9]{3}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}")
_END = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")


def _given(user: User, name: str) -> list[t.Any]:
    value = user.get(name)
    return value if isinstance(value, list) else []


def with_keys(
    users: t.Iterable[User], keys: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]
) -> list[dict[str, t.Any]]:
    """The users with the keys that stand apart from them, by name.

    ``revocable`` says that theirs are kept there, if there are any left.
    """
    return [
        {
            **user,
            "api_keys": [*_given(user, "api_keys"), *(keys.get(user["name"]) or [])],
            "revocable": user["name"] in keys,
        }
        for user in users
    ]


def end_of(text: str) -> datetime.datetime:
    """The moment from which a credential is not valid any more: the end of a day, or an instant, in UTC.

    :raises ValueError: the text is neither ``2026-12-31`` nor ``2026-12-31T18:00:00Z``, or there is no such day.
    """
    if not _END.fullmatch(text):
        raise ValueError(text)
    if "T" in text:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.timezone.utc)
    return day + datetime.timedelta(days=1)


def canonical(name: str) -> str:
    """A model's name as the engine's parser completes it, in lower case, without the default host and namespace.

    :raises ValueError: it is no model's name.
    """
    return _model_name.shown(*_model_name.parts(name)).lower()


def stored(users: t.Iterable[User], defaults: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """The users who may get in, with what the defaults (``rights`` and :data:`LIMITS`) say where they do not."""
    found = []
    for user in users:
        limits = {
            **defaults,
            **{name: value for name, value in (user.get("limits") or {}).items() if value is not None},
        }
        rights = user.get("rights")
        found.append(
            {
                "name": user["name"],
                "role": user.get("role") or "user",
                "keys": [
                    {name: str(key[name]) for name in ("sha256", "ends") if key.get(name)}
                    for key in _given(user, "api_keys")
                ],
                "password_hash": user.get("password_hash") or None,
                "certificates": [
                    {name: str(given[name]) for name in ("sha256", "subject") if given.get(name)}
                    for given in _given(user, "certificates")
                ],
                "models": None if user.get("models") is None else list(user["models"]),
                "rights": list(defaults["rights"] if rights is None else rights),
                "limits": {
                    "requests_per_second": float(limits["requests_per_second"]),
                    "burst": int(limits["burst"]),
                    "concurrency": int(limits["concurrency"]),
                    "body_bytes": int(limits["body_mib"]) * MIB,
                    "daily_tokens": int(limits["daily_tokens"]) or None,
                },
            }
        )
    return found


def node_models(plan: t.Mapping[str, t.Any], derived: t.Iterable[t.Mapping[str, t.Any]] = ()) -> list[dict[str, t.Any]]:
    """What a node serves by its plan (docs/architecture.md): ``name`` as the engine lists it, ``slots``, number of
    ``gpus``, ``context_length``, and what lists of models tell.

    A model of two workloads is loaded once, with the greater number of slots. A derived model is another name of the
    model that it is made ``from``, and has that one's slots (``shares``).

    :raises ValueError: it is no such plan.
    """
    rows: dict[str, dict[str, t.Any]] = {}
    try:
        for instance in plan["instances"]:
            for model in instance["models"]:
                row = _row(model)
                known = rows.setdefault(row["name"], row)
                known["slots"] = max(known["slots"], row["slots"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is no plan: {type(error).__name__}: {error}") from error
    for one in derived:
        base, name = rows.get(local_name(one["from"])), local_name(one["name"])
        if base:
            rows.setdefault(name, {**base, "name": name})
    return list(rows.values())


def _row(model: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    source, name = model.get("source") or {}, local_name(str(model["name"]))
    return {
        "name": name,
        "shares": name,
        "slots": int(model["slots"]),
        "gpus": len(model.get("gpus") or []),
        "context_length": int(model["context_length"]),
        "digest": str(source.get("sha256") or source.get("digest") or "").replace("sha256:", ""),
        "size": int((model.get("account") or {}).get("weights_bytes") or 0),
        "quantization": model.get("quantization") or "",
    }


def served(nodes: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]) -> list[dict[str, t.Any]]:
    """The models of a fleet by name, with the slots of all nodes.

    A context is the plan's only where all nodes have the same.
    """
    by_name: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for name in sorted(nodes):
        for row in nodes[name]:
            by_name.setdefault(row["name"], []).append(row)
    models = []
    for name, rows in sorted(by_name.items()):
        contexts = {row["context_length"] for row in rows}
        details = {
            "parent_model": "", "format": "gguf", "family": "", "families": [], "parameter_size": "",
            "quantization_level": rows[0]["quantization"],
        }  # fmt: skip
        models.append(
            {
                "name": name,
                "queue": rows[0]["shares"],
                "slots": sum(row["slots"] for row in rows),
                # Rules that an earlier version wrote have none.
                "gpus": sum(row.get("gpus", 0) for row in rows),
                "keep_alive": "-1",
                "options": {"num_ctx": contexts.pop()} if len(contexts) == 1 else {},
                "tag": {
                    "name": name, "model": name, "modified_at": "1970-01-01T00:00:00Z", "size": rows[0]["size"],
                    "digest": rows[0]["digest"], "details": details,
                },
            }
        )  # fmt: skip
    return models


def faults(
    users: t.Sequence[User],
    models: t.Iterable[str],
    client_authority: bool,
    defaults: t.Mapping[str, t.Any],
    now: datetime.datetime,
) -> list[str]:
    """What is wrong with the users, a sentence each that names user and field, and never a value that may be a secret.

    :arg models: names that a user's ``models`` may have; none at all means that they are not known.
    :arg client_authority: whether certificates of clients are looked at.
    """
    found: list[str] = []
    served_names = {canonical(name) for name in models}
    owners: dict[str, str] = {}
    names: dict[str, str] = {}
    for user in users:
        name = str(user.get("name") or "")
        if not _NAME.fullmatch(name):
            found.append(
                f"the name {name} must be 1 to 40 letters, digits and ._@- and begin with a letter or a digit."
            )
        if name.lower() in names:
            found.append(f"{name.lower()} is there more than once (capitals do not count); names must differ.")
        names[name.lower()] = name
        found += [f"{name} {fault}" for fault in _credential_faults(user, client_authority, now, owners)]
        found += [f"{name} {fault}" for fault in _right_faults(user, served_names, defaults)]
    return found


def _credential_faults(
    user: User, client_authority: bool, now: datetime.datetime, owners: dict[str, str]
) -> t.Iterator[str]:
    name = str(user.get("name") or "")
    keys, certificates = _given(user, "api_keys"), _given(user, "certificates")
    if not keys and not certificates and not user.get("password_hash") and not user.get("revocable"):
        yield "has none of api_keys, password_hash and certificates, and could never get in."
    ends = []
    own = [str(key.get("sha256")) for key in keys]
    for number, key in enumerate(keys):
        digest = str(key.get("sha256") or "")
        if not _DIGEST.fullmatch(digest):
            yield (
                "has an entry of api_keys whose sha256 is not 64 lower-case hexadecimal digits; "
                "printf %s KEY | sha256sum makes one. "
                "A key itself must not stand here."
            )
        elif owners.setdefault(digest, name) != name:
            yield f"has a key of api_keys that {owners[digest]} has, too; a key must tell who sends it."
        elif own.index(digest) != number:
            yield "has one key in api_keys twice."
        if key.get("ends"):
            try:
                ends.append(end_of(str(key["ends"])))
            except ValueError:
                yield f"has a key that ends at {key['ends']}; give a day such as 2026-12-31, or 2026-12-31T18:00:00Z."
    if keys and len(ends) == len(keys) and max(ends) <= now and not certificates and not user.get("password_hash"):
        yield (
            "has keys that have all ended; make a new one with playbooks/rotate_credentials.yml, "
            "or set enabled to false."
        )
    if user.get("password_hash") and not _PASSWORD_HASH.fullmatch(str(user["password_hash"])):
        yield (
            "has a password_hash that is no SHA-512-crypt hash of less than 10000 rounds; openssl passwd -6 or "
            "password_hash('sha512', rounds=5000) makes one. bcrypt and more rounds would halt all "
            "streams while a password is checked."
        )
    for certificate in certificates:
        if bool(certificate.get("sha256")) == bool(certificate.get("subject")):
            yield "has an entry of certificates without, or with both, of sha256 and subject; give one."
        elif certificate.get("sha256") and not _DIGEST.fullmatch(str(certificate["sha256"])):
            yield (
                "has a certificate whose sha256 is not 64 lower-case hexadecimal digits; "
                "openssl x509 -in FILE -outform DER | sha256sum makes them."
            )
        else:
            mark = f"certificate {certificate.get('sha256') or certificate['subject']}"
            if owners.setdefault(mark, name) != name:
                yield f"has a certificate that {owners[mark]} has, too; it must tell who shows it."
    if certificates and not client_authority:
        yield "has certificates, but gateway_client_ca is empty; name the file of the authority that issued them."


def _right_faults(user: User, served_names: t.Collection[str], defaults: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for right in _given(user, "rights"):
        if right not in RIGHTS:
            yield f"has the right {right}; there are {', '.join(RIGHTS)}."
    if user.get("models") is not None:
        if not user["models"]:
            yield "may use no model (models is an empty list); leave models out for all, or set enabled to false."
        for model in user["models"]:
            try:
                known = not served_names or canonical(str(model)) in served_names
            except ValueError as fault:
                yield f"may use a model by a wrong name: {fault}."
                continue
            if not known:
                yield f"may use the model {model}, which no node serves; there are {', '.join(sorted(served_names))}."
    limits = {name: value for name, value in (user.get("limits") or {}).items() if value is not None}
    numbers = {}
    for limit, value in limits.items():
        if limit not in LIMITS:
            yield f"has the limit {limit}; there are {', '.join(LIMITS)}."
            continue
        try:
            numbers[limit] = float(value)
        except (TypeError, ValueError):
            yield f"has {limit} {value}; give a number ({LIMITS[limit]})."
            continue
        if numbers[limit] < 0 or (numbers[limit] == 0 and limit != "daily_tokens"):
            yield (
                f"has {limit} {value}, which lets nothing through; give more ({LIMITS[limit]}), or "
                f"set enabled to false."
            )
    if "body_mib" in numbers and numbers["body_mib"] > float(defaults["body_mib"]):
        yield (
            f"has body_mib {limits['body_mib']}, more than gateway_body_max_mib, "
            f"{defaults['body_mib']}, which holds for all."
        )
    rate, burst = (float(numbers.get(name, defaults[name])) for name in ("requests_per_second", "burst"))
    if {"requests_per_second", "burst"} & set(numbers) and burst < rate:
        yield (
            f"has burst {burst:g} below requests_per_second {rate:g}; a burst is what may come at "
            f"once, so give at least the rate."
        )
