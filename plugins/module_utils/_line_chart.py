# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Line charts as SVG: panels over one axis of powers of two, with a legend. No script, no font, one file."""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white swallows.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444")
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_PANEL_WIDTH, _PANEL_HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 34, 46
_LEGEND_LINE, _HEAD = 20, 44
# What a logarithmic axis is marked with, a decade.
_MANTISSAS = (1, 2, 5)
_MOST_LINEAR_TICKS = 6


@dataclass(frozen=True)
class Line:
    """One line of a panel, under the name by which the legend knows it."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    :ivar unit: of its values, for the axis.
    :ivar logarithmic: whether the values are spread over decades; values of 0 and below have no place then.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    logarithmic: bool = False


def linear_ticks(most: float) -> list[float]:
    """0 to at least ``most`` in steps of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return [0.0, 1.0]
    for exponent in range(math.floor(math.log10(most)) - 1, math.floor(math.log10(most)) + 2):
        for mantissa in _MANTISSAS:
            step = mantissa * 10.0**exponent
            count = math.ceil(most / step - 1e-9)
            if count <= _MOST_LINEAR_TICKS:
                return [round(number * step, 12) for number in range(count + 1)]
    return [0.0, most]


def decade_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from at most ``least`` to at least ``most``, both above 0."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    marks = [mantissa * 10.0**exponent for exponent in range(low, high + 1) for mantissa in _MANTISSAS]
    first = max([mark for mark in marks if mark <= least * (1 + 1e-9)] or marks[:1])
    last = min([mark for mark in marks if mark >= most * (1 - 1e-9) and mark > first] or [marks[-1]])
    return [mark for mark in marks if first <= mark <= last]


def number(value: float) -> str:
    """A tick's label: no more digits than it needs."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def chart(title: str, axis: str, panels: t.Sequence[Panel]) -> str:
    """The charts, two a row, as a whole SVG document.

    :param axis: what the common axis shows.
    """
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    looks = {
        name: (COLOURS[place % len(COLOURS)], _DASHES[place // len(COLOURS) % len(_DASHES)])
        for place, name in enumerate(names)
    }
    columns = min(2, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width = columns * _PANEL_WIDTH
    height = _HEAD + rows * _PANEL_HEIGHT + len(names) * _LEGEND_LINE + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<g font-family="sans-serif" font-size="12" fill="#222222">',
        f"<title>{escape(title)}</title>",
        # Without a ground of its own, dark text is lost on a dark page.
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="16">{escape(title)}</text>',
    ]
    for place, panel in enumerate(panels):
        parts.append(
            f'<g transform="translate({place % columns * _PANEL_WIDTH} {_HEAD + place // columns * _PANEL_HEIGHT})">'
        )
        parts += _panel(panel, axis, looks)
        parts.append("</g>")
    for place, name in enumerate(names):
        colour, dash = looks[name]
        y = _HEAD + rows * _PANEL_HEIGHT + place * _LEGEND_LINE + 10
        parts.append(_stroke(f"M{_LEFT} {y - 4}H{_LEFT + 34}", colour, dash))
        parts.append(f'<text x="{_LEFT + 42}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _stroke(path: str, colour: str, dash: str = "", width: float = 1.8) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def _panel(panel: Panel, axis: str, looks: t.Mapping[str, tuple[str, str]]) -> t.Iterator[str]:
    kept = [
        (line.name, [point for point in line.points if point[1] > 0 or not panel.logarithmic]) for line in panel.lines
    ]
    points = [point for _name, line in kept for point in line]
    yield f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(panel.title)}</text>'
    if not points:
        yield f'<text x="{_LEFT}" y="60">nothing was measured</text>'
        return
    columns = sorted({x for x, _y in points})
    values = [y for _x, y in points]
    ticks = decade_ticks(min(values), max(values)) if panel.logarithmic else linear_ticks(max(values))
    right, bottom = _PANEL_WIDTH - _RIGHT, _PANEL_HEIGHT - _BOTTOM
    first, last = math.log2(columns[0]), math.log2(columns[-1])

    def across(x: float) -> float:
        return (
            (_LEFT + right) / 2 if first == last else _LEFT + (math.log2(x) - first) / (last - first) * (right - _LEFT)
        )

    def scaled(y: float) -> float:
        return math.log10(y) if panel.logarithmic else y

    def up(y: float) -> float:
        low, high = scaled(ticks[0]), scaled(ticks[-1])
        return bottom - (scaled(y) - low) / (high - low) * (bottom - _TOP)

    for tick in ticks:
        yield _stroke(f"M{_LEFT} {up(tick):.1f}H{right}", "#dddddd", width=1)
        yield f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for column in columns:
        yield _stroke(f"M{across(column):.1f} {bottom}v4", "#222222", width=1)
        yield f'<text x="{across(column):.1f}" y="{bottom + 17}" text-anchor="middle">{number(column)}</text>'
    yield _stroke(f"M{_LEFT} {_TOP}V{bottom}H{right}", "#222222", width=1)
    yield f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(axis)}</text>'
    middle = (_TOP + bottom) / 2
    yield (
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escape(panel.unit)}</text>"
    )
    for name, line in kept:
        colour, dash = looks[name]
        places = [f"{across(x):.1f} {up(y):.1f}" for x, y in sorted(line)]
        if len(places) > 1:
            yield _stroke("M" + "L".join(places), colour, dash)
        for place in places:
            x, y = place.split()
            yield f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
