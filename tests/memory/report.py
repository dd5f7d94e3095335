"""The bench's result in words: a table for a terminal, and docs/memory-bench.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from tests.memory.bench import Result
from tests.memory.data import Data
from tests.memory.figures import CARDS, PLACEMENTS, Comparison, figures

WORST = 10
HEADINGS = ("comparisons", "median", "p95", "worst under", "decisions right", "false fits")


def percent(share: float | None) -> str:
    if share is None:
        return "-"
    # What is exact shall not look rounded.
    return f"{100 * share:.2f} %" if share else "0"


def cells(found: dict[str, Any]) -> list[str]:
    return [
        str(found["rows"]),
        percent(found["median_error"]),
        percent(found["p95_error"]),
        percent(found["worst_under"]),
        percent(found["decisions_right"]),
        "-" if found["decisions_right"] is None else str(found["false_fits"]),
    ]


def beside(results: Sequence[Result]) -> list[list[str]]:
    """The estimators beside each other."""
    rows = [["estimator", *HEADINGS, "unknown", "below truth", "no estimate"]]
    for result in results:
        found = result.summary()
        rows.append(
            [
                result.estimator.name,
                *cells(found),
                str(found["unknown_rows"]),
                str(found["unknown_below_truth"]),
                str(found["unanswered"]),
            ]
        )
    return rows


def _grouped(heading: str, groups: Iterable[tuple[str, list[Comparison]]]) -> list[list[str]]:
    return [[heading, *HEADINGS], *([name, *cells(figures(members))] for name, members in groups if members)]


def by_architecture(comparisons: Sequence[Comparison]) -> list[list[str]]:
    names = sorted({comparison.architecture for comparison in comparisons})
    return _grouped(
        "architecture", ((name, [item for item in comparisons if item.architecture == name]) for name in names)
    )


def by_placement(comparisons: Sequence[Comparison]) -> list[list[str]]:
    return _grouped(
        "placement", ((name, [item for item in comparisons if item.placement == name]) for name in PLACEMENTS)
    )


def worst(comparisons: Sequence[Comparison], count: int = WORST) -> list[list[str]]:
    """The comparisons with the largest error, the first of each model, for a model's rows tend to err alike."""
    ordered = sorted(comparisons, key=lambda item: (-item.error, item.what))
    first = list({item.what.split()[0]: item for item in reversed(ordered)}.values())
    first.sort(key=lambda item: (-item.error, item.what))
    return [
        ["row", "truth", "estimate", "difference"],
        *(
            [item.what, str(item.truth), str(item.estimate), f"{-100 * item.under:+.2f} %"]
            for item in first[:count]
            if item.error
        ),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *body))


def terminal(results: Sequence[Result], data: Data) -> str:
    ours = results[0]
    name = ours.estimator.name
    parts = [aligned(beside(results))]
    for title, rows in (
        (f"{name}, by architecture", by_architecture(ours.comparisons)),
        (f"{name}, by placement", by_placement(ours.comparisons)),
        (f"{name}, each model's worst row (bytes)", worst(ours.comparisons)),
    ):
        parts.append(f"{title}\n{aligned(rows)}")
    said = [
        f"{result.estimator.name} has no estimate for {count}: {reason}"
        for result in results
        for reason, count in result.unanswered.most_common(5)
    ]
    said += [f"{count} rows left out: {reason}" for reason, count in sorted(data.left_out.items())]
    return "\n\n".join([*parts, "\n".join(said)]).rstrip()


PAGE = """\
<!-- Made by `make bench-memory` from the repository's data. -->
# The memory account against others

What estimators say a model takes, against what llama.cpp v0.5.0 would allocate for it: {rows} rows of {models}
models, with one, several or no GPUs. `make bench-memory` gives these tables, and `build/bench/memory.json`; `make
bench-memory HEADERS=<dir of *.gguf> TRUTH=<files>` takes other data, whose form is described in
`tests/memory/data/README.md`; `LLAMA_CPP=b10488` says that its rows are those of Ollama 0.32's llama.cpp.

Compared is a device's total: weights, KV cache and compute buffers. Each GPU of a row is one comparison, and the host
where there is none. The error is |estimate - truth| / truth; "worst under" is the largest (truth - estimate) / truth.
A decision is whether "total + 457 MiB for the CUDA context + 1024 MiB that llama.cpp keeps free" fits a card, asked
of rows with everything on one GPU and of cards of {cards} MiB of which the truth needs 40 to 160 %; a false fit is a
yes where the truth says no. Rows of an architecture that an estimator says it does not know are in all figures and
counted as unknown. What an estimator has no notion of is counted as no estimate, and is in no other figure.

`memory.json` has, by estimator, `rows` (comparisons), `median_error`, `p95_error` (by nearest rank), `worst_under`,
`decisions_right`, `false_fits`, `unknown_rows`, `unknown_below_truth` and `unanswered`; the first six of these again
for rows of known architectures under `known`, and under `by_architecture`. Errors and shares are fractions, all
others counts.

{beside}

{name} by architecture:

{architectures}

{name} by placement:

{placements}

## The estimators

Rewritten from their published sources and told what each row says, as far as they have a notion of it:

{sources}

Several were made for f16 caches, one sequence, one GPU or dense models, and err most on the others; the data has many
rows of those. A single total is spread over several GPUs by their shares. The rows are of llama.cpp, while Ollama
0.17 runs some of the architectures in an engine of its own.
"""


def _wrapped(text: str) -> str:
    """Prose in lines of 120; tables, lists, headings and what stands in backquotes stay whole."""
    parts = []
    for part in text.split("\n\n"):
        if part[0] not in "|#<-":
            kept = re.sub(r"`[^`]+`", lambda found: " ".join(found[0].split()).replace(" ", "\0"), part)
            part = textwrap.fill(" ".join(kept.split()), 120, break_on_hyphens=False)
        parts.append(part.replace("\0", " "))
    return "\n\n".join(parts)


def page(results: Sequence[Result], data: Data) -> str:
    ours = results[0]
    text = PAGE.format(
        rows=len(data.rows),
        models=len(data.models),
        cards=", ".join(map(str, CARDS[:-1])) + f" and {CARDS[-1]}",
        beside=markdown(beside(results)),
        name=ours.estimator.name,
        architectures=markdown(by_architecture(ours.comparisons)),
        placements=markdown(by_placement(ours.comparisons)),
        sources="\n".join(f"- {result.estimator.name}: {result.estimator.source}." for result in results),
    )
    return _wrapped(text.strip()) + "\n"
