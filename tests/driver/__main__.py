"""``python -m tests.driver [STEP...]``: a GPU node's driver and toolkit, moved while the fleet serves.

The steps are in order; each leaves the fleet as the next needs it. ``KEEP=1`` leaves the fleet up, and steps that are
named run on it. The packages are stand-ins from a signed repository (tests/fleet); apt, dpkg, DKMS and systemd are
real. The node's kernel is played by ``kernel.sh``: what is loaded stays until the modules are loaded anew, which a
process with a GPU prevents, or until the node restarts, which here is its container.
"""

# contract: 5

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker

from tests import steps
from tests.engine import image
from tests.fleet import nvidia_packages, toolkit_packages
from tests.fleet.hosts import Fleet, archive
from tests.fleet.supplies import CACHE, ENGINE_VERSION
from tests.upgrade.load import Load, figures

HERE = Path(__file__).parent
INVENTORY = HERE / "inventory"
GPU, CPU, GATEWAY = "driver-gpu1", "driver-cpu1", "driver-gw1"
DRIVER, UPGRADE = "playbooks/driver.yml", "playbooks/upgrade.yml"
FIRST, SECOND, NEXT = nvidia_packages.VERSIONS
TOOLKITS = ("1.19.1", "1.20.0")
NONSENSE = "0.32.18"
MODEL = "gemma3:270m"
SET = ("nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms")
TOOLKIT = "nvidia-container-toolkit-base"
UNIT = """[Unit]
Description={what}
DefaultDependencies={dependencies}
{before}
[Service]
Type={kind}
RemainAfterExit={remain}
ExecStart={command}
[Install]
WantedBy={target}
"""


def unit(what: str, command: str, early: bool) -> bytes:
    """A unit that runs at each start of the host, before all others or as a service."""
    return UNIT.format(
        what=what, command=command, dependencies="no" if early else "yes",
        before="Before=sysinit.target" if early else "After=network.target",
        kind="oneshot" if early else "exec", remain="yes" if early else "no",
        target="sysinit.target" if early else "multi-user.target",
    ).encode()  # fmt: skip


class Site(steps.Site):
    """The fleet, its load, and what its node with GPUs says of itself."""

    def __init__(self, client: docker.DockerClient, fleet: Fleet) -> None:
        super().__init__(client, fleet, INVENTORY)
        secrets = json.loads((fleet.state / "secrets.json").read_text(encoding="utf-8"))
        self.key = secrets["users"]["app"]["api_key"]

    def load(self) -> Load:
        url, authority = f"https://{self.address[GATEWAY]}", str(self.fleet.state / "pki" / "ca.crt")
        return Load(url, authority, self.key, MODEL)

    def packages(self) -> dict[str, str]:
        """Versions of the driver's packages and of the toolkit."""
        said = self.inside(GPU, f"dpkg-query --show {' '.join((*SET, TOOLKIT))}")
        return dict(line.split("\t") for line in said.splitlines())

    def driver(self) -> dict[str, str]:
        """The driver's version as each place has it that should agree on it."""
        read = {
            "loaded": "sed -E 's/.*x86_64  ([0-9.]+) .*/\\1/' /proc/driver/nvidia/version",
            "on the disk": "modinfo --field version nvidia",
            "nvidia-smi": "nvidia-smi --query-gpu=driver_version --format=csv,noheader | sort -u",
            "CDI spec": "grep -o -m1 'libcuda.so.[0-9.]*' /run/cdi/nvidia.yaml | sed 's/libcuda.so.//'",
            "release.json": 'sed -n \'s/.*"nvidia_driver": "\\(.*\\)".*/\\1/p\' /etc/onprem-llm/release.json',
        }
        found = {what: self.inside(GPU, command) for what, command in read.items()}
        return found | {"packages": "+".join(sorted({self.packages()[name].split("-")[0] for name in SET}))}

    def agree(self, version: str) -> None:
        found = self.driver()
        self.check(f"all of the node says that the driver is {version}", found, set(found.values()) == {version})
        held = self.inside(GPU, "apt-mark showhold").split()
        self.check("its packages are held", held, {*SET, TOOLKIT} <= set(held))

    def serving(self, node: str = GPU) -> set[str]:
        """What the gateway's balancer says of a node."""
        said = self.inside(GATEWAY, "/usr/bin/python3 -I /usr/local/lib/onprem-llm/balancer.py status")
        return {server["status"] for server in json.loads(said)["servers"] if server["node"] == node}

    def up(self) -> bool:
        """Whether the gateway sends requests to the node."""
        return "UP" in self.serving()

    def serves(self) -> None:
        back = self.within(120, lambda: self.serving() <= {"UP", "no check"})
        self.check("the gateway sends requests to the node again", self.serving(), back is not None)

    def boot(self) -> str:
        return self.inside(GPU, "cat /proc/sys/kernel/random/boot_id")

    def under_load(self, change: Callable[[], str]) -> str:
        """What a change says, while requests come; that none of them fails is checked."""
        with self.load() as load:
            time.sleep(5)
            said = change()
            ended = time.monotonic()
            while time.monotonic() - ended < 8 or not load.requests:
                time.sleep(0.2)
            load.stop()
        found = figures(load.requests)
        self.check("no request failed", found, found["failed"] == 0)
        return said

    def in_order(self, said: str, *tasks: str) -> None:
        """That a play came to these tasks, in this order."""
        names = re.findall(r"(?m)^TASK \[(?:[\w.]+ : )?(.*?)\] \*", said)
        places = [names.index(task) if task in names else -1 for task in tasks]
        self.check("in this order", " → ".join(tasks), -1 not in places and places == sorted(places))


