"""What a gateway's processes hold, and whether it grows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

# Of memory, what an allocator's rounding and a worker's caches come to; of descriptors, what a pool of connections to
# engines may differ by between two looks.
MEMORY_SLACK_FRACTION = 0.05
MEMORY_SLACK_BYTES = 2 * 2**20
DESCRIPTOR_SLACK = 16
# The first part of a run fills pools and caches.
WARM_UP = 0.2
FEWEST_SAMPLES = 10


@dataclass(frozen=True)
class Sample:
    """One look. ``seconds`` since the start; ``memory_bytes`` is the proportional set size of all processes together;
    ``clients`` and ``upstreams`` are established connections."""

    seconds: float
    memory_bytes: int
    descriptors: int
    clients: int
    upstreams: int


@dataclass(frozen=True)
class Trend:
    """Medians of a figure after the warm-up, in the first fifth of what is left and in the last."""

    before: float
    after: float

    @property
    def growth(self) -> float:
        return self.after - self.before


def trend(samples: list[Sample], figure: str) -> Trend:
    """:raises ValueError: there are too few samples to say anything."""
    warm = [sample for sample in samples if sample.seconds >= samples[-1].seconds * WARM_UP]
    if len(warm) < FEWEST_SAMPLES:
        raise ValueError(f"{len(warm)} samples after the warm-up are too few; at least {FEWEST_SAMPLES} are needed")
    fifth = max(2, len(warm) // 5)
    values = [getattr(sample, figure) for sample in warm]
    return Trend(statistics.median(values[:fifth]), statistics.median(values[-fifth:]))


def faults(samples: list[Sample], idle: Sample, after: Sample, counts: dict[str, int]) -> list[str]:
    """What speaks against the gateway, one sentence each.

    :arg idle: a look before the load.
    :arg after: a look after it, once its connections had time to end.
    :arg counts: answers by status, and ``broken`` for those that ended early.
    """
    found = []
    memory = trend(samples, "memory_bytes")
    if memory.growth > max(memory.before * MEMORY_SLACK_FRACTION, MEMORY_SLACK_BYTES):
        found.append(
            f"memory grew from {memory.before / 2**20:.1f} to {memory.after / 2**20:.1f} MiB under a steady load"
        )
    descriptors = trend(samples, "descriptors")
    if descriptors.growth > DESCRIPTOR_SLACK:
        found.append(f"descriptors grew from {descriptors.before:.0f} to {descriptors.after:.0f} under a steady load")
    if after.clients > idle.clients:
        found.append(f"{after.clients} connections of clients are left, {idle.clients} were there before")
    left = after.descriptors - after.upstreams - (idle.descriptors - idle.upstreams)
    if left > DESCRIPTOR_SLACK:
        found.append(f"{left} descriptors more than before, besides the pool to the engines")
    if after.upstreams > max(sample.upstreams for sample in samples):
        found.append(f"{after.upstreams} connections to engines are left")
    bad = {status: count for status, count in counts.items() if status not in ("200", "429") and count}
    if bad:
        found.append(f"answers that should not be: {bad}")
    if not counts.get("200"):
        found.append("nothing was answered")
    return found
