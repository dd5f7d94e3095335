# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the status page looks in a browser, on a phone and on a desk, light and dark, and to who does not see it.

Scripts of the page itself are off throughout.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser
from tests.unit import fleet_sample as sample

AT = 1795348995.0
LONG = "hf.co/" + "a-very-long-organisation-name" * 3 + "/Model-" + "x" * 90 + ":Q4_K_M"
# WCAG 2.2, 1.4.3: contrast of text, and of text of 24 px or of bold text of 18.66 px.
CONTRAST = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  let seen = 0;
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const [a, b] = [light(parts(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const wanted = size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5;
    seen += 1;
    if (ratio < wanted) low.push(`${element.className} ${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [seen, low];
})()
"""
# What is seen lies within the window and shows all of its text. The rest is for screen readers, or for the keyboard.
CUT = """
(() => {
  const cut = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (element.closest('.quiet, .skip, .open, thead')) continue;
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const scrolls = element.clientWidth && element.scrollWidth > element.clientWidth + 1;
    if (box.left < -0.5 || box.right > innerWidth + 0.5 || scrolls)
      cut.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 40)}`);
  }
  return cut;
})()
"""


def hostile(fleet: dict[str, Any]) -> dict[str, Any]:
    """The same fleet with names that nobody would choose, and with figures that are not there."""
    fleet = copy.deepcopy(fleet)
    for host in fleet["hosts"]:
        for model in host["models"]:
            model["name"] = LONG
            model["reason"] = "<script>document.title = 'taken'</script>" + "e" * 400
        for gpu in host["gpus"]:
            gpu.update(name="<b>GPU</b> " + "n" * 120, power_watts=None, memory_used_bytes=None)
        for model in (host["gateway"] or {}).get("models", []):
            model.update(name=LONG, first_token_p95=None)
    fleet["hosts"][1]["name"] = '"><img src=x onerror=alert(1)>'
    fleet["hosts"][2]["problems"].append({"severity": "page", "text": "x" * 1000, "runbook": "LLMNone"})
    fleet["alerts"]["alerts"][0].update(runbook="javascript:alert(1)", summary="<i>" + "y" * 200, host="h" * 80)
    return fleet


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    fleet = sample.fleet(directory / "hosts", AT)
    silent = sample.STATUS["host_state"]("gpu03", ["node"], _silent, AT)
    fleet["hosts"].append(silent)
    for name, found in (("usual", fleet), ("hostile", hostile(fleet))):
        (directory / name).mkdir()
        text = sample.STATUS["render"](found, 120)
        (directory / name / "index.html").write_text(text, encoding="utf-8")
        (directory / name / "style.css").write_text(sample.STATUS["style"](120), encoding="utf-8")
    return directory


def _silent(_name: str) -> None:
    raise sample.STATUS["HostSilentError"]("the node's endpoint does not answer (HTTP 504)")


def show(browser: Browser, site: Path, which: str, width: int, **how: Any) -> None:
    browser.view(width, phone=width < 500, scripts=False, **how)
    browser.open(f"file://{site / which}/index.html")


@pytest.mark.parametrize("which", ["usual", "hostile"])
@pytest.mark.parametrize("width", [390, 768, 1024, 1440])
def test_nothing_is_cut_and_nothing_scrolls_sideways(browser: Browser, site: Path, which: str, width: int) -> None:
    show(browser, site, which, width)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(CUT) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_every_text_can_be_read(browser: Browser, site: Path, width: int, dark: bool) -> None:
    show(browser, site, "usual", width, dark=dark)
    browser.evaluate("document.documentElement.className = 'stale'")
    seen, low = browser.evaluate(CONTRAST)
    assert seen > 150
    assert low == []
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [390, 1440])
def test_who_does_not_see_it_has_names_and_tables(browser: Browser, site: Path, width: int) -> None:
    show(browser, site, "usual", width)
    assert browser.evaluate("document.documentElement.lang") == "en"
    nodes = browser.accessible()
    roles = [node["role"] for node in nodes]
    for landmark in ("banner", "main", "contentinfo"):
        assert roles.count(landmark) == 1, landmark
    for role, least in (
        ("table", 9),
        ("columnheader", 40),
        ("rowheader", 15),
        ("cell", 60),
        ("article", 5),
        ("meter", 7),
    ):
        assert roles.count(role) >= least, (role, roles.count(role))
    for node in nodes:
        if node["role"] in ("table", "meter", "link", "heading", "article", "region"):
            assert node["name"].strip(), node
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    links = browser.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))")
    assert links
    assert all(browser.evaluate(f"!!document.getElementById({link[1:]!r})") for link in set(links))


def test_a_state_is_told_by_a_word_not_by_a_colour_alone(browser: Browser, site: Path) -> None:
    show(browser, site, "usual", 1440)
    words = browser.evaluate("[...document.querySelectorAll('.badge')].map(b => b.innerText)")
    assert {"ok", "degraded", "stale", "unreachable", "warm", "loading", "ticket", "page"} <= set(words)


@pytest.mark.parametrize("which", ["usual", "hostile"])
def test_nothing_is_asked_of_anybody_and_nothing_runs(browser: Browser, site: Path, which: str) -> None:
    browser.view(1440, scripts=True)
    browser.open(f"file://{site / which}/index.html")
    here = f"file://{site / which}/"
    assert set(browser.requests()) <= {here + "index.html", here + "style.css", "data:,"}
    assert browser.complaints() == []
    assert browser.evaluate("document.title").startswith("LLM fleet: ")
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.images.length") == 0
    schemes = browser.evaluate("[...new Set([...document.links].map(link => link.protocol))]")
    assert set(schemes) <= {"file:", "https:"}


def test_a_phone_shows_each_figure_beside_its_heading(browser: Browser, site: Path) -> None:
    show(browser, site, "usual", 390)
    cell = "document.querySelector('#models td[data-label=\"First token p95\"]')"
    assert browser.evaluate(f"getComputedStyle({cell}, '::before').content") == '"First token p95"'
    assert browser.evaluate(f"getComputedStyle({cell}).display") == "grid"
