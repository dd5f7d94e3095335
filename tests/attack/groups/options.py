"""Requests for an answer that would manage the engine on the way: how models are loaded, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.attack.groups.judge import refused
from tests.attack.model import Attack, NotTried, Verdict
from tests.attack.position import Position


def option(name: str, value: object) -> dict:
    return {"options": {"num_predict": 1, name: value}}


CASES: list[tuple[str, dict]] = [
    ("keep_alive 0", {"keep_alive": 0}),
    ('keep_alive "0s"', {"keep_alive": "0s"}),
    ("keep_alive of a second", {"keep_alive": "1s"}),
    ("keep_alive negative", {"keep_alive": -7}),
    ("keep_alive in upper case", {"KEEP_ALIVE": 0}),
    ("keep_alive with a Kelvin sign", {"\u212aeep_alive": 0}),
    ("num_ctx small", option("num_ctx", 64)),
    ("num_ctx huge", option("num_ctx", 1_000_000)),
    ("num_ctx in upper case", option("NUM_CTX", 64)),
    ("options in upper case", {"OPTIONS": {"num_ctx": 64}}),
    ("options with a long s", {"option\u017f": {"num_ctx": 64}}),
    ("num_gpu 0", option("num_gpu", 0)),
    ("main_gpu 1", option("main_gpu", 1)),
    ("num_batch 1", option("num_batch", 1)),
    ("num_thread 1", option("num_thread", 1)),
    ("use_mmap off", option("use_mmap", False)),
    ("use_mlock on", option("use_mlock", True)),
    ("numa on", option("numa", True)),
    ("low_vram on", option("low_vram", True)),
    ("draft_num_predict", option("draft_num_predict", 4)),
    ("num_keep of more than the context", option("num_keep", 10**6)),
    ("num_ctx as text", option("num_ctx", "64")),
    ("num_ctx as a fraction", option("num_ctx", 64.0)),
]
RIGHTS = {
    "raw": {"raw": True},
    "template": {"template": "{{ .Prompt }}"},
    "system": {"system": "You are somebody else."},
    "suffix of a foreign template": {"template": "{{ .Suffix }}", "suffix": "b"},
}


def status(position: Position, path: str, body: dict | bytes, key: str = "") -> int:
    """An engine that had to load again answers late."""
    return position.paced(
        position.bytes("POST", path, body=body, key=key), patience=6 * position.bounds.patience
    ).first.status


def unchanged(position: Position, act: Callable[[], list[int]]) -> Verdict:
    """Held if all was answered by a refusal or by an answer that left the engines as they were."""
    before = position.engines()
    statuses = act()
    after = position.engines()
    answered = ", ".join(map(str, statuses))
    if after == before:
        return Verdict(all(status < 500 and status for status in statuses), f"{answered}; engines unchanged")
    healed = position.settled(before)
    change = next(name for name in before if before[name] != after[name])
    return Verdict(False, f"{answered}; {change}'s engine changed" + ("" if healed else ", and does not come back"))


def load_option(more: dict) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        def ask() -> list[int]:
            return [
                status(position, "/api/generate", position.generate(**more)),
                status(position, "/api/chat", {**position.chat(), **more}),
            ]

        return unchanged(position, ask)

    return act


def twice(position: Position) -> Verdict:
    """The harmless one first, and the last one counts."""

    def ask() -> list[int]:
        bodies = [
            '"options":{"num_predict":1},"options":{"num_ctx":64}',
            '"options":{"num_predict":1,"num_ctx":64,"num_ctx":96}',
        ]
        head = f'{{"model":{json.dumps(position.access.model)},"prompt":"a","stream":false,'
        return [position.ask("POST", "/api/generate", body=f"{head}{body}}}".encode()).status for body in bodies]

    return unchanged(position, ask)


def through_openai(position: Position) -> Verdict:
    def ask() -> list[int]:
        more = {"keep_alive": 0, "options": {"num_ctx": 64}, "num_ctx": 64}
        body = json.dumps({**position.chat(), **more}).encode()
        return [position.ask("POST", "/v1/chat/completions", body=body).status]

    return unchanged(position, ask)


def by_embedding(position: Position) -> Verdict:
    def ask() -> list[int]:
        body = {"model": position.access.model, "input": "a", "keep_alive": 0, "options": {"num_ctx": 64}}
        paths = ("/api/embed", "/api/embeddings")
        # What a model cannot do is its own business: only the engine's state counts.
        return [min(position.ask("POST", path, body=dict(body, prompt="a")).status, 499) for path in paths]

    return unchanged(position, ask)


def unload(position: Position) -> Verdict:
    def ask() -> list[int]:
        body = {"model": position.access.model, "keep_alive": 0}
        return [position.ask("POST", path, body=dict(body)).status for path in ("/api/generate", "/api/chat")]

    return unchanged(position, ask)


def by_admin(position: Position) -> Verdict:
    """An admin of a fleet that manages nothing through its gateway is a user in this, too."""
    if position.access.admin_api:
        raise NotTried("access.json says admin_api: admins may manage this fleet")
    key = position.admin.api_key

    def ask() -> list[int]:
        return [position.ask("POST", "/api/generate", body=position.generate(keep_alive=0), key=key).status]

    return unchanged(position, ask)


def right(name: str, more: dict) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        lacking = [user for user in position.access.users.values() if user.role == "user" and name not in user.rights]
        if not lacking:
            raise NotTried(f"every user has the right to {name}")
        user = min(lacking, key=lambda user: user.models is not None)
        body = position.generate(**more) | ({"model": user.models[0]} if user.models else {})
        return refused(position.ask("POST", "/api/generate", body=body, key=user.api_key), (400, 403))

    return act


ATTACKS = [
    *(
        Attack("options", name, json.dumps(more)[:60], "400, or dropped; engines unchanged", load_option(more))
        for name, more in CASES
    ),
    Attack("options", "option twice", "the harmless one first", "400, or dropped; engines unchanged", twice),
    Attack(
        "options",
        "options by OpenAI's route",
        "keep_alive and num_ctx in /v1/chat/completions",
        "400, or dropped; engines unchanged",
        through_openai,
    ),
    Attack(
        "options",
        "options by an embedding",
        "keep_alive and num_ctx in /api/embed",
        "400, or dropped; engines unchanged",
        by_embedding,
    ),
    Attack("options", "unloading", "an empty prompt with keep_alive 0", "400, or dropped; engines unchanged", unload),
    Attack(
        "options",
        "unloading by an admin",
        "keep_alive 0, where the gateway manages nothing",
        "400, or dropped; engines unchanged",
        by_admin,
    ),
    *(
        Attack(
            "options",
            f"right to {name}",
            json.dumps(more)[:60],
            "400 or 403",
            right(name.split()[-1] if " " in name else name, more),
        )
        for name, more in RIGHTS.items()
    ),
]
