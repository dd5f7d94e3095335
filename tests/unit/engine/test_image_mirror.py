# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ollama says where no mirror gives the engine's image."""

from __future__ import annotations

import pytest
import yaml
from role_templates import ROLES, evaluated, trusted


@pytest.mark.parametrize(
    ("mirrors", "said"),
    [
        (["192.0.2.41:8444"], "The mirror 192.0.2.41:8444 did not give a/b:1. Bring it up ("),
        (
            ["192.0.2.41:8444", "192.0.2.42:8444", "192.0.2.43:8444"],
            "None of the mirrors 192.0.2.41:8444, 192.0.2.42:8444, 192.0.2.43:8444 gave a/b:1. Bring one of them up (",
        ),
    ],
)
def test_each_mirror_that_was_asked_is_named(mirrors: list[str], said: str) -> None:
    tasks = yaml.safe_load((ROLES / "ollama/tasks/image_mirror.yml").read_text(encoding="utf-8"))
    [task] = [task for task in tasks if task["name"] == "Say why there is no image"]
    found = evaluated(
        trusted(task["ansible.builtin.fail"]["msg"]),
        {
            "__ollama_mirrors": mirrors,
            "__ollama_images_mirrored": ["a/b:1"],
            "__ollama_image_pull": {"stderr": "connection refused"},
        },
    )
    assert found.startswith(said)
    assert found.endswith("Docker said: connection refused")
