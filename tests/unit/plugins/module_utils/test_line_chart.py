# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Charts: valid XML, axes that hold every point, points where their values put them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _line_chart as charts
from hypothesis import given
from hypothesis import strategies as some

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (7, [0, 2, 4, 6, 8]),
        (430, [0, 100, 200, 300, 400, 500]),
        (1010, [0, 200, 400, 600, 800, 1000, 1200]),
    ],
)
def test_linear_ticks(most: float, ticks: list[float]) -> None:
    assert charts.linear_ticks(most) == pytest.approx(ticks)


@given(some.floats(1e-6, 1e9))
def test_linear_ticks_hold_the_value_and_are_few(most: float) -> None:
    ticks = charts.linear_ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most * (1 - 1e-9)
    assert 3 <= len(ticks) <= 8


@given(some.floats(1e-5, 1e4), some.floats(1, 1e4))
def test_decade_ticks_hold_both_ends(least: float, factor: float) -> None:
    ticks = charts.decade_ticks(least, least * factor)
    assert ticks[0] <= least * (1 + 1e-9)
    assert ticks[-1] >= least * factor * (1 - 1e-9)
    assert len(ticks) >= 2


def drawn(*panels: charts.Panel) -> ElementTree.Element:
    return ElementTree.fromstring(charts.chart("A & B <c>", "at once", panels))


def test_points_are_where_their_values_put_them() -> None:
    line = charts.Line("one", ((1, 0.0), (2, 50.0), (4, 100.0)))
    root = drawn(charts.Panel("Throughput", "tokens a second", (line,)))
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{SVG}circle")]
    (x1, y1), (x2, y2), (x4, y4) = circles
    # Doublings are equally far apart, and 50 is half way between 0 and 100.
    assert x2 - x1 == pytest.approx(x4 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y4, abs=0.2)
    assert x1 < x4
    assert y4 < y1
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"A & B <c>", "Throughput", "tokens a second", "at once", "one", "1", "2", "4", "0", "100"} <= set(texts)


def test_a_logarithmic_panel_leaves_out_what_has_no_place() -> None:
    line = charts.Line("one", ((1, 0.0), (2, 0.01), (4, 0.1), (8, 1.0)))
    root = drawn(charts.Panel("First token", "seconds", (line,), logarithmic=True))
    heights = [float(c.get("cy", "")) for c in root.iter(f"{SVG}circle")]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_everything_is_inside_and_on_a_ground_of_its_own() -> None:
    lines = tuple(charts.Line(f"line {n}", tuple((2**k, 3.7 * k * n + 0.1) for k in range(7))) for n in range(1, 10))
    panels = [charts.Panel(f"p{n}", "s", lines, logarithmic=n % 2 == 1) for n in range(4)]
    root = drawn(*panels)
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    ground = next(root.iter(f"{SVG}rect"))
    assert (float(ground.get("width", "")), float(ground.get("height", "")), ground.get("fill")) == (
        width, height, "#ffffff",
    )  # fmt: skip
    for group in root.iter(f"{SVG}g"):
        moved = re.fullmatch(r"translate\((\d+) (\d+)\)", group.get("transform", ""))
        for circle in group.findall(f"{SVG}circle") if moved else ():
            assert 0 < int(moved[1]) + float(circle.get("cx", "")) < width
            assert 0 < int(moved[2]) + float(circle.get("cy", "")) < height
    assert len({(path.get("stroke"), path.get("stroke-dasharray")) for path in root.iter(f"{SVG}path")}) >= 9


def test_nothing_measured_one_point_and_flat_lines() -> None:
    assert "nothing was measured" in charts.chart("t", "x", [charts.Panel("p", "u", ())])
    drawn(charts.Panel("p", "u", (charts.Line("a", ((4, 5.0),)),), logarithmic=True))
    drawn(charts.Panel("p", "u", (charts.Line("a", ((1, 0.0), (2, 0.0))),)))
