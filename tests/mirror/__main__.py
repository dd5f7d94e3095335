"""``python -m tests.mirror [STEP...]``: two nodes that get their engine by digest and their models from two mirrors.

Upstream counts what it is asked for, and the mirrors' own logs say who read what. ``tests.steps`` says how steps run.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import yaml

from tests import steps
from tests.engine import image, models
from tests.fleet.hosts import ROOT, Fleet, write_if_changed
from tests.fleet.supplies import CACHE
from tests.mirror.upstream import Upstream

INVENTORY = ROOT / "tests" / "mirror" / "inventory"
VARIABLES = ROOT / "tests" / "mirror" / "variables.yml"
HUB, TWO = "mirror-hub", "mirror-two"
NODES = ("mirror-cpu1", "mirror-cpu2")
ADDRESS = {HUB: "10.78.6.12", TWO: "10.78.6.14"}
BIG = "big-chat:1"
# The engine's next release.
NEXT = "0.32.16"
BLOBS = "/var/lib/onprem-llm/mirror/registry/docker/registry/v2/blobs/sha256"
LOG = "/var/log/nginx/onprem-llm-mirror.log"
# Slow enough that a transfer can be watched and broken off: 50 MB by four connections in 6 s.
SLOW = "/etc/nginx/conf.d/slow.conf"
RATE = "2m"


class Site(steps.Site):
    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        super().__init__(client, fleet, INVENTORY, f"--extra-vars=@{VARIABLES}")
        network = client.networks.get(fleet.network).attrs["IPAM"]["Config"][0]
        self.upstream = Upstream(fleet.state / "upstream", network.get("Gateway") or "10.78.6.1")
        self.upstream.start()
        try:
            self.told = self.prepared()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.upstream.stop()

    def prepared(self) -> dict:
        """What upstream has from now: an image and two models."""
        engine = json.loads((self.fleet.state / "supplies.json").read_text(encoding="utf-8"))["engine"]
        chat = models.write_generative(self.fleet.state / "chat.gguf", "medium")
        # Of other weights than the fleet's tiny-embedding: names of the same share a runner, listed under one of them.
        search = models.write_embedding(self.fleet.state / "search.gguf", seed=1)
        archive, version = Path(engine["archive"]), engine["version"]
        told = {
            "address": self.upstream.address,
            "ca": str(self.upstream.directory / "ca.crt"),
            "image": self.upstream.push_image(self.client, archive, engine["image_id"], version),
            "models": {
                BIG: self.upstream.push_model(BIG, chat, "llama"),
                "small-search:1": self.upstream.push_model("small-search:1", search, "bert"),
            },
            "version": version,
        }
        write_if_changed(self.fleet.state / "upstream.json", json.dumps(told))
        return told

    @property
    def big(self) -> dict:
        return self.told["models"][BIG]

    # --- what the steps do

    @contextmanager
    def down(self, *mirrors: str) -> Iterator[None]:
        """Mirrors that do not answer, from one moment to the next: stopped, nginx would end its answers first."""
        for host in mirrors:
            self.inside(host, "systemctl kill --signal=KILL nginx; systemctl stop nginx")
        try:
            yield
        finally:
            for host in mirrors:
                self.inside(host, "systemctl start nginx")

    def forget(self) -> None:
        """Nobody has asked anybody yet."""
        self.upstream.log.write_text("", encoding="utf-8")
        for host in ADDRESS:
            self.inside(host, f": >{LOG}")

    def reads(self, host: str, digest: str = "") -> list[dict]:
        """What a mirror answered, by its log, each with ``began`` and ``ended`` in seconds."""
        lines = [json.loads(line) for line in self.inside(host, f"cat {LOG}").splitlines()]
        for line in lines:
            line["ended"] = datetime.datetime.fromisoformat(line["time"]).timestamp()
            line["began"] = line["ended"] - float(line["request_time"])
        return [line for line in lines if digest in line["path"] and line["method"] == "GET"]

    def sent(self, host: str, digest: str) -> Counter[str]:
        """Bytes of a blob that a mirror sent, by who read them."""
        found: Counter[str] = Counter()
        for line in self.reads(host, digest):
            found[line["node"]] += int(line["response_bytes"])
        return found

    def drop(self, node: str, name: str = BIG) -> None:
        """A node that has never had a model."""
        script = f"""
