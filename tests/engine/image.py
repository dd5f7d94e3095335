"""The stand-in's container image, built from Debian's packages and the sources in ``server/``.

``python -m tests.engine.image`` builds it and prints its tag.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import docker
import docker.errors

from tests.fleet.images import mirrors, mmdebstrap

SUITE = "forky"
PACKAGES = ("llama.cpp-tools", "python3")
WATCHED = "llama.cpp-tools"
REPOSITORY = "onprem-llm-test/engine"
PREFIX = "onprem-llm-test.engine"
UPSTREAM = "ollama/ollama"
SERVER = Path(__file__).parent / "server"
OPTIONS = (
    # A release in preparation may carry a Release file past its date; its packages are still signed.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    # A dependency of llama.cpp-tools that upstream's image lacks: a health check that needs it must fail here too.
    '--customize-hook=chroot "$1" dpkg --purge --force-depends wget',
)
# -I and -S keep the health check's Python from looking for anything but the standard library.
COMMAND = b"""#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, "/usr/lib/ollama")
from server.cli import main
main()
"""
CONFIGURATION = (
    'ENTRYPOINT ["/bin/ollama"]',
    'CMD ["serve"]',
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV OLLAMA_HOST=0.0.0.0:11434",
    "EXPOSE 11434",
)


def log(message: str) -> None:
    print(f"engine: {message}", file=sys.stderr, flush=True)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def sources() -> dict[str, bytes]:
    """The files that go into the image, by their path in it."""
    files = {f"usr/lib/ollama/server/{path.name}": path.read_bytes() for path in sorted(SERVER.glob("*.py"))}
    return files | {"usr/bin/ollama": COMMAND}


def architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def candidate(cache: Path) -> str | None:
    """Version of llama.cpp-tools that the mirror has now, None where it cannot be looked up.

    The list of packages is fetched again only where the mirror says that it has changed.
    """
    mirror = mirrors(SUITE)[0].split()[1].rstrip("/")
    url = f"{mirror}/dists/{SUITE}/main/binary-{architecture()}/Packages.xz"
    known: dict[str, str] = {}
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
    request = urllib.request.Request(url)
    if known.get("url") == url and known.get("etag"):
        request.add_header("If-None-Match", known["etag"])
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            packages, etag = lzma.decompress(response.read()).decode(), response.headers.get("ETag", "")
    except urllib.error.HTTPError as error:
        return known["version"] if error.code == 304 else None
    except (OSError, lzma.LZMAError):
        return None
    stanza = packages.partition(f"\nPackage: {WATCHED}\n")[2].partition("\n\n")[0]
    version = next((line.split()[1] for line in stanza.splitlines() if line.startswith("Version:")), None)
    if version:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"url": url, "etag": etag, "version": version}), encoding="utf-8")
    return version


def cache_directory() -> Path:
    """Where look-ups and downloads of the engine's tests are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onprem-llm-test"


def _archive(files: dict[str, bytes]) -> bytes:
    """A tar of files owned by root, of a fixed date, executable where they begin with ``#!``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _import_base(client: docker.DockerClient, tag: str) -> None:
    """The root file system: a minimal Debian with llama-server and Python. RuntimeError if mmdebstrap fails."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        tarball = Path(directory) / "engine.tar"
        # Python's own modules are compiled by their package; nothing here may be written at run time.
        mmdebstrap(SUITE, tarball, "--variant=essential", f"--include={','.join(PACKAGES)}", *OPTIONS)
        repository, _, version = tag.partition(":")
        client.api.import_image_from_file(str(tarball), repository=repository, tag=version)


def _commit(client: docker.DockerClient, base: str, tag: str, command: list[str] | None, changes: list[str]) -> None:
    """A new image over ``base``: the stand-in's files put in and compiled by ``command``, if there is one."""
    container = client.containers.create(base, command=command or ["serve"])
    try:
        if command:
            container.put_archive("/", _archive(sources()))
            container.start()
            status = container.wait()["StatusCode"]
            if status != 0:
                raise RuntimeError(f"compiling the stand-in failed:\n{container.logs().decode(errors='replace')}")
        repository, _, version = tag.partition(":")
        client.api.commit(container.id, repository=repository, tag=version, changes=changes)
    finally:
        container.remove(force=True, v=True)


