# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""guidellm in a virtual environment of its own, with a tokenizer made of the model's own file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "build" / "guidellm"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# transformers reads the vocabulary out of a GGUF, and keeps it as it would have come from a hub.
_WRITE_TOKENIZER = """
import sys
from transformers import AutoTokenizer
directory, name, made = sys.argv[1:]
AutoTokenizer.from_pretrained(directory, gguf_file=name, local_files_only=True).save_pretrained(made)
"""
# Nothing may be asked of a hub.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _run(*command: str | Path) -> None:
    """RuntimeError where the command fails, with the end of what it said."""
    told = subprocess.run(
        command, env=os.environ | _OFFLINE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if told.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command[:3]))} failed:\n{told.stdout[-3000:]}")


def install() -> str:
    """guidellm's version, installed once. RuntimeError where it cannot be."""
    ready = VENV / ".ready"
    if not ready.is_file() or ready.read_text(encoding="utf-8") != REQUIREMENTS.read_text(encoding="utf-8"):
        print("bench-llm: installing guidellm (5.6 GB, once)", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", VENV)
        _run(VENV / "bin/pip", "install", "--quiet", "--no-compile", "--requirement", REQUIREMENTS)
        ready.write_text(REQUIREMENTS.read_text(encoding="utf-8"), encoding="utf-8")
    return next(line.split("==")[1] for line in REQUIREMENTS.read_text().splitlines() if line.startswith("guidellm=="))


def tokenizer(weights: Path) -> Path:
    """The directory of the tokenizer that a GGUF has in it."""
    made = VENV / f"tokenizer-{weights.stem}"
    if not (made / "tokenizer.json").is_file():
        print(f"bench-llm: making a tokenizer of {weights.name}", file=sys.stderr, flush=True)
        _run(VENV / "bin/python", "-c", _WRITE_TOKENIZER, weights.parent, weights.name, made)
    return made


def measure(
    url: str, model: str, words: Path, streams: Sequence[int], each: int, prompt_tokens: int, answer_tokens: int
) -> list[dict[str, Any]]:
    """Its figures in our names, one row of ``each`` requests a stream for each number of streams.

    RuntimeError where it fails.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="onprem-llm-guidellm-") as directory:
        # One run a step, for the number of requests is by the run.
        for count in streams:
            result, scenario = Path(directory) / "result.json", Path(directory) / "scenario.json"
            scenario.write_text(json.dumps({"spec": {
                "backend": {"kind": "openai_http", "target": url, "model": model, "http2": False,
                            "validate_backend": False, "extras": {"body": {"temperature": 0, "seed": 0}}},
                "profile": {"kind": "concurrent", "streams": [count]},
                "constraints": [{"kind": "max_requests", "count": count * each}],
                "tokenizer": {"kind": "huggingface_auto", "model": str(words)},
                "data": [{"kind": "synthetic_text", "prompt_tokens": prompt_tokens, "output_tokens": answer_tokens}],
                "outputs": [{"kind": "json", "path": str(result)}],
            }}), encoding="utf-8")  # fmt: skip
            _run(VENV / "bin/guidellm", "run", "--config", scenario, "--disable-console")
            (benchmark,) = json.loads(result.read_text(encoding="utf-8"))["benchmarks"]
            rows.append({"concurrency": count, **_figures(benchmark["metrics"])})
    return rows


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    first = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    gap = metrics["inter_token_latency_ms"]["successful"]["percentiles"]
    return {
        "completed": metrics["request_totals"]["successful"],
        "requests": metrics["request_totals"]["total"],
        "prompt_tokens": metrics["prompt_token_count"]["successful"]["mean"],
        "answer_tokens": metrics["output_token_count"]["successful"]["mean"],
        "tokens_per_second": metrics["output_tokens_per_second"]["successful"]["mean"],
        "first_token_p50": first["p50"] / 1000,
        "first_token_p95": first["p95"] / 1000,
        # A request's mean, of which this is the median.
        "gap_p50": gap["p50"] / 1000,
        "answer_p50": metrics["request_latency"]["successful"]["percentiles"]["p50"],
    }
