# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rotate_credentials.yml on the controller: files, their modes, and what output tells."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import plays

ROOT = Path(__file__).resolve().parents[2]


def rotate(directory: Path, *more: str, ok: bool = True) -> str:
    """Run the play on an inventory of one gateway, without what it does there."""
    gateway = plays.local() | {"ansible_become": False, "gateway_users": [{"name": "app"}, {"name": "ops"}]}
    (directory / "hosts.yml").write_text(
        yaml.safe_dump(
            {
                "all": {
                    # As inventories have it: no localhost, and of all hosts what needs the inventory's own place.
                    "vars": {"ansible_ssh_private_key_file": "{{ inventory_dir }}/ssh/id_ed25519"},
                    "children": {"gateways": {"hosts": {"gw": gateway}}},
                }
            }
        )
    )
    said = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook",
        "-i", directory / "hosts.yml", ROOT / "playbooks/rotate_credentials.yml",
         "--skip-tags", "gateway", "-vv", "--diff", "-e", "rotate_request=spring", *more],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections"),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip
    assert (said.returncode == 0) == ok, said.stdout + said.stderr
    return said.stdout + said.stderr


@pytest.mark.contract(8)
def test_keys_are_handed_out_once_and_only_their_digests_are_kept(tmp_path: Path) -> None:
    keys_file, handout = tmp_path / "group_vars/gateways/keys.yml", tmp_path / "new-keys-spring.json"
    rotate(tmp_path, "--check")
    assert not keys_file.exists()
    assert not handout.exists()
    said = rotate(tmp_path)
    made = json.loads(handout.read_text())
    assert handout.stat().st_mode & 0o777 == 0o600
    kept = yaml.safe_load(keys_file.read_text())["gateway_user_keys"]
    assert {name: [row["sha256"] for row in rows] for name, rows in kept.items()} == {
        name: [hashlib.sha256(key.encode()).hexdigest()] for name, key in made.items()
    }
    assert sorted(made) == ["app", "ops"]
    for key in made.values():
        assert key not in said
        assert key not in keys_file.read_text()
    assert "changed=0" in rotate(tmp_path)
    refused = rotate(tmp_path, "-e", "rotate_request=summer", "-e", f"rotate_handout={handout}", ok=False)
    assert "is there already" in refused
    rotate(tmp_path, "-e", "rotate_state=revoked", "-e", '{"rotate_users": ["app"]}')
    left = yaml.safe_load(keys_file.read_text())["gateway_user_keys"]
    assert (left["app"], len(left["ops"])) == ([], 1)


@pytest.mark.contract(2)
def test_somebody_unknown_is_refused(tmp_path: Path) -> None:
    said = rotate(tmp_path, "-e", '{"rotate_users": ["nobody"]}', ok=False)
    assert "nobody" in said
    assert "app, ops" in said


@pytest.mark.contract(2)
def test_what_would_stay_valid_is_not_called_revoked(tmp_path: Path) -> None:
    digest = "ab" * 32
    users = json.dumps({"rotate_known": [{"name": "app", "api_keys": [{"sha256": digest}]}, {"name": "ops"}]})
    rotate(tmp_path)
    revoke = ("-e", "rotate_state=revoked", "-e")
    said = rotate(tmp_path, "-e", users, *revoke, '{"rotate_users": ["app", "ops"]}', ok=False)
    assert "app: keys of theirs stand in gateway_users itself" in said
    kept = yaml.safe_load((tmp_path / "group_vars/gateways/keys.yml").read_text())["gateway_user_keys"]
    nobodys = "ff" if kept["app"][0]["sha256"].startswith("00") else "00"
    wrong = json.dumps({"rotate_users": ["app"], "rotate_digest": nobodys})
    said = rotate(tmp_path, "-e", users, *revoke, wrong, ok=False)
    assert "begins so, and nothing was revoked" in said
    kept = yaml.safe_load((tmp_path / "group_vars/gateways/keys.yml").read_text())["gateway_user_keys"]
    assert [len(kept[name]) for name in ("app", "ops")] == [1, 1]
    rotate(
        tmp_path,
        "-e",
        users,
        *revoke,
        json.dumps({"rotate_users": ["app"], "rotate_digest": kept["app"][0]["sha256"][:12]}),
    )


@pytest.mark.contract(2)
def test_variables_of_the_group_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/gateways.yml").write_text("gateway_server_name: llm.example.com\n", encoding="utf-8")
    said = rotate(tmp_path, ok=False)
    assert "gateways.yml holds variables, and Ansible passes over it" in said
    assert not (tmp_path / "group_vars/gateways").exists()
    assert not (tmp_path / "new-keys-spring.json").exists()
    rotate(tmp_path, "-e", f"rotate_keys_file={tmp_path / 'keys.yml'}")
