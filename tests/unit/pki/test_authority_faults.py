"""What the role pki makes of an authority's directory that a run was cut off in, or that somebody lost a part of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROLE = Path(__file__).resolve().parents[3] / "roles/pki"
PASSPHRASE = "a passphrase of the tests"
init_plugin_loader([])


def key(path: Path) -> None:
    made = ec.generate_private_key(ec.SECP384R1())
    encryption = serialization.BestAvailableEncryption(PASSPHRASE.encode())
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    path.write_bytes(made.private_bytes(*kinds, encryption))


def faults(directory: Path) -> str:
    variables: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        read = yaml.safe_load((ROLE / part / "main.yml").read_text(encoding="utf-8"))
        variables.update(
            {name: trust_as_template(value) if isinstance(value, str) else value for name, value in read.items()}
        )
    variables.update(pki_directory=str(directory), pki_ca_passphrase=PASSPHRASE, pki_certificates=[])
    variables.update(inventory_hostname="box", inventory_dir=str(directory))
    found = Templar(loader=DataLoader(), variables=variables).template(variables["__pki_faults"])
    return " ".join((found or "").split())


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
    assert faults(directory).startswith(
        f"pki_directory: {directory} holds ca.key and certificates that it issued, and no ca.crt"
    )
