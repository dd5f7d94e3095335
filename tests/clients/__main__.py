"""``python -m tests.clients ACCESS``: the examples of docs/clients.md on a running fleet."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.clients import PAGE, examples, python, run, variables


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("access", type=Path)
    parser.add_argument("--embedding-model", default="tiny-embedding:latest")
    given = parser.parse_args()
    access = json.loads(given.access.read_text(encoding="utf-8"))
    key = next(
        user["api_key"] for user in access["users"].values() if user["role"] == "user" and not user.get("models")
    )
    environment = variables(access["gateway_url"], access["ca_file"], key, access["model"], given.embedding_model)
    interpreter, failed = python(), 0
    for example in examples(PAGE.read_text(encoding="utf-8")):
        began = time.monotonic()
        code, output = run(example, interpreter, environment)
        good = code == 0 and example.matches(output)
        failed += not good
        print(f"  {'ok    ' if good else 'FAILED'} {example.name:<24} {time.monotonic() - began:5.1f} s", flush=True)
        if not good:
            print(f"exit status {code}; it printed\n{output}and should have printed\n{example.prints}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
