"""An upstream that counts: Debian's docker-registry by https, with the engine's image and a model in it."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import docker

from tests.packages import docker_registry
from tests.registry import CONFIG, MANIFEST, MODEL, descriptor, digest

PORT = 5443


class Upstream:
    """The registry in ``directory``, at ``address`` for the fleet."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory, self.address = directory, f"{address}:{PORT}"
        self.log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        host = address
        script = f"""
            set -e
            [ ! -e ca.crt ] || exit 0
            curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            openssl req -x509 $curve -days 30 -subj "/CN=Upstream authority" -addext keyUsage=critical,keyCertSign \
              -keyout ca.key -out ca.crt
            openssl req $curve -subj "/CN=upstream" -keyout up.key -out up.csr
            printf 'subjectAltName=IP:{host},IP:127.0.0.1' > up.ext
            openssl x509 -req -in up.csr -CA ca.crt -CAkey ca.key -days 30 -out up.crt -extfile up.ext
        """
        subprocess.run(["sh", "-c", script], cwd=directory, check=True, capture_output=True)
        config = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "redirect": {"disable": True}},
            "http": {
                "addr": f":{PORT}",
                "relativeurls": True,
                "tls": {"certificate": str(directory / "up.crt"), "key": str(directory / "up.key")},
            },
        }
        (directory / "config.yml").write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [docker_registry(), "serve", self.directory / "config.yml"], stdout=log, stderr=log
            )
        for _ in range(100):
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{PORT}"], stdin=subprocess.DEVNULL, capture_output=True,
                check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"the upstream registry does not answer: {self.log.read_text(encoding='utf-8')}")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)

    def sent(self) -> Counter[str]:
        """Bytes that went out of each blob's GETs, by the access log."""
        found: Counter[str] = Counter()
        pattern = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]+) HTTP/1\.1" 20[06] (\d+)')
        for match in pattern.finditer(self.log.read_text(encoding="utf-8", errors="replace")):
            found[match[1]] += int(match[2])
        return found

    def clients(self) -> set[str]:
        """Addresses that asked, but for this machine's own."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return set(re.findall(r"^(\d\S+) - - \[", text, re.MULTILINE)) - {"127.0.0.1"}

    def requests(self) -> int:
        return len(re.findall(r'"(?:GET|HEAD) /v2/', self.log.read_text(encoding="utf-8", errors="replace")))

    def push_image(self, client: docker.DockerClient, archive: Path, image_id: str, version: str) -> str:
        """The digest that the registry gives the engine's image."""
        try:
            image = client.images.get(image_id)
        except docker.errors.ImageNotFound:
            with archive.open("rb") as stream:
                client.images.load(stream)
            image = client.images.get(image_id)
        repository = f"127.0.0.1:{PORT}/ollama/ollama"
        image.tag(repository, version)
        try:
            for line in client.api.push(repository, version, stream=True, decode=True):
                if "error" in line:
                    raise RuntimeError(line["error"])
                if "aux" in line and "Digest" in line["aux"]:
                    return str(line["aux"]["Digest"])
        finally:
            client.images.remove(f"{repository}:{version}", noprune=True)
        raise RuntimeError("the push told no digest")

    def push_model(self, name: str, gguf: Path, family: str) -> dict[str, object]:
        """A model of these weights; what a catalog says of it."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        path, _colon, tag = name.partition(":")
        base = f"https://127.0.0.1:{PORT}/v2/library/{path}"

        def send(method: str, url: str, body: bytes = b"", kind: str = "application/octet-stream") -> str:
            request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
            with urllib.request.urlopen(request, context=context) as response:
                return str(response.headers.get_all("Location", [""])[-1])

        def blob(kind: str, content: bytes) -> dict[str, object]:
            location = send("POST", f"{base}/blobs/uploads/")
            send("PUT", f"https://127.0.0.1:{PORT}{location}&digest={digest(content)}", content)
            return descriptor(kind, (digest(content), len(content)))

        weights = gguf.read_bytes()
        layer = blob(MODEL, weights)
        config = blob(CONFIG, json.dumps({"model_format": "gguf", "model_family": family, "file_type": "F16"}).encode())
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
        send("PUT", f"{base}/manifests/{tag}", json.dumps(manifest).encode(), MANIFEST)
        return {"name": name, "digest": layer["digest"], "size_bytes": layer["size"], "header": str(gguf)}
