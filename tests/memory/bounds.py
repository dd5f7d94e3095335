"""What the account must keep on the repository's data, by placement; tests/unit/memory/test_bounds.py holds it.

Fractions. Tighten a bound with the change that makes it possible; never loosen one.
"""

from __future__ import annotations

from tests.memory.figures import CPU, ONE_GPU, PARTLY, SEVERAL_GPUS

BOUNDS: dict[str, dict[str, float]] = {
    ONE_GPU: {
        "median_error": 2e-5, "p95_error": 0.042, "worst_under": 0.39, "decisions_right": 0.998, "false_fits": 24,
    },
    SEVERAL_GPUS: {"median_error": 6e-4, "p95_error": 0.011, "worst_under": 0.05},
    PARTLY: {"median_error": 0.033, "p95_error": 6.8, "worst_under": 1.0},
    CPU: {"median_error": 7e-4, "p95_error": 0.022, "worst_under": 0.024},
}  # fmt: skip
# Of all comparisons, those of architectures that the account does not know.
UNKNOWN_SHARE = 0.1
