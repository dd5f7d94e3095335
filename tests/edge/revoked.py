"""How long a revoked key works, measured: ``python -m tests.edge.revoked ACCESS INVENTORY``, on a fleet that runs.

A key is made by playbooks/rotate_credentials.yml, used without a pause by its user beside streams of that user and of
another one, and revoked by the same playbook. The second play of both is the one that runs on the gateways.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import plays
from tests.attack.access import Access, load
from tests.attack.position import Container
from tests.edge.site import INVENTORY, Site

USER = "app"
EVERY_SECONDS = 0.1
# Run on a gateway: when each worker of nginx began, in seconds since 1970.
WORKERS = """
import os, time
ticks, up = os.sysconf("SC_CLK_TCK"), float(open("/proc/uptime").read().split()[0])
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if open("/proc/%s/cmdline" % pid).read().startswith("nginx: worker"):
            began = int(open("/proc/%s/stat" % pid).read().rpartition(")")[2].split()[19])
            print(time.time() - up + began / ticks)
    except OSError:
        pass
"""


@dataclass
class Asking:
    """One who asks again and again, each time on a new connection: (seconds since 1970, status)."""

    access: Access
    address: str
    key: str
    seen: list[tuple[float, int]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            began = time.time()
            with contextlib.closing(connection(self.access, self.address)) as one:
                one.request("GET", "/v1/models", headers={"Authorization": f"Bearer {self.key}"})
                self.seen.append((began, one.getresponse().status))
            self.ended.wait(EVERY_SECONDS)


@dataclass
class Streaming:
    """One who has a stream at all times: (began, ended, whether it came to its end)."""

    access: Access
    address: str
    key: str
    streams: list[tuple[float, float, bool]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = {
            "model": self.access.model, "stream": True, "options": {"num_predict": 100},
            "messages": [{"role": "user", "content": "Count as far as you can: one, two,"}],
        }  # fmt: skip
        while not self.ended.is_set():
            began = time.time()
            with contextlib.closing(connection(self.access, self.address)) as one:
                headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
                one.request("POST", "/api/chat", json.dumps(body), headers)
                answer = one.getresponse()
                if answer.status != 200:
                    self.refused.append(answer.status)
                    self.ended.wait(1)
                    continue
                last = b""
                with contextlib.suppress(http.client.HTTPException, OSError):
                    for line in answer:
                        last = line
                self.streams.append((began, time.time(), b'"done":true' in last))


def connection(access: Access, address: str) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=access.ca_file)
    return http.client.HTTPSConnection(address, access.gateway[1], timeout=120, context=context)


def rotate(inventory: Path, keys: Path, handout: Path, **variables: object) -> tuple[float, float, str]:
    """When the play began and ended, and what it said."""
    began = time.time()
    given = {
        "rotate_users": [USER], "rotate_request": f"measured {began:.0f}", "rotate_keys_file": str(keys),
        "rotate_handout": str(handout), **variables,
    }  # fmt: skip
    run = plays.run("playbooks/rotate_credentials.yml", inventory=inventory, variables=given)
    if run.returncode != 0:
        raise SystemExit(run.stdout[-6000:])
    return began, time.time(), run.stdout


def measure(access: Access, inventory: Path, state: Path) -> dict[str, Any]:
    """The figures of each gateway: seconds from the play's start, and from the reload, to the last answer 200."""
    keys, handout = state / "keys.yml", state / "new-keys.json"
    keys.unlink(missing_ok=True)
    handout.unlink(missing_ok=True)
    _began, _ended, made = rotate(inventory, keys, handout)
    key = json.loads(handout.read_text(encoding="utf-8"))[USER]
    other = next(user for user in access.users.values() if user.name != USER and user.models is None)
    gateways = {name: machine for name, machine in access.machines.items() if machine.gateway}
    asking = {name: Asking(access, machine.addresses[0], key) for name, machine in gateways.items()}
    streaming = [
        Streaming(access, machine.addresses[0], secret)
        for machine in gateways.values() for secret in (key, other.api_key)
    ]  # fmt: skip
    threads = [threading.Thread(target=one.run) for one in (*asking.values(), *streaming)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    began, ended, said = rotate(inventory, keys, handout, rotate_state="revoked", rotate_digest=digest)
    time.sleep(2)
    for one in (*asking.values(), *streaming):
        one.ended.set()
    for thread in threads:
        thread.join()
    figures: dict[str, Any] = {"play_seconds": round(ended - began, 1), "gateways": {}}
    for name, one in asking.items():
        reload = max(map(float, Container(gateways[name].container).run(["python3", "-c", WORKERS]).split()))
        served = [moment for moment, status in one.seen if status == 200]
        refused = [moment for moment, status in one.seen if status != 200]
        streams = [stream for user in streaming if user.address == one.address for stream in user.streams]
        figures["gateways"][name] = {
            "from_play_start_seconds": round(served[-1] - began, 1),
            "from_reload_seconds": round(served[-1] - reload, 2),
            "refused_with": sorted({status for _moment, status in one.seen if status != 200}),
            "served_again": bool(refused) and served[-1] > refused[0],
            "streams_over_the_reload_seconds": [round(last - first, 1) for first, last, _whole in streams
                                                if first < reload < last],
            "cut": sum(not whole for _first, _last, whole in streams),
        }  # fmt: skip
    for play, text in (("added", made), ("revoked", said)):
        figures[f"{play}_recap"] = [" ".join(line.split()) for line in text.splitlines() if "ok=" in line]
    return figures


def held(site: Site) -> None:
    """The figures of the step's own fleet, and whether they are as they should be."""
    figures = measure(load(site.fleet.state / "access.json"), INVENTORY, site.fleet.state)
    for name, found in figures["gateways"].items():
        reload, start = found["from_reload_seconds"], found["from_play_start_seconds"]
        told = f"{reload} s from the reload, {start} s from the play's start"
        site.check(f"{name}: a revoked key works for", told, reload < 1)
        good = 401 in found["refused_with"] and not found["served_again"]
        site.check(f"{name}: then it is refused for good", found["refused_with"], good)
        across = found["streams_over_the_reload_seconds"]
        good = len(across) > 0 and found["cut"] == 0
        site.check(f"{name}: streams over the reload, in seconds, go on to their end", across, good)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.edge.revoked", description=__doc__)
    parser.add_argument("access", type=Path)
    parser.add_argument("inventory", type=Path)
    arguments = parser.parse_args()
    figures = measure(load(arguments.access), arguments.inventory, arguments.access.resolve().parent)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
