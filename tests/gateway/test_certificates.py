# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role finds wrong with given certificates: its own script, on real files, and the faults made of it."""

from __future__ import annotations

import datetime
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.gateway.sites import free_port, variables
from tests.unit.role_templates import ROLES, evaluated, trusted

GATHER = yaml.safe_load((ROLES / "gateway/tasks/gather.yml").read_text(encoding="utf-8"))[0]
VERIFY = yaml.safe_load((ROLES / "gateway/tasks/verify.yml").read_text(encoding="utf-8"))
NOW = datetime.datetime.now(datetime.timezone.utc)
KEYS: dict[str, Any] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA 1024": lambda: rsa.generate_private_key(65537, 1024),
    "DSA 2048": lambda: dsa.generate_private_key(2048),
}


def certificate(directory: Path, key: Any, days: float = 90, authority: bool = False, name: str = "own") -> str:
    """A file of a certificate for localhost, signed by itself, that ends in ``days``; ``NAME.key`` beside it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=400))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    signed = built.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path = directory / f"{name}.crt"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return str(path)


def ends(path: str) -> str:
    said = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-enddate"], capture_output=True, text=True, check=True
    )
    return said.stdout.strip().partition("=")[2]


def looked(own: str = "", client: str = "", **more: Any) -> dict[str, Any]:
    """The role's variables for these files, with what its script says of them."""
    given = {
        "gateway_tls_certificate": own, "gateway_client_ca": client, **more,
        "gateway_tls_private_key": own.replace(".crt", ".key"),
        "gateway_users": [{"name": "app", "api_keys": [{"sha256": "5e" * 32}]}],
    }  # fmt: skip
    values = variables([("127.0.0.1", 1)], 8443, given)
    values["__gateway_look"] = trusted(GATHER["vars"]["__gateway_look"])
    argv = evaluated(trusted(GATHER["ansible.builtin.command"]["argv"]), values)
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    # What nginx this machine has is not the matter.
    files = [line for line in said if line.startswith(("fault ", "certificate ", "nginx has "))]
    return values | {"__gateway_state": {"stdout_lines": ["installed nginx=1.22.1-9", *files]}}


def faults(values: dict[str, Any]) -> list[str]:
    return [
        line.strip() for line in str(evaluated(values["__gateway_faults"], values) or "").splitlines() if line.strip()
    ]


@pytest.mark.parametrize("kind", ["P-256", "Ed25519", "RSA 2048"])
def test_strong_keys_are_no_fault(tmp_path: Path, kind: str) -> None:
    own = certificate(tmp_path, KEYS[kind]())
    client = certificate(tmp_path, KEYS[kind](), authority=True, name="clients")
    assert faults(looked(own, client)) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("RSA 1024", "is weak, of RSA with 1024 bits; give one with 2048 or more."),
        ("P-224", "is weak, of an elliptic curve with 224 bits; give one with 256 or more."),
        ("DSA 2048", "is of DSA, which nobody takes any more; give one of RSA or of an elliptic curve."),
    ],
)
def test_weak_keys(tmp_path: Path, kind: str, said: str) -> None:
    own = certificate(tmp_path, KEYS[kind]())
    client = certificate(tmp_path, KEYS[kind](), authority=True, name="clients")
    assert faults(looked(own, client)) == [
        f"gateway_tls_certificate, gateway_tls_private_key: {own.replace('.crt', '.key')} {said}",
        f"gateway_client_ca: certificate 1 in {client} {said}",
    ]


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    own = certificate(tmp_path, KEYS["P-256"](), days=-1)
    (fault,) = faults(looked(own))
    assert fault.startswith(f"gateway_tls_certificate, gateway_tls_private_key: {own} ended on ")


def test_clients_authorities_that_are_none(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.crt")
    assert faults(looked(client=missing)) == [f"gateway_client_ca: {missing} is not on the host, or cannot be read."]
    assert faults(looked(client=str(tmp_path))) == [
        f"gateway_client_ca: {tmp_path} is not on the host, or cannot be read."
    ]
    empty = tmp_path / "empty.crt"
    empty.write_text("no certificate\n")
    assert faults(looked(client=str(empty))) == [f"gateway_client_ca: {empty} has no certificate in PEM form."]


def test_each_of_the_clients_authorities_counts(tmp_path: Path) -> None:
    good = certificate(tmp_path, KEYS["P-256"](), authority=True, name="good")
    ended = certificate(tmp_path, KEYS["P-256"](), days=-2, authority=True, name="ended")
    leaf = certificate(tmp_path, KEYS["P-256"](), name="leaf")
    bundle = tmp_path / "clients.crt"
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle.write_text("A comment.\n" + "".join(Path(part).read_text() for part in (good, ended, leaf)) + broken)
    found = faults(looked(client=str(bundle)))
    assert [fault.removeprefix("gateway_client_ca: certificate ").split(" (")[0] for fault in found] == [
        f"2 in {bundle} ended on {ends(ended)}; give one that is valid.",
        f"3 in {bundle} is no authority's",
        f"4 in {bundle} is none in PEM form.",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"gateway_trusted_proxies": ["192.0.2.9"]},
            "gateway_fail2ban: bans by the address that packets come from, which behind 192.0.2.9 is a proxy's",
        ),
        ({"gateway_fail2ban_ignore": ["somewhere"]}, "gateway_fail2ban_ignore: has 'somewhere'; give an address"),
        ({"gateway_fail2ban_maxretry": 0}, "gateway_fail2ban_maxretry: 0 must be at least 1."),
    ],
)
def test_a_jail_that_must_not_be(given: dict[str, Any], said: str) -> None:
    assert faults(looked() | {"gateway_fail2ban": True}) == []
    assert faults(looked() | {"gateway_fail2ban": True} | given)[0].startswith(said)


@pytest.mark.parametrize(("days", "told"), [(13.5, True), (14.5, False), (90, False)])
def test_the_preflight_report_notes_a_certificate_that_ends_soon(tmp_path: Path, days: float, told: bool) -> None:
    own = certificate(tmp_path, KEYS["P-256"](), days=days)
    values = looked(own)
    assert faults(values) == []
    notes = evaluated(values["__gateway_outlook"]["note"], values)
    assert notes == ([f"gateway_tls_certificate ends in 13 days, on {ends(own)}; replace it"] if told else [])


@pytest.mark.parametrize(("days", "ok"), [(13.5, False), (14.5, True), (None, False)])
def test_the_verification_tells_the_days_that_the_served_certificate_has(
    tmp_path: Path, days: float | None, ok: bool
) -> None:
    """From a real handshake; where there is none, that is the fault."""
    values = looked()
    values["__gateway_served"] = {"stdout": ""}
    if days is not None:
        own = certificate(tmp_path, KEYS["P-256"](), days=days)
        port = free_port()
        server = subprocess.Popen(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", own, "-key", own.replace(".crt", ".key")],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(50):
                time.sleep(0.1)
                said = subprocess.run(
                    ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"],
                    input="", capture_output=True, text=True, check=False,
                )  # fmt: skip
                if said.returncode == 0:
                    break
        finally:
            server.kill()
            server.wait()
        values["__gateway_served"] = {"stdout": said.stdout}
    result = trusted(VERIFY[-1]["vars"]["__gateway_end_result"])
    found = evaluated(result, values)
    assert found["ok"] is ok
    assert found["found"] == (f"{int(days)} days, to {ends(own)}" if days is not None else "none was shown")
