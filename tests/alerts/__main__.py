"""``make test-alerts``: all of promtool's tests of the alerts, and how many they were."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.alerts import promtool


def main() -> int:
    rules, cases = promtool.alerts(), promtool.cases()
    missing = sorted(rules.keys() ^ cases.keys())
    if missing:
        print(f"no case in tests/alerts/cases.yml, or no alert: {', '.join(missing)}", file=sys.stderr)
        return 1
    failed = 0
    for name, rule in rules.items():
        tests = [promtool.made(name, cases[name], kind, rule) for kind in promtool.KINDS]
        with tempfile.TemporaryDirectory() as directory:
            done = promtool.run(tests, Path(directory), name)
        failed += done.returncode != 0
        told = (
            f"fires after {cases[name]['after']} min"
            if done.returncode == 0
            else "FAILED\n" + done.stdout + done.stderr
        )
        print(f"  {name:<28} {rule['labels']['severity']:<7} {told}", flush=True)
    kinds = ", ".join(f"{len(rules)} {kind}" for kind in promtool.KINDS)
    print(f"{len(rules)} alerts, {len(rules) * len(promtool.KINDS)} tests ({kinds}), {failed} alerts FAILED")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
