# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has used how much of the fleet in a month, by what the gateways have counted (roles/monitoring, metrics.py).

A GPU hour is an hour in which one GPU worked for one user alone: a request counts with the time that it was at the
engine, by the model's GPUs, divided by the slots that share them. Two models on one GPU each count it whole.
"""

from __future__ import annotations

import csv
import io
import json
import re
import typing as t

# As the gateways' ledgers have them; times in seconds.
COUNTED = ("requests", "failed", "prompt_tokens", "completion_tokens", "engine_seconds", "gpu_seconds")
COLUMNS = (
    "month",
    "user",
    "model",
    "requests",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "engine_hours",
    "gpu_hours",
)

Row = dict[str, t.Any]


class UsageError(ValueError):
    """A ledger that is none, or a month that does not exist."""


def month_fault(month: str) -> str:
    """What is wrong with the name of a month; empty for a good one."""
    if re.match(r"\d{4}-(0[1-9]|1[0-2])\Z", month):
        return ""
    return f"month is '{month}'; give a year and a month, such as 2026-11"


def ledger(text: str, host: str) -> t.Mapping[str, t.Any]:
    """The months of one gateway. Raises UsageError, with the host's name."""
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
        if document["schema"] != 1:
            raise ValueError(f"schema {document['schema']!r} is not 1")
        months = document["months"]
        if not isinstance(months, dict):
            raise TypeError("months are no mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{host}: what its gateway has counted cannot be read: {type(error).__name__}: {error}"
        ) from error
    return months


def rows(ledgers: t.Iterable[t.Mapping[str, t.Any]], month: str, by_model: bool = True) -> list[Row]:
    """One row a user (and model) of the month, over all gateways, by name.

    Raises UsageError where a ledger has something else than numbers.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for months in ledgers:
        for user, models in (months.get(month) or {}).items():
            for model, counted in models.items():
                total = found.setdefault((user, model if by_model else "all"), dict.fromkeys(COUNTED, 0.0))
                for name in COUNTED:
                    try:
                        total[name] += float(counted.get(name, 0))
                    except (TypeError, ValueError) as error:
                        raise UsageError(f"{user}, {model}: {name} is no number") from error
    return [_row(month, user, model, total) for (user, model), total in sorted(found.items())]


def _row(month: str, user: str, model: str, total: t.Mapping[str, float]) -> Row:
    whole = {name: int(total[name]) for name in COUNTED[:4]}
    hours = {f"{kind}_hours": round(total[f"{kind}_seconds"] / 3600, 3) for kind in ("engine", "gpu")}
    return {"month": month, "user": user, "model": model, **whole, **hours}


def lines(found: t.Sequence[Row]) -> list[str]:
    """A table for people, with the sums as its last line."""
    names = COLUMNS[1:]
    summed: Row = {name: sum(row[name] for row in found) for name in names[2:]}
    table = [list(names)]
    for row in [*found, {"user": "together", "model": "", **summed}]:
        table.append([f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in names])
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    # Names to the left, numbers to the right.
    aligned = [str.ljust, str.ljust, *[str.rjust] * (len(names) - 2)]
    return ["  ".join(map(_call, aligned, line, widths)).rstrip() for line in table]


def _call(align: t.Callable[[str, int], str], cell: str, width: int) -> str:
    return align(cell, width)


def as_csv(found: t.Iterable[Row]) -> str:
    """The rows as CSV with a header, for a spreadsheet. What would be taken for a formula is quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def _plain(value: t.Any) -> t.Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
