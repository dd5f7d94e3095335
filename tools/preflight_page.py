#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of docs/preflight.md from what the tests prove, the refusals.yml of Molecule's scenarios.

tools/preflight_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "preflight.md"
REFUSALS = ROOT / "molecule" / "shared" / "refusals" / "refusals.yml"
DRIVERS = ROOT / "molecule" / "nvidia" / "refusals" / "refusals.yml"
# What a case gives, and what users give.
GIVEN = {name: f"nvidia_driver_{name}" for name in ("branch", "version", "source", "kernel_modules")}
BEGIN, END = "<!-- Made by tools/preflight_page.py: begin -->", "<!-- Made by tools/preflight_page.py: end -->"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _value(variable: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{variable}: {text if len(text) <= 60 else text[:57] + '...'}`"


def table() -> str:
    lines = ["| what is wrong | for example | what is said |", "|---|---|---|"]
    for run in yaml.safe_load(REFUSALS.read_text(encoding="utf-8")):
        for refusal in run["refusals"]:
            given = ", ".join(_value(*item) for item in (refusal.get("set") or {}).items())
            lines.append(f"| {_cell(refusal['what'])} | {_cell(given)} | {_cell(refusal['said'])} |")
    for case in yaml.safe_load(DRIVERS.read_text(encoding="utf-8")):
        if case["said"]:
            # An address is that of the test's own repository.
            shown = [
                _value(variable, case[key]) for key, variable in GIVEN.items() if "://" not in case.get(key, "://")
            ]
            lines.append(f"| {_cell(case['what'])} | {', '.join(shown)} | {_cell(_words(case['said']))} |")
    return "\n".join(lines)


def _words(pattern: str) -> str:
    """A regular expression of plain words, as somebody reads it."""
    return re.sub(r"\\(.)", r"\1", pattern.replace("|", " … or … ").replace(".*", " … "))


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
