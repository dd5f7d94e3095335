# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rotate_certificates.yml: what lies beside the authority after each step. Hosts: tests/runbooks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import plays

PASSPHRASE = "a passphrase of the tests"


class Authority:
    """The authority of an inventory with one host, which is this machine and has no certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.pki = directory, directory / "pki"
        host = plays.local() | {"ansible_become": False, "pki_directory": str(self.pki)}
        members = {"hosts": {"box": host | {"pki_ca_passphrase": PASSPHRASE}}}
        given = {"all": {"children": {"cpu_nodes": members, "llm_nodes": members, "gateways": members}}}
        (directory / "hosts.yml").write_text(yaml.safe_dump(given), encoding="utf-8")

    def rotate(self, step: str, ok: bool = True) -> str:
        """One step, without what it brings to the hosts."""
        run = plays.run(
            "playbooks/rotate_certificates.yml", "--tags", "authority", "--skip-tags", "always", "--diff", "-v",
            inventory=self.directory / "hosts.yml", variables={"rotate_ca": step},
        )  # fmt: skip
        assert (run.returncode == 0) == ok, run.stdout
        assert PASSPHRASE not in run.stdout
        assert "PRIVATE KEY" not in run.stdout
        return " ".join(run.stdout.split())

    def made(self) -> None:
        """A first authority, as anybody's openssl makes it."""
        self.pki.mkdir()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-subj", "/CN=fleet CA",
             "-days", "30", "-passout", f"pass:{PASSPHRASE}", "-keyout", "ca.key", "-out", "ca.crt"],
            cwd=self.pki, check=True, capture_output=True,
        )  # fmt: skip

    def files(self) -> set[str]:
        return {str(path.relative_to(self.pki)) for path in self.pki.rglob("*") if path.is_file()}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path)
    found.made()
    return found


@pytest.mark.long
@pytest.mark.contract(2)
def test_one_authority_takes_the_other_s_place(authority: Authority, tmp_path: Path) -> None:
    old = (authority.pki / "ca.crt").read_text(encoding="utf-8")
    assert "the order is begun, switched, ended" in authority.rotate("switched", ok=False)
    assert "the order is begun, switched, ended" in authority.rotate("swapped", ok=False)
    authority.rotate("begun")
    new = (authority.pki / "next/ca.crt").read_text(encoding="utf-8")
    assert (authority.pki / "next/ca.key").stat().st_mode & 0o777 == 0o600
    assert authority.files() == {
        "ca.crt", "ca.key", "ca-bundle.crt", "next/ca.crt", "next/ca.key", "trusted/next.crt"
    }  # fmt: skip
    assert (authority.pki / "ca-bundle.crt").read_text(encoding="utf-8") == old + new
    authority.rotate("begun")
    assert (authority.pki / "next/ca.crt").read_text(encoding="utf-8") == new
    assert "the order is" in authority.rotate("ended", ok=False)

    # A run that was cut off after it had replaced the key.
    shutil.copytree(authority.pki, tmp_path / "before")
    (authority.pki / "trusted/previous.crt").write_text(old, encoding="utf-8")
    shutil.copy(authority.pki / "next/ca.key", authority.pki / "ca.key")
    authority.rotate("switched")
    assert (authority.pki / "ca.key").read_bytes() == (tmp_path / "before/next/ca.key").read_bytes()
    assert (authority.pki / "ca.key").stat().st_mode & 0o777 == 0o600
    assert authority.files() == {"ca.crt", "ca.key", "ca-bundle.crt", "trusted/previous.crt"}
    assert (authority.pki / "ca-bundle.crt").read_text(encoding="utf-8") == new + old
    authority.rotate("switched")
    assert (authority.pki / "trusted/previous.crt").read_text(encoding="utf-8") == old
    assert "the order is" in authority.rotate("begun", ok=False)

    authority.rotate("ended")
    assert authority.files() == {"ca.crt", "ca.key", "ca-bundle.crt"}
    assert (authority.pki / "ca-bundle.crt").read_text(encoding="utf-8") == new
