"""One host of the bench, a process of its own: ``node pull|mirror REGISTRY STORE [MIRROR]``.

``pull`` brings the model of a registry into the store: every blob by the collection's transfer, the manifest last.
``mirror`` does so, and pushes what came to the registry MIRROR.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

from ansible_collections.onprem.llm.plugins.module_utils import _registry, _transfer

PATH, TAG = "library/gemma3", "270m"


def pull(address: str, store: Path) -> bytes:
    """The manifest, when all that it names is in ``store``."""
    scheme, host = _registry.parse_address(address)
    repository, client = _registry.Repository(scheme, host, PATH), _registry.Client(time_limit=None)
    manifest = client.manifest(repository, TAG)
    blobs = store / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    with _transfer.Staging(os.fspath(store / "staging")) as staging:
        for layer in _registry.layers(manifest):
            path = blobs / layer.digest.replace(":", "-")
            if path.exists():
                continue
            origin = _transfer.RegistryOrigin(client, repository, layer.digest)
            staged = _transfer.fetch(layer.digest, layer.size, [origin], staging, _transfer.Limits())
            os.rename(staged.name, path, src_dir_fd=staged.dir_fd)
            staging.discard(layer.digest)
    (store / "manifest").write_bytes(manifest)
    return manifest


def push(address: str, store: Path, manifest: bytes) -> None:
    """What ``store`` has of a model, to a registry without a login."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, blocksize=2**20)

    def ask(method: str, target: str, body: object, wanted: int, **headers: str) -> str:
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        told = response.read()
        if response.status != wanted:
            raise RuntimeError(f"the mirror answered {method} {target} with {response.status}: {told[:300]!r}")
        return response.headers.get("Location", "")

    for layer in _registry.layers(manifest):
        upload = urlsplit(ask("POST", f"/v2/{PATH}/blobs/uploads/", b"", 202))
        target = f"{upload.path}?{upload.query}&digest={quote(layer.digest)}"
        with open(store / "blobs" / layer.digest.replace(":", "-"), "rb") as stream:
            ask("PUT", target, stream, 201, Content_Length=str(layer.size), Content_Type="application/octet-stream")
    ask("PUT", f"/v2/{PATH}/manifests/{TAG}", manifest, 201, Content_Type=_registry.MANIFEST_TYPE)
    connection.close()


def main(command: str, address: str, store: str, mirror: str = "") -> None:
    manifest = pull(address, Path(store))
    if command == "mirror":
        push(mirror, Path(store), manifest)


if __name__ == "__main__":
    main(*sys.argv[1:])
