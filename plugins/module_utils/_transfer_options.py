# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of modules that transfer, as the fragments of ``doc_fragments/transfer.py`` describe them."""

from __future__ import annotations

import os
import typing as t
from urllib.parse import unquote, urlsplit

from ansible_collections.onprem.llm.plugins.module_utils import _transfer

# onprem.llm.transfer.turns
TURNS: dict[str, dict[str, t.Any]] = {
    "progress_interval": {"type": "float", "default": 15},
    "transfer_seconds": {"type": "float", "default": 0},
    "announce": {"type": "bool", "default": False},
    "resume": {"type": "dict", "default": {}},
}
# onprem.llm.transfer
TRANSFER: dict[str, dict[str, t.Any]] = {
    "connections": {"type": "int", "default": 4},
    "reserve_bytes": {"type": "int", "default": 0},
    "stall_timeout": {"type": "float", "default": 30},
}
# onprem.llm.transfer.proxy
PROXY: dict[str, dict[str, t.Any]] = {
    "proxy": {"type": "str", "no_log": True},
    "no_proxy": {"type": "list", "elements": "str", "default": []},
}

_LEAST = {"connections": 1, "reserve_bytes": 0, "stall_timeout": 1, "transfer_seconds": 0, "progress_interval": 1}


def check(params: t.Mapping[str, t.Any], least: t.Mapping[str, float] | None = None) -> None:
    """:raises ValueError: a number is less than can be."""
    for name, bound in (_LEAST if least is None else least).items():
        if params.get(name) is not None and params[name] < bound:
            raise ValueError(f"{name} is {params[name]}; {bound} or more is needed")


def limits(params: t.Mapping[str, t.Any]) -> _transfer.Limits:
    """What the options say of a transfer."""
    return _transfer.Limits(
        connections=params["connections"],
        stall_seconds=params["stall_timeout"],
        seconds=params["transfer_seconds"],
        reserve_bytes=params["reserve_bytes"],
    )


def use_proxy(params: t.Mapping[str, t.Any]) -> set[str]:
    """Have transfers of this process go by the proxy, whose login is not in the environment that ``ps`` shows.

    :return: texts that are to be shown nowhere.
    """
    if not params["proxy"]:
        return set()
    for scheme in ("http", "https"):
        os.environ[f"{scheme}_proxy"] = os.environ[f"{scheme.upper()}_PROXY"] = params["proxy"]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(params["no_proxy"])
    password = urlsplit(params["proxy"]).password
    return {password, unquote(password)} if password else set()
