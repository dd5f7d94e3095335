# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role models says of a run before it: the plan's changes and the room that its models need."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from role_templates import evaluated, role_variables


def outlook(part: str, selection: dict[str, Any], **variables: Any) -> Any:
    return evaluated(role_variables("models")["__models_outlook"][part], {"models_selection": selection, **variables})


@pytest.mark.parametrize("changes", [[], ["chat: qwen3:8b: 4 -> 2 slots", "ollama: OLLAMA_NUM_PARALLEL 4 -> 2"]])
def test_a_change_of_what_runs_is_told_before_it_happens(changes: list[str]) -> None:
    told = _preflight.sentences(outlook("change", {"changes": changes}))
    assert told == [f"plan: {change}" for change in changes]
    lines = _preflight.outlook_lines({"gpu1": {"change": told}}, ["gpu1"])
    if changes:
        assert lines == ["gpu1:", f"  change    plan: {changes[0]}", f"            plan: {changes[1]}"]
    else:
        assert lines == ["gpu1:", "  nothing to do"]


@pytest.mark.parametrize(
    ("kind", "devices", "copies"),
    [("registry", (1, 1), [1]), ("gguf", (1, 1), [1, 1]), ("gguf", (1, 2), [2, 1])],
)
def test_a_projector_needs_room_beside_the_weights(kind: str, devices: tuple[int, int], copies: list[int]) -> None:
    account = {"weights_bytes": 100, "projector_bytes": 7}
    there = {path: {"device": device} for path, device in zip(("/store", "/files"), devices, strict=True)}
    for projector, size in ((account, 107), ({"weights_bytes": 100}, 100)):
        absent = [{"name": "sees:1b", "source": {"type": kind}, "account": projector}]
        given: dict[str, Any] = {
            "__models_absent": absent, "models_store_dir": "/store", "models_files_dir": "/files",
            "models_reserve_gib": 2, "__host_state": {"filesystems": there},
        }  # fmt: skip
        needs = outlook("space", {}, **given)
        assert [need["size"] for need in needs] == [*(size * copy for copy in copies), 2 * 2**30]
    assert outlook("space", {}, **{**given, "__models_absent": []}) == []


def test_derived_models_are_told_with_the_plan() -> None:
    variables = role_variables("models")
    wanted = [{"name": "gemma3:4b", "use": "chat"}]
    entries = [{"name": "clerk", "from": "gemma3:4b"}, {"name": "elsewhere", "from": "phi4:14b"}]
    named: dict[str, Any] = {
        "__models_wanted": wanted,
        "__models_derivation": {"models": entries, "notes": ["clerk: a note"]},
    }
    derived = evaluated(variables["__models_derived"], named)
    assert derived == [{"name": "clerk", "from": "gemma3:4b", "use": "chat"}]
    named["__models_derived"] = derived
    lines = evaluated(variables["__models_derived_told"], named)
    assert lines == ["plan: clerk from gemma3:4b, in the same memory", "models_derived: clerk: a note"]


def test_a_derived_model_is_held_against_the_weights_that_it_comes_from() -> None:
    variables = role_variables("models")
    named = {
        "__models_pins": [{"name": "gemma3:4b", "digest": "aa"}, {"name": "phi4:14b", "digest": None}],
        "__models_derived": [{"name": "clerk", "from": "gemma3:4b"}, {"name": "judge", "from": "phi4:14b"}],
    }
    pins = evaluated(variables["__models_derived_pins"], named)
    assert pins == [{"name": "clerk", "digest": "aa"}, {"name": "judge", "digest": None}]
