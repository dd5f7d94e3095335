"""Boot, describe and remove the hosts of a fleet."""

from __future__ import annotations

import contextlib
import hashlib
import io
import ipaddress
import json
import os
import re
import secrets
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors
import yaml

from tests.fleet import gpus, images

ROOT = Path(__file__).resolve().parents[2]
LABEL = "onprem-llm.fleet"
# In the order of their numbers in linux/capability.h. The newest three (PERFMON, BPF, CHECKPOINT_RESTORE) are parts of
# SYS_ADMIN that older engines have no name for.
CAPABILITIES = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"""
# systemd in a container needs most of them, but no raised resource limits, and never the machine's own clock, modules
# or kernel log.
CAPABILITIES_KEPT_BACK = {"SYS_MODULE", "SYS_RESOURCE", "SYS_TIME", "SYSLOG"}
UNCONFINED = ["seccomp=unconfined", "apparmor=unconfined"]
HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")
BOOT_SECONDS = 60
# What a running host writes by itself, what an SSH session and Ansible's own temporary files leave, and the index that
# apt makes anew whenever it is merely asked something.
RUNTIME_PATHS = re.compile(
    r"^/(run|tmp|proc|sys|dev|home/[^/]+/\.ansible|root/\.ansible|var/(log|tmp|lib/(systemd|sudo)))(/|$)"
    r"|^/var/cache/apt/(src)?pkgcache\.bin$|/__pycache__(/|$)"
)


class FleetError(Exception):
    """A fleet cannot be brought up; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """One host of a fleet: a container that boots systemd."""

    name: str
    address: str
    suite: str
    gpus: str | None = None
    managed: bool = True
    # Address of a second interface, on the fleet's second network.
    second: str | None = None
    address6: str | None = None
    # Whether its user has to give a password to sudo.
    sudo_password: bool = False