def wish(version: str, reboot: str = "forbid", toolkit: str = TOOLKITS[0]) -> dict[str, object]:
    """What the inventory would say of driver and toolkit."""
    return {
        "nvidia_driver_branch": version.split(".")[0], "nvidia_driver_version": version,
        "nvidia_container_toolkit_version": toolkit,
    } | ({"nvidia_driver_reboot": reboot} if reboot else {})  # fmt: skip


def whole(site: Site) -> None:
    """A bare host with two GPUs and a repository of NVIDIA's, and the fleet with its first driver and toolkit."""
    state = site.fleet.state
    nvidia_packages.make(state / "repository")
    toolkit_packages.make(state / "toolkit")
    for place in ("repository", "toolkit"):
        pack = f"tar -C {state / place} -c --owner root --group root --mode u=rwX,go=rX srv"
        command = f"{pack} | docker exec -i {GPU} tar -C / -x"
        subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    server = "/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv 8480"
    container = site.client.containers.get(GPU)
    files = {
        "/usr/local/sbin/modprobe": ((HERE / "kernel.sh").read_bytes(), 0o755),
        "/etc/systemd/system/kernel.service": (unit("Kernel", "/usr/local/sbin/modprobe boot", early=True), 0o644),
        "/etc/systemd/system/repository.service": (unit("Repository", server, early=False), 0o644),
    }
    container.put_archive("/", archive(files))
    site.inside(GPU, "systemctl daemon-reload; systemctl enable --now kernel repository")
    # A container that ends does not start anew by itself, as a host does.
    container.update(restart_policy={"Name": "always"})
    # What is not on a request's way is left out: it takes half of the time.
    skip = ("--skip-tags", "firewall,monitoring,logrotate")
    site.play(*skip, "playbooks/site.yml", **wish(FIRST))
    site.agree(FIRST)
    plan = json.loads(site.inside(GPU, "cat /etc/onprem-llm/plan.json"))
    site.check("the engine has a GPU at once", plan["instances"][0]["gpus"], bool(plan["instances"][0]["gpus"]))
    site.unchanged(*skip, "playbooks/site.yml", **wish(FIRST))
    # It serves now, so that site.yml keeps off it.
    said = site.play(*skip, "playbooks/site.yml", **wish(SECOND))
    site.check("site.yml says who moves a node that serves", "driver.yml", "onprem.llm.driver -e target" in said)
    site.agree(FIRST)


