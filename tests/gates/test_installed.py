"""The collection works as users install it: from the tarball that ansible-galaxy builds, with no checkout in sight."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from rules import ROOT, tracked_files

from tests.installed import Installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed") / "site")


def test_what_is_in_the_tarball(installed: Installed) -> None:
    here = {path.name for path in (ROOT / "playbooks").glob("*.yml")}
    assert {path.name for path in (installed.root / "playbooks").glob("*.yml")} == here
    assert (installed.root / "playbooks/vars/replaced.yml").is_file()
    unwanted = {"tests", "molecule", "tools", "build", ".venv", ".ci", "inventories/demo/ssh"}
    assert [name for name in sorted(unwanted) if (installed.root / name).exists()] == []
    assert installed.tarball.stat().st_size < 20 * 2**20, "what Galaxy takes"


def test_every_playbook_is_found_and_sound(installed: Installed) -> None:
    said = installed.ansible("playbook", "--list-tasks", "-i", str(installed.inventory()), *installed.playbooks)
    assert said.returncode == 0, said.stdout
    assert said.stdout.count("\nplaybook: ") >= len(installed.playbooks)


@pytest.mark.long
def test_preflight_tells_its_faults(installed: Installed) -> None:
    """An inventory with nothing in it: the checks run, and say what is missing."""
    said = installed.ansible("playbook", "--check", "-i", str(installed.inventory()), "onprem.llm.preflight")
    assert said.returncode != 0
    output = " ".join(said.stdout.split())
    assert "pki_ca_passphrase is not set, and the role pki needs it" in output, said.stdout
    assert not re.search("could not be found|couldn't resolve|Traceback", output), said.stdout


def test_a_release_is_made_of_the_fragments(tmp_path: Path) -> None:
    """By antsibull-changelog itself, beside the checkout: each fragment is in the changelog, and so is each module."""
    for path in tracked_files():
        copied = tmp_path / "llm" / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    subprocess.run(
        ["antsibull-changelog", "release", "--version", version, "--date", "2026-01-01"],
        cwd=tmp_path / "llm", check=True, capture_output=True,
    )  # fmt: skip
    told = " ".join((tmp_path / "llm/CHANGELOG.rst").read_text(encoding="utf-8").split())
    assert f"v{version}" in told
    assert list((tmp_path / "llm/changelogs/fragments").glob("*.yml")) == []
    for path in sorted((ROOT / "changelogs/fragments").glob("*.yml")):
        for section, lines in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            for line in [] if section == "trivial" else [lines] if isinstance(lines, str) else lines:
                assert " ".join(line.split()) in told, path.name
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
    assert {module for module in modules if f"onprem.llm.{module} -" in told} == modules
