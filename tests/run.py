"""``make test``: every check of the repository in parts, one summary, `N passed, N failed` as the last line.

A part is a list of checks; a check is a command with a name. pytest's tests are counted each; any other check is one.
Everything lands in build/test/<check>.log; a failed check's last lines are printed.

Tests that meet real servers and clocks share the machine with others. A few of a pytest that fail run once more; what
passes then counts, and is told with what it had said (docs/decisions/0052-a-second-try.md).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests import sanity

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test"
TAIL_LINES = 60
PARTS = ("lint", "unit", "gateway", "sanity", "engine", "molecule")
# What marks one of them in a scenario's log: a step, or a test of pytest.
MOLECULE_TESTS = r"Executed: Successful| PASSED "
SUM = r"(?m)^(\d+) passed, (\d+) failed$"
# As .config/molecule/config.yml has it for the scenarios' tests.
SECOND_TRY = ("--reruns=1", "--reruns-delay=2", "--max-suite-reruns=3", "--rerun-show-tracebacks")
SECOND_TRIES = " rerun test summary info "
TRIED_AGAIN = r"\b(\d+) rerun in \d"
# Of the distribution, whose nginx has another way to say HTTP/2, and another Lua module.
NEXT_RELEASE = "trixie"
# Their checks touch nothing of each other, and wait for servers, clocks and single processes half of their time.
AT_ONCE = {"unit": 2, "sanity": 2, "molecule": 2}


@dataclass(frozen=True)
class Check:
    """One command. ``junit``: pytest counts its tests in a file. ``each``: a pattern of the log that marks one test.
    ``sums``: it ends with a line as this program's last one.

    ``forbidden``: a text of the log that makes the check fail whatever its exit status.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path = ROOT
    junit: bool = False
    each: str = ""
    sums: bool = False
    forbidden: str = ""


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0


def pytest(name: str, *arguments: str, python: str = sys.executable, **environment: str) -> Check:
    report = str(LOGS / f"{name}.xml")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SECOND_TRY, "--junitxml", report, *arguments]
    return Check(name, command, environment, junit=True)


def lint() -> Iterator[Check]:
    shell = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.sh", ".ci/run"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    yield Check("yamllint", ["yamllint", "--strict", "."])
    yield Check("ruff check", ["ruff", "check", "."])
    yield Check("ruff format", ["ruff", "format", "--check", "."])
    yield Check("shellcheck", ["shellcheck", *shell])
    yield Check("mypy", ["mypy", "--config-file", "pyproject.toml"])
    yield Check("antsibull-changelog", ["antsibull-changelog", "lint"])
    yield Check("ansible-lint", ["ansible-lint", "--profile", "production", "--offline", "--strict", "-q"])


def core_tests() -> list[str]:
    """The tests that another ansible-core can change: of plugins, and of what asks registries by its HTTP client.

    All else of module_utils knows nothing of ansible-core (tests/gates/test_repository.py).
    """
    below = ROOT / "tests" / "unit" / "plugins"
    parts = [path for path in below.iterdir() if path.name != "module_utils" and not path.name.startswith("_")]
    return sorted(map(str, [*parts, *below.glob("module_utils/test_registry*.py")]))


def unit() -> Iterator[Check]:
    # The longest first, since two run at once; with the balancer's, the first would be longer than all others.
    apart = [f"--ignore=tests/unit/{part}" for part in ("plugins", "balancer")]
    yield pytest("unit", "tests/unit", *apart)
    yield pytest("unit of plugins", "tests/unit/plugins")
    yield from sanity.newest_core(lambda python: pytest("unit on the newest core", *core_tests(), python=python))
    yield pytest("gates and alerts", "tests/gates", "tests/alerts")
    yield pytest("unit of the balancer", "tests/unit/balancer")


def gateway() -> Iterator[Check]:
    path = {"PYTHONPATH": str(ROOT / ".venv" / "collections")}
    yield pytest("gateway", "tests/gateway", **path)
    own = platform.freedesktop_os_release()
    if own["ID"] == "debian" and own.get("VERSION_CODENAME") != NEXT_RELEASE:
        parts = [f"tests/gateway/test_{part}.py" for part in ("requests", "hostile")]
        yield pytest(f"gateway on {NEXT_RELEASE}", *parts, NGINX_OF_RELEASE=NEXT_RELEASE, **path)


def engine() -> Iterator[Check]:
    yield Check("docker", ["tests/fleet/ensure-docker.sh"])
    yield pytest("engine", "tests/engine")


