"""Management of the engine, by a user and by an admin of a fleet that manages nothing through its gateway."""

from __future__ import annotations

from collections.abc import Callable

from tests.attack.groups.judge import refused
from tests.attack.model import Attack, NotTried, Verdict
from tests.attack.position import Position

# A registry that nobody can take for one: what gets through asks the engine's own loopback.
NOWHERE = "127.0.0.1:1/attack/none:none"
NONE = "attack-no-such-model"
BLOB = f"/api/blobs/sha256:{'0' * 64}"
CASES: list[tuple[str, str, str, dict]] = [
    ("pull", "POST", "/api/pull", {"model": NOWHERE, "insecure": True, "stream": False}),
    ("push", "POST", "/api/push", {"model": NOWHERE, "insecure": True, "stream": False}),
    ("create", "POST", "/api/create", {"model": NONE, "from": NONE, "stream": False}),
    ("delete", "DELETE", "/api/delete", {"model": NONE}),
    ("copy", "POST", "/api/copy", {"source": NONE, "destination": "attack-copy"}),
    ("show", "POST", "/api/show", {"model": NONE}),
    ("blob", "POST", BLOB, {}),
    ("account", "POST", "/api/me", {}),
    ("sign out", "POST", "/api/signout", {}),
    ("keys", "DELETE", "/api/user/keys/0", {}),
    ("web search", "POST", "/api/experimental/web_search", {"query": "attack"}),
    ("web fetch", "POST", "/api/experimental/web_fetch", {"url": "http://127.0.0.1:1/"}),
    ("status", "GET", "/api/status", {}),
]


def as_user(method: str, path: str, body: dict) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        return refused(position.ask(method, path, body=body), (403, 404, 405))

    return act


def as_admin(position: Position) -> Verdict:
    if position.access.admin_api:
        raise NotTried("access.json says admin_api: admins may manage this fleet")
    seen = set()
    for name, method, path, body in CASES:
        verdict = refused(position.ask(method, path, body=body, key=position.admin.api_key), (403, 404, 405))
        if not verdict.held:
            return Verdict(False, f"{name}: {verdict.seen}")
        seen.add(verdict.seen)
    return Verdict(True, ", ".join(sorted(seen)))


def runner_api(position: Position) -> Verdict:
    """Paths of llama-server, vLLM and others that may stand behind."""
    paths = ("/completion", "/slots", "/props", "/lora-adapters", "/invocations", "/pause", "/tokenize", "/sleep")
    for path in paths:
        verdict = refused(position.ask("POST", path, body={"model": position.access.model}), (403, 404, 405))
        if not verdict.held:
            return Verdict(False, f"{path}: {verdict.seen}")
    return Verdict(True, f"{len(paths)} times 404")


ATTACKS = [
    *(
        Attack(
            "management", f"{name} by a user", f"{method} {path[:30]}", "403, 404 or 405", as_user(method, path, body)
        )
        for name, method, path, body in CASES
    ),
    Attack(
        "management",
        "management by an admin",
        "each of them, where the gateway manages nothing",
        "403, 404 or 405",
        as_admin,
    ),
    Attack("management", "other engines' paths", "/slots, /props, /pause, /invocations …", "404", runner_api),
]
