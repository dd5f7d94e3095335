"""The collection works as users install it: from the tarball that ansible-galaxy builds, with no checkout in sight."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from rules import ROOT

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


def test_fragments_are_those_of_the_changelog() -> None:
    sections = dict(yaml.safe_load((ROOT / "changelogs/config.yaml").read_text(encoding="utf-8"))["sections"])
    known = {*sections, "trivial", "release_summary"}
    for path in sorted(Path(ROOT / "changelogs/fragments").glob("*.yml")):
        fragment = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(fragment, dict), path.name
        assert set(fragment) <= known, path.name
        for section, lines in fragment.items():
            assert section == "release_summary" or all(isinstance(line, str) for line in lines), path.name
