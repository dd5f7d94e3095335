"""``python -m tests.upgrade [STEP...]``: a release without room, a good upgrade, two bad releases, a killed node and
another Docker, all under load.

The steps are in order; each leaves the fleet as the next needs it. ``KEEP=1`` leaves the fleet up, and steps that are
named run on it. What the requests came to is written to ``build/bench/upgrade.json`` after each step.

``docker_back`` and ``docker_moved`` move Docker itself on the first node, from its own release's to the next one's.

The engines are stand-ins (tests/engine): 0.32.16 is a good one, 0.32.17 never answers, and 0.32.18 answers nonsense,
since its image has llama-server turn the positions of its tokens by another base than the model was trained with.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import time

import docker

from tests import steps
from tests.engine import image
from tests.fleet import images
from tests.fleet.hosts import ROOT, Fleet
from tests.fleet.supplies import CACHE, ENGINE_VERSION
from tests.upgrade.load import Load, figures

INVENTORY = ROOT / "tests" / "upgrade" / "inventory"
RESULT = ROOT / "build" / "bench" / "upgrade.json"
UPGRADE = "playbooks/upgrade.yml"
GATEWAY, NODES = "upgrade-gw1", ("upgrade-cpu1", "upgrade-cpu2")
MODEL = "gemma3:270m"
GOOD, SILENT, NONSENSE = "0.32.16", "0.32.17", "0.32.18"
RELEASES: dict[str, tuple[str, ...]] = {
    GOOD: (),
    SILENT: ('ENTRYPOINT ["/bin/sleep"]', 'CMD ["infinity"]'),
    NONSENSE: ("ENV LLAMA_ARG_ROPE_FREQ_BASE=7",),
}
# Debian's next release is asked for Docker and what comes with it, and for nothing else that this one has.
DOCKER = "docker.io docker-cli docker-compose containerd runc"
NEXT = """
echo "deb [check-valid-until=no] {source}" >/etc/apt/sources.list.d/next.list
cat >/etc/apt/preferences.d/next <<EOF
Package: *
Pin: release n=forky
Pin-Priority: 100

Package: {packages}
Pin: release n=forky
Pin-Priority: 900
EOF
"""
# Requests that each phase sends at least, so that the whole has more than 500.
LEAST = 130
STATISTICS = """
import glob, socket, sys
for path in glob.glob("/run/onprem-llm-balancer/*.sock"):
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(3)
            connection.connect(path)
            connection.sendall(b"show stat\\n")
            data = b""
            while block := connection.recv(65536):
                data += block
        if data.startswith(b"# pxname"):
            print(data.decode())
            break
    except OSError:
        continue
"""


class Site(steps.Site):
    """The fleet, its load, and what its nodes and its balancer count."""

    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        super().__init__(client, fleet, INVENTORY)
        secrets = json.loads((fleet.state / "secrets.json").read_text(encoding="utf-8"))
        self.key = secrets["users"]["app"]["api_key"]
        self.url = f"https://{self.address[GATEWAY]}"

    def release(self, version: str) -> dict[str, object]:
        """What the inventory would say of a release."""
        if version == ENGINE_VERSION:
            return {}
        tag = image.build(self.client)
        path, image_id = image.archive(self.client, tag, version, CACHE, RELEASES[version])
        return {"ollama_version": version, "ollama_image_archive": str(path), "ollama_image_id": image_id}

    def load(self, **more: int) -> Load:
        return Load(self.url, str(self.fleet.state / "pki" / "ca.crt"), self.key, MODEL, **more)

    def versions(self) -> dict[str, str]:
        return self.engines(NODES)

    def starts(self) -> dict[str, str]:
        """By node, since when its engine runs."""
        inspect = "docker inspect --format {{.State.StartedAt}} onprem-llm-ollama"
        return {node: self.inside(node, inspect) for node in NODES}

    def out_seconds(self) -> dict[str, float]:
        """By node, how long the last change took it out of service, by its newest record."""
        script = "ls -d /etc/onprem-llm/releases/2* 2>/dev/null | tail -1 | xargs -I{} cat {}/record.json"
        records = {node: json.loads(self.inside(node, script) or "{}") for node in NODES}
        return {node: (record.get("times") or {}).get("out_seconds") for node, record in records.items()}

    def retries(self) -> int:
        """Connections that the balancer tried again, at the same node or at another, since it was started."""
        text = self.run(GATEWAY, "python3", "-c", STATISTICS).stdout.strip().removeprefix("# ")
        rows = [row for row in csv.DictReader(text.splitlines()) if row["svname"] == "BACKEND"]
        return sum(int(row["wretr"] or 0) + int(row["wredis"] or 0) for row in rows)

    def docker(self, node: str) -> str:
        """What a node's Docker says of itself, which is what runs, and not what is installed."""
        return self.inside(node, "docker version --format {{.Server.Version}}")

    def packages(self, node: str) -> str:
        """Docker's packages with their versions, and what holds them."""
        return self.inside(
            node, f"dpkg-query --show {DOCKER} 'tini*' 2>/dev/null; apt-mark showhold; apt-mark showmanual"
        )

    def running(self, node: str) -> int:
        program = ("/usr/bin/python3", "-I", "/usr/local/lib/onprem-llm/balancer.py", "streams", node)
        return int(json.loads(self.run(GATEWAY, *program).stdout)["running"])


