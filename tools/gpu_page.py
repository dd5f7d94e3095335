"""The tables of docs/gpu.md, of what plugins/module_utils knows: troubles, XID messages, architectures.

Run without arguments to write the page; tests/unit/test_gpu_page.py holds it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
_MARKED = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- end -->\n)", re.S)


def table(*rows: Iterable[str]) -> str:
    head, *body = (f"| {' | '.join(row)} |\n" for row in rows)
    return head + re.sub(r"[^|\n]+", "---", head) + "".join(body)


def problems() -> str:
    from ansible_collections.onprem.llm.plugins.module_utils import _gpu_problems

    rows = [
        (f"`{code}`", known.meaning, known.remedy, "yes" if known.blocks else "")
        for code, known in _gpu_problems.KNOWN.items()
    ]
    return table(("code", "what it means", "what to do", "blocks"), *rows)


def _numbers(codes: Iterable[int]) -> Iterator[str]:
    """Codes with runs of three and more as ranges."""
    row: list[int] = []
    for code in [*sorted(codes), 10**9]:
        if row and code != row[-1] + 1:
            yield from [f"{row[0]}-{row[-1]}"] if len(row) > 2 else map(str, row)
            row = []
        row.append(code)


def xids() -> str:
    from ansible_collections.onprem.llm.plugins.module_utils import _xid

    rows = []
    for text, key in dict.fromkeys(_xid.CODES.values()):
        codes = [code for code, meant in _xid.CODES.items() if meant == (text, key)]
        action, critical = _xid.ACTIONS[key]
        rows.append((min(codes), ", ".join(_numbers(codes)), text, action, "yes" if critical else ""))
    return table(("XID", "what happened", "what NVIDIA has one do", "critical"), *(row[1:] for row in sorted(rows)))


def architectures() -> str:
    from ansible_collections.onprem.llm.plugins.module_utils import _gpu_architectures

    rows = []
    for name in _gpu_architectures.ARCHITECTURES:
        devices = [f"{first:04x}-{last:04x}" for first, last, one in _gpu_architectures._DEVICES if one == name]
        rows.append((f"`{name}`", ", ".join(devices)))
    return table(("architecture", "PCI devices"), *rows)


TABLES = {"problems": problems, "xids": xids, "architectures": architectures}


def page(text: str) -> str:
    """The page with its tables as they are now."""
    return _MARKED.sub(lambda found: found.group(1) + TABLES[found.group("name")]() + found.group(3), text)


def main() -> int:
    sys.path.insert(0, str(ROOT / ".venv" / "collections"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