def undecided(site: Site) -> None:
    """Without a decision on a restart, and with a version that is not there: refused, while the node serves."""
    for variables, why in (
        (wish(NEXT, reboot=""), "Set nvidia_driver_reboot: allow"),
        (wish("595.99.99"), "of version 595.99.99"),
    ):
        for playbook in (DRIVER, UPGRADE):
            said = site.play(playbook, fails=True, target=GPU, **variables)
            site.check(f"{playbook} refuses", why, why in " ".join(said.split()))
            site.agree(FIRST)
            site.serves()


def reloaded(site: Site) -> None:
    """Another release of the branch by driver.yml, under load: the modules are loaded anew, without a restart."""
    boot = site.boot()
    said = site.under_load(lambda: site.play(DRIVER, target=GPU, **wish(SECOND)))
    site.in_order(
        said, "Stop new requests", "Stop the engine", "Install all that moves together in one transaction",
        "Load the modules anew, where nothing uses them", "Prove that the GPUs answer", "Start the engine again",
        "Ask nvidia-smi for the runners", "Send requests to it",
    )  # fmt: skip
    site.agree(SECOND)
    site.serves()
    site.check("the host was not restarted", boot, site.boot() == boot)
    before = site.inside(GPU, "docker inspect -f {{.State.StartedAt}} onprem-llm-ollama")
    again = site.play(DRIVER, target=GPU, **wish(SECOND))
    changed = re.search(rf"(?m)^{GPU} .*changed=(\d+)", again)
    site.check("a second run changes nothing on the node", changed and changed[0], bool(changed) and changed[1] == "0")
    after = site.inside(GPU, "docker inspect -f {{.State.StartedAt}} onprem-llm-ollama")
    site.check("and the engine went on running", after, before == after)
    site.unchanged("--skip-tags", "firewall,monitoring,logrotate", "playbooks/site.yml", **wish(SECOND))


def held(site: Site) -> None:
    """Another branch while somebody's process holds a GPU: left drained with `forbid`, restarted with `allow`."""
    site.inside(GPU, "systemd-run --unit=somebody --setenv=SIMULATED_GPU_0=somebody /bin/sleep infinity")
    boot = site.boot()
    said = " ".join(site.under_load(lambda: site.play(DRIVER, fails=True, target=GPU, **wish(NEXT))).split())
    for why in ("The modules are in use", "let this role do it with nvidia_driver_reboot: allow"):
        site.check("the operator is told", why, why in said)
    site.check("the node stays drained", site.serving(), not site.serving() & {"UP"})
    site.check("with the driver that was loaded", site.driver(), site.driver()["loaded"] == SECOND)
    site.check("and was not restarted", boot, site.boot() == boot)
    said = site.under_load(lambda: site.play(DRIVER, target=GPU, **wish(NEXT, reboot="allow")))
    site.in_order(said, "Restart the host", "Prove that the GPUs answer", "Send requests to it")
    site.check("the host was restarted", site.boot(), site.boot() != boot)
    site.agree(NEXT)
    site.serves()


