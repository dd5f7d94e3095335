"""``make test-long``: what takes longer than ``make test`` has, each part to its end whatever became of the one before.

``python -m tests.long PART...`` runs those parts. ``--write`` keeps each part's result, with commit and date, in
long.json, from which docs/tested.md has its table. Logs are in build/test, as those of ``make test`` are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests import run
from tests.run import ROOT, Check

RESULTS = ROOT / "tests" / "long.json"
PAGE = ROOT / "docs" / "tested.md"
HEAD = "| part of `make test-long` | commit | date | passed | failed | time |"


def ours(name: str, module: str, *arguments: str, sums: bool = True) -> Check:
    """A program of the tests. ``sums``: it ends by saying how many passed and failed."""
    path = {"PYTHONPATH": str(ROOT / ".venv" / "collections")}
    return Check(name, [sys.executable, "-m", module, *arguments], path, sums=sums)


def parts() -> list[Check]:
    """The longest last, so that a run that is cut off has seen most."""
    return [
        ours("fuzzing", "tests.fuzz_gguf", sums=False),
        ours("drawn-models", "tests.memory.drawn", "--count", "100", "--seed", "1", sums=False),
        run.pytest("slow-units", "-m", "long", "tests/unit", "tests/gates"),
        ours("installed", "tests.installed", "--importer"),
        ours("edge", "tests.edge"),
        ours("siege", "tests.siege"),
        ours("kills", "tests.kills"),
        Check(
            "nvidia", ["molecule", "test", "--scenario-name", "nvidia"],
            {"PYTEST_ADDOPTS": "-m ''", "NO_COLOR": "1"}, each=run.MOLECULE_TESTS, forbidden="Executed: Missing",
        ),
        ours("driver", "tests.driver"),
        ours("mirror", "tests.mirror"),
        ours("faults", "tests.faults"),
        ours("alerts", "tests.faults.watched"),
        ours("runbooks", "tests.runbooks"),
    ]  # fmt: skip


def commit() -> str:
    """What is tried, by Git; marked where files differ from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def table(known: dict[str, dict[str, object]]) -> str:
    """The last result of every part."""
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for check in parts():
        seen = known.get(check.name, {})
        cells = [seen.get(key, "") for key in ("commit", "date", "passed", "failed", "time")]
        lines.append("| " + " | ".join([check.name, *(map(str, cells) if seen else ["never", "", "", "", ""])]) + " |")
    return "\n".join(lines)


def keep(known: dict[str, dict[str, object]]) -> None:
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    pattern = rf"(?m)^{re.escape(HEAD)}\n(?:\|.*\n)*"
    PAGE.write_text(re.sub(pattern, lambda _match: table(known) + "\n", text), encoding="utf-8")


def main() -> int:
    checks = {check.name: check for check in parts()}
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(checks)}")
    parser.add_argument("--write", action="store_true", help="keep the results, and the table of the page")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in checks]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(checks)}")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    tried, total = commit(), run.Tally()
    for name in arguments.parts or checks:
        began = time.monotonic()
        tally = run.run(checks[name])
        total.passed += tally.passed
        total.failed += tally.failed
        known[name] = {
            "commit": tried,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "passed": tally.passed,
            "failed": tally.failed,
            "time": f"{(time.monotonic() - began) / 60:.0f} min",
        }
        if arguments.write:
            keep(known)
    print(f"\n{total.passed} passed, {total.failed} failed")
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
