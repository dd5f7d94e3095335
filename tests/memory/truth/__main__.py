"""``python -m tests.memory.truth DIRECTORY [NAME ...]``: headers and truth of models.yml's models, all or those named.

Writes ``DIRECTORY/headers/NAME.gguf`` and ``DIRECTORY/rows/NAME.jsonl``; a model whose rows are there is left alone.
What llama.cpp refuses or aborts at is a row with ``error``. Fetches and builds under build/truth/ on the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.memory.truth import models, settings, upstream

WORKSHOP = Path(__file__).resolve().parents[3] / "build" / "truth"


class Planner:
    """The compiled planner. Its failures are results: a refusal as (None, reason)."""

    def __init__(self, program: Path, backends: Path) -> None:
        self.program = program
        self.environment = {**os.environ, "BACKENDS": str(backends), "GGML_NO_BACKTRACE": "1"}

    def _run(self, *words: str | Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *map(str, words)], input=given, capture_output=True, text=True, check=False,
            env={**self.environment, **environment},
        )  # fmt: skip

    def header(self, model: models.Model, path: Path) -> str:
        """Writes the model's header; what llama.cpp has against it, if anything."""
        with tempfile.TemporaryDirectory() as scratch:
            counted, plain = Path(scratch, "final.gguf"), Path(scratch, "metadata.gguf")
            models.write_metadata(model, plain)
            models.write_metadata(model, counted, block_count=model.layers + 1, nextn_predict_layers=1)
            wishes = "\n".join(model.directives(counted)) + "\n"
            done = self._run("header", plain, path, str(model.file_type), given=wishes)
        return "" if done.returncode == 0 else done.stderr.strip()

    def _grow(self, header: Path, path: Path) -> None:
        """The header as a file of its full length, the rest a hole: llama.cpp reads none of it."""
        path.write_bytes(header.read_bytes())
        os.truncate(path, int(self._run("length", header).stdout))

    def rows(
        self,
        model: models.Model,
        header: Path,
        pairs: Iterable[tuple[settings.Placement, list[settings.Setting]]],
    ) -> Iterator[dict[str, Any]]:
        """A row a setting, on each placement its own."""
        with tempfile.TemporaryDirectory() as scratch:
            full = Path(scratch, "model.gguf")
            self._grow(header, full)
            for placement, wanted in pairs:
                yield from self._plans(model, full, placement, wanted)

    def _plans(
        self, model: models.Model, path: Path, placement: settings.Placement, wanted: list[settings.Setting]
    ) -> Iterator[dict[str, Any]]:
        """A row a setting. An abort ends the program, not the run: it starts again behind the setting that did it."""
        environment = {}
        if model.runs_for_embeddings:
            environment["EMBEDDINGS"] = "1"
        if placement.experts_on_host:
            environment["EXPERTS_ON_HOST"] = str(placement.experts_on_host)
        shares = [",".join(map(str, placement.shares))] if placement.shares else []
        left = list(wanted)
        while left:
            lines = "".join(" ".join(map(str, setting.row().values())) + "\n" for setting in left)
            where = (str(placement.gpus), str(placement.layers), *shares)
            done = self._run("plan", path, *where, given=lines, **environment)
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            if len(answers) < len(left):
                if answers and answers[0].get("error", "").startswith("load:"):
                    answers = answers * len(left)
                else:
                    answers.append({"error": f"abort: {done.stderr.strip()[-200:]}"})
            for setting, answer in zip(left, answers):
                yield {**setting.row(), **placement.row(), **answer, "model": model.name}
            left = left[len(answers) :]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.memory.truth", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen = parser.parse_args(arguments)
    known = models.read()
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"models.yml has no {', '.join(unknown)}")
    upstream.fetch(WORKSHOP)
    planner = Planner(upstream.build(WORKSHOP), WORKSHOP / "libraries")
    headers, rows = chosen.directory / "headers", chosen.directory / "rows"
    headers.mkdir(parents=True, exist_ok=True)
    rows.mkdir(exist_ok=True)
    failed = 0
    for model in (known[name] for name in chosen.names or known):
        target = rows / f"{model.name}.jsonl"
        if target.exists():
            continue
        header = headers / f"{model.name}.gguf"
        complaint = planner.header(model, header)
        if complaint:
            failed += 1
            print(f"{model.name}: no header: {complaint}", file=sys.stderr)
            continue
        found = list(planner.rows(model, header, settings.plan(model).items()))
        unfinished = target.with_suffix(".part")
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        unfinished.rename(target)
        refused = sum("error" in row for row in found)
        print(f"{model.name}: {len(found)} rows" + (f", {refused} refused" if refused else ""), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