def _present(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def _fallback(client: docker.DockerClient, recipe: str) -> str:
    """Tag of a present image of these sources, whatever its llama.cpp-tools. RuntimeError where there is none."""
    found = client.images.list(name=REPOSITORY, filters={"label": f"{PREFIX}.recipe={recipe}"})
    tags = [tag for image in found for tag in image.tags if "-" not in tag.rpartition(":")[2]]
    if not tags:
        raise RuntimeError(f"the mirror does not answer and no image of this recipe is here: {WATCHED} cannot be had")
    log(f"the mirror does not say which {WATCHED} it has; going on with {tags[0]}")
    return str(tags[0])


def build(client: docker.DockerClient) -> str:
    """Tag of the stand-in's image, built unless one of the same recipe is there.

    The recipe is the suite, the packages, the version of llama.cpp-tools in the mirror and the sources. Without a
    mirror a present image of the same sources serves. RuntimeError where neither works.
    """
    recipe = _digest(SUITE, PACKAGES, OPTIONS, CONFIGURATION, {n: c.decode() for n, c in sources().items()})
    version = candidate(cache_directory() / "engine-packages.json")
    if version is None:
        return _fallback(client, recipe)
    base = f"{REPOSITORY}-base:{_digest(SUITE, PACKAGES, OPTIONS, version)}"
    tag = f"{REPOSITORY}:{_digest(recipe, version)}"
    if _present(client, tag):
        return tag
    started = time.monotonic()
    if not _present(client, base):
        before = client.images.list(name=REPOSITORY, filters={"label": f"{PREFIX}.recipe"})
        others = sorted({image.labels.get(f"{PREFIX}.{WATCHED}", "") for image in before} - {version, ""})
        if others:
            log(f"{WATCHED} in Debian {SUITE} is now {version} (before: {', '.join(others)}): building anew")
        log(f"building the base of the engine image: Debian {SUITE} with {WATCHED} {version}")
        _import_base(client, base)
    log("building the engine image")
    labels = [f"LABEL {PREFIX}.recipe={recipe} {PREFIX}.{WATCHED}={version}"]
    compiler = [
        "/usr/bin/python3",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        "/usr/lib/ollama",
    ]
    _commit(client, base, tag, compiler, [*CONFIGURATION, *labels])
    log(f"built {tag} in {time.monotonic() - started:.0f} s")
    return tag


def _retag(source: Path, target: Path, tag: str) -> str:
    """Copy a docker-save tar so that its one image has ``tag``; the image ID. ValueError if it is no such tar.

    Done on the file, because loading it would put the tag over whatever this machine's engine has under that name.
    """
    with tarfile.open(source) as tar:
        try:
            entry = tar.extractfile("manifest.json")
            images: list[dict[str, Any]] = json.loads(entry.read()) if entry else []
        except KeyError as error:
            raise ValueError(f"{source}: not made by docker save (it has no manifest.json)") from error
        if len(images) != 1:
            names = [name for image in images for name in image.get("RepoTags") or ["<none>"]]
            raise ValueError(f"{source}: one image is wanted, it has {len(images)}: {', '.join(names)}")
        config = tar.extractfile(images[0]["Config"])
        if config is None:
            raise ValueError(f"{source}: the image's configuration is missing")
        image_id = f"sha256:{hashlib.sha256(config.read()).hexdigest()}"
        images[0]["RepoTags"] = [tag]
        with tarfile.open(target, "w") as copy:
            for member in tar:
                # The other indexes name the image too, by its old name; docker load needs this one alone.
                if member.name not in ("manifest.json", "repositories", "index.json", "oci-layout"):
                    copy.addfile(member, tar.extractfile(member) if member.isfile() else None)
            content = json.dumps(images).encode()
            manifest = tarfile.TarInfo("manifest.json")
            manifest.size, manifest.mode = len(content), 0o644
            copy.addfile(manifest, io.BytesIO(content))
    return image_id


def _stored(source: Path, version: str, directory: Path, key: str) -> tuple[Path, str]:
    """The retagged copy of a tar in ``directory``, with its image ID beside it, in place of older ones."""
    path = directory / f"ollama-{version}-{key}.tar"
    partial = path.with_suffix(".partial")
    image_id = _retag(source, partial, f"{UPSTREAM}:{version}")
    for old in directory.glob(f"ollama-{version}-*"):
        if old != partial:
            old.unlink()
    path.with_suffix(".id").write_text(image_id, encoding="utf-8")
    partial.replace(path)
    return path, image_id


def _kept(version: str, directory: Path, key: str) -> tuple[Path, str] | None:
    path = directory / f"ollama-{version}-{key}.tar"
    identity = path.with_suffix(".id")
    return (path, identity.read_text(encoding="utf-8")) if path.is_file() and identity.is_file() else None


def archive(
    client: docker.DockerClient, tag: str, version: str, directory: Path, changes: tuple[str, ...] = ()
) -> tuple[Path, str]:
    """A docker-save tar of the stand-in as ``ollama/ollama:<version>``, and its image ID; kept in ``directory``.

    The server answers ``version`` on /api/version, because the version is an environment variable of the image.

    :param changes: more lines of a Dockerfile, for a release that is to behave in another way.
    """
    directory.mkdir(parents=True, exist_ok=True)
    versioned = f"{tag}-{version}" + (f"-{_digest(*changes)}" if changes else "")
    if not _present(client, versioned):
        _commit(client, tag, versioned, None, [f"ENV OLLAMA_STANDIN_VERSION={version}", *changes])
    image = client.images.get(versioned)
    key = image.id.removeprefix("sha256:")[:12]
    kept = _kept(version, directory, key)
    if kept:
        return kept
    started = time.monotonic()
    log(f"saving {UPSTREAM}:{version}")
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".save") as file:
        for chunk in image.save(named=True):
            file.write(chunk)
        file.flush()
        found = _stored(Path(file.name), version, directory, key)
    log(f"saved {found[0]} ({found[0].stat().st_size // 2**20} MiB) in {time.monotonic() - started:.0f} s")
    return found


def import_archive(client: docker.DockerClient, path: Path, version: str, directory: Path) -> tuple[Path, str]:
    """A given docker-save tar, under any tag, as ``ollama/ollama:<version>``, and its image ID; kept in ``directory``.

    ValueError where the file is no docker-save tar of one image.
    """
    del client  # The tar alone is read: the same call as archive()'s, whichever engine is asked for.
    directory.mkdir(parents=True, exist_ok=True)
    status = path.stat()
    key = _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)
    kept = _kept(version, directory, key)
    if kept:
        return kept
    started = time.monotonic()
    log(f"taking {path} as {UPSTREAM}:{version}")
    found = _stored(path, version, directory, key)
    log(f"took {found[1]} in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    print(build(docker.from_env()))
