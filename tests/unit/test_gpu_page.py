"""docs/gpu.md shows what plugins/module_utils knows now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _gpu_problems, _xid

ROOT = Path(__file__).resolve().parents[2]


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_page", ROOT / "tools/gpu_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_now() -> None:
    """When this fails, run tools/gpu_page.py."""
    made = tool()
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text
    for code in _gpu_problems.KNOWN:
        assert f"| `{code}` |" in text


def test_every_xid_is_in_one_row() -> None:
    made = tool()
    rows = [line.split(" | ")[0].strip("| ") for line in made.xids().splitlines()[2:]]
    ends = [[int(part) for part in cell.split("-")] for row in rows for cell in row.split(", ")]
    codes = [code for first, *last in ends for code in range(first, (last or [first])[0] + 1)]
    assert sorted(codes) == sorted(_xid.CODES)
