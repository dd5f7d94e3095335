"""``python -m tests.installed``: the tarball in an environment of its own; ``--importer``: Galaxy's importer, too.

It needs PyPI. The quick part, with this environment's Ansible, is tests/gates/test_installed.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.installed import ROOT, Installed

IMPORTER = "galaxy-importer==0.4.44"


def environment(directory: Path, *packages: str) -> Path:
    """Python of a fresh virtual environment with the packages."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin/pip", "install", "-qq", "--disable-pip-version-check", "--no-compile", *packages]
    subprocess.run(pip, check=True)
    return directory / "bin/python"


def wanted() -> list[str]:
    """What docs/airgap.md has users install."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return re.findall(r"(?m)^(?:ansible|cryptography)==\S+", text)


def imported(directory: Path, tarball: Path) -> bool:
    """Whether Galaxy's importer takes the tarball; what it says of it is printed."""
    python = environment(directory / "importer", IMPORTER)
    own = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(directory)}
    command = [python, "-m", "galaxy_importer.main", tarball]
    said = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=own)
    output = said.stdout + said.stderr
    print("\n".join(line for line in output.splitlines() if re.match(r"ERROR|WARNING|Importer", line)))
    # It gives ansible-lint two minutes, which `make lint` has outside of it as long as it takes.
    errors = [line for line in re.findall(r"(?m)^ERROR.*", output) if line != "ERROR: Timeout on call to ansible-lint"]
    return said.returncode == 0 and "Importer processing completed successfully" in output and not errors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.installed", description=__doc__)
    parser.add_argument("--importer", action="store_true", help="have Galaxy's importer check the tarball")
    arguments = parser.parse_args()
    results: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        installed = Installed(directory / "site", environment(directory / "venv", *wanted()))
        said = installed.ansible(
            "playbook", "--syntax-check", "-i", str(installed.inventory()), *installed.playbooks
        )  # fmt: skip
        results[f"{len(installed.playbooks)} playbooks in an environment of their own"] = said.returncode == 0
        if said.returncode:
            print(said.stdout[-4000:])
        if arguments.importer:
            results["galaxy-importer"] = imported(directory, installed.tarball)
    for text, passed in results.items():
        print(f"{'ok    ' if passed else 'FAILED'} {text}")
    failed = sum(not passed for passed in results.values())
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
