"""Programs of the distribution that nobody need install: their packages, unpacked below ``build/cache``."""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / "build" / "cache"


def know() -> None:
    """Have apt know what the archive has. A machine may have no lists yet, or old ones with versions that are gone.

    Runs beside each other wait for one another, since apt itself would refuse the second.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lists.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)


def unpack(packages: Sequence[str], place: Path) -> None:
    """Have what these packages of the distribution hold below a directory.

    :raises subprocess.CalledProcessError: one is not to be had.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        subprocess.run(
            ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages],
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
