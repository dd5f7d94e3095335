"""docs/metrics.md is what the programs tell."""

from __future__ import annotations

from rules import tool


def test_page_is_up_to_date() -> None:
    """When this fails, run `make docs`."""
    page = tool("metrics_page")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.page(text) == text
    assert text.count("| `onprem_llm_") >= len(page.program("metrics").FAMILIES) + 15