def keep(phase: str, found: dict[str, object]) -> None:
    """Put a phase's figures into the result, with the sums of all phases."""
    phases = json.loads(RESULT.read_text(encoding="utf-8"))["phases"] if RESULT.exists() else {}
    phases[phase] = found
    sums = {key: sum(each[key] for each in phases.values()) for key in ("sent", "failed", "retried_by_gateway")}
    result = {
        **sums,
        "cut_by_kill": sum(each.get("cut_by_kill", 0) for each in phases.values()),
        "longest_token_gap_s": max(each["longest_token_gap_s"] for each in phases.values()),
        "rolled_back_nodes": [node for each in phases.values() for node in each.get("rolled_back_nodes", [])],
        "seconds_per_node": phases.get("good", {}).get("seconds_per_node", {}),
        "phases": phases,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


def enough(load: Load, since: float, least: int = LEAST, seconds: float = 8) -> None:
    """Until so many requests are sent, and some of them well after what happened."""
    while len(load.requests) < least or time.monotonic() - since < seconds:
        time.sleep(0.2)


def whole(site: Site) -> None:
    """The fleet with the first engine; figures of earlier runs are gone."""
    RESULT.unlink(missing_ok=True)
    # What is not on a request's way is left out: it takes half of the time.
    site.play("--skip-tags", "firewall,monitoring,logrotate", "playbooks/site.yml")


def shown(site: Site) -> None:
    """What there is to be done, before anything is."""
    nothing = site.play(UPGRADE)
    site.check("there is nothing to do, and that is said", "Nothing to do" in nothing, "Nothing to do" in nothing)
    shown = site.play("--check", UPGRADE, **site.release(GOOD))
    lines = [
        line
        for line in shown.splitlines()
        if re.match(r"  (engine|image|restart|out)|upgrade-|  the canary|  batch", line)
    ]
    print("\n".join(lines))
    site.check(
        "check mode shows what would change",
        f"engine   {ENGINE_VERSION} -> {GOOD}",
        f"{ENGINE_VERSION} -> {GOOD}" in shown,
    )
    site.check("and changes nothing", site.versions(), set(site.versions().values()) == {ENGINE_VERSION})


def full(site: Site) -> None:
    """No room for another image beside the one that runs, under load: nobody's turn comes."""
    release = site.release(GOOD)
    # A tar ends where zeros begin, and these are on no disk. Docker would load it, if it could be there.
    wide = site.fleet.state / "wide.tar"
    shutil.copyfile(str(release["ollama_image_archive"]), wide)
    free = int(site.inside(NODES[0], "df --output=avail --block-size=1 /var/lib/docker | tail -1"))
    os.truncate(wide, free // 2 + 2**30)
    starts, before = site.starts(), site.versions()
    with site.load(short=2, long=1) as load:
        enough(load, time.monotonic(), least=20, seconds=0)
        said = site.play(UPGRADE, fails=True, **release | {"ollama_image_archive": str(wide)})
        enough(load, time.monotonic(), least=1)
        load.stop()
    wide.unlink()
    told = [node for node in NODES if re.search(rf"{node}: /var/lib/docker has .* free, and an image beside", said)]
    site.check("both nodes are told, with what they have and need", told, told == list(NODES))
    site.check("nobody's turn came", (before, site.versions()), before == site.versions())
    site.check("and no engine was started", (starts, site.starts()), starts == site.starts())
    found = figures(load.requests)
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)
    again = site.play(UPGRADE)
    site.check("what runs is what is wanted", "Nothing to do" in again, "Nothing to do" in again)


def good(site: Site) -> None:
    """A good upgrade under load."""
    before = site.retries()
    with site.load() as load:
        time.sleep(5)
        site.play(UPGRADE, **site.release(GOOD))
        enough(load, time.monotonic())
        load.stop()
    found = {
        **figures(load.requests), "retried_by_gateway": site.retries() - before, "rolled_back_nodes": [],
        "seconds_per_node": site.out_seconds(),
    }  # fmt: skip
    keep("good", found)
    site.check("both nodes run the new engine", site.versions(), set(site.versions().values()) == {GOOD})
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)


