"""docs/contracts.md: the contracts between the parts, each with the tests that name it.

A test names its contract by ``@pytest.mark.contract(number)``, a file that is no pytest module by a line
``# contract: number``. Run without arguments to write the page; tests/gates/test_contracts.py holds it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "contracts.md"
PLACES = ("tests", "molecule/shared")

CONTRACTS = {
    1: "A second run changes nothing. Check mode on a virgin host neither fails nor changes anything.",
    2: "`argument_specs` equal `defaults`. Bad input fails before the first change on any host, by name and value.",
    3: "Versions are pinned, by digest where a registry gives one. Nothing is `latest`.",
    4: "`/etc/docker/daemon.json` has one owner, the `docker` role, which reads, merges, validates and writes.",
    5: "A reboot needs consent (`nvidia_driver_reboot`); unset, one that is due is a fault with its reason.",
    6: "After whatever may take a GPU away, the play proves that the models compute on it. CPU fallback is a failure.",
    7: "No container port is published; engine, endpoint and gateway let in whom they must and nobody else.",
    8: "Secrets have no working default and reach no log, no diff and no world-readable file.",
    9: "Upgrades go by the same roles in batches, canary first, each with a gate; a rescue restores the last release.",
    10: "Any playbook, interrupted at any task and run again, converges.",
}


def marks(path: Path) -> Iterator[tuple[int, str]]:
    """(contract, name) of each test function of a module that has the mark, and of the file if it has a line."""
    text = path.read_text(encoding="utf-8")
    for number in re.findall(r"(?m)^\s*# contract: (\d+)$", text):
        yield int(number), ""
    for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.contract":
                    yield ast.literal_eval(mark.args[0]), node.name


def collect(root: Path = ROOT) -> dict[int, list[str]]:
    """Tests by the number of their contract, as ``path`` or ``path::name``."""
    found: dict[int, list[str]] = {}
    for place in PLACES:
        for path in sorted((root / place).rglob("*")):
            if path.suffix in (".py", ".yml") and path.is_file():
                for number, name in marks(path):
                    entry = f"{path.relative_to(root)}::{name}" if name else str(path.relative_to(root))
                    found.setdefault(number, []).append(entry)
    return found


def faults(tests: dict[int, list[str]]) -> list[str]:
    """Contracts without a test, and tests of a contract that there is not."""
    missing = [f"contract {number} has no test: {text}" for number, text in CONTRACTS.items() if number not in tests]
    unknown = [
        f"there is no contract {number}: {', '.join(tests[number])}" for number in tests if number not in CONTRACTS
    ]
    return missing + unknown


def render(tests: dict[int, list[str]]) -> str:
    lines = [
        "<!-- Made by tools/contracts.py from the tests' own marks. -->",
        "# Contracts",
        "",
        "What every part may rely on, and the tests that name it. `make docs` writes this page.",
    ]
    for number, text in CONTRACTS.items():
        lines += ["", f"## {number}", "", text, ""]
        lines += [f"- `{test}`" for test in tests.get(number, [])]
    return "\n".join(lines) + "\n"


def main() -> int:
    tests = collect()
    wrong = faults(tests)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    PAGE.write_text(render(tests), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
