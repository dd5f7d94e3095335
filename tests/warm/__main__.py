"""``make bench-warm``: first-token times on a node of the running demo, warm and cold, after a restart of the engine
and after one of the host."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys

import docker
import docker.errors

from tests.demo.__main__ import inventory
from tests.fleet.access import engine_address
from tests.fleet.hosts import ROOT
from tests.warm.first_token import measure


def main() -> int:
    node = next(iter(inventory()["llm_nodes"]))
    try:
        container = docker.from_env(timeout=300).containers.get(node)
    except docker.errors.NotFound:
        print(f"bench-warm: {node} does not run; `make demo` boots it", file=sys.stderr)
        return 1

    def run(pattern: str, *values: str) -> str:
        code, output = container.exec_run(["sh", "-ec", pattern % tuple(map(shlex.quote, values))])
        if code != 0:
            raise RuntimeError(f"{node}: {pattern}: {output.decode()}")
        return output.decode()

    plan = json.loads(run("cat /etc/onprem-llm/plan.json"))
    model = next(m["name"] for i in plan["instances"] for m in i["models"] if m["use"] != "embedding")
    engine = f"http://{engine_address()}:11434"
    figures = [measure(run, engine, model, reboot) for reboot in (None, container.restart)]
    report = ROOT / "build" / "bench" / "warm.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps([dataclasses.asdict(one) for one in figures], indent=1) + "\n", encoding="utf-8")
    for one in figures:
        print(f"{node}: {one}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
