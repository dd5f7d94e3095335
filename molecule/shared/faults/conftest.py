"""The sample of a day, which all machines share, and the seed by which it can be had again."""

from __future__ import annotations

import datetime
import os

SEED = int(os.environ.get("FAULTS_SEED") or f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d}")


def pytest_report_header() -> str:
    return f"faults: FAULTS_SEED={SEED}"
