"""``make soak``: the gateway at its limit for MINUTES, looked at every few seconds; figures in build/soak.json."""

from __future__ import annotations

import argparse
import dataclasses
import json
import ssl
import sys
import time
from pathlib import Path

import docker

from tests.attack.access import Access, AccessError, load, require_local_containers
from tests.attack.position import Container, Host
from tests.fleet.hosts import ROOT
from tests.soak.figures import Sample, faults, trend
from tests.soak.load import Load

# As many streams as one user may have at once, and a few more, so that some are always refused.
STREAMS = 20
EVERY_SECONDS = 2.0
# nginx closes an idle client's connection after 75 s unless told otherwise.
DRAIN_SECONDS = 90
# Run on the gateway: its processes' memory, descriptors, and established connections of clients and to engines, with
# those between nginx and HAProxy, of which each has its end. Memory is the PSS without shared zones: these have a fixed
# size, and that of TLS sessions fills for a day.
LOOK = """
import glob, json, os, subprocess, sys
port = sys.argv[1]
pids = [p for p in filter(str.isdigit, os.listdir("/proc")) if os.path.exists("/proc/%s/cmdline" % p)
        and open("/proc/%s/comm" % p).read().strip() in ("nginx", "haproxy")]
memory = descriptors = 0
for pid in pids:
    try:
        lines = open("/proc/%s/smaps_rollup" % pid)
        shares = [line.split()[1] for line in lines if line.startswith(("Pss_Anon:", "Pss_File:"))]
        memory += 1024 * sum(map(int, shares))
        descriptors += len(os.listdir("/proc/%s/fd" % pid))
    except OSError:
        pass
lines = subprocess.run(["ss", "-Htnp", "state", "established"], stdout=subprocess.PIPE, text=True).stdout.splitlines()
lines = [line.split() for line in lines if "nginx" in line or "haproxy" in line]
clients = sum(line[2].rpartition(":")[2] == port for line in lines)
local = subprocess.run(["ss", "-Hxnp", "state", "established"], stdout=subprocess.PIPE, text=True).stdout.splitlines()
local = sum(line.count("pid=") for line in local if "nginx" in line or "haproxy" in line)
print(json.dumps([memory, descriptors, clients, len(lines) - clients + local]))
"""


def look(gateway: Host, port: int, seconds: float) -> Sample:
    return Sample(round(seconds, 1), *json.loads(gateway.run(["python3", "-c", LOOK, str(port)])))


def drained(gateway: Host, port: int, idle: Sample, seconds: float) -> Sample:
    """A look once no more clients are connected than before, or after ``DRAIN_SECONDS``."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while (found := look(gateway, port, seconds)).clients > idle.clients and time.monotonic() < deadline:
        time.sleep(2)
    return found


def soak(access: Access, gateway: Host, seconds: float, streams: int) -> dict:
    """The figures as data; ``faults`` is empty where nothing speaks against the gateway."""
    port = access.gateway[1]
    idle, began = look(gateway, port, 0), time.monotonic()
    user = next(user for user in access.users.values() if user.role == "user" and user.models is None)
    context = ssl.create_default_context(cafile=access.ca_file)
    users = Load(access.gateway, context, user.api_key, access.model, began + seconds)
    threads = users.run(streams)
    samples: list[Sample] = []
    while time.monotonic() < began + seconds:
        samples.append(look(gateway, port, time.monotonic() - began))
        time.sleep(EVERY_SECONDS)
    for thread in threads:
        thread.join()
    after = drained(gateway, port, idle, time.monotonic() - began)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "streams": streams,
        "answers": dict(users.counts),
        "events": users.tokens,
        "memory_bytes": dataclasses.asdict(trend(samples, "memory_bytes")),
        "descriptors": dataclasses.asdict(trend(samples, "descriptors")),
        "idle": dataclasses.asdict(idle),
        "after": dataclasses.asdict(after),
        "faults": faults(samples, idle, after, {k: v for k, v in users.counts.items() if k not in ("left", "refused")}),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("access", type=Path, help="access.json of a fleet in local containers")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "soak.json")
    given = parser.parse_args()
    try:
        access = load(given.access)
        require_local_containers(access, docker.from_env(timeout=60))
    except AccessError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    gateway = Container(access.gateway_machine.container)
    print(f"{given.streams} streams on {access.gateway[0]} for {given.minutes:g} minutes", flush=True)
    found = soak(access, gateway, given.minutes * 60, given.streams)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    memory, descriptors = found["memory_bytes"], found["descriptors"]
    print(f"answers: {found['answers']}")
    print(f"memory: {memory['before'] / 2**20:.1f} MiB after the warm-up, {memory['after'] / 2**20:.1f} MiB at the end")
    print(f"descriptors: {descriptors['before']:.0f} after the warm-up, {descriptors['after']:.0f} at the end")
    print(f"afterwards: {found['after']['clients']} clients, {found['after']['upstreams']} connections to engines")
    for fault in found["faults"]:
        print(f"  FAILED {fault}")
    print("nothing was kept" if not found["faults"] else f"{len(found['faults'])} faults")
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