import json, urllib.error, urllib.request
body = json.dumps(dict(model="{name}")).encode()
request = urllib.request.Request("http://172.30.250.2:11434/api/delete", body, method="DELETE")
try:
    urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    print(error.code)
"""
        told = self.inside(node, f"python3 -c '{script}'; rm -rf /var/lib/onprem-llm/ollama/staging/*")
        if told not in ("", "404"):
            raise SystemExit(f"{node} did not forget {name}: {told}")

    def image(self, node: str) -> str:
        return self.inside(node, "docker container inspect --format '{{.Config.Image}}' onprem-llm-ollama")

    def engines_and_images(self) -> dict[str, tuple[str, str]]:
        """By node, the version of the engine and the name of its image."""
        return {node: (version, self.image(node)) for node, version in self.engines(NODES).items()}

    def share(self, count: float) -> float:
        """Of the large model's bytes."""
        return round(count / self.big["size_bytes"], 3)

    def models(self, *arguments: str, **more: object) -> str:
        """Bring the models in, and nothing else."""
        return self.play("--tags", "models_install", "--limit", ",".join(NODES), *arguments, "site.yml", **more)


def once(site: Site) -> None:
    """Upstream's bytes come once for two mirrors and two nodes, which take from one mirror each."""
    site.forget()
    site.play("site.yml")
    digest = site.big["digest"]
    site.check("upstream sent the large model once", site.share(site.upstream.sent()[digest]),
               1 <= site.share(site.upstream.sent()[digest]) <= 1.02)  # fmt: skip
    clients = site.upstream.clients()
    site.check("nobody but the first mirror asks upstream", clients, clients == {ADDRESS[HUB]})
    shares = {host: dict(site.sent(host, digest)) for host in ADDRESS}
    site.check("the first mirror gave it to the second and to one node, the second to the other node", shares,
               set(shares[HUB]) == {TWO, NODES[0]} and set(shares[TWO]) == {NODES[1]})  # fmt: skip
    for node, host in zip(NODES, (HUB, TWO)):
        name = site.image(node)
        right = name.startswith(f"{ADDRESS[host]}:8444/") and name.endswith(site.told["image"])
        site.check(f"{node} runs the image by its mirror's name", name, right)


def again(site: Site) -> None:
    """Nothing is left to be done, and all of it is as it should be."""
    before = site.upstream.requests()
    site.unchanged("site.yml", what="a second run changes nothing")
    site.check("and asks nothing upstream", site.upstream.requests() - before, site.upstream.requests() == before)
    output = site.play("playbooks/verify.yml")
    site.check("verify.yml passes", re.findall(r"The (?:mirror|node) \S+ may read", output), True)


def upgraded(site: Site) -> None:
    """The engine's next release by the mirrors, refused where nobody gives it; and back with no mirror left.

    Needs nodes that have never had that release: who keeps its image needs no mirror for it.
    """
    upgrade, nodes, before = "playbooks/upgrade.yml", ("--limit", ",".join(NODES)), site.engines_and_images()
    changes_nothing = "and nothing is changed on any host"
    wanted = {"ollama_version": NEXT, "ollama_image_digest": f"sha256:{'0' * 64}"}
    said = " ".join(site.unchanged(upgrade, what=changes_nothing, fails=True, **wanted).split())
    told = re.search(r"nobody gives \S+: .{0,300}sha256:0{64}: the registry \S+ has none", said)
    site.check("a digest that nobody has is told", told and told[0], bool(told))
    path, image_id = image.archive(site.client, image.build(site.client), NEXT, CACHE)
    wanted["ollama_image_digest"] = digest = site.upstream.push_image(site.client, path, image_id, NEXT)
    with site.down(HUB, TWO):
        said = " ".join(site.unchanged(*nodes, upgrade, what=changes_nothing, fails=True, **wanted).split())
        told = re.search(r"the image cannot be had: .{0,600}site\.yml --limit model_mirrors fills it", said)
        site.check("with no mirror left each is named, and what is to be done", told and told[0],
                   bool(told) and all(address in told[0] for address in ADDRESS.values()))  # fmt: skip
    found = site.engines_and_images()
    site.check("the engines run as before", found, found == before)
    site.forget()
    site.play(upgrade, **wanted)
    found, mirrors = site.engines_and_images(), tuple(ADDRESS.values())
    site.check("with the mirrors both nodes have it, by its digest from one", found,
               all(version == NEXT and name.startswith(mirrors) and name.endswith(digest)
                   for version, name in found.values()))  # fmt: skip
    clients = site.upstream.clients()
    site.check("nobody but the first mirror asks upstream", clients, clients == {ADDRESS[HUB]})
    with site.down(HUB, TWO):
        site.play(*nodes, "playbooks/rollback.yml")
        found = site.engines_and_images()
        site.check("and go back with what lies on them", found, found == before)


