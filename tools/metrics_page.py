#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of docs/metrics.md from the programs that tell the metrics.

tools/metrics_page.py
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "metrics.md"
PROGRAMS = ROOT / "roles" / "monitoring" / "files" / "programs"
BEGIN, END = "<!-- Made by tools/metrics_page.py: begin -->", "<!-- Made by tools/metrics_page.py: end -->"


def program(name: str) -> ModuleType:
    # A cache beside it would be copied to hosts.
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec = importlib.util.spec_from_file_location(f"onprem_llm_{name}", PROGRAMS / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.dont_write_bytecode = written


def health_rows() -> list[str]:
    """What the health check tells where it knows everything."""
    health = program("health_check")
    model = health.ModelHealth("m", True, 1, 1, 1, 1, 0.5, True)
    text = health.metrics(health.Report(1.0, 1.0, "1", [model], [], [], True))
    found = re.findall(r"# HELP (\w+) (.*)\n# TYPE \w+ (\w+)\n\w+(?:\{(.*?)\})? ", text)
    return [_row(name, kind, re.findall(r"(\w+)=", labels), meaning) for name, meaning, kind, labels in found]


def _row(name: str, kind: str, labels: list[str], meaning: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(labels) or '-'} | {meaning.rstrip('.')} |"


def tables() -> str:
    metrics = program("metrics")
    head = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines = []
    for where in dict.fromkeys(family.where for family in metrics.FAMILIES):
        lines += [f"## On {where}", "", *head]
        lines += [
            _row(metrics.PREFIX + family.name, family.kind, list(family.labels), family.meaning)
            for family in metrics.FAMILIES
            if family.where == where
        ]
        lines.append("")
    return "\n".join([*lines, "## By the deep health check, on nodes", "", *head, *health_rows()])


def page(text: str) -> str:
    """The page with the tables as they are now."""
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
