"""The published llama.cpp that plans, and our planner built against it.

npm's node-llama-cpp carries both halves of one llama.cpp release: @node-llama-cpp/linux-x64 the libraries, and
node-llama-cpp the sources, as a git bundle, from which the headers come. Nothing of llama.cpp is compiled.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "3.22.1"  # of node-llama-cpp; its llama.cpp is v0.5.0
LLAMA_CPP = "de3ff815ea7d559ee917f063901b8986f038abc6"  # v0.5.0


def _command(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def fetch(directory: Path) -> None:
    """Packages from npm's registry into ``directory``: ``libraries/`` and ``llama.cpp/``, the sources.

    npm checks their integrity. Raises RuntimeError if npm cannot, or if the sources are of another release.
    """
    if (directory / "llama.cpp").is_dir():
        return
    packages = directory / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for package in ("node-llama-cpp", "@node-llama-cpp/linux-x64"):
        _command("npm", "pack", "--silent", f"{package}@{VERSION}", cwd=packages)
    for archive in packages.glob("*.tgz"):
        with tarfile.open(archive) as content:
            content.extractall(packages / archive.stem, filter="data")
    libraries = next(packages.glob("node-llama-cpp-linux-x64*/package/bins/linux-x64"))
    shutil.copytree(libraries, directory / "libraries", dirs_exist_ok=True)
    bundle = packages / f"node-llama-cpp-{VERSION}" / "package" / "llama" / "gitRelease.bundle"
    _command("git", "clone", "--quiet", bundle, directory / "sources")
    commit = _command("git", "rev-parse", "HEAD", cwd=directory / "sources").strip()
    if commit != LLAMA_CPP:
        raise RuntimeError(f"the bundle holds llama.cpp {commit}, not {LLAMA_CPP} (v0.5.0)")
    (directory / "sources").rename(directory / "llama.cpp")
    shutil.rmtree(packages)


def build(directory: Path) -> Path:
    """Compiles the planner against what ``fetch`` brought (g++ with C++20, 10 s), if its sources changed; its path."""
    sources = [HERE / "planner.cpp", HERE / "cuda_standin.hpp"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    program = directory / f"planner-{digest}"
    if not program.exists():
        tree = directory / "llama.cpp"
        includes = [f"-I{tree / part}" for part in ("include", "src", "ggml/include", "ggml/src")]
        libraries = directory / "libraries"
        patterns = ("libllama.v*", "libggml.v*", "libggml-base*")
        linked = [f"-l:{next(libraries.glob(pattern)).name}" for pattern in patterns]
        _command(
            "g++", "-std=c++20", "-O1", "-o", program, *includes, sources[0],
            f"-L{libraries}", *linked, "-Wl,-rpath,$ORIGIN/libraries",
        )  # fmt: skip
    return program
