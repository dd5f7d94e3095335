"""Command line of the test fleet: ``python -m tests.fleet up|down|note|unchanged NAME``."""

from __future__ import annotations

import argparse
import sys

import docker

from tests.alone import alone
from tests.fleet.hosts import Fleet, FleetError
from tests.fleet.supplies import CACHE, supply


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "note", "unchanged"])
    parser.add_argument("fleet", help="name of a file under tests/fleet/fleets")
    arguments = parser.parse_args()
    client = docker.from_env(timeout=300)
    try:
        fleet = Fleet.load(arguments.fleet)
        if arguments.command == "down":
            fleet.down(client)
        elif arguments.command == "note":
            fleet.note(client)
        elif arguments.command == "unchanged":
            changed = {host: paths for host, paths in fleet.changes(client).items() if paths}
            for host, paths in changed.items():
                print(f"{host}: {', '.join(paths[:20])}")
            return int(bool(changed))
        else:
            # One at a time makes what all share: images of engine and hosts, model files.
            with alone(CACHE / ".lock"):
                if fleet.supplies:
                    supply(client, fleet.state)
                fleet.build(client)
            fleet.up(client)
    except (FleetError, RuntimeError) as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