def bad(site: Site, phase: str, version: str, why: str) -> None:
    before, untouched = site.retries(), site.versions()
    with site.load() as load:
        time.sleep(5)
        said = site.play(UPGRADE, fails=True, **site.release(version))
        enough(load, time.monotonic())
        load.stop()
    (site.fleet.state / f"{phase}.log").write_text(said, encoding="utf-8")
    back = re.findall(r"(\S+): the upgrade failed at .*?is back, has passed the gate", said, re.DOTALL)
    rolled = sorted(set(back))
    found = {**figures(load.requests), "retried_by_gateway": site.retries() - before, "rolled_back_nodes": rolled}
    keep(phase, found)
    site.check("the canary alone was changed, and went back", rolled, rolled == [NODES[0]])
    site.check("the operator is told why", why, why in said)
    site.check("all nodes run what they ran", site.versions(), site.versions() == untouched)
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)


def silent(site: Site) -> None:
    """A bad release under load: its engine never answers."""
    bad(site, "silent", SILENT, "The engine does not start")


def nonsense(site: Site) -> None:
    """A bad release under load: its engine answers nonsense."""
    bad(site, "nonsense", NONSENSE, "agrees with its answers before by")


def back(site: Site) -> None:
    """One release back under load."""
    before = site.retries()
    with site.load() as load:
        site.play("playbooks/rollback.yml")
        enough(load, time.monotonic(), least=1)
        load.stop()
    found = {**figures(load.requests), "retried_by_gateway": site.retries() - before, "rolled_back_nodes": []}
    keep("rollback", found)
    site.check("both nodes run the first engine", site.versions(), set(site.versions().values()) == {ENGINE_VERSION})
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)


def killed(site: Site) -> None:
    """A node that is killed in the middle of the load."""
    before, node = site.retries(), NODES[1]
    with site.load(short=2, long=3) as load:
        enough(load, time.monotonic(), least=20)
        while not site.running(node):
            time.sleep(0.05)
        running = site.running(node)
        moment = time.monotonic()
        site.client.containers.get(node).kill()
        enough(load, time.monotonic(), seconds=45)
        load.stop()
    failed = [request for request in load.requests if request.failed]
    cut = [request for request in failed if request.began < moment + 1 and request.ended >= moment]
    found = {
        **figures([request for request in load.requests if request not in cut]), "sent": len(load.requests),
        "cut_by_kill": len(cut), "ran_on_it": running, "retried_by_gateway": site.retries() - before,
        "cut_after_s": [round(request.ended - moment, 2) for request in cut],
        "cut_errors": sorted({request.error or "it ended without a reason" for request in cut}),
    }  # fmt: skip
    keep("killed", found)
    site.check("at most the node's slots were cut", (len(cut), running), len(cut) <= 4)
    site.check("nobody else failed", (found["failed"], found["errors"]), found["failed"] == 0)
    site.check("they were told at once", found["cut_after_s"], all(after < 5 for after in found["cut_after_s"]))
    site.client.containers.get(node).start()


def docker_back(site: Site) -> None:
    """Another Docker and a bad engine at once, under load: both go back."""
    script = NEXT.format(source=images.mirrors("forky")[0].removeprefix("deb "), packages=DOCKER)
    site.run(NODES[0], "sh", "-es", given=script)
    before, packages = site.docker(NODES[0]), site.packages(NODES[0])
    shown = site.play("--check", UPGRADE)
    print("\n".join(line for line in shown.splitlines() if re.match(r"  (package|change|restart|note|back) ", line)))
    moves = f"package  docker.io {before}" in shown
    site.check("check mode shows what Docker's packages do", f"docker.io {before}", moves)
    site.check("and changes nothing", site.docker(NODES[0]), site.docker(NODES[0]) == before)
    bad(site, "docker_back", NONSENSE, "agrees with its answers before by")
    log = (site.fleet.state / "docker_back.log").read_text(encoding="utf-8")
    site.check("Docker was another one meanwhile", "So are its packages", "So are its packages" in log)
    site.check("the Docker that ran runs again", (before, site.docker(NODES[0])), site.docker(NODES[0]) == before)
    site.check("packages and holds are as they were", site.packages(NODES[0]), site.packages(NODES[0]) == packages)


