# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes in words, and the filter that gives them to playbooks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.filter.human_bytes import FilterModule
from ansible_collections.onprem.llm.plugins.module_utils import _text

human_bytes = FilterModule().filters()["human_bytes"]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (246624128, "235 MiB"), (47668264960, "44.4 GiB"),
        (-(2**20), "-1.0 MiB"), (2**60, "1024 PiB"),
    ],
)  # fmt: skip
def test_human_bytes(count: int, words: str) -> None:
    assert human_bytes(count) == words


@pytest.mark.parametrize("value", ["5", 1.5, None, True])
def test_human_bytes_refuses_what_is_no_number_of_bytes(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="no whole number"):
        human_bytes(value)


def test_nearest() -> None:
    assert _text.nearest("qwen3:14", ["qwen3:8b", "qwen3:14b"]) == "qwen3:14b"
    assert _text.nearest("zzz", ["qwen3:8b"]) is None
