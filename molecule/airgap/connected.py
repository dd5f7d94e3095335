"""The connected side: a registry that counts what it sends, and ``playbooks/bundle.yml`` run twice on another host.

The engine's image and a small model lie in the registry; the packages are those of this machine's own mirror. What
leaves the host is one tar, and the public half of the key that signed what is in it.
"""

from __future__ import annotations

import io
import ipaddress
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import docker
import pip

from tests import plays
from tests.engine import models
from tests.fleet.hosts import Fleet
from tests.fleet.images import mirrors
from tests.registry import Registry, descriptor

STATE = plays.ROOT / "build/molecule/airgap"
# Packages and wheels of earlier runs are kept, as an operator would keep the bundle.
ARCHIVE = plays.ROOT / "build/cache/airgap-bundle.tar"
FLEET, HOST = "molecule-airgap-connected", "airgap-bundler"
BUNDLE, TAR, KEY = "/srv/bundle", "/srv/bundle.tar", "/root/bundle-key"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
MODEL, TAG = "airgap-chat", "1"
OCI = "application/vnd.oci.image"


def push_image(registry: Registry, archive: Path, version: str) -> str:
    """The engine's image of a docker-save tar; its digest."""
    work = registry.directory / "image"
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    (saved,) = json.loads((work / "manifest.json").read_text(encoding="utf-8"))

    content = {
        "config": descriptor(f"{OCI}.config.v1+json", registry.blob(work / saved["Config"])),
        "layers": [descriptor(f"{OCI}.layer.v1.tar", registry.blob(work / layer)) for layer in saved["Layers"]],
    }
    shutil.rmtree(work)
    return registry.manifest("ollama/ollama", version, f"{OCI}.manifest.v1+json", content)


def push_model(registry: Registry) -> dict[str, object]:
    """A small generative model; what a catalog says of it."""
    path = models.write_generative(STATE / "chat.gguf", "tiny")
    digest, size = registry.model(MODEL, TAG, path, "llama")
    return {"name": f"{MODEL}:{TAG}", "digest": digest, "size_bytes": size, "header": str(path)}


def inside(script: str, **streams: object) -> str:
    """What a shell on the bundling host says; root's."""
    command = ["docker", "exec", "--interactive", HOST, "bash", "-euc", script]
    done = subprocess.run(command, **({"stdout": subprocess.PIPE} | streams), check=True)
    return (done.stdout or b"").decode().strip()


def equip() -> None:
    """Give the bundling host what it needs of its own: this machine's pip, a key, and what it made before."""
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    ).stdout.strip()
    settings = ["[global]", *([f"index-url = {index}"] if index else [])]
    if AUTHORITIES.is_file():
        settings.append("cert = /etc/pip-authorities.crt")
        with AUTHORITIES.open("rb") as stream:
            inside("cat >/etc/pip-authorities.crt", stdin=stream)
    inside("cat >/etc/pip.conf", input="\n".join(settings).encode())
    # It is of Python alone; the distribution's package would cost a run of apt.
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(
            Path(pip.__file__).parent, "pip", filter=lambda entry: entry if "__pycache__" not in entry.name else None
        )
    inside("tar -C /usr/local/lib/python3*/dist-packages -x", input=packed.getvalue())
    inside(f"mkdir -p {BUNDLE}; ssh-keygen -q -t ed25519 -N '' -C '' -f {KEY}")
    if ARCHIVE.is_file():
        with ARCHIVE.open("rb") as stream:
            inside(f"tar -C {BUNDLE} -x --exclude=./oci --exclude=oci", stdin=stream)


def bundle(registry: Registry) -> str:
    """What ``playbooks/bundle.yml`` prints."""
    archive = mirrors("trixie")[0].split()[1]
    given = {
        "bundle_path": BUNDLE,
        "bundle_archive": TAR,
        "bundle_signing_key": KEY,
        "bundle_releases": ["trixie"],
        "bundle_apt_mirrors": {"Debian": archive},
        "bundle_registries": [{"host": host, "url": registry.url} for host in ("docker.io", "registry.ollama.ai")],
    }
    place = plays.ROOT / "molecule/airgap"
    connected = f"--inventory={place / 'connected/hosts.yml'}"
    done = plays.run("playbooks/bundle.yml", connected, inventory=place / "inventory", variables=given)
    if done.returncode:
        raise SystemExit(done.stdout[-6000:])
    return done.stdout


def make(directory: Path, address: str) -> None:
    """Fill the registry, have the bundle made twice, and bring its tar over; what was seen goes into files."""
    registry = Registry(directory, address=address)
    engine = json.loads((STATE / "supplies.json").read_text(encoding="utf-8"))["engine"]
    image = push_image(registry, Path(engine["archive"]), engine["version"])
    told = {"image": image, "model": push_model(registry)}
    (STATE / "upstream.json").write_text(json.dumps(told), encoding="utf-8")
    equip()
    runs = []
    for _ in range(2):
        registry.sent.clear()
        started = time.monotonic()
        output = bundle(registry)
        recap = re.search(rf"(?m)^{HOST} .*changed=(\d+)", output)
        sha256 = re.search(r"model_mirror_bundle_sha256: ([0-9a-f]{64})", output)
        tar = inside(f"stat --format '%i %z' {TAR}")
        runs.append({"sent": dict(registry.sent), "changed": int(recap[1]), "sha256": sha256[1], "tar": tar})
        print(
            f"bundle.yml in {time.monotonic() - started:.0f} s: {sum(registry.sent.values())} bytes from the registry"
        )
    print(output)
    (STATE / "bundle.sha256").write_text(runs[-1]["sha256"], encoding="utf-8")
    (STATE / "bundle.signers").write_text(f"builder {inside(f'cat {KEY}.pub')}\n", encoding="utf-8")
    (STATE / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    fresh = ARCHIVE.with_suffix(".new")
    with fresh.open("wb") as stream:
        inside(f"cat {TAR}", stdout=stream)
    fresh.rename(ARCHIVE)


def main() -> None:
    directory = STATE / "registry"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    client, fleet = docker.from_env(timeout=300), Fleet.load(FLEET)
    try:
        fleet.up(client)
        # This machine's own address there, by Docker's custom.
        make(directory, str(next(ipaddress.ip_network(fleet.subnet).hosts())))
    finally:
        fleet.down(client)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