@dataclass(frozen=True)
class Fleet:
    """A fleet as its file under tests/fleet/fleets says; managed hosts have their addresses from the inventory. The
    others are neighbours, which the inventory knows as vantage points alone."""

    name: str
    subnet: str
    state: Path
    hosts: list[Host] = field(default_factory=list)
    subnet6: str | None = None
    second_subnet: str | None = None
    # Whether its networks lead nowhere but to each other.
    internal: bool = False
    # Whether its inventory needs engine, models and users.
    supplies: bool = True

    @classmethod
    def load(cls, name: str) -> Fleet:
        path = Path(__file__).parent / "fleets" / f"{name}.yml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yml")))
            raise FleetError(f"no fleet {name!r}; there are: {known}")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        addresses = inventory_addresses(ROOT / data["inventory"])
        hosts = [
            Host(
                name=host,
                address=spec.get("address") or addresses[host],
                suite=spec["suite"],
                gpus=spec.get("gpus"),
                managed="address" not in spec,
                second=spec.get("second"),
                address6=spec.get("address6"),
                sudo_password=spec.get("sudo_password", False),
            )
            for host, spec in data["hosts"].items()
        ]
        outside = [
            h.address for h in hosts if ipaddress.ip_address(h.address) not in ipaddress.ip_network(data["subnet"])
        ]
        if outside:
            raise FleetError(f"{path}: addresses outside subnet {data['subnet']}: {', '.join(outside)}")
        return cls(
            name=name,
            subnet=data["subnet"],
            state=ROOT / data["state"],
            hosts=hosts,
            subnet6=data.get("subnet6"),
            second_subnet=data.get("second_subnet"),
            internal=data.get("internal", False),
            supplies=data.get("supplies", True),
        )

    @property
    def network(self) -> str:
        return f"onprem-llm-{self.name}"

    def build(self, client: docker.DockerClient) -> dict[str, str]:
        """The tag of each suite's image; what is not there is built."""
        return {suite: images.build(client, suite) for suite in sorted({host.suite for host in self.hosts})}

    def up(self, client: docker.DockerClient) -> None:
        """Boot every host that does not run yet as described; hosts that do are left alone."""
        public_key = self._ssh_key()
        tags = self.build(client)
        self._ensure_network(client, self.network, self.subnet, self.subnet6)
        if self.second_subnet:
            self._ensure_network(client, f"{self.network}-second", self.second_subnet)
        booted = [host for host in self.hosts if self._boot(client, host, tags[host.suite], public_key)]
        for host in booted:
            self._wait(client, host)
        self._write_known_hosts(client)
        if booted:
            self.note(client)
            images.log(f"booted {', '.join(host.name for host in booted)}")

    def down(self, client: docker.DockerClient) -> None:
        """Remove the fleet's hosts, their volumes and network, and its state directory."""
        for container in client.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            remove_container(client, container)
        for network in client.networks.list(filters={"label": f"{LABEL}={self.name}"}):
            network.remove()
        subprocess.run(["rm", "-rf", str(self.state)], check=True)

    def note(self, client: docker.DockerClient) -> None:
        """Note which paths differ from the hosts' image by now; ``changes`` tells those that come after."""
        write_if_changed(self.state / "baseline.json", json.dumps(self._differences(client)))

    def changes(self, client: docker.DockerClient) -> dict[str, list[str]]:
        """Paths by host that differ since the last note, that of the boot at first; what a running system writes by
        itself is left out."""
        baseline = json.loads((self.state / "baseline.json").read_text(encoding="utf-8"))
        current = self._differences(client)
        return {host: sorted(set(paths) - set(baseline[host])) for host, paths in current.items()}

    def _differences(self, client: docker.DockerClient) -> dict[str, list[str]]:
        # A directory is listed as changed when anything in it is, so only what it holds tells.
        differences = {}
        for host in self.hosts:
            if not host.managed:
                continue
            paths = {entry["Path"] for entry in client.containers.get(host.name).diff() or []}
            parents = {str(parent) for path in paths for parent in Path(path).parents}
            differences[host.name] = sorted(path for path in paths - parents if not RUNTIME_PATHS.search(path))
        return differences

    def _ensure_network(
        self, client: docker.DockerClient, network: str, subnet: str, subnet6: str | None = None
    ) -> None:
        if client.networks.list(names=[f"^{network}$"]):
            return
        pools = [docker.types.IPAMPool(subnet=net) for net in (subnet, subnet6) if net]
        try:
            client.networks.create(
                network,
                driver="bridge",
                ipam=docker.types.IPAMConfig(pool_configs=pools),
                enable_ipv6=subnet6 is not None,
                internal=self.internal,
                labels={LABEL: self.name},
            )
        except docker.errors.APIError as error:
            raise FleetError(
                f"the fleet {self.name} needs the network {subnet}, and Docker refuses it ({error.explanation}): "
                "remove what uses that range, or change subnet and addresses in the fleet's file and inventory"
            ) from error

    def _boot(self, client: docker.DockerClient, host: Host, tag: str, public_key: str) -> bool:
        image = client.images.get(tag)
        files = gpus.files(host.gpus) if host.gpus else {}
        place = [self.subnet, self.subnet6, self.second_subnet, host.address6, host.second, host.sudo_password]
        recipe = json.dumps([image.id, host.address, host.gpus, place, public_key], sort_keys=True)
        fingerprint = hashlib.sha256(recipe.encode()).hexdigest()
        try:
            container = client.containers.get(host.name)
            if container.labels.get(LABEL) != self.name:
                raise FleetError(f"a container named {host.name} exists that is not this fleet's: rename or remove it")
            if container.labels.get(f"{LABEL}.recipe") == fingerprint and container.status == "running":
                return False
            remove_container(client, container)
        except docker.errors.NotFound:
            pass
        binds = [f"{host.name}-docker:/var/lib/docker"]
        command = ["/sbin/init"]
        if HYBRID_CGROUPS.is_dir():
            (HYBRID_CGROUPS / host.name).mkdir(exist_ok=True)
            binds.append(f"{HYBRID_CGROUPS / host.name}:/sys/fs/cgroup:rw")
            cgroup_namespace = "host"
        else:
            # A private cgroup namespace is mounted read-only for an unprivileged container; systemd must write there.
            command = ["/bin/sh", "-c", "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init"]
            cgroup_namespace = "private"
        options = client.api.create_host_config(
            binds=binds,
            cap_add=capabilities(),
            cgroupns=cgroup_namespace,
            network_mode=self.network,
            security_opt=UNCONFINED,
            tmpfs={"/run": "", "/run/lock": "", "/tmp": ""},
        )
        # systemd's sandboxing mounts over parts of /proc and /sys that Docker masks.
        options |= {"MaskedPaths": [], "ReadonlyPaths": []}
        endpoint = client.api.create_endpoint_config(ipv4_address=host.address, ipv6_address=host.address6)
        created = client.api.create_container(
            image.id,
            command,
            name=host.name,
            hostname=host.name,
            labels={LABEL: self.name, f"{LABEL}.recipe": fingerprint},
            host_config=options,
            networking_config=client.api.create_networking_config({self.network: endpoint}),
            stop_signal="SIGRTMIN+3",
        )
        container = client.containers.get(created["Id"])
        home = f"/home/{images.USER}"
        files |= {f"{home}/.ssh/authorized_keys": (public_key.encode(), 0o600)}
        if host.sudo_password:
            files["/etc/sudoers.d/90-cloud-user"] = (f"{images.USER} ALL=(ALL) ALL\n".encode(), 0o440)
        container.put_archive("/", archive(files))
        if host.second:
            client.networks.get(f"{self.network}-second").connect(container, ipv4_address=host.second)
        container.start()
        return True

    def _wait(self, client: docker.DockerClient, host: Host) -> None:
        container = client.containers.get(host.name)
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            state = container.exec_run(["systemctl", "is-system-running"]).output.decode().strip()
            if state == "running":
                break
            if time.monotonic() > deadline:
                failed = container.exec_run(["systemctl", "--failed", "--no-legend"]).output.decode()
                raise FleetError(
                    f"{host.name} did not boot within {BOOT_SECONDS} s (systemd says {state!r}):\n{failed}"
                )
            time.sleep(0.3)
        # A cloud image is older than today, and apt's module judges by this time whether lists are to be fetched.
        container.exec_run(["touch", "--date=2000-01-01", "/var/lib/apt/lists"])
        container.exec_run(["chown", "-R", f"{images.USER}:{images.USER}", f"/home/{images.USER}"])
        if host.sudo_password:
            given = f"echo {images.USER}:{self._sudo_password()} | chpasswd"
            container.exec_run(["sh", "-c", given])

    def _sudo_password(self) -> str:
        """What the hosts' user gives to sudo; made on the spot, for the inventory to look up."""
        path = self.state / "sudo_password"
        if not path.exists():
            write_if_changed(path, secrets.token_urlsafe(16))
        return path.read_text(encoding="utf-8")

    def _ssh_key(self) -> str:
        """Public key of the fleet; made on the spot."""
        key = self.state / "ssh" / "id_ed25519"
        if not key.exists():
            key.parent.mkdir(parents=True, exist_ok=True)
            self.state.chmod(0o700)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"onprem-llm-{self.name}", "-f", str(key)],
                check=True,
            )
        return key.with_suffix(".pub").read_text(encoding="utf-8")

    def _write_known_hosts(self, client: docker.DockerClient) -> None:
        lines = []
        for host in self.hosts:
            key = (
                client.containers.get(host.name)
                .exec_run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
                .output.decode()
                .split()
            )
            lines.append(f"{host.address} {key[0]} {key[1]}\n")
        write_if_changed(self.state / "ssh" / "known_hosts", "".join(lines))


