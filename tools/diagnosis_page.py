#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the reports and the table of docs/diagnosis.md from what `python -m tests.faults --write` saw.

tools/diagnosis_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "diagnosis.md"
FAULTS = ROOT / "tests" / "faults" / "faults.yml"
RESULTS = ROOT / "tests" / "faults" / "results.json"
MARK = "<!-- Made by tools/diagnosis_page.py: {} {} -->"
HOSTS = {"gpu": "a node with GPUs", "node": "a node", "gateway": "the gateway", "mirror": "the mirror"}


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _put(fault: dict[str, Any]) -> str:
    if "put" in fault:
        return "on the host"
    if "capture" in fault:
        return "in the simulated GPU's values"
    return "at the reader" + (", with an `nvidia-smi` that fails so" if "smi" in fault or "smi_hangs" in fault else "")


def faults_table(faults: list[dict[str, Any]], results: dict[str, Any]) -> str:
    hits = sum(bool(results.get(fault["fault"], {}).get("hit")) for fault in faults)
    lines = [
        f"{hits} of {len(faults)} are named as the first cause.",
        "",
        "| what is wrong | where | put in | first cause | what the report says that it saw |",
        "|---|---|---|---|---|",
    ]
    for fault in faults:
        result = results.get(fault["fault"], {"first": "", "seen": "not run", "hit": False})
        first = f"`{result['first']}`" if result["hit"] else f"missed: `{result['first']}`"
        cells = [fault["fault"], HOSTS[fault["host"]], _put(fault), first, result["seen"]]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def reports(faults: list[dict[str, Any]], results: dict[str, Any]) -> str:
    shown = [("A healthy node with GPUs", results["healthy"])]
    shown += [(fault["fault"], results[fault["fault"]]) for fault in faults if fault.get("shown")]
    return "\n\n".join(f"{title}:\n\n```\n{result['report']}\n```" for title, result in shown)


def page(text: str) -> str:
    """The page with what was seen last."""
    faults = yaml.safe_load(FAULTS.read_text(encoding="utf-8"))
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for name, content in (("reports", reports(faults, results)), ("faults", faults_table(faults, results))):
        begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
        before, _begin, rest = text.partition(begin)
        _old, _end, after = rest.partition(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
