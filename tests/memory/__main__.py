"""``make bench-memory``: tables and build/bench/memory.json; of the repository's data, docs/memory-bench.md too."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from ansible_collections.onprem.llm.plugins.module_utils import _llama_cpp

from tests.memory import bench, data, report
from tests.memory.estimators import every

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "bench" / "memory.json"
PAGE = ROOT / "docs" / "memory-bench.md"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-memory", description=__doc__)
    parser.add_argument("--headers", default="", help="directory of *.gguf headers; default: the repository's")
    parser.add_argument(
        "--truth", default="", help="files of rows, separated by commas or blanks; default: the repository's"
    )
    parser.add_argument(
        "--llama-cpp", default="", help="the release whose truth the rows are: " + ", ".join(_llama_cpp.RELEASES)
    )
    chosen = parser.parse_args(arguments)
    release = chosen.llama_cpp or _llama_cpp.V0_5_0.release
    if release not in _llama_cpp.RELEASES:
        known = ", ".join(_llama_cpp.RELEASES)
        print(f"bench-memory: LLAMA_CPP is {release!r}; one of {known} is needed", file=sys.stderr)
        return 2
    files = [Path(name) for name in re.split(r"[,\s]+", chosen.truth) if name]
    try:
        found = data.read(Path(chosen.headers) if chosen.headers else data.HEADERS, files or data.TRUTH, release)
    except data.DataError as error:
        print(f"bench-memory: {error}", file=sys.stderr)
        return 2
    results = bench.run(found, every(), bench.on_terminal)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    figures = {result.estimator.name: result.summary() for result in results}
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(report.terminal(results, found))
    print(f"\nwritten to {RESULT.relative_to(ROOT)}")
    if not chosen.headers and not files and not chosen.llama_cpp:
        PAGE.write_text(report.page(results, found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
