"""``python -m tests.faults``: the faults of faults.yml on a fleet of three hosts, each to be named as the first cause.

``--only PATTERN`` tries those with such a name; ``--keep`` leaves the fleet up for the next call. ``--write`` keeps
what was seen in results.json, from which tools/diagnosis_page.py makes the table of docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from tests.faults.fleet import HOSTS, built, down
from tests.faults.injection import HERE, load

RESULTS = HERE / "results.json"


HEALTHY = "healthy"


def shown(report: dict) -> str:
    """The table as the run printed it."""
    text = report.get("output", "")
    return text.partition("PLAY [Tell what was found]")[2].partition("\n")[2].partition("\nTASK [")[0].strip("\n")


def keep(known: dict[str, dict]) -> None:
    """What was seen of the faults that there are, in their order."""
    names = [HEALTHY, *(fault.name for fault in load())]
    text = json.dumps({name: known[name] for name in names if name in known}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of the faults' names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet up, and take one that is up")
    parser.add_argument("--missing", action="store_true", help="only those that results.json has no hit of")
    parser.add_argument("--write", action="store_true", help="keep the results for the page")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    fleet = built(arguments.keep)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    missed = []
    faults = [fault for fault in load() if re.search(arguments.only, fault.name, re.IGNORECASE)]
    if arguments.missing:
        faults = [fault for fault in faults if not known.get(fault.name, {}).get("hit")]
    for fault in faults:
        started = time.monotonic()
        try:
            reason, report = fleet.try_out(fault)
        except RuntimeError as error:
            reason, report = str(error), {"causes": [], "hosts": {}}
        if reason:
            missed.append(fault.name)
        print(f"{'MISSED' if reason else 'ok    '} {fault.name}: {reason or fault.spec['first']} "
              f"({time.monotonic() - started:.0f} s)", flush=True)  # fmt: skip
        first = (report["causes"] or [{"host": "", "rung": ""}])[0]
        found = [item for item in report["hosts"].get(first["host"], []) if item["rung"] == first["rung"]]
        known[fault.name] = {
            "first": first["rung"],
            "hit": not reason,
            "open": sorted({item["rung"] for told in report["hosts"].values() for item in told if item["because"]}),
            "seen": found[0]["seen"] if found else "",
        }
        if fault.spec.get("shown"):
            known[fault.name]["report"] = shown(report)
        if arguments.write:
            keep(known)
    healthy = fleet.diagnose()
    sound = healthy["status"] == 0 and healthy["healthy"]
    print(f"{'ok    ' if sound else 'FAILED'} The fleet is healthy afterwards ({healthy['seconds']:.0f} s)")
    if not sound:
        print(healthy["output"][-6000:])
    if arguments.write:
        known[HEALTHY] = {"report": shown(fleet.diagnose(HOSTS["gpu"]))}
        keep(known)
    if not arguments.keep:
        down()
    print(f"\n{len(faults) - len(missed)} of {len(faults)} faults named as the first cause")
    print(f"{len(faults) - len(missed) + sound} passed, {len(missed) + (not sound)} failed")
    return int(bool(missed) or not sound)


if __name__ == "__main__":
    sys.exit(main())