def inventory_addresses(path: Path) -> dict[str, str]:
    """ansible_host of every host in a YAML inventory."""
    addresses: dict[str, str] = {}

    def walk(group: dict[str, dict]) -> None:
        for host, variables in (group.get("hosts") or {}).items():
            if variables and "ansible_host" in variables:
                addresses[host] = variables["ansible_host"]
        for child in (group.get("children") or {}).values():
            walk(child or {})

    for group in yaml.safe_load(path.read_text(encoding="utf-8")).values():
        walk(group)
    return addresses


def capabilities() -> list[str]:
    """What a host's container is given, each by its name and only what the machine has: of ALL, older engines make what
    the machine lacks too, and newer ones refuse to drop that again."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    bounding = int(re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)[1], 16)
    names = CAPABILITIES.split()
    return [name for number, name in enumerate(names) if bounding >> number & 1 and name not in CAPABILITIES_KEPT_BACK]


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar of files owned by root: path → (content, mode)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def remove_container(client: docker.DockerClient, container: docker.models.containers.Container) -> None:
    """Remove a host's container with its volume and what systemd left of its cgroup tree."""
    container.remove(force=True, v=True)
    with contextlib.suppress(docker.errors.NotFound):
        client.volumes.get(f"{container.name}-docker").remove()
    top = HYBRID_CGROUPS / container.name
    if HYBRID_CGROUPS.is_dir() and top.is_dir():
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                # A process that is still ending keeps its group for a moment; an empty one left over does no harm.
                continue


def write_if_changed(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file only when its content differs; whole or not at all, since a run may be cut off anywhere."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=mode)
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(path)
