"""Brings GGUF headers and rows of truth into the repository's form, and headers back into GGUF files.

``python -m tests.memory.pack HEADERS TRUTH.jsonl ...`` adds to tests/memory/data what lies in a directory of *.gguf
and in the files; ``python -m tests.memory.pack --unpack DIRECTORY`` writes the repository's headers as *.gguf,
which llama.cpp's planner takes once they are grown to their full length.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

from tests.memory import headers
from tests.memory.data import HEADERS, HERE


def pack(directory: Path, truth: list[Path]) -> None:
    for path in sorted(directory.glob("*.gguf")):
        contents = headers.from_bytes(path.read_bytes())
        text = headers.to_text(contents)
        (HEADERS / f"{path.stem}.txt").write_text(text, encoding="utf-8")
    for path in truth:
        packed = lzma.compress(path.read_bytes(), preset=9)
        (HERE / "data" / f"{path.name}.xz").write_bytes(packed)


def unpack(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(HEADERS.glob("*.txt")):
        contents = headers.from_text(path.read_text(encoding="utf-8"))
        (directory / f"{path.stem}.gguf").write_bytes(headers.to_bytes(contents))


def main(arguments: list[str]) -> int:
    if not arguments or (arguments[0] == "--unpack" and len(arguments) != 2):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments[0] == "--unpack":
        unpack(Path(arguments[1]))
    else:
        pack(Path(arguments[0]), [Path(name) for name in arguments[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
