"""The bench of distribution, on a small file: it runs to its end, and its figures are of what was sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.distribution.__main__ import ROOT, measure


def test_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast, and what a kill costs, is the bench's own matter: a file so small says nothing of it."""
    weights = tmp_path / "weights"
    weights.write_bytes(os.urandom(6 * 2**20))
    (ROOT / "build").mkdir(exist_ok=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / ".venv" / "collections"))
    found = measure(weights, 2, 100e6)
    # The manifest counts as well.
    assert 1 <= float(str(found["upstream_ratio"])) < 1.01
    assert 2 <= float(str(found["naive_upstream_ratio"])) < 2.01
    assert 0 <= int(str(found["interrupted_refetch_bytes"])) < 6 * 2**20
    assert found["ollama_interrupted_refetch_bytes"] is None or os.environ.get("OLLAMA_IMAGE_ARCHIVE")
