# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests stand on; with it, this checkout is importable as ansible_collections.onprem.llm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mounted  # noqa: F401
import pytest
from gguf_files import llama
from hypothesis import settings

# The same examples in every run, and no bound on time: a machine that others load fails no property.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., str]:
    """Write a model's header to a file and give its path."""

    def write(name: str = "model.gguf", **shape: Any) -> str:
        path = tmp_path / name
        path.write_bytes(llama(**shape))
        return os.fspath(path)

    return write