def docker_moved(site: Site) -> None:
    """Another Docker on one node, under load."""
    before, versions, retries = site.docker(NODES[0]), site.versions(), site.retries()
    with site.load() as load:
        time.sleep(5)
        site.play(UPGRADE)
        enough(load, time.monotonic())
        load.stop()
    found = {**figures(load.requests), "retried_by_gateway": site.retries() - retries, "rolled_back_nodes": []}
    after = site.docker(NODES[0])
    found.update(docker=[before, after], seconds_per_node=site.out_seconds())
    keep("docker", found)
    site.check("the node's Docker is the newer one", (before, after), after.split(".")[0] > before.split(".")[0])
    site.check("the other node's is as it was", site.docker(NODES[1]), site.docker(NODES[1]) == before)
    site.check("the engines are as they were", site.versions(), site.versions() == versions)
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)
    again = site.play(UPGRADE)
    site.check("a further run has nothing to do", "Nothing to do" in again, "Nothing to do" in again)


GATEWAY_PACKAGES = ("nginx", "nginx-common", "haproxy")


def gateway_versions(site: Site) -> str:
    return site.inside(GATEWAY, f"dpkg-query --show {' '.join(GATEWAY_PACKAGES)}")


def gateway_replaced(site: Site) -> None:
    """Every process of nginx and HAProxy is of the program that is installed, as soon as old streams have ended."""
    programs = "for pid in $(pidof nginx haproxy); do readlink /proc/$pid/exe; done"
    replaced = site.within(60, lambda: "deleted" not in site.inside(GATEWAY, programs))
    site.check("every process is of the installed program", replaced, replaced is not None)


def gateway_back(site: Site) -> None:
    """nginx and HAProxy of the security archive on a gateway that does not pass its proof, under load: they go back."""
    first = "apt-cache madison {0} | awk '!/security/ {{print $3}}' | head -1"
    wanted = [f"{name}={site.inside(GATEWAY, first.format(name))}" for name in GATEWAY_PACKAGES]
    site.inside(GATEWAY, f"apt-get install --yes --allow-downgrades {' '.join(wanted)}")
    site.inside(GATEWAY, "systemctl restart nginx onprem-llm-balancer")
    before, retries = gateway_versions(site), site.retries()
    with site.load() as load:
        time.sleep(5)
        # The fleet has no status page, since its monitoring was left out; so the proof fails.
        said = site.play(UPGRADE, fails=True)
        enough(load, time.monotonic(), least=1)
        load.stop()
    found = {**figures(load.requests), "retried_by_gateway": max(site.retries() - retries, 0)}
    keep("gateway_back", found)
    site.check("what moves was shown", wanted, all(f"package  {name} " in said for name in GATEWAY_PACKAGES))
    back = "The packages that were there are back, and serve."
    site.check("the operator is told", back, back in " ".join(said.split()))
    site.check("the packages are those of before", before, gateway_versions(site) == before)
    gateway_replaced(site)
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)


def gateway_moved(site: Site) -> None:
    """nginx and HAProxy from the first ones of this release to those of its security archive, under load."""
    before, retries = gateway_versions(site), site.retries()
    with site.load() as load:
        time.sleep(5)
        site.play(UPGRADE, gateway_status_page="nobody")
        enough(load, time.monotonic())
        load.stop()
    found = {**figures(load.requests), "retried_by_gateway": max(site.retries() - retries, 0)}
    keep("gateway", found)
    after = gateway_versions(site)
    site.check("the packages are others", (before, after), not set(before.splitlines()) & set(after.splitlines()))
    gateway_replaced(site)
    site.check("no request failed", (found["sent"], found["failed"], found["errors"]), found["failed"] == 0)
    again = site.play(UPGRADE)
    site.check("a further run has nothing to do", "Nothing to do" in again, "Nothing to do" in again)


def enough_in_all(site: Site) -> None:
    """Whether all phases together say something."""
    sent = json.loads(RESULT.read_text(encoding="utf-8"))["sent"]
    site.check("500 requests or more were sent", sent, sent >= 500)


if __name__ == "__main__":
    before = (whole, shown, full, good, silent, nonsense, back, killed)
    packages = (docker_back, docker_moved, gateway_back, gateway_moved)
    sys.exit(steps.run("upgrade", Site, (*before, *packages, enough_in_all)))
