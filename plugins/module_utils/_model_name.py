# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's name in its parts, as Ollama takes them; whatever else a name may lead to as a path or URL is refused."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._catalog import canonical_name

HOST, NAMESPACE = "registry.ollama.ai", "library"

# types/model/name.go of Ollama 0.32.15, isValidPart; a host's port as in a URL.
PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,343}(:[0-9]{1,5})?"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_SHOWN = 100


def parts(name: str) -> tuple[str, str, str, str]:
    """Host, namespace, model and tag of a name such as ``gemma3:270m`` or ``host:port/namespace/model:tag``.

    :raises ValueError: it is no model's name; the text says which part cannot be.
    """
    shown = repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")
    path, tag = canonical_name(name).rsplit(":", 1)
    found = path.split("/")
    found = [*(HOST, NAMESPACE)[: max(0, 3 - len(found))], *found, tag]
    if len(found) != len(PARTS):
        raise ValueError(f"{shown} is no model's name; one such as 'qwen3:8b' or 'host/namespace/model:tag' is")
    for part, (kind, pattern) in zip(found, PARTS.items()):
        if not pattern.fullmatch(part):
            short = repr(part if len(part) <= _SHOWN else part[:_SHOWN] + "…")
            raise ValueError(f"{shown} is no model's name: {short} cannot be a {kind}")
    return t.cast("tuple[str, str, str, str]", tuple(found))


def shown(host: str, namespace: str, model: str, tag: str) -> str:
    """The name as the server lists it: without the host and the namespace that go without saying."""
    path = [model] if (host, namespace) == (HOST, NAMESPACE) else [namespace, model]
    return "/".join(path if host == HOST else [host, namespace, model]) + ":" + tag
