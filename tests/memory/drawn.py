"""``make bench-memory-drawn``: the account against llama.cpp's own planner, on models that nobody made.

Models are drawn by chance from those of truth/models.yml (truth/drawn.py), planned by llama.cpp, and counted by the
account; a formula that was fitted to published models would show here. Eight rows a model, about a second each. Fails
where a known architecture's device is off by more than 0.1 %, or an unknown one's bound is below the truth; every row
that is not exact is told.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.onprem.llm.plugins.module_utils import _memory

from tests.memory import data
from tests.memory.estimators import ours
from tests.memory.truth import drawn, models, upstream
from tests.memory.truth.__main__ import WORKSHOP, Planner

PLACEMENTS, SETTINGS = 4, 2
TOLERANCE = 0.001


@dataclass
class Score:
    """Counts of models, and of comparisons, each a device; the errors as fractions of the truth."""

    models: int = 0
    impossible: int = 0
    refused: int = 0
    exact: int = 0
    unknown: int = 0
    errors: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, row: data.Row, found: data.Model, words: str) -> None:
        answer = ours.estimate(found, row)
        for device, (truth, told) in enumerate(zip(row.truth, answer.bytes)):
            error = (told - truth) / max(1, truth)
            line = f"{words}, device {device}: {told} bytes, llama.cpp takes {truth} ({error:+.3%})"
            if not answer.known:
                self.unknown += 1
                if told < truth:
                    self.wrong.append(f"bound below the truth: {line}")
            elif told == truth:
                self.exact += 1
            else:
                self.errors.append(abs(error))
                print(f"not exact: {line}", flush=True)
                if abs(error) > TOLERANCE:
                    self.wrong.append(line)

    def summary(self) -> str:
        known = self.exact + len(self.errors)
        return (
            f"{self.models} models ({self.impossible} draws more made none), {known + self.unknown} comparisons, "
            f"{self.refused} settings refused by llama.cpp; exact {self.exact} of {known}, the largest error "
            f"{max(self.errors, default=0.0):.3%}; {self.unknown} of unknown architectures"
        )


def compare(planner: Planner, base: models.Model, chance: random.Random, score: Score) -> None:
    """Draws one model, and compares its rows."""
    made = drawn.model(base, chance)
    changes = {key: value for key, value in made.metadata.items() if base.metadata.get(key) != value}
    with tempfile.TemporaryDirectory() as scratch:
        header = Path(scratch, f"{made.name}.gguf")
        if planner.header(made, header):
            score.impossible += 1
            return
        score.models += 1
        found = data.read_model(header)
        pairs = (
            (placement, [drawn.setting(made, chance) for _n in range(SETTINGS)])
            for placement in drawn.placements(made, chance, PLACEMENTS)
        )
        for item in planner.rows(made, header, pairs):
            if "error" in item:
                score.refused += 1
                continue
            setting = {key: item[key] for key in ("ctx", "np", "tk", "fa", "ub", "nout", "ng", "ngl")}
            more = {key: item[key] for key in ("split", "cmoe") if key in item}
            words = f"{made.name} as {made.quantization} with {changes}, {setting | more}"
            try:
                score.add(data.row(item), found, words)
            except _memory.ShapeError as error:
                score.wrong.append(f"{words}: {error}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-memory-drawn", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="models to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models or architectures to draw from; default: all")
    chosen = parser.parse_args(arguments)
    known = models.read().values()
    bases = [base for base in known if not chosen.names or {base.name, base.architecture} & {*chosen.names}]
    if not bases:
        parser.error(f"models.yml has no {', '.join(chosen.names)}")
    upstream.fetch(WORKSHOP)
    planner = Planner(upstream.build(WORKSHOP), WORKSHOP / "libraries")
    chance, score = random.Random(chosen.seed), Score()
    for number in range(chosen.count):
        compare(planner, chance.choice(bases), chance, score)
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {chosen.count}", end="", file=sys.stderr, flush=True)
    print(f"\n{score.summary()}")
    for line in score.wrong:
        print(f"WRONG: {line}")
    return 1 if score.wrong or not score.exact else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
