# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks of a fleet, told to people: a table, sentences on users and engine, and a plot."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _line_chart
from ansible_collections.onprem.llm.plugins.module_utils._load_figures import series

_COLUMNS = (
    "AT ONCE", "TOKENS/S", "A STREAM", "FIRST TOKEN p50", "p95", "p99", "GAP p50", "p95", "p99", "ANSWERS", "FAILED"
)  # fmt: skip
_DIFFER = 0.8


class ReportError(ValueError):
    """What is to be reported is no result of llm_benchmark."""


def name_of(run: t.Mapping[str, t.Any]) -> str:
    """Where a run came from, such as ``gw1 (gateway)``."""
    return f"{run['host']} ({run['path']})"


def checked(runs: t.Sequence[t.Mapping[str, t.Any]]) -> t.Sequence[t.Mapping[str, t.Any]]:
    """:raises ReportError: a run lacks what every result has."""
    for run in runs:
        missing = {"host", "path", "model", "asked", "asks", "steps", "capacity", "stopped"} - set(run)
        if missing:
            raise ReportError(f"runs: {run.get('host', 'one')} lacks {', '.join(sorted(missing))}")
    return runs


def lines(runs: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """The report, without colours."""
    told: list[str] = []
    for run in runs:
        asks = run["asks"]
        told += ["", f"{name_of(run)}, {run['model']}"]
        if not run["asked"]:
            most = "{requests} requests and {tokens} tokens in {seconds:g} seconds, in {steps} steps".format(**asks)
            told.append(f"  would ask at most {most}")
            continue
        for key, rows in series(run["steps"]).items():
            told += _table(key, rows)
        if run["stopped"] or len(run["steps"]) < asks["steps"]:
            why = run["stopped"] or "a curve ends where half of its requests fail"
            told.append(f"  not all was asked: {why} ({len(run['steps'])} of {asks['steps']} steps)")
        told += [f"  {sentence}" for item in run["capacity"] for sentence in _sentences(item)]
    return told[1:]


def _table(key: tuple[t.Any, ...], rows: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    cache, prompt, answer = key
    cells = [_COLUMNS, *(_row(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    told = [f"  prompts of {prompt} tokens, prefix cache {cache}, answers of up to {answer} (times in seconds)"]
    told += ["    " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    means = [row["answer_tokens_mean"] for row in rows if row["completed"]]
    if means and min(means) < _DIFFER * answer:
        told.append(f"    the model ended by itself: answers had {min(means):g} tokens on average")
    for row in rows:
        told += [f"    at {row['concurrency']}: {reason}" for reason in row["reasons"]]
    return told


def _row(row: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    wait, gap, pace = row["first_token_seconds"] or {}, row["gap_seconds"] or {}, row["stream_tokens_per_second"] or {}
    failed = ", ".join(f"{count} {kind}" for kind, count in row["errors"].items())
    if row["empty"]:
        failed += (", " if failed else "") + f"{row['empty']} empty"
    return (
        str(row["concurrency"]),
        f"{row['tokens_per_second']:.1f}",
        f"{pace['p50']:.1f}" if pace else "-",
        *(f"{wait[name]:.3f}" if name in wait else "-" for name in ("p50", "p95", "p99")),
        *(f"{gap[name]:.4f}" if name in gap else "-" for name in ("p50", "p95", "p99")),
        str(row["completed"]),
        failed or "0",
    )


def _sentences(item: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    what = f"prompts of {item['prompt_tokens']}, {item['prefix_cache']}, answers of {item['answer_tokens']}"
    habit = f"who think for {item['think_seconds']:g} s between answers"
    goal = f"first token within {item['goal_seconds']:g} s in 95 of 100 requests"
    if not item["users"]:
        yield f"{what}: no number of users gets the {goal}"
    elif item["missed_at"] is None:
        yield f"{what}: at least {item['users']} users {habit} get the {goal}; more was not measured"
    else:
        yield (
            f"{what}: {item['users']} users {habit} get the {goal} "
            f"({item['concurrency']} at once; {item['missed_at']} miss it)"
        )
    yield f"{what}: {item['advice']['verdict']}: {item['advice']['because']}"


def plot(runs: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """The curves of all runs as SVG."""
    curves = [
        (f"{name_of(run)}, {run['model']}, prompt {key[1]}, answer {key[2]}, {key[0]}", rows)
        for run in runs
        for key, rows in series(run["steps"]).items()
    ]

    def panel(title: str, unit: str, value: t.Callable[[t.Mapping[str, t.Any]], float | None], log: bool) -> t.Any:
        told = [
            _line_chart.Line(
                name, tuple((row["concurrency"], found) for row in rows if (found := value(row)) is not None)
            )
            for name, rows in curves
        ]
        return _line_chart.Panel(title, unit, tuple(told), log)

    def spread(name: str, percent: str) -> t.Callable[[t.Mapping[str, t.Any]], float | None]:
        return lambda row: (row[name] or {}).get(percent)

    return _line_chart.chart(
        "Benchmark",
        "requests at once",
        [
            panel("Throughput", "tokens a second", lambda row: row["tokens_per_second"], False),
            panel("First token, median", "seconds", spread("first_token_seconds", "p50"), True),
            panel("First token, 95th percentile", "seconds", spread("first_token_seconds", "p95"), True),
            panel("Between pieces of text, 95th percentile", "seconds", spread("gap_seconds", "p95"), True),
        ],
    )
