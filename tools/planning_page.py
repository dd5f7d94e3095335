#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write into docs/planning.md and docs/memory.md what their commands print.

A block of a page that begins with `$ ansible-playbook` and the playbook that plans gets the report that it shows, made
by the same code from the command's own variables.

tools/planning_page.py
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "planning.md"
MEMORY_PAGE = ROOT / "docs" / "memory.md"
PAGES = (PAGE, MEMORY_PAGE)
PLAYBOOK = r"(?:onprem\.llm\.plan|playbooks/plan\.yml)"
BLOCK = re.compile(rf"```console\n(\$ ansible-playbook {PLAYBOOK} [^\n]*\n)(.*?)```", re.DOTALL)


def variables(command: str) -> dict[str, Any]:
    """What `-e` gives: JSON, name=value, or @ and a file of the repository."""
    words = shlex.split(command)
    found: dict[str, Any] = {}
    for flag, value in zip(words, words[1:]):
        if flag == "-e" and value.startswith("@"):
            text = (ROOT / value[1:]).read_text(encoding="utf-8")
            found.update(yaml.safe_load(text.replace("{{ playbook_dir }}", str(ROOT / "playbooks"))))
        elif flag == "-e":
            found.update(json.loads(value) if value.startswith("{") else dict([value.split("=", 1)]))
    return found


def answer(given: dict[str, Any]) -> list[str]:
    """The lines that playbooks/plan.yml prints for these variables."""
    from ansible_collections.onprem.llm.plugins.modules import model_select

    defaults = yaml.safe_load((ROOT / "roles/models/defaults/main.yml").read_text(encoding="utf-8"))
    files = {
        option: yaml.safe_load((ROOT / "roles/models/files" / name).read_text(encoding="utf-8"))
        for option, name in (
            ("catalog", "catalog.yml"),
            ("benchmarks", "benchmarks.yml"),
            ("library", "library_tags.yml"),
            ("gpu_table", "gpus.yml"),
        )
    }
    files["catalog"] += given.get("models_catalog", [])
    parameters = {
        **files,
        "workloads": given["models_workloads"],
        "gpus": [],
        "gpu_names": given.get("plan_gpus"),
        "host": {},
        "host_size": given.get("plan_host"),
        "engine_version": "0.32.15",
        "host_name": "",
        "kv_cache_type": given.get("models_kv_cache_type", defaults["models_kv_cache_type"]),
        "flash_attention": defaults["models_flash_attention"],
        "headroom_bytes": 0,
        "cuda_context_bytes": None,
        "host_memory_fraction": 0.75,
        "fit_target_bytes": defaults["models_fit_target_mib"] << 20,
        "display_bytes": 0,
        "max_instances": int(given.get("models_max_instances", 1)),
        "measurements": [],
        "current_plan": None,
        "fleet": None,
        "advise": True,
        "explain": given.get("explain", ""),
        "purchase": bool(given.get("plan_purchase")),
    }
    try:
        return list(model_select.answer(parameters)["report"])
    except model_select._select.PlanError as error:
        return [f"no plan: {error}"]


def page(text: str) -> str:
    """The page with the answers as they are now."""
    return BLOCK.sub(
        lambda block: "```console\n{}{}\n```".format(
            block.group(1), "\n".join(line.rstrip() for line in answer(variables(block.group(1))))
        ),
        text,
    )


def write_headers() -> None:
    """The headers that docs/memory-example.yml reads."""
    from tests.memory import pack

    pack.unpack(ROOT / "build" / "headers")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / ".venv" / "collections"), str(ROOT)]
    write_headers()
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
