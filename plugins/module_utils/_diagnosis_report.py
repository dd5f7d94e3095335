# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's diagnosis as a table for people, as Markdown, and as data."""

from __future__ import annotations

import textwrap
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis as ladder

Hosts = t.Mapping[str, t.Sequence[ladder.Finding]]
WIDTH = 150
# The words of a verdict, so that no colour is needed to tell them apart.
WORDS = {
    ladder.OK: "ok",
    ladder.BROKEN: "BROKEN",
    ladder.REMARK: "remark",
    ladder.UNKNOWN: "unknown",
    ladder.NOT_ASKED: "not asked",
}


def causes(hosts: Hosts) -> list[tuple[str, ladder.Finding]]:
    """Every cause with its host, the first on top: by the ladder, then by the host's name."""
    found = [(host, item) for host in sorted(hosts) for item in ladder.faults(hosts[host])]
    return sorted(found, key=lambda pair: ladder.NAMES.index(pair[1].rung))


def _open(item: ladder.Finding) -> str:
    """What leaves a rung open, in words."""
    return "open until mended: " + ", ".join(item.because) if item.because else ""


def _sentence(item: ladder.Finding) -> str:
    return f"{'could not be checked' if item.verdict == ladder.UNKNOWN else 'NOT so'}: {item.checked}"


def _parts(item: ladder.Finding) -> list[tuple[str, str]]:
    named = [("seen", item.seen), ("means", item.means), ("mend", item.mend), ("open", _open(item))]
    return [(name, " ".join(text.split())) for name, text in named if text and text != "not asked"]


def table(hosts: Hosts, lost: t.Sequence[str] = ()) -> list[tuple[str, str]]:
    """(verdict, line) of the report for a terminal: first what is broken, with all of it, then every rung by host."""
    lines: list[tuple[str, str]] = []
    found = causes(hosts)
    for host in lost:
        lines.append((ladder.BROKEN, f"{host} does not answer, and nothing is known of it."))
    for number, (host, item) in enumerate(found):
        title = "First cause" if number == 0 else "Also"
        lines.append((ladder.BROKEN, f"{title}: {host}: {item.rung}: {_sentence(item)}"))
        for name, text in _parts(item):
            lines += [(ladder.OK, line) for line in _folded(text, f"  {name:<6} ", " " * 9)]
    if not found and not lost:
        lines.append((ladder.OK, "Nothing is broken."))
    for host in sorted(hosts):
        lines += [(ladder.OK, ""), (ladder.OK, host)]
        for item in hosts[host]:
            text = "; ".join(part for _name, part in _parts(item)[:1]) if item.verdict != ladder.UNKNOWN else ""
            text = text or _open(item)
            head = f"  {WORDS[item.verdict]:<9}  {item.rung:<13} {item.checked}"
            lines += [(item.verdict, line) for line in _folded(f"{head}: {text}" if text else head, "", " " * 27)]
    return lines


def _folded(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, drop_whitespace=True) or [first]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def markdown(hosts: Hosts, lost: t.Sequence[str] = ()) -> str:
    """The report as a page."""
    found = causes(hosts)
    lines = ["# Diagnosis", ""]
    if not found and not lost:
        lines += ["Nothing is broken.", ""]
    lines += [f"- **{host}** does not answer, and nothing is known of it." for host in lost]
    for number, (host, item) in enumerate(found):
        lines.append(f"{number + 1}. **{host}: {item.rung}**: {_sentence(item)}.")
        lines += [f"   - {name}: {text}" for name, text in _parts(item)]
    for host in sorted(hosts):
        lines += ["", f"## {host}", "", "| rung | checked | verdict | seen |", "|---|---|---|---|"]
        for item in hosts[host]:
            seen = _open(item) or item.seen
            cells = (item.rung, item.checked, WORDS[item.verdict], seen)
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def data(hosts: Hosts, lost: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """The report for programs."""
    return {
        "schema": 1,
        "healthy": not causes(hosts) and not lost,
        "unreachable": list(lost),
        "causes": [{"host": host, "rung": item.rung} for host, item in causes(hosts)],
        "hosts": {host: ladder.as_data(hosts[host]) for host in sorted(hosts)},
    }
