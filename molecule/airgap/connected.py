"""The connected side: a registry that counts what it sends, and ``playbooks/bundle.yml`` run twice on another host.

The engine's image and a small model lie in the registry; the packages are those of this machine's own mirror. What
leaves the host is one tar, and the public half of the key that signed what is in it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import docker  # noqa: E402

from tests.engine import models  # noqa: E402
from tests.fleet.hosts import Fleet  # noqa: E402
from tests.fleet.images import mirrors  # noqa: E402

STATE = ROOT / "build/molecule/airgap"
# Packages and wheels of earlier runs are kept, as an operator would keep the bundle.
ARCHIVE = ROOT / "build/cache/airgap-bundle.tar"
FLEET, HOST = "molecule-airgap-connected", "airgap-bundler"
BUNDLE, TAR, KEY = "/srv/bundle", "/srv/bundle.tar", "/root/bundle-key"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
MODEL, TAG = "airgap-chat", "1"
OCI = "application/vnd.oci.image"
OLLAMA = "application/vnd.ollama.image"
DOCKER = "application/vnd.docker"


class Registry(ThreadingHTTPServer):
    """Blobs and manifests of a directory, by ranges; ``sent`` counts the bytes of each blob."""

    daemon_threads = True

    def __init__(self, directory: Path, address: str) -> None:
        super().__init__((address, 0), Handler)
        self.directory, self.sent, self.lock = directory, Counter(), threading.Lock()
        self.types: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def blob(self, source: Path | bytes) -> tuple[str, int]:
        """Hold a blob: its digest and size."""
        if isinstance(source, bytes):
            digest, size = hashlib.sha256(source).hexdigest(), len(source)
            (self.directory / digest).write_bytes(source)
        else:
            digest, size = models.sha256(source), source.stat().st_size
            shutil.copyfile(source, self.directory / digest)
        return f"sha256:{digest}", size

    def manifest(self, repository: str, tag: str, kind: str, content: dict) -> str:
        """Hold a manifest under its tag and its digest, which is returned."""
        data = json.dumps({"schemaVersion": 2, "mediaType": kind, **content}).encode()
        digest, _size = self.blob(data)
        for name in (tag, digest):
            (self.directory / f"{repository}:{name}".replace("/", "_")).write_bytes(data)
            self.types[f"{repository}:{name}"] = kind
        return digest


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        found = re.fullmatch(r"/v2/(\S+)/(manifests|blobs)/(\S+)", self.path)
        name = f"{found[1]}:{found[3]}" if found and found[2] == "manifests" else ""
        path = self.server.directory / (name.replace("/", "_") or (found[3].removeprefix("sha256:") if found else "-"))
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", self.server.types.get(name, "application/octet-stream"))
        self.send_header("Content-Length", str(end + 1 - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.end_headers()
        with path.open("rb") as stream:
            count = self.connection.sendfile(stream, start, end + 1 - start)
        with self.server.lock:
            self.server.sent[path.name] += count


def push_image(registry: Registry, archive: Path, version: str) -> str:
    """The engine's image of a docker-save tar; its digest."""
    work = registry.directory / "image"
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    (saved,) = json.loads((work / "manifest.json").read_text(encoding="utf-8"))

    def descriptor(kind: str, path: str) -> dict[str, object]:
        digest, size = registry.blob(work / path)
        return {"mediaType": kind, "digest": digest, "size": size}

    content = {
        "config": descriptor(f"{OCI}.config.v1+json", saved["Config"]),
        "layers": [descriptor(f"{OCI}.layer.v1.tar", layer) for layer in saved["Layers"]],
    }
    shutil.rmtree(work)
    return registry.manifest("ollama/ollama", version, f"{OCI}.manifest.v1+json", content)


def push_model(registry: Registry) -> dict[str, object]:
    """A small generative model; what a catalog says of it."""
    path = models.write_generative(STATE / "chat.gguf", "tiny")
    digest, size = registry.blob(path)
    config = json.dumps({"model_format": "gguf", "model_family": "llama", "file_type": "F16"}).encode()
    config_digest, config_size = registry.blob(config)
    content = {
        "config": {"mediaType": f"{DOCKER}.container.image.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": f"{OLLAMA}.model", "digest": digest, "size": size}],
    }
    registry.manifest(f"library/{MODEL}", TAG, f"{DOCKER}.distribution.manifest.v2+json", content)
    return {"name": f"{MODEL}:{TAG}", "digest": digest, "size_bytes": size, "header": str(path)}


def inside(script: str, **streams: object) -> str:
    """What a shell on the bundling host says; root's."""
    command = ["docker", "exec", "--interactive", HOST, "bash", "-euc", script]
    done = subprocess.run(command, **({"stdout": subprocess.PIPE} | streams), check=True)
    return (done.stdout or b"").decode().strip()


def equip() -> None:
    """Give the bundling host what it needs of its own: pip as this machine has it, a key, and what it made before."""
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    ).stdout.strip()
    settings = ["[global]", *([f"index-url = {index}"] if index else [])]
    if AUTHORITIES.is_file():
        settings.append("cert = /etc/pip-authorities.crt")
        with AUTHORITIES.open("rb") as stream:
            inside("cat >/etc/pip-authorities.crt", stdin=stream)
    inside("cat >/etc/pip.conf", input="\n".join(settings).encode())
    inside("apt-get -qq update && apt-get -qq install --no-install-recommends python3-pip >/dev/null 2>&1")
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
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    inventories = [f"--inventory={ROOT / 'molecule/airgap' / name}" for name in ("inventory", "connected/hosts.yml")]
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            *inventories,
            f"--extra-vars={json.dumps(given)}",
            ROOT / "playbooks/bundle.yml",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout[-6000:])
    return done.stdout


def make(directory: Path, address: str) -> None:
    """Fill the registry, have the bundle made twice, and bring its tar over; what was seen goes into files."""
    registry = Registry(directory, address)
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
