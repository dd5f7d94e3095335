"""``python -m tests.mirror``: a node that gets its engine by digest and its models from the fleet's mirror.

Upstream counts what it is asked for. The node's own way to it is shut. Everything is taken down again at the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import docker

from tests import plays
from tests.fleet.hosts import ROOT, Fleet, write_if_changed
from tests.fleet.supplies import supply
from tests.mirror.upstream import Upstream

INVENTORY = ROOT / "tests" / "mirror" / "inventory"
NODE, HUB = "mirror-cpu1", "mirror-hub"


def play(playbook: str, *arguments: str) -> str:
    started = time.monotonic()
    done = plays.run(playbook, *arguments, inventory=INVENTORY)
    print(f"--- {playbook}: status {done.returncode}, {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        print(done.stdout[-12000:])
        raise SystemExit(f"{playbook} ended with {done.returncode}")
    return done.stdout


def check(what: str, found: object, ok: bool) -> None:
    print(f"{'ok    ' if ok else 'FAILED'} {what}: {found}", flush=True)
    if not ok:
        raise SystemExit(1)


def run(client: docker.DockerClient, fleet: Fleet) -> None:
    supply(client, fleet.state)
    fleet.up(client)
    supplies = json.loads((fleet.state / "supplies.json").read_text(encoding="utf-8"))
    gateway = client.networks.get(fleet.network).attrs["IPAM"]["Config"][0].get("Gateway") or "10.78.6.1"
    upstream = Upstream(fleet.state / "upstream", gateway)
    upstream.start()
    try:
        engine = supplies["engine"]
        digest = upstream.push_image(client, Path(engine["archive"]), engine["image_id"], engine["version"])
        model = upstream.push_model(Path(supplies["models"]["embedding"]["path"]))
        told = {
            "address": upstream.address,
            "ca": str(upstream.directory / "ca.crt"),
            "image": digest,
            "model": model,
            "version": engine["version"],
        }
        write_if_changed(fleet.state / "upstream.json", json.dumps(told))
        upstream.log.write_text("", encoding="utf-8")
        trial(client, upstream, told)
    finally:
        upstream.stop()


def inside(client: docker.DockerClient, host: str, *command: str) -> tuple[int, str]:
    done = client.containers.get(host).exec_run(list(command))
    return done.exit_code, done.output.decode()


def trial(client: docker.DockerClient, upstream: Upstream, told: dict) -> None:
    variables = ["-e", f"@{ROOT}/tests/mirror/variables.yml", *os.environ.get("ARGUMENTS", "").split()]
    output = play("site.yml", *variables)
    print("\n".join(line for line in output.splitlines() if "mirror:" in line or "ok=" in line))
    sent = upstream.sent()
    largest = max(sent.values())
    check("upstream sent blobs", {digest[7:15]: size for digest, size in sent.items()}, bool(sent))
    check("the model's weights went out once", sent.get(told["model"]["digest"]),
          sent.get(told["model"]["digest"], 0) <= told["model"]["size_bytes"] * 1.02)  # fmt: skip
    check("the largest of all blobs", largest, largest > 10**7)
    _code, image = inside(
        client, NODE, "docker", "container", "inspect", "--format", "{{.Config.Image}}", "onprem-llm-ollama"
    )
    image, wanted = image.strip(), f":{told['version']}@{told['image']}"
    right = image.startswith("10.78.6.12:8444/") and image.endswith(wanted)
    check("the node runs the image by the mirror's digest", image, right)
    check("nobody but the mirror asks upstream", upstream.clients(), upstream.clients() == {"10.78.6.12"})
    before = upstream.requests()
    output = play("site.yml", *variables)
    recap = [line for line in output.splitlines() if "ok=" in line]
    check("a second run changes nothing", recap, all("changed=0" in line for line in recap))
    check("and asks nothing upstream", upstream.requests() - before, upstream.requests() == before)
    print(play("playbooks/verify.yml", *variables)[-6000:])


def main() -> int:
    client = docker.from_env(timeout=300)
    fleet = Fleet.load("mirror")
    try:
        run(client, fleet)
    finally:
        if not os.environ.get("KEEP"):
            fleet.down(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
