"""The sample of a run, and the seed by which it can be had again."""

from __future__ import annotations

import os
import secrets

SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**6))


def pytest_report_header() -> str:
    return f"faults: FAULTS_SEED={SEED}"