def upgraded(site: Site) -> None:
    """Driver and toolkit by upgrade.yml, back to the older branch, with a restart, under load."""
    site.inside(GPU, "systemd-run --unit=somebody --setenv=SIMULATED_GPU_0=somebody /bin/sleep infinity")
    boot, wanted = site.boot(), wish(SECOND, "allow", TOOLKITS[1])
    shown = site.play("--check", UPGRADE, **wanted)
    print(
        "\n".join(
            line for line in shown.splitlines() if re.match(r"  (package|change|restart|install|note|back)", line)
        )
    )
    site.check("check mode shows the driver", SECOND, f"nvidia-driver-cuda {SECOND}" in shown)
    site.check("and that the host may restart", "allow", "the host where something holds them" in shown)
    site.check("and the toolkit", TOOLKITS[1], f"{TOOLKITS[0]}-1 -> {TOOLKITS[1]}" in shown)
    site.agree(NEXT)
    said = site.under_load(lambda: site.play(UPGRADE, **wanted))
    site.in_order(
        said, "Stop new requests at every gateway", "Keep it", "Install all that moves together in one transaction",
        "Restart the host", "Prove that the GPUs answer", "Hold answers, speed and memory against those before",
        "Send requests to the node again",
    )  # fmt: skip
    site.check("the host was restarted", site.boot(), site.boot() != boot)
    site.agree(SECOND)
    site.check("the toolkit is the wanted one", site.packages(), site.packages()[TOOLKIT] == f"{TOOLKITS[1]}-1")
    site.serves()
    again = site.play(UPGRADE, **wanted)
    site.check("a further run has nothing to do", "Nothing to do" in again, "Nothing to do" in again)


def gate(site: Site) -> None:
    """Driver, toolkit and an engine that answers nonsense: the driver alone stays, until driver.yml moves it back."""
    tag = image.build(site.client)
    path, image_id = image.archive(site.client, tag, NONSENSE, CACHE, ("ENV LLAMA_ARG_ROPE_FREQ_BASE=7",))
    engine = {"ollama_version": NONSENSE, "ollama_image_archive": str(path), "ollama_image_id": image_id}
    wanted = wish(NEXT, "allow", TOOLKITS[0])
    said = site.under_load(lambda: site.play(UPGRADE, fails=True, upgrade_canary=GPU, **wanted, **engine))
    told = " ".join(said.split())
    stays = "So are its packages. The driver stays as it is now."
    for why in ("agrees with its answers before by", "is back, has passed the gate, and serves", stays):
        site.check("the operator is told", why, why in told)
    print("\n".join(re.findall(r"(?s)fatal: \[driver-gpu1\].*?as they were\.", said)[-1:]))
    release = json.loads(site.inside(GPU, "cat /etc/onprem-llm/release.json"))
    site.check(
        "the engine is the one of before", release["engine"]["version"], release["engine"]["version"] == ENGINE_VERSION
    )
    site.check("so is the toolkit", site.packages(), site.packages()[TOOLKIT] == f"{TOOLKITS[1]}-1")
    site.agree(NEXT)
    site.serves()
    site.under_load(lambda: site.play(DRIVER, target=GPU, **wish(SECOND, "allow", TOOLKITS[1])))
    site.agree(SECOND)
    site.serves()


def lost(site: Site) -> None:
    """A host that does not come back from its restart: the other node answers, and a run afterwards goes on."""
    version = NEXT if site.driver()["loaded"] != NEXT else SECOND
    site.inside(GPU, "systemd-run --unit=somebody --setenv=SIMULATED_GPU_0=somebody /bin/sleep infinity")
    container = site.client.containers.get(GPU)
    container.update(restart_policy={"Name": "no"})
    wished = wish(version, "allow", site.packages()[TOOLKIT].split("-")[0])
    said = site.under_load(lambda: site.play(DRIVER, fails=True, target=GPU, nvidia_driver_reboot_timeout=30, **wished))
    why = f"{GPU} was restarted for its driver, and was not back within 30 s"
    site.check("the operator is told", why, why in " ".join(said.split()))
    container.reload()
    site.check("it is gone, and gets nothing", container.status, container.status != "running" and not site.up())
    container.update(restart_policy={"Name": "always"})
    container.start()
    ready = site.within(120, lambda: site.inside(GPU, "systemctl is-active ssh") == "active")
    site.check("somebody brings it back, and it still gets nothing", ready, ready is not None and not site.up())
    site.under_load(lambda: site.play(DRIVER, target=GPU, **wished))
    site.agree(version)
    site.serves()


if __name__ == "__main__":
    sys.exit(steps.run("driver", Site, (whole, undecided, reloaded, held, upgraded, gate, lost)))