def molecule() -> Iterator[Check]:
    # No check of its own, since the scenarios do not wait for each other.
    subprocess.run(["tests/fleet/ensure-docker.sh"], cwd=ROOT, check=True)
    for scenario in sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")):
        yield Check(
            f"molecule {scenario}",
            ["molecule", "test", "--scenario-name", scenario],
            {"NO_COLOR": "1"},
            each=MOLECULE_TESTS,
            forbidden="Executed: Missing",
        )


def sanity_checks() -> Iterator[Check]:
    for core, command, environment, directory in sanity.runs():
        yield Check(f"sanity {core}", command, environment, directory, each=r"(?m)^Running sanity test ")


BUILDERS = {
    "lint": lint,
    "unit": unit,
    "gateway": gateway,
    "sanity": sanity_checks,
    "engine": engine,
    "molecule": molecule,
}


def tallies(part: str) -> Iterator[Tally]:
    """Run a part's checks, as many at once as it bears and there are cores."""
    width = min(AT_ONCE.get(part, 1), os.cpu_count() or 1)
    if width == 1:
        yield from map(run, BUILDERS[part]())
        return
    with ThreadPoolExecutor(width) as pool:
        yield from pool.map(run, BUILDERS[part]())


def log_of(check: Check) -> Path:
    return LOGS / f"{check.name.replace(' ', '-')}.log"


def told(text: str, failed: bool) -> str:
    """The lines of a check's log that are shown: its last, or what had failed at first."""
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if SECOND_TRIES in line), 0)
    shown = lines[-TAIL_LINES:] if failed else lines[first : first + TAIL_LINES]
    return "\n".join(f"    | {line}" for line in shown)


def counted(check: Check, code: int) -> Tally:
    """What a check that ended came to."""
    tally = Tally(passed=int(code == 0), failed=int(code != 0))
    report = LOGS / f"{check.name}.xml"
    if check.junit and report.exists():
        suite = next(ElementTree.parse(report).iter("testsuite"))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        # pytest may also fail as a whole, with no test to blame.
        tally = Tally(int(suite.get("tests", 0)) - failed - skipped, failed or int(code != 0))
    text = log_of(check).read_text(encoding="utf-8", errors="replace")
    if check.sums:
        # Without it the program did not come to its end.
        passed, failed = ([(0, 1)] + [(int(one), int(two)) for one, two in re.findall(SUM, text)])[-1]
        tally = Tally(passed, failed or int(code != 0))
    if check.forbidden and check.forbidden in text:
        tally = Tally(failed=1)
    if check.each:
        count = len(re.findall(check.each, text))
        # A run that tested nothing has proved nothing.
        tally = Tally(count, tally.failed) if count else Tally(failed=1)
    return tally


def run(check: Check) -> Tally:
    """Run one check and count it; its output goes to a log, the end of it to the screen if it failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / f"{check.name}.xml").unlink(missing_ok=True)
    started = time.monotonic()
    with log_of(check).open("w", encoding="utf-8") as output:
        code = subprocess.run(
            check.command,
            cwd=check.directory,
            env=os.environ | check.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    tally = counted(check, code)
    text = log_of(check).read_text(encoding="utf-8", errors="replace")
    tries = sum(map(int, re.findall(TRIED_AGAIN, text)))
    again = f", {tries} second tries" if tries else ""
    verdict = "ok    " if tally.failed == 0 else "FAILED"
    spent = time.monotonic() - started
    lines = [f"  {verdict} {check.name:<28} {tally.passed:>4} passed {tally.failed:>3} failed  {spent:6.1f} s{again}"]
    if tally.failed or tries:
        lines += [told(text, tally.failed > 0), f"    the whole of it: {log_of(check).relative_to(ROOT)}"]
    print("\n".join(lines), flush=True)
    return tally


def main(arguments: list[str]) -> int:
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        print(f"unknown part {unknown[0]!r}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # The tools of this environment come first, also for what they start themselves.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not arguments:
        # One part's logs are left alone: another part may run beside it.
        shutil.rmtree(LOGS, ignore_errors=True)
    total = Tally()
    seconds = {}
    for part in arguments or PARTS:
        print(f"{part}", flush=True)
        started = time.monotonic()
        for tally in tallies(part):
            total.passed += tally.passed
            total.failed += tally.failed
        seconds[part] = time.monotonic() - started
    print("\nTime by part: " + ", ".join(f"{part} {spent:.0f} s" for part, spent in seconds.items()))
    print(f"Together: {sum(seconds.values()):.0f} s\n")
    print(f"{total.passed} passed, {total.failed} failed")
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
