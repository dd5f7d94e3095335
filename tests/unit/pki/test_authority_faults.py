"""What the role pki makes of an authority's directory that a run was cut off in, or that somebody lost a part of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROLE = Path(__file__).resolve().parents[3] / "roles/pki"
PASSPHRASE = "a passphrase of the tests"


def key(path: Path) -> None:
    made = ec.generate_private_key(ec.SECP384R1())
    encryption = serialization.BestAvailableEncryption(PASSPHRASE.encode())
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    path.write_bytes(made.private_bytes(*kinds, encryption))


def evaluated(directory: Path, name: str) -> str:
    """One of the role's variables as Ansible itself evaluates it.

    In a process of its own, as lookups need all its plugins. Spaces and line ends are made one.
    """
    given = {"pki_directory": str(directory), "pki_ca_passphrase": PASSPHRASE, "pki_certificates": []}
    variables = [f"@{ROLE}/defaults/main.yml", f"@{ROLE}/vars/main.yml", json.dumps(given)]
    # The unit tests' own shows Ansible the collection in the making alone.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
    words = [word for one in variables for word in ("--extra-vars", one)]
    told = subprocess.run(
        [
            sys.executable, "-m", "ansible", "adhoc", "localhost", "--connection=local",
            "--module-name=ansible.builtin.debug",
            "--args=msg=said:{{ " + name + " | default('', true) }}", *words,
        ],
        capture_output=True, text=True, check=True, cwd=directory, env=environment,
    ).stdout  # fmt: skip
    said: str = json.loads(told.split("=>", 1)[1])["msg"]
    return " ".join(said.removeprefix("said:").split())


def faults(directory: Path) -> str:
    return evaluated(directory, "__pki_faults")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "issued").mkdir()
    return tmp_path


def test_nothing_yet_is_no_fault(directory: Path) -> None:
    assert faults(directory) == ""


def test_a_key_that_has_issued_nothing_is_what_a_cut_off_run_leaves(directory: Path) -> None:
    key(directory / "ca.key")
    assert faults(directory) == ""


def test_a_key_that_has_issued_has_lost_its_certificate(directory: Path) -> None:
    key(directory / "ca.key")
    (directory / "issued" / "box_endpoint.crt").touch()
    said = f"pki_directory: {directory} holds ca.key and certificates that it issued, and no ca.crt"
    assert faults(directory).startswith(said)


def test_hosts_trust_what_lies_beside_the_authority(directory: Path) -> None:
    (directory / "ca.crt").write_text("own\n")
    said = evaluated(directory, "__pki_ca")
    assert said == "own"
    (directory / "trusted").mkdir()
    (directory / "trusted/previous.crt").write_text("the other\n")
    assert evaluated(directory, "__pki_ca") == "own the other"
