# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes: what they may say, and which contradict each other."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _workload
from plan_cases import work


def test_users_each_get_a_slot() -> None:
    assert work(users=3).slots == _workload.Range(3, 3)
    assert work(users=3, slots={"min": 1, "max": 8}).slots == _workload.Range(3, 8)
    assert work().slots == _workload.Range(1, 4)


def test_what_is_not_wished_for_is_not_demanded() -> None:
    plain = work()
    assert (plain.models, plain.languages, plain.licences, plain.capabilities) == ((), (), (), ())
    assert (plain.quantization, plain.tokens_per_second, plain.hybrid, plain.replicas) == ("Q4_0", 0.0, False, 0)


def test_names_of_quantizations_are_read_as_people_write_them() -> None:
    assert work(quantization="q4_k_m").quantization == "Q4_K_M"
    assert work(quantization="fp16").quantization == "F16"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param({"users": 0}, "users is 0", id="nobody"),
        pytest.param({"users": -3}, "users is -3", id="negative users"),
        pytest.param({"users": 10**9}, "from 1 to 1024", id="absurd users"),
        pytest.param({"users": 5, "slots": 2}, "users is 5 and slots at most 2", id="users above slots"),
        pytest.param({"context_length": -1}, "context_length is -1", id="negative context"),
        pytest.param({"context_length": 2**40}, "context_length is", id="absurd context"),
        pytest.param({"context_length": 8}, "context_length is 8; a whole number from 256", id="thousands of tokens"),
        pytest.param({"slots": 0}, "slots is 0; a whole number from 1 to 1024", id="no slot"),
        pytest.param({"slots": 10**9}, "slots is 1000000000", id="absurd slots"),
        pytest.param({"use": "codee"}, "did you mean code", id="use almost right"),
        pytest.param({"hosts": ["a", "a"], "replicas": 2}, "hosts names 1", id="a host twice"),
        pytest.param({"tokens_per_second": -1}, "tokens_per_second is -1", id="negative speed"),
        pytest.param({"tokens_per_second": float("nan")}, "a number above 0", id="speed that is no number"),
        pytest.param({"quantization": "Q4_K_MM"}, "did you mean Q4_K_M", id="misspelt quantization"),
        pytest.param({"use": "chta"}, "use has 'chta'", id="misspelt use"),
        pytest.param({"capabilities": ["fly"]}, "capabilities has 'fly'", id="unknown capability"),
        pytest.param({"languages": "ja"}, r"a list such as \[ja, en\]", id="language without a list"),
        pytest.param({"licences": []}, "licences is", id="no licence at all"),
        pytest.param({"langauges": ["ja"]}, "did you mean languages", id="misspelt wish"),
        pytest.param({"hybrid": "maybe"}, "true or false", id="hybrid in words"),
        pytest.param({"replicas": 0}, "1 or more", id="no replica"),
        pytest.param({"hosts": ["a"], "replicas": 2}, "hosts names 1", id="more replicas than hosts"),
        pytest.param({"models": ["a"], "preferred": ["b"]}, "pins the choice", id="pinned and preferred"),
        pytest.param({"models": ["a"], "quality": "x"}, "is an order already", id="two orders"),
        pytest.param({"use": "embedding", "capabilities": ["tools"]}, "does not generate", id="embedding with tools"),
        pytest.param({"use": "embedding", "users": 4}, "one slot", id="embedding for several at once"),
        pytest.param({"use": "embedding", "tokens_per_second": 5}, "models that generate", id="speed of embedding"),
    ],
)
def test_refuses_absurd_and_contradictory_wishes(data: dict[str, Any], says: str) -> None:
    with pytest.raises(_workload.PlanError, match=says) as error:
        work(**data)
    assert str(error.value).startswith("workload chat")
