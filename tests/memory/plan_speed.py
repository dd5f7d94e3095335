"""``make bench-plan``: how long plans take, on one core.

Two measures, each for 500 hosts, 60 candidates and 8 context lengths: the account of every candidate at every
length on every host, nothing remembered; and a plan for every host, whose candidates are ordered so that the
largest are tried first. Beside the seconds stands their ratio to a fixed loop of Python, which tells a slow machine
from slow code.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _memory, _select

from tests.memory.data import HEADERS, Model, read_model
from tests.memory.figures import MIB

HOSTS, CANDIDATES = 500, 60
CONTEXTS = tuple(2048 << step for step in range(8))
# GPUs of a host, MiB each as nvidia-smi shows them.
KINDS = ((8188,), (12288,), (16376,), (24564,), (24564, 24564), (49140,), (49140,) * 4, (81559,) * 8)
REFERENCE_STEPS = 5_000_000
# What takes longer is left off, and the rest is reckoned.
LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Sizes:
    hosts: int = HOSTS
    candidates: int = CANDIDATES
    contexts: Sequence[int] = CONTEXTS


def candidates(count: int) -> list[Model]:
    """Chat models of the repository's data, and again from the first, largest first."""
    models = [model for path in sorted(HEADERS.glob("*.txt")) if not (model := read_model(path)).embeds]
    return sorted(itertools.islice(itertools.cycle(models), count), key=lambda model: (-model.file_bytes, model.name))


def hosts(count: int) -> list[list[dict[str, Any]]]:
    """GPUs of each host; no two hosts have the same free memory."""
    return [
        [
            {
                "uuid": f"GPU-{number}-{index}",
                "memory_total_bytes": size * MIB,
                "memory_free_bytes": (size - 300) * MIB - number * 4096,
            }
            for index, size in enumerate(KINDS[number % len(KINDS)])
        ]
        for number in range(count)
    ]


def account_all(sizes: Sizes) -> Iterator[None]:
    """The account of every candidate at every length on every host, one a step."""
    shapes = [_memory.shape_from_header(model.header) for model in candidates(sizes.candidates)]
    for gpus in hosts(sizes.hosts):
        devices = _memory.Devices(gpus=tuple(float(gpu["memory_free_bytes"]) for gpu in gpus))
        for shape, context in itertools.product(shapes, sizes.contexts):
            _memory.place(shape, _memory.engine_run(shape, _memory.Setting(context, 1)), devices)
            yield


def plan_all(sizes: Sizes) -> Iterator[None]:
    """A plan for every host, one a step."""
    entries = [
        {
            "name": f"{model.name}:{number}",
            "size_bytes": model.file_bytes,
            "quantization": model.quantization,
            "uses": ["chat"],
            "shape": {"architecture": model.header.architecture, "vocabulary": model.vocabulary, **model.values},
        }
        for number, model in enumerate(candidates(sizes.candidates))
    ]
    workload = {
        "name": "chat",
        "models": [entry["name"] for entry in entries],
        "context_length": {"min": sizes.contexts[0], "max": sizes.contexts[-1]},
        "slots": 1,
    }
    for gpus in hosts(sizes.hosts):
        options = _select.Options(engine_version="0.32.15")
        _select.make_plan([workload], gpus, {"memory_total_bytes": 2**37}, entries, options)
        yield


def reference(steps: int = REFERENCE_STEPS) -> Iterator[None]:
    total = 0
    for step in range(steps):
        total += step % 7
    yield


def timed(work: Iterable[None], limit: float = LIMIT_SECONDS) -> tuple[float, int]:
    """(seconds of processor time, steps done); work is left off at the limit."""
    started, steps = time.process_time(), 0
    for _step in work:
        steps += 1
        if time.process_time() - started > limit:
            break
    return time.process_time() - started, steps


def main() -> int:
    sizes = Sizes()
    unit, _steps = timed(reference())
    print(f"for {sizes.hosts} hosts, {sizes.candidates} candidates, {len(sizes.contexts)} context lengths")
    print(f"reference, a loop of {REFERENCE_STEPS} steps: {unit:.2f} s")
    for name, work, whole in (
        ("accounts, nothing remembered", account_all(sizes), sizes.hosts * sizes.candidates * len(sizes.contexts)),
        ("plans, one a host", plan_all(sizes), sizes.hosts),
    ):
        seconds, steps = timed(work)
        full = seconds * whole / steps
        print(
            f"{name}: {steps} of {whole} in {seconds:.1f} s"
            + ("" if steps == whole else f", so {full:.0f} s for all")
            + f", {full / unit:.0f} times the reference"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
