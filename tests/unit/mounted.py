# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes this checkout importable as ansible_collections.onprem.llm, by being imported."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _mount() -> None:
    """Give the import system the collection's place, unless a runner such as ansible-test did so already."""
    if importlib.util.find_spec("ansible_collections") is not None:
        import ansible_collections

        others = list(ansible_collections.__path__)
    else:
        others = []
    for name, path in (
        ("ansible_collections", others),
        ("ansible_collections.onprem", []),
        ("ansible_collections.onprem.llm", [str(ROOT)]),
    ):
        if name not in sys.modules or name.endswith("llm"):
            module = types.ModuleType(name)
            module.__path__ = path
            sys.modules[name] = module


_mount()
