"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

from tests.attack.model import FAILED, HELD, NOT_TRIED, Result

WIDTHS = {"outcome": 9, "name": 34, "tries": 44, "expected": 40}
MARKS = {HELD: "held", FAILED: "FAILED", NOT_TRIED: "not tried"}


def cut(text: str, width: int) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def line(result: Result) -> str:
    cells = [cut(getattr(result, column), width).ljust(width) for column, width in WIDTHS.items()]
    return "  ".join([*cells, cut(result.seen, 100)]).rstrip()


def heading(group: str) -> str:
    titles = [title.ljust(width) for title, width in zip(("", group, "TRIED", "EXPECTED"), WIDTHS.values())]
    return "\n" + "  ".join([*titles, "SEEN"])


def summary(results: list[Result], left: list[str]) -> str:
    count = Counter(result.outcome for result in results)
    health = "; ".join(left) if left else "as it was: keys, rules, models, no bans"
    return (
        f"\n{len(results)} attacks: {count[HELD]} held, {count[FAILED]} FAILED, {count[NOT_TRIED]} not tried\n"
        f"The fleet afterwards: {health}"
    )


def write(path: Path, results: list[Result], left: list[str], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = Counter(result.outcome for result in results)
    data = {
        "attacks": len(results),
        "held": count[HELD],
        "failed": count[FAILED],
        "not_tried": count[NOT_TRIED],
        "left_behind": left,
        "seconds": round(seconds, 1),
        "results": [dataclasses.asdict(result) for result in results],
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
