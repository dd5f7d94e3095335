# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make bench-llm``: our benchmark beside guidellm, on the same endpoints in one run; build/bench/llm.json.

Two endpoints: one whose figures are known (``paced``), against which both are held, and the engine's stand-in with
Gemma 3 270M on the processors (``engine``). Ours runs before guidellm and after it, and their mean counts, so that
what else the machine does meets both alike. The ratio is ours by guidellm's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.onprem.llm.plugins.module_utils import _load_run as load
from ansible_collections.onprem.llm.plugins.module_utils._load_stream import Target

from tests.load import guidellm, paced

RESULT = guidellm.ROOT / "build" / "bench" / "llm.json"
CACHE = guidellm.ROOT / "build" / "cache"
COMPARED = ("tokens_per_second", "first_token_p50", "first_token_p95", "gap_p50", "answer_p50")
MODEL = "gemma3:270m"


@contextmanager
def paced_endpoint() -> Iterator[str]:
    """In a process of its own, so that it does not wait for the client's interpreter."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.load.paced"], cwd=guidellm.ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def engine_endpoint(weights: Path) -> Iterator[str]:
    """The stand-in in a container, its model loaded by the first request."""
    import docker

    from tests.engine import image
    from tests.engine.conftest import Engine

    client = docker.from_env(timeout=300)
    tag = image.build(client)
    with tempfile.TemporaryDirectory(prefix="onprem-llm-engine-") as home:
        settings = {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_CONTEXT_LENGTH": "2048"}
        engine = Engine(client, tag, Path(home), settings)
        try:
            engine.add(MODEL, weights)
            yield f"http://127.0.0.1:{engine.port}"
        finally:
            engine.container.remove(force=True, v=True)


def ours(
    url: str, model: str, streams: Sequence[int], each: int, prompt_tokens: int, answer_tokens: int
) -> list[dict[str, Any]]:
    """The figures of our benchmark, in the names by which they are compared."""
    bounds = load.Bounds(each, 300, 1800, 10**7, 120)
    run = load.Load(Target(url), model, bounds, int(time.time() * 1e6))
    rows = run.run(load.steps_of(streams, [prompt_tokens], [answer_tokens], ["cold"]))
    return [
        {
            "concurrency": row["concurrency"],
            "completed": row["completed"],
            "requests": row["requests"],
            "prompt_tokens": row["prompt_tokens_mean"],
            "answer_tokens": row["answer_tokens_mean"],
            "tokens_per_second": row["tokens_per_second"],
            "first_token_p50": row["first_token_seconds"]["p50"],
            "first_token_p95": row["first_token_seconds"]["p95"],
            # A request's mean, as guidellm has it.
            "gap_p50": 1 / row["stream_tokens_per_second"]["p50"],
            "answer_p50": row["answer_seconds"]["p50"],
        }
        for row in rows
    ]


def beside(before: dict[str, Any], after: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One row: both of ours, guidellm's, and the ratio of our mean to it."""
    mean = {name: (before[name] + after[name]) / 2 for name in before}
    return {
        "concurrency": before["concurrency"],
        "ours": {name: round(value, 5) for name, value in mean.items()},
        "ours_drift": {name: round(after[name] / before[name], 4) for name in COMPARED},
        "guidellm": {name: round(value, 5) for name, value in other.items()},
        "ratio": {name: round(mean[name] / other[name], 4) if other[name] else None for name in COMPARED},
    }


def known(row: dict[str, Any], tokens: int) -> dict[str, float]:
    """What the paced endpoint's figures are by its definition, while no request waits for a slot."""
    answer = paced.FIRST + (tokens - 1) * paced.GAP
    return {
        "first_token_p50": paced.FIRST,
        "gap_p50": paced.GAP,
        "answer_p50": answer,
        "tokens_per_second": min(row["concurrency"], paced.SLOTS) * tokens / answer,
    }


def measure(url: str, model: str, words: Path, streams: list[int], each: int, prompt: int, answer: int) -> list[Any]:
    before = ours(url, model, streams, each, prompt, answer)
    other = guidellm.measure(url, model, words, streams, each, prompt, answer)
    after = ours(url, model, streams, each, prompt, answer)
    return [beside(*rows) for rows in zip(before, after, other, strict=True)]


def write(result: dict[str, Any]) -> None:
    """Keep what there is: the next endpoint takes minutes."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16], help="at the paced endpoint")
    parser.add_argument(
        "--engine-streams", type=int, nargs="*", default=[1, 4], help="at the engine; none leaves it out"
    )
    parser.add_argument("--each", type=int, default=4, help="requests a stream")
    arguments = parser.parse_args()
    from tests.engine import models

    try:
        version = guidellm.install()
        weights = models.gemma(CACHE)
        words = guidellm.tokenizer(weights)
        result: dict[str, Any] = {"guidellm": version, "requests_a_stream": arguments.each}
        with paced_endpoint() as url:
            rows = measure(url, "paced", words, arguments.streams, arguments.each, 128, 64)
        for row in rows:
            if row["concurrency"] <= paced.SLOTS:
                row["known"] = {name: round(value, 5) for name, value in known(row, 64).items()}
        result["paced"] = {"prompt_tokens": 128, "answer_tokens": 64, "slots": paced.SLOTS, "rows": rows}
        write(result)
        if arguments.engine_streams:
            with engine_endpoint(weights) as url:
                rows = measure(url, MODEL, words, arguments.engine_streams, arguments.each, 128, 48)
            result["engine"] = {"prompt_tokens": 128, "answer_tokens": 48, "slots": 4, "model": MODEL, "rows": rows}
            write(result)
    except RuntimeError as error:
        print(f"bench-llm: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
