# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/backup.yml and restore.yml on two hosts that are this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import plays

PASSPHRASE = "correct horse battery staple"
KEY = "-----BEGIN PRIVATE KEY----- a host's own"
AUTHORITY = "-----BEGIN ENCRYPTED PRIVATE KEY----- the fleet's"


class Site:
    """An inventory of a node and a gateway, whose files lie in directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        hosts = {name: plays.local() | {"ansible_become": False} for name in ("node1", "gw1")}
        groups = {"llm_nodes": {"hosts": {"node1": hosts["node1"]}}, "gateways": {"hosts": {"gw1": hosts["gw1"]}}}
        (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}), encoding="utf-8")
        (directory / "pki/issued").mkdir(parents=True)
        (directory / "pki/ca.key").write_text(AUTHORITY, encoding="utf-8")
        (directory / "pki/ca.key").chmod(0o600)
        (directory / "pki/ca.crt").write_text("the authority's certificate", encoding="utf-8")
        (directory / "group_vars/gateways").mkdir(parents=True)
        (directory / "group_vars/gateways/keys.yml").write_text("gateway_user_keys: {}\n", encoding="utf-8")
        for name in hosts:
            (directory / name / "pki").mkdir(parents=True)
            (directory / name / "pki/node.key").write_text(f"{KEY} {name}", encoding="utf-8")
            (directory / name / "pki/node.key").chmod(0o600)
            os.utime(directory / name / "pki/node.key", (1_700_000_000, 1_700_000_000))
            (directory / name / "plan.json").write_text(f'{{"host": "{name}"}}', encoding="utf-8")

    def play(self, name: str, *arguments: str, ok: bool = True, **variables: Any) -> str:
        place = f"{self.directory}/{{{{ inventory_hostname }}}}"
        state = [{"name": "pki", "path": f"{place}/pki"}, {"name": "plan", "path": f"{place}/plan.json"}]
        given = {"backup_state": state, "backup_passphrase": PASSPHRASE, "backup_name": "one", **variables}
        run = plays.run(
            plays.ROOT / "playbooks" / name,
            "--diff",
            "-vvv",
            *arguments,
            inventory=self.directory / "hosts.yml",
            variables=given,
        )
        assert (run.returncode == 0) == ok, run.stdout
        for secret in (KEY, AUTHORITY):
            assert secret not in run.stdout
        # Long messages are folded.
        return " ".join(run.stdout.split())

    @property
    def backup(self) -> Path:
        return self.directory / "backups/one"

    def lose(self) -> None:
        for name in ("node1", "gw1", "pki", "group_vars"):
            shutil.rmtree(self.directory / name)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.contract(8)
def test_what_was_lost_comes_back_as_it_was(site: Site) -> None:
    site.play("backup.yml")
    archives = sorted(path for path in site.backup.rglob("*.vault"))
    assert [path.relative_to(site.backup).as_posix() for path in archives] == [
        "controller.vault",
        "hosts/gw1.vault",
        "hosts/node1.vault",
    ]
    for path in archives:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;")
    assert site.backup.stat().st_mode & 0o777 == 0o700
    site.lose()
    site.play("restore.yml", restore_directory=str(site.backup))
    key = site.directory / "node1/pki/node.key"
    assert key.read_text(encoding="utf-8") == f"{KEY} node1"
    assert (key.stat().st_mode & 0o777, int(key.stat().st_mtime)) == (0o600, 1_700_000_000)
    assert (site.directory / "pki/ca.key").read_text(encoding="utf-8") == AUTHORITY
    assert (site.directory / "pki/ca.key").stat().st_mode & 0o777 == 0o600
    assert (site.directory / "group_vars/gateways/keys.yml").is_file()


@pytest.mark.long
def test_check_mode_shows_and_a_second_run_changes_nothing(site: Site) -> None:
    shown = site.play("backup.yml", "--check")
    assert f"{site.backup}/hosts/node1.vault: " in shown
    assert not site.backup.exists()
    site.play("backup.yml")
    assert "is there already" in site.play("backup.yml", ok=False)
    site.lose()
    told = site.play("restore.yml", "--check", restore_directory=str(site.backup))
    assert f"would be written: {site.directory}/node1/pki/node.key, {site.directory}/node1/plan.json" in told
    assert not (site.directory / "node1").exists()
    site.play("restore.yml", restore_directory=str(site.backup))
    assert site.play("restore.yml", restore_directory=str(site.backup)).count("changed=0") == 3


@pytest.mark.long
@pytest.mark.contract(2)
def test_what_must_not_come_back_is_refused_before_anything_is_written(site: Site) -> None:
    site.play("backup.yml")
    site.lose()
    given = {"restore_directory": str(site.backup)}
    wrong = site.play("restore.yml", ok=False, **given, backup_passphrase="another passphrase")
    assert "backup_passphrase: does not open" in wrong
    short = site.play("restore.yml", ok=False, **given, backup_passphrase="short")
    assert "at least 16 characters" in short
    other = site.play("restore.yml", "--limit", "gw1", ok=False, **given, backup_version="9.9.9")
    assert "of the collection made it, and this is 9.9.9" in other
    several = site.play("restore.yml", ok=False, **given, restore_from="node1")
    assert "can be meant for one host" in several
    shutil.copy(site.backup / "hosts/node1.vault", site.backup / "hosts/gw1.vault")
    mixed = site.play("restore.yml", "--limit", "gw1", ok=False, **given)
    assert "does not have the sum of SHA256SUMS" in mixed
    (site.backup / "SHA256SUMS").unlink()
    mixed = site.play("restore.yml", "--limit", "gw1", ok=False, **given)
    assert "it is node1's, and gw1's is wanted" in mixed
    assert not (site.directory / "gw1").exists()
    site.play("restore.yml", "--limit", "gw1", **given, restore_from="node1", restore_other_version=True)
    assert (site.directory / "gw1/pki/node.key").read_text(encoding="utf-8") == f"{KEY} node1"


@pytest.mark.long
@pytest.mark.contract(2)
def test_another_authority_is_not_written_over(site: Site) -> None:
    site.play("backup.yml")
    (site.directory / "pki/ca.crt").write_text("another", encoding="utf-8")
    said = site.play("restore.yml", ok=False, restore_directory=str(site.backup))
    assert f"{site.directory}/pki/ca.crt: there already, and other than in the backup" in said
    assert (site.directory / "pki/ca.crt").read_text(encoding="utf-8") == "another"
