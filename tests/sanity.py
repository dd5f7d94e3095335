"""ansible-test sanity on a copy of what the collection publishes, on the pinned core and on the newest one.

ansible-test insists on a path ending in ansible_collections/<namespace>/<name>, and on a pip bootstrap script from a
host that a closed network does not reach; the script put in its cache under that name uses Python's own ensurepip.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanity"
# What a published artefact holds that sanity has something to say about.
PUBLISHED = ("galaxy.yml", "README.md", "LICENSE", "meta", "plugins", "roles", "playbooks", "site.yml")
# The newest core, and the Pythons that run it, newest first.
NEWEST_CORE = "2.21.5"
NEWEST_PYTHONS = ("3.14", "3.13", "3.12")
UNIT_REQUIREMENTS = ("pytest", "pytest-rerunfailures", "hypothesis", "PyYAML", "gguf", "numpy")
BOOTSTRAP = '''\
"""Install pip without the network: what ansible-test runs in place of get-pip.py."""
import ensurepip, os, subprocess, sys
ensurepip.bootstrap()
packages = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
# An old pip knows only its own certificates, and this machine's proxy or mirror may have one of the system's.
if os.path.exists("/etc/ssl/certs/ca-certificates.crt"):
    install.append("--cert=/etc/ssl/certs/ca-certificates.crt")
sys.exit(subprocess.call(install) if packages else 0)
'''

T = TypeVar("T")


def newest_python() -> str | None:
    """Path of a Python that runs the newest core, from PATH or from pyenv; None if there is none."""
    for version in NEWEST_PYTHONS:
        found = shutil.which(f"python{version}")
        installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), reverse=True)
        for candidate in [*installed, *([Path(found)] if found else [])]:
            if (
                subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
                == 0
            ):
                return str(candidate)
    return None


def newest_core(use: Callable[[str], T]) -> Iterator[T]:
    """What ``use`` makes of the Python of an environment with the newest core; nothing where none can be made."""
    python = newest_python()
    if python is None:
        print(
            f"  skipped: ansible-core {NEWEST_CORE} needs Python {' or '.join(NEWEST_PYTHONS)}, and none is installed"
        )
        return
    environment = ROOT / "build" / "cache" / f"core-{NEWEST_CORE}"
    ready = environment / ".ready"
    pinned = [f"{name}=={version(name)}" for name in UNIT_REQUIREMENTS]
    if not ready.exists() or ready.read_text(encoding="utf-8").split() != pinned:
        subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
        pip = [environment / "bin" / "pip", "install", "-qq", "--no-compile", f"ansible-core=={NEWEST_CORE}", *pinned]
        subprocess.run(pip, check=True)
        ready.write_text(" ".join(pinned), encoding="utf-8")
    yield use(str(environment / "bin" / "python"))


def version(requirement: str) -> str:
    """Version of a package as requirements.txt pins it."""
    match = re.search(
        rf"^{re.escape(requirement)}==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    if match is None:
        raise LookupError(f"{requirement} is not pinned in requirements.txt")
    return match.group(1)


def copy_collection(directory: Path) -> Path:
    """A fresh copy of the published files, at a path that ansible-test accepts."""
    target = directory / "ansible_collections" / "onprem" / "llm"
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PUBLISHED],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    # ansible-test asks git what there is, and this repository ignores what is built.
    subprocess.run(["git", "init", "--quiet", str(target)], check=True)
    return target


def runs() -> Iterator[tuple[str, list[str], dict[str, str], Path]]:
    """Name, command, environment and directory of each sanity run."""
    home = BUILD / "home"
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)

    def sanity(python: str) -> tuple[str, list[str], dict[str, str], Path]:
        bin_directory = Path(python).parent
        # The script's name carries the pip version that this core would fetch.
        source = next(
            bin_directory.parent.glob("lib/python*/site-packages/ansible_test/_internal/python_requirements.py")
        )
        for pip_version in set(re.findall(r"'(2\d\.\d(?:\.\d)?)'", source.read_text(encoding="utf-8"))):
            (cache / f"get_pip_{pip_version.replace('.', '_')}.py").write_text(BOOTSTRAP, encoding="utf-8")
        core = subprocess.run(
            [python, "-c", "import ansible.release as r; print(r.__version__)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        directory = copy_collection(BUILD / core)
        minor = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        command = [str(bin_directory / "ansible-test"), "sanity", "--color", "no", "--python", minor]
        return (
            core,
            command,
            {"HOME": str(home), "PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
            directory,
        )

    yield sanity(sys.executable)
    yield from newest_core(sanity)
