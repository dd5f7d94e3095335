"""One host of the bench, a process of its own, with the collection's code alone and what it is told as JSON.

``node pull NAME MODELS ORIGIN`` brings a model into a models directory, as the module ``ollama_model`` does it.
``node fill NAME DIRECTORY SOCKET REGISTRY`` brings it into a mirror's registry, as ``model_mirror`` does it.
"""

from __future__ import annotations

import json
import os
import sys

from ansible_collections.onprem.llm.plugins.module_utils import (
    _mirror,
    _mirror_place,
    _ollama_pull,
    _ollama_store,
    _registry,
    _repository,
    _transfer,
    _turn,
)

LOCK_SECONDS = 60.0


def pull(name: str, models: str, origin: str) -> None:
    turn = _turn.Turn(_transfer.Limits())
    with _ollama_store.Store(models) as store:
        files = _ollama_pull.Files(store, f"{models}-staging", name, turn, {})
        asked = _ollama_pull.sources(name, [json.loads(origin)], turn.limits.stall_seconds)
        files.install(_ollama_pull.offer(asked, turn.limits), ())


def fill(name: str, directory: str, socket: str, registry: str) -> None:
    host = _mirror.Registry(socket, os.path.join(directory, "registry"))
    mirror = _mirror.Mirror(host, os.path.join(directory, "staging"))
    upstream = _mirror.Upstream(_registry.Client(time_limit=None), _repository.parse_name(name, registry).repository)
    wanted = _mirror.Wanted("models", name, _mirror_place.model_place(name), None, upstream)
    with mirror.locked(exclusive=False, seconds=LOCK_SECONDS):
        mirror.fill([mirror.resolve(wanted, update=False)], _turn.Turn(_transfer.Limits()))


if __name__ == "__main__":
    {"pull": pull, "fill": fill}[sys.argv[1]](*sys.argv[2:])
