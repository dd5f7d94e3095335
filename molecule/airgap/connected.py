"""The connected side: a registry on loopback that counts what it sends, and ``playbooks/bundle.yml`` run twice.

The engine's image and a small model lie in the registry; the packages are those of this machine's own mirror.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import time
from pathlib import Path

from tests import plays
from tests.engine import models
from tests.fleet.images import mirrors
from tests.registry import Registry, descriptor

STATE = plays.ROOT / "build/molecule/airgap"
# Packages and wheels of earlier runs are kept, as an operator would keep the bundle.
BUNDLE = plays.ROOT / "build/cache/airgap-bundle"
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


def bundle(registry: Registry) -> str:
    """What ``playbooks/bundle.yml`` prints."""
    archive = mirrors("trixie")[0].split()[1]
    given = {
        "bundle_path": str(BUNDLE),
        "bundle_releases": ["trixie"],
        "bundle_apt_mirrors": {"Debian": archive},
        "bundle_registries": [{"host": host, "url": registry.url} for host in ("docker.io", "registry.ollama.ai")],
    }
    inventory = plays.ROOT / "molecule/airgap/inventory"
    done = plays.run("playbooks/bundle.yml", inventory=inventory, variables=given)
    if done.returncode:
        raise SystemExit(done.stdout[-6000:])
    return done.stdout


def main() -> None:
    directory = STATE / "registry"
    for left in (directory, BUNDLE / "oci"):
        if left.exists():
            shutil.rmtree(left)
    directory.mkdir(parents=True)
    registry = Registry(directory)
    engine = json.loads((STATE / "supplies.json").read_text(encoding="utf-8"))["engine"]
    image = push_image(registry, Path(engine["archive"]), engine["version"])
    told = {"image": image, "model": push_model(registry)}
    (STATE / "upstream.json").write_text(json.dumps(told), encoding="utf-8")
    runs = []
    for _ in range(2):
        registry.sent.clear()
        started = time.monotonic()
        output = bundle(registry)
        recap = re.search(r"(?m)^localhost .*changed=(\d+)", output)
        sha256 = re.search(r"model_mirror_bundle_sha256: ([0-9a-f]{64})", output)
        runs.append({"sent": dict(registry.sent), "changed": int(recap[1]), "sha256": sha256[1]})
        print(
            f"bundle.yml in {time.monotonic() - started:.0f} s: {sum(registry.sent.values())} bytes from the registry"
        )
    print(output)
    (STATE / "bundle.sha256").write_text(runs[-1]["sha256"], encoding="utf-8")
    (STATE / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
