"""Brings one model to several nodes, through a mirror and straight from upstream, and counts upstream's bytes.

Upstream is a registry on loopback that sends no more than 200 Mbit/s to all its clients together. The mirror is what
the role deploys: its site in nginx with mutual TLS before docker-registry on a socket, filled by the collection. It and
the nodes are processes with stores of their own, and between them nothing is limited. A third measure kills a pull
(SIGKILL) at its half, runs it again, and counts what came twice; a fourth does so with Ollama's own puller, where
OLLAMA_IMAGE_ARCHIVE and OLLAMA_VERSION name a real image.

Ratios are by the model's bytes, and by the seconds until every node has the model. Writes
build/bench/distribution.json; fails where a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.distribution import ollama
from tests.distribution.mirror import Mirror
from tests.engine.models import gemma
from tests.registry import Bucket, Registry

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "cache"
RESULT = ROOT / "build" / "bench" / "distribution.json"
NODES = 4
UPSTREAM_BITS_PER_SECOND = 200e6
MODEL, TAG = "gemma3", "270m"
NAME = f"{MODEL}:{TAG}"
# The goals of the issue that asked for this bench.
MOST_UPSTREAM_RATIO, MOST_REFETCHED = 1.02, 0.05


class Bench:
    """``weights`` are the model's, ``directory`` holds the stores."""

    def __init__(self, weights: Path, directory: Path, upstream: Registry) -> None:
        self._directory, self._upstream = directory, upstream
        upstream.model(
            MODEL,
            TAG,
            weights,
            "gemma3",
            template=("application/vnd.ollama.image.template", b"{{ .Prompt }}"),
            parameters=("application/vnd.ollama.image.params", b'{"temperature": 1}'),
        )
        manifest = json.loads(upstream.path(f"library/{MODEL}:{TAG}").read_bytes())
        self._blobs = {blob["digest"]: int(blob["size"]) for blob in [manifest["config"], *manifest["layers"]]}
        self.size = sum(self._blobs.values())

    @property
    def sent(self) -> int:
        """Bytes of blobs and manifests that upstream sent since :meth:`count` was called."""
        return sum(self._upstream.sent.values())

    def count(self) -> None:
        self._upstream.sent.clear()

    def _process(self, *command: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tests.distribution.node", *command], cwd=ROOT)

    def _pull(self, store: str, origin: dict[str, str]) -> subprocess.Popen[bytes]:
        return self._process("pull", NAME, self._directory / store, json.dumps(origin))

    def _straight(self, store: str) -> subprocess.Popen[bytes]:
        return self._pull(store, {"url": self._upstream.url, "kind": "registry"})

    def _finish(self, processes: Sequence[subprocess.Popen[bytes]], stores: Sequence[str]) -> None:
        """:raises RuntimeError: one failed, or its store has not the bytes of the model."""
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError("a pull failed; it says above why")
        for store in stores:
            directory = self._directory / store
            manifest = directory / "manifests/registry.ollama.ai/library" / MODEL / TAG
            if manifest.read_bytes() != self._upstream.path(f"library/{MODEL}:{TAG}").read_bytes():
                raise RuntimeError(f"{store} has another manifest than upstream")
            for digest in self._blobs:
                with open(directory / "blobs" / digest.replace(":", "-"), "rb") as stream:
                    if f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" != digest:
                        raise RuntimeError(f"{store} has other bytes under {digest}")
            shutil.rmtree(directory)

    def through_the_mirror(self, nodes: int) -> tuple[int, float]:
        """Upstream's bytes, and seconds until every node has the model."""
        self.count()
        stores = [f"node{number}" for number in range(nodes)]
        with Mirror(self._directory / "mirror", stores) as mirror:
            started = time.monotonic()
            filling = self._process("fill", NAME, mirror.host.data_dir, mirror.host.socket, self._upstream.url)
            if filling.wait() != 0:
                raise RuntimeError("the mirror was not filled; it says above why")
            processes = [self._pull(store, asdict(mirror.origins[store])) for store in stores]
            for process in processes:
                process.wait()
            seconds = time.monotonic() - started
        self._finish(processes, stores)
        return self.sent, seconds

    def straight(self, nodes: int) -> tuple[int, float]:
        """The same without a mirror: every node asks upstream."""
        self.count()
        stores = [f"naive{number}" for number in range(nodes)]
        started = time.monotonic()
        processes = [self._straight(store) for store in stores]
        for process in processes:
            process.wait()
        seconds = time.monotonic() - started
        self._finish(processes, stores)
        return self.sent, seconds

    def killed_at_half(self) -> int:
        """Bytes that upstream sends beyond the model's when a pull is killed at half and run again."""
        self.count()
        process = self._straight("killed")
        while self.sent < self.size / 2:
            if process.poll() is not None:
                raise RuntimeError("the pull ended before it was killed")
            time.sleep(0.002)
        process.kill()
        process.wait()
        self._finish([self._straight("killed")], ["killed"])
        return self.sent - self.size

    def ollama_killed_at_half(self) -> tuple[int | None, str]:
        """The same of Ollama's own puller, or None with the reason why it was not measured."""
        engine = ollama.given(CACHE)
        if isinstance(engine, str):
            return None, engine
        self.count()
        name = f"{self._upstream.address}/library/{NAME}"
        return ollama.killed_at_half(*engine, self._directory / "ollama", name, self.size, lambda: self.sent), ""


def measure(weights: Path, nodes: int, bits_per_second: float) -> dict[str, object]:
    """The fields of the result."""
    with tempfile.TemporaryDirectory(prefix="distribution-", dir=ROOT / "build") as name:
        directory = Path(name)
        (directory / "upstream").mkdir()
        with Registry(directory / "upstream", location="#") as upstream:
            upstream.bucket = Bucket(bits_per_second / 8)
            bench = Bench(weights, directory, upstream)
            sent, seconds = bench.through_the_mirror(nodes)
            naive_sent, naive_seconds = bench.straight(nodes)
            refetched = bench.killed_at_half()
            theirs, reason = bench.ollama_killed_at_half()
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
        "mirror": "the role's site in nginx with mutual TLS, docker-registry on a Unix socket",
        "ollama_interrupted_refetch_bytes": theirs,
        "ollama_interrupted_refetch_ratio": None if theirs is None else round(theirs / bench.size, 4),
        "ollama_interrupted_refetch_reason": reason,
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
    result = measure(gemma(CACHE), nodes, UPSTREAM_BITS_PER_SECOND)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"  {name:<36} {value}")
    failed = missed(result)
    print("\n".join(failed) or f"every goal is met; the figures are in {RESULT.relative_to(ROOT)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
