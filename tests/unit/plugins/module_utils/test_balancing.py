# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _balancing
from hypothesis import given
from hypothesis import strategies as st


def node(name: str, *derived: tuple[str, str], **models: int) -> dict[str, Any]:
    rows = [{"name": model, "shares": model, "slots": slots} for model, slots in models.items()]
    rows += [{"name": new, "shares": base, "slots": models[base]} for new, base in derived]
    return {"name": name, "address": "192.0.2.1", "port": 8443, "models": rows}


@given(slots=st.integers(1, 64), gateways=st.integers(1, 6), number=st.integers(0, 20))
def test_shares_add_up_to_the_slots(slots: int, gateways: int, number: int) -> None:
    shares = [_balancing.share(slots, gateways, rank + number) for rank in range(gateways)]
    assert sum(shares) == max(slots, gateways)
    assert max(shares) - min(shares) <= 1


def test_what_does_not_divide_goes_to_another_gateway_on_another_node() -> None:
    assert [_balancing.share(3, 2, 0 + number) for number in range(4)] == [2, 1, 2, 1]


def test_models_know_their_nodes_their_names_and_how_many_may_wait() -> None:
    nodes = [node("n1", ("clerk:latest", "a:1b"), **{"a:1b": 4, "hf.co/x/b:latest": 1}), node("n2", **{"a:1b": 3})]
    first, second = _balancing.balanced_models(nodes, 2, 1, 2)
    assert (first["name"], first["backend"], first["names"]) == (
        "a:1b",
        "model:a:1b",
        ["a:1b", "clerk:latest", "clerk"],
    )
    assert [(server["name"], server["slots"]) for server in first["servers"]] == [("n1", 2), ("n2", 2)]
    assert (first["slots"], first["queue"]) == (4, 8)
    assert (second["backend"], second["names"]) == ("model:hf.co::x::b:latest", ["hf.co/x/b:latest", "hf.co/x/b"])


@pytest.mark.parametrize("name", ["a b", "a::b", 'a"b', "", "ü", "a" * 201])
def test_a_name_that_no_model_has_is_refused(name: str) -> None:
    with pytest.raises(_balancing.BalancingError, match="which no balancer can name"):
        _balancing.balanced_models([node("n1", **{name: 1})], 1, 0, 1)


def test_a_model_is_warm_where_it_has_answered_and_under_its_own_name() -> None:
    pattern = _balancing.warm_pattern("qwen2.5:7b").strip("'")
    assert re.search(pattern, '   "name": "qwen2.5:7b",\n   "state": "answered",')
    assert not re.search(pattern, '   "name": "qwen2.5:7b",\n   "state": "warming",')
    assert not re.search(pattern, '   "name": "qwen2x5:7b",\n   "state": "answered",')
    assert not re.search(pattern, '   "name": "qwen2.5:7b-q8",\n   "state": "answered",')