def waves(site: Site) -> None:
    """``models_transfer_wave`` bounds how many nodes transfer at a time."""
    for wave in (1, 2):
        site.forget()
        for node in NODES:
            site.drop(node)
        for host in ADDRESS:
            site.inside(host, f"echo 'limit_rate {RATE};' >{SLOW} && systemctl reload nginx")
        site.models(models_transfer_wave=wave)
        spans = []
        for host in ADDRESS:
            spans += [(line["began"], line["ended"], line["node"]) for line in site.reads(host, site.big["digest"])]
        began = {node: min(span[0] for span in spans if span[2] == node) for node in NODES}
        ended = {node: max(span[1] for span in spans if span[2] == node) for node in NODES}
        # The log's times are whole seconds.
        overlap = round(min(ended.values()) - max(began.values()), 1)
        site.check(f"with a wave of {wave}, the nodes' transfers overlap by", f"{overlap} s",
                   overlap <= 1 if wave == 1 else overlap > 2)  # fmt: skip
    for host in ADDRESS:
        site.inside(host, f"rm {SLOW} && systemctl reload nginx")


def broken_off(site: Site) -> None:
    """A mirror that goes away in the middle: its node goes on at the other, at the byte."""
    site.forget()
    site.drop(NODES[0])
    site.inside(HUB, f"echo 'limit_rate {RATE};' >{SLOW} && systemctl reload nginx")
    run = site.start("--tags", "models_install", "--limit", ",".join(NODES), "site.yml")
    staged, held = "du -sk /var/lib/onprem-llm/ollama/staging 2>/dev/null | cut -f1", 0
    # Until a third of it is here. nginx, killed, will not log what it sent.
    while run.poll() is None and held < site.big["size_bytes"] / 3:
        time.sleep(0.1)
        held = int(site.inside(NODES[0], staged) or 0) * 1024
    with site.down(HUB):
        site.inside(HUB, f"rm {SLOW}")
        site.end(run, "a mirror stopped in the middle")
        digest = site.big["digest"]
        second = site.sent(TWO, digest)[NODES[0]]
        site.check("the first mirror sent, and the second the rest", [site.share(held), site.share(second)],
                   0.3 < site.share(held) < 0.9 and 0.1 < site.share(second) <= 1.02 - site.share(held))  # fmt: skip
        site.drop(NODES[0])
        started = time.monotonic()
        site.models()
        passed, gave = time.monotonic() - started, site.share(site.sent(TWO, digest)[NODES[0]] - second)
        found = f"{gave} in a play of {passed:.0f} s"
        site.check("with the first mirror down from the start, the second gives all of it", found, gave >= 1)
    site.check("upstream was asked nothing", site.upstream.requests(), site.upstream.requests() == 0)


def images(site: Site) -> None:
    """The engine's image comes from the other mirror, and keeps that one's name when the first is back."""
    node = NODES[0]
    remove = "docker rm --force onprem-llm-ollama; docker image prune --all --force"
    site.inside(node, remove)
    with site.down(HUB):
        site.play("--tags", "ollama,models", "--limit", ",".join(NODES), "site.yml")
        site.check("its image came from the second mirror", site.image(node), site.image(node).startswith(ADDRESS[TWO]))
    site.unchanged(
        "--tags", "ollama,models", "--limit", ",".join(NODES), "site.yml", what="and stays when the first is back"
    )


