"""Brings one model to several nodes, through a mirror and straight from upstream, and counts upstream's bytes.

Upstream is a registry on loopback that sends no more than 200 Mbit/s to all its clients together. The mirror is a
docker-registry; it and the nodes are processes with stores of their own, and between them nothing is limited. A third
measure kills a pull (SIGKILL) at its half, runs it again, and counts what came twice.

Ratios are by the model's bytes, and by the seconds until every node has the model. Writes
build/bench/distribution.json; fails where a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.distribution.node import PATH, TAG
from tests.engine.models import gemma
from tests.unit import registry_fake

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "bench" / "distribution.json"
NODES = 4
UPSTREAM_BITS_PER_SECOND = 200e6
# The goals of the issue that asked for this bench.
MOST_UPSTREAM_RATIO, MOST_REFETCHED = 1.02, 0.05
REGISTRY_CONFIGURATION = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Bench:
    """``model`` are the weights, ``directory`` holds the stores."""

    def __init__(self, model: bytes, directory: Path, upstream: registry_fake.State, address: str) -> None:
        self._directory, self._upstream, self._address = directory, upstream, address
        self._layers = [
            (registry_fake.MODEL, model),
            ("application/vnd.ollama.image.template", b"{{ .Prompt }}"),
            ("application/vnd.ollama.image.params", b'{"temperature": 1}'),
        ]
        config = b'{"model_format": "gguf"}'
        layers = [
            {"mediaType": kind, "digest": registry_fake.digest(data), "size": len(data)} for kind, data in self._layers
        ]
        upstream.blobs = {registry_fake.digest(data): data for _kind, data in [*self._layers, ("", config)]}
        upstream.manifests[f"/v2/{PATH}/manifests/{TAG}"] = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "digest": registry_fake.digest(config),
                    "size": len(config),
                },
                "layers": layers,
            }
        ).encode()
        self.size = sum(map(len, upstream.blobs.values()))

    def process(self, command: str, address: str, store: str, *more: str) -> subprocess.Popen[bytes]:
        where = str(self._directory / store)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.distribution.node", command, address, where, *more], cwd=ROOT
        )

    def finish(self, processes: Sequence[subprocess.Popen[bytes]], stores: Sequence[str]) -> None:
        """:raises RuntimeError: one failed, or its store has not the bytes of the model."""
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError("a pull failed; it says above why")
        for store in stores:
            for digest in self._upstream.blobs:
                with open(self._directory / store / "blobs" / digest.replace(":", "-"), "rb") as stream:
                    if f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" != digest:
                        raise RuntimeError(f"{store} has other bytes under {digest}")
            shutil.rmtree(self._directory / store)

    def through_the_mirror(self, nodes: int) -> tuple[int, float]:
        """Upstream's bytes, and seconds until every node has the model."""
        self._upstream.sent = 0
        stores = [f"node{number}" for number in range(nodes)]
        with docker_registry(self._directory / "registry") as mirror:
            started = time.monotonic()
            filling = self.process("mirror", self._address, "mirror", mirror)
            if filling.wait() != 0:
                raise RuntimeError("the mirror was not filled; it says above why")
            processes = [self.process("pull", mirror, store) for store in stores]
            for process in processes:
                process.wait()
            seconds = time.monotonic() - started
        self.finish(processes, [*stores, "mirror"])
        return self._upstream.sent, seconds

    def straight(self, nodes: int) -> tuple[int, float]:
        """The same without a mirror: every node asks upstream."""
        self._upstream.sent = 0
        stores = [f"naive{number}" for number in range(nodes)]
        started = time.monotonic()
        processes = [self.process("pull", self._address, store) for store in stores]
        for process in processes:
            process.wait()
        seconds = time.monotonic() - started
        self.finish(processes, stores)
        return self._upstream.sent, seconds

    def killed_at_half(self) -> int:
        """Bytes that upstream sends beyond the model's when a pull is killed at half and run again."""
        self._upstream.sent = 0
        process = self.process("pull", self._address, "killed")
        while self._upstream.sent < self.size / 2:
            if process.poll() is not None:
                raise RuntimeError("the pull ended before it was killed")
            time.sleep(0.002)
        process.kill()
        process.wait()
        self.finish([self.process("pull", self._address, "killed")], ["killed"])
        return self._upstream.sent - self.size


@contextmanager
def docker_registry(directory: Path) -> Iterator[str]:
    """A running registry with nothing in it: its address."""
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("docker-registry is not installed: apt-get install --no-install-recommends docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory.mkdir()
    configuration = directory / "config.yml"
    configuration.write_text(REGISTRY_CONFIGURATION.format(root=directory / "data", port=port), encoding="utf-8")
    # Of tracing, which nothing here receives, it would tell at length.
    quiet = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
    process = subprocess.Popen([program, "serve", configuration], env=quiet)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError("docker-registry does not listen") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(directory)


def measure(model: bytes, nodes: int, bits_per_second: float) -> dict[str, object]:
    """The fields of the result."""
    with (
        tempfile.TemporaryDirectory(prefix="distribution-", dir=ROOT / "build") as directory,
        registry_fake.serve() as (upstream, address),
    ):
        upstream.bucket = registry_fake.Bucket(bits_per_second / 8)
        bench = Bench(model, Path(directory), upstream, address)
        sent, seconds = bench.through_the_mirror(nodes)
        naive_sent, naive_seconds = bench.straight(nodes)
        refetched = bench.killed_at_half()
    return {
        "nodes": nodes,
        "model_bytes": bench.size,
        "upstream_bits_per_second": bits_per_second,
        "upstream_bytes": sent,
        "upstream_ratio": round(sent / bench.size, 4),
        "naive_upstream_bytes": naive_sent,
        "naive_upstream_ratio": round(naive_sent / bench.size, 4),
        "seconds": round(seconds, 2),
        "naive_seconds": round(naive_seconds, 2),
        "time_ratio": round(seconds / naive_seconds, 4),
        "interrupted_refetch_bytes": refetched,
        "interrupted_refetch_ratio": round(refetched / bench.size, 4),
        "mirror": "docker-registry on loopback, plain HTTP",
        "ollama_interrupted_refetch_bytes": None,
        "ollama_interrupted_refetch_reason": "not measured by this bench yet",
    }


def missed(result: dict[str, object]) -> list[str]:
    """The goals that were not met."""
    goals = {"upstream_ratio": MOST_UPSTREAM_RATIO, "time_ratio": 1, "interrupted_refetch_ratio": MOST_REFETCHED}
    return [
        f"{name} is {result[name]}, and {most} at most is wanted"
        for name, most in goals.items()
        if float(str(result[name])) > most
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.distribution", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    nodes = parser.parse_args().nodes
    model = gemma(ROOT / "build" / "cache").read_bytes()
    result = measure(model, nodes, UPSTREAM_BITS_PER_SECOND)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"  {name:<36} {value}")
    failed = missed(result)
    print("\n".join(failed) or f"every goal is met; the figures are in {RESULT.relative_to(ROOT)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
