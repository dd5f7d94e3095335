"""Lay out a registry of static files with one embedding model: ``python registry.py GGUF DIRECTORY``.

DIRECTORY/v2 is what a web server gives out (OCI distribution), DIRECTORY/model.json what the inventory says of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

NAME, TAG = "site-search", "1"
LAYER = "application/vnd.ollama.image.model"
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def main(gguf: Path, directory: Path) -> None:
    repository = directory / "v2" / "library" / NAME
    for part in ("blobs", "manifests"):
        (repository / part).mkdir(parents=True, exist_ok=True)

    def blob(media_type: str, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (repository / "blobs" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    # Other weights than those of the files that the fleet has, so that there is something to transfer.
    weights = gguf.read_bytes() + bytes(32)
    layer = blob(LAYER, weights)
    config = blob(CONFIG, json.dumps({"model_format": "gguf", "model_family": "bert", "file_type": "F16"}).encode())
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    (repository / "manifests" / TAG).write_text(json.dumps(manifest), encoding="utf-8")
    header = directory / "model.gguf"
    header.write_bytes(weights)
    told = {"name": f"{NAME}:{TAG}", "digest": layer["digest"], "size_bytes": layer["size"], "header": str(header)}
    (directory / "model.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
