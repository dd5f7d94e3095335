# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role models says of a run before it: the plan's changes and the room that its models need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.onprem.llm.plugins.module_utils import _preflight
from test_container_toolkit_faults import trusted

ROLE = Path(__file__).resolve().parents[3] / "roles/models"


def outlook(part: str, selection: dict[str, Any], **variables: Any) -> Any:
    stated = trusted(yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8")))["__models_outlook"][part]
    return Templar(loader=DataLoader(), variables={"models_selection": selection, **variables}).template(stated)


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
