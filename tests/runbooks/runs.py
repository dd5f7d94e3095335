"""How each page is run: runs.yml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Run:
    """One entry of runs.yml, whose head says what each part is."""

    host: str
    real: bool = False
    why: str = ""
    fault: str = ""
    put: str = ""
    out: str = ""
    empty: bool = False
    sees: str = ""
    same: str = ""
    look: bool = True
    bundle: bool = False
    prepare: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    check_only: list[str] = field(default_factory=list)


def load() -> dict[str, Run]:
    entries = yaml.safe_load(Path(__file__).with_name("runs.yml").read_text(encoding="utf-8"))
    return {name: Run(**entry) for name, entry in entries.items()}