def fallback(site: Site) -> None:
    """With no mirror left, a node says so, and goes on to upstream only where the inventory lets it."""
    node, digest = NODES[0], site.big["digest"]
    site.forget()
    with site.down(HUB, TWO):
        site.drop(node)
        output = " ".join(site.models(fails=True).split())
        said = re.search(r"no registry gives it: .{0,900}models_mirror_fallback: true\)", output)
        site.check("without a fallback both mirrors are named, and what is to be done", said and said[0],
                   bool(said) and all(address in said[0] for address in ADDRESS.values()))  # fmt: skip
        site.check("and upstream is asked nothing", site.upstream.requests(), site.upstream.requests() == 0)
        site.inside(node, "docker rm --force onprem-llm-ollama; docker image prune --all --force")
        output = " ".join(site.play("--tags", "ollama", "--limit", ",".join(NODES), "site.yml", fails=True).split())
        said = re.search(r"None of the mirrors 10\S+ 10\S+ gave .{0,300}", output)
        site.check("nor does the engine's image come", said and said[0], bool(said))
        site.play("--tags", "ollama,models", "--limit", ",".join(NODES), "site.yml", models_mirror_fallback=True)
        site.check("with a fallback the model comes from upstream", site.share(site.upstream.sent()[digest]),
                   1 <= site.share(site.upstream.sent()[digest]) <= 1.02)  # fmt: skip
        site.check("and the image", site.image(node), site.image(node).startswith(site.upstream.address))
    site.play("--tags", "ollama,models", "--limit", ",".join(NODES), "site.yml", models_mirror_fallback=True)
    site.check("which has a mirror's name again when one is back", site.image(node),
               site.image(node).startswith(tuple(f"{address}:" for address in ADDRESS.values())))  # fmt: skip


def prune(site: Site) -> None:
    """What no plan wants any more goes from both mirrors, and only from a run that reached every node."""
    wanted = yaml.safe_load(VARIABLES.read_text(encoding="utf-8"))
    less = {"models_workloads": wanted["models_workloads"][1:], "models_prune": True}
    digest = site.big["digest"][7:]
    blob = f"test -e {BLOBS}/{digest[:2]}/{digest} && echo there || echo gone"
    site.play("--tags", "model_mirror", "--limit", f"{HUB},{TWO},{NODES[0]}", "site.yml", **less)
    there = {host: site.inside(host, blob) for host in ADDRESS}
    site.check("a run that missed a node removes nothing", there, set(there.values()) == {"there"})
    started = time.monotonic()
    site.play("--tags", "model_mirror", "site.yml", **less)
    passed, there = time.monotonic() - started, {host: site.inside(host, blob) for host in ADDRESS}
    site.check("what no plan wants is gone from both", f"{there} in {passed:.0f} s", set(there.values()) == {"gone"})
    states = [site.inside(host, "systemctl is-active docker-registry") for host in ADDRESS]
    site.check("and the registries run", states, set(states) == {"active"})
    site.unchanged("--tags", "model_mirror", "site.yml", what="a second run removes nothing more", **less)
    site.forget()
    site.play("--tags", "model_mirror", "site.yml")
    sent = site.share(site.upstream.sent()[site.big["digest"]])
    site.check("and what is wanted again comes once", sent, 1 <= sent <= 1.02)


def taken_out(site: Site) -> None:
    """A fleet whose first mirror is taken out of the group; the second has everything."""
    site.forget()
    place = site.fleet.state / "inventory"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    inventory = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
    del inventory["all"]["children"]["model_mirrors"]["hosts"][HUB]
    inventory["all"]["vars"]["demo_state_directory"] = str(site.fleet.state)
    (place / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    (place / "group_vars").symlink_to((INVENTORY / "group_vars").resolve())
    with site.down(HUB):
        site.drop(NODES[0])
        site.play("--limit", "!mirror-hub", "site.yml", inventory=place)
        site.check("the mirror that is left gives the model", site.share(site.sent(TWO, site.big["digest"])[NODES[0]]),
                   site.share(site.sent(TWO, site.big["digest"])[NODES[0]]) >= 1)  # fmt: skip
        site.check("upstream is asked nothing", site.upstream.requests(), site.upstream.requests() == 0)
        names = [site.image(node) for node in NODES]
        site.check("every node runs its image", names, all(name.startswith(ADDRESS[TWO]) for name in names))


STEPS = (once, again, upgraded, fallback, broken_off, waves, images, prune, taken_out)


if __name__ == "__main__":
    sys.exit(steps.run("mirror", Site, STEPS))
