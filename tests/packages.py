"""Programs of the distribution that nobody need install: their packages, unpacked below ``build/cache``."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.alone import alone

CACHE = Path(__file__).resolve().parents[1] / "build" / "cache"


def know() -> None:
    """Have apt know what the archive has. A machine may have no lists yet, or old ones with versions that are gone.

    Runs beside each other wait for one another, since apt itself would refuse the second.
    """
    with alone(CACHE / ".lists.lock"):
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)


def of_release(codename: str) -> list[str]:
    """Options that have apt see another release of the distribution, from where this machine has its own, without a
    trace on the machine. The release's lists are fetched.

    :raises subprocess.CalledProcessError: they are not to be had.
    """
    know()
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    place = CACHE / f"apt-{codename}"
    for part in ("lists/partial", "cache/archives/partial"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    sources = sorted({line.replace(own, codename) for line in said.splitlines() if own in line})
    keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    (place / "sources.list").write_text("".join(f"deb {keys} {source} main\n" for source in sources), encoding="utf-8")
    settings = {
        "Dir::Etc::sourcelist": place / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": place / "lists", "Dir::State::status": place / "status", "Dir::Cache": place / "cache",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", *options, "-qq", "-o", "APT::Sandbox::User=root", "update"], check=True)
    return options


def unpack(packages: Sequence[str], place: Path, options: Sequence[str] = ()) -> None:
    """Have what these packages of the distribution hold below a directory.

    :param options: apt's, such as those of :func:`of_release`.
    :raises subprocess.CalledProcessError: one is not to be had.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        subprocess.run(
            ["apt-get", *options, "download", "-qq", "-o", "APT::Sandbox::User=root", *packages],
            cwd=directory, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for package in sorted(Path(directory).glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, place], check=True)


def unpacked(*packages: str) -> Path:
    """The directory with what these packages of the distribution have, fetched once.

    :raises subprocess.CalledProcessError: one is not to be had.
    """
    place = CACHE / packages[0]
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            know()
            fresh = Path(directory) / "unpacked"
            unpack(packages, fresh)
            try:
                fresh.rename(place)
            except OSError:
                # Another run was first.
                if not place.exists():
                    raise
    return place


def docker_registry() -> str:
    """The distribution's docker-registry: the one that is installed, else unpacked from its package.

    :raises subprocess.CalledProcessError: the package is not to be had.
    """
    return shutil.which("docker-registry") or str(unpacked("docker-registry") / "usr" / "bin" / "docker-registry")
