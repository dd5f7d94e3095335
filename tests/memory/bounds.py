"""What the account must keep on the repository's data, by placement; tests/unit/memory/test_bounds.py holds it.

Fractions. Tighten a bound with the change that makes it possible; never loosen one.
"""

from __future__ import annotations

from tests.memory.figures import CPU, ONE_GPU, PARTLY, SEVERAL_GPUS

_EXACT = {"median_error": 0.0, "p95_error": 0.0, "worst_under": 0.0}
BOUNDS: dict[str, dict[str, float]] = {
    ONE_GPU: {**_EXACT, "decisions_right": 1.0, "false_fits": 0},
    SEVERAL_GPUS: _EXACT,
    PARTLY: _EXACT,
    CPU: _EXACT,
}
# Of all comparisons, those of architectures that the account does not know.
UNKNOWN_SHARE = 0.1
# An account takes some ten milliseconds: the test takes every so many rows of those with everything on one device or on
# equal ones, and of the other placements. `make bench-memory` takes all.
STRIDES = {"truth": 41, "placement": 4}
