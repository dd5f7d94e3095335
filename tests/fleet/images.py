"""Host images: bare Debian systems as a cloud image has them, made from the distribution's packages alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docker
import docker.errors

# What a Debian cloud image has and minbase lacks; nothing that the collection itself must install.
PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,udev,kmod,procps,iproute2,iptables,ca-certificates,"
    "python3,python3-apt,sudo,openssh-server"
)
USER = "debian"
# One host key for every clone of an image would defeat host key checking: each boot makes the host's own.
HOST_KEYS_UNIT = "[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n"
HOOKS = (
    f'chroot "$1" useradd --create-home --shell /bin/bash {USER}',
    f'echo "{USER} ALL=(ALL) NOPASSWD:ALL" >"$1/etc/sudoers.d/90-cloud-user"',
    'rm -f "$1"/etc/ssh/ssh_host_*; mkdir -p "$1/etc/systemd/system/ssh.service.d"',
    f'printf "{HOST_KEYS_UNIT}" >"$1/etc/systemd/system/ssh.service.d/host-keys.conf"',
    'chroot "$1" systemctl enable ssh.service',
    'rm -f "$1/etc/resolv.conf" "$1/etc/hostname"; : >"$1/etc/machine-id"',
)


def log(message: str) -> None:
    print(f"fleet: {message}", file=sys.stderr, flush=True)


def mirrors(suite: str) -> list[str]:
    """apt source lines for a suite, on the mirror that this machine's apt itself uses."""
    archive, security = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
    sources = [
        *Path("/etc/apt").glob("sources.list.d/*.sources"),
        *Path("/etc/apt").glob("sources.list*"),
        *Path("/etc/apt").glob("sources.list.d/*.list"),
    ]
    for source in sources:
        if source.is_file():
            for url in re.findall(r"(?:URIs:|deb(?: \[[^]]*\])?)\s+(https?://\S+)", source.read_text(encoding="utf-8")):
                if url.rstrip("/").endswith("debian-security"):
                    security = url
                elif url.rstrip("/").endswith("debian"):
                    archive = url
    lines = [f"deb {archive} {suite} main"]
    if suite != "forky":
        lines += [f"deb {security} {suite}-security main", f"deb {archive} {suite}-updates main"]
    return lines


def mmdebstrap(suite: str, tarball: Path, *options: str) -> None:
    """Make a root file system of a suite's packages. RuntimeError if mmdebstrap fails."""
    command = ["mmdebstrap", *options, suite, str(tarball), *mirrors(suite)]
    # It runs programs of the system it makes, which a /tmp mounted noexec forbids.
    environment = os.environ | {"TMPDIR": "/var/tmp"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"mmdebstrap could not make a system of {suite}:\n{result.stderr[-3000:]}")


def build(client: docker.DockerClient, suite: str) -> str:
    """Tag of the host image of a suite; built unless one of the same recipe is there.

    RuntimeError if mmdebstrap fails.
    """
    # A release in preparation may carry a Release file past its date; its packages are still signed.
    options = ['--aptopt=Acquire::Check-Valid-Until "false"'] if suite == "forky" else []
    recipe = json.dumps([suite, PACKAGES, HOOKS, options, mirrors(suite)]).encode()
    tag = f"onprem-llm-test/host-{suite}:{hashlib.sha256(recipe).hexdigest()[:12]}"
    try:
        client.images.get(tag)
        return tag
    except docker.errors.ImageNotFound:
        pass
    log(f"building the {suite} host image (once)")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        tarball = Path(directory) / "host.tar"
        hooks = [f"--customize-hook={hook}" for hook in HOOKS]
        mmdebstrap(suite, tarball, "--variant=minbase", f"--include={PACKAGES}", *options, *hooks)
        repository, _, version = tag.partition(":")
        client.api.import_image_from_file(str(tarball), repository=repository, tag=version)
    log(f"built {tag} in {time.monotonic() - started:.0f} s")
    return tag
