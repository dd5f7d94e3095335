# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle's signature, made and checked by ssh-keygen itself: what is wrong with it is told with file and key."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bundle

Run = Callable[..., dict[str, Any]]
Look = Callable[..., list[str]]
NAMESPACE = _bundle.SIGNATURE_NAMESPACE


def keygen(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["ssh-keygen", *arguments], input=data, capture_output=True, check=True).stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))
    return path


def signers(key: Path, principals: str = "builder", options: str = "") -> str:
    return f"{principals} {options}{key.with_suffix('.pub').read_text()}"


def fingerprint(key: Path) -> str:
    return keygen("-l", "-f", str(key)).split()[1].decode()


def sign(place: Path, key: Path, namespace: str = NAMESPACE) -> None:
    data = (place / "bundle.json").read_bytes()
    signature = keygen("-Y", "sign", "-f", str(key), "-n", namespace, data=data)
    (place / "bundle.json.sig").write_bytes(signature)


@pytest.fixture
def place(tmp_path: Path, key: Path) -> Path:
    """A bundle of one file, signed."""
    place = tmp_path / "bundle"
    (place / "python").mkdir(parents=True)
    (place / "python/a-1.0-py3-none-any.whl").write_text("a wheel")
    made = _bundle.Bundle("0.1.0", contents=_bundle.contents(_bundle.Reader(str(place), {})))
    (place / "bundle.json").write_bytes(made.text())
    sign(place, key)
    return place


@pytest.fixture
def look(run: Run, place: Path, tmp_path: Path) -> Look:
    def faults(**given: Any) -> list[str]:
        found = run("bundle_info", path=str(place), stamps=str(tmp_path / "stamps.json"), **given)["faults"]
        assert {fault["role"] for fault in found} <= {"model_mirror"}
        return [fault["message"].removeprefix(f"model_mirror_bundle is {place}: ") for fault in found]

    return faults


def test_a_signature_of_a_signer_is_no_fault(look: Look, place: Path, key: Path) -> None:
    sha256 = hashlib.sha256((place / "bundle.json").read_bytes()).hexdigest()
    assert look(sha256=sha256, signers=signers(key)) == []
    assert look(signers="# ours\n" + signers(key, "builder,other@example.com", 'namespaces="onprem-llm-*" ')) == []


def test_without_signers_none_is_asked_for(look: Look, place: Path) -> None:
    (place / "bundle.json.sig").unlink()
    assert look() == []


def test_a_signature_that_is_missing(look: Look, place: Path, key: Path) -> None:
    (place / "bundle.json.sig").unlink()
    assert look(signers=signers(key)) == [
        "it has no signature, bundle.json.sig, and model_mirror_bundle_signers asks for one"
    ]


def test_a_byte_of_the_list_that_was_changed(look: Look, place: Path, key: Path) -> None:
    listed = place / "bundle.json"
    listed.write_bytes(listed.read_bytes().replace(b'"version": "0.1.0"', b'"version": "0.1.1"'))
    (fault,) = look(signers=signers(key))
    assert fault.startswith(
        "bundle.json.sig is no signature of bundle.json: one of the two was changed, or is of another bundle ("
    )


@pytest.mark.parametrize("position", [0, 60, 200, -40])
def test_a_byte_of_the_signature_that_was_changed(look: Look, place: Path, key: Path, position: int) -> None:
    path = place / "bundle.json.sig"
    data = bytearray(path.read_bytes())
    data[position] = ord("B") if data[position] != ord("B") else ord("C")
    path.write_bytes(data)
    (fault,) = look(signers=signers(key))
    assert fault.startswith("bundle.json.sig is no signature of bundle.json: ")


@pytest.mark.parametrize("text", ["", "\x00\xff", "-----BEGIN SSH SIGNATURE-----\n"])
def test_what_is_no_signature_of_a_long_list(look: Look, place: Path, key: Path, text: str) -> None:
    """The tool ends before it has read a list that is longer than a pipe's 64 KiB."""
    listed = place / "bundle.json"
    listed.write_bytes(listed.read_bytes() + b" " * 2**20)
    (place / "bundle.json.sig").write_text(text)
    (fault,) = look(signers=signers(key))
    assert fault.startswith("bundle.json.sig is no signature of bundle.json: ")


def test_a_signature_for_another_purpose(look: Look, place: Path, key: Path) -> None:
    sign(place, key, "file")
    (fault,) = look(signers=signers(key))
    assert fault.startswith("bundle.json.sig is no signature of bundle.json: ")
    assert "namespace" in fault


def test_a_foreign_key_is_named(look: Look, place: Path, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    keygen("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(other))
    sign(place, other)
    (fault,) = look(signers=signers(key))
    assert fault.startswith(f"bundle.json.sig was made by ED25519 key {fingerprint(other)}, which model_mirror_bundle")


def test_a_signer_who_may_sign_something_else(look: Look, key: Path) -> None:
    (fault,) = look(signers=signers(key, options='namespaces="file" '))
    assert f"was made by ED25519 key {fingerprint(key)}, which model_mirror_bundle_signers does not allow" in fault
    assert f'not permitted for use in signature namespace "{NAMESPACE}"' in fault


def test_signers_that_are_none(look: Look) -> None:
    (fault,) = look(signers="nobody")
    assert "model_mirror_bundle_signers:1: missing key" in fault


def test_another_bundle_by_another_signer_is_told_at_once(look: Look, place: Path, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(other))
    first, second = look(sha256="0" * 64, signers=signers(other))
    assert first.startswith(f"bundle.json.sig was made by ED25519 key {fingerprint(key)}, ")
    assert second.endswith(f"and {'0' * 64} is wanted: it is another bundle, or was changed")


def test_a_changed_file_fails_beside_a_good_signature(look: Look, place: Path, key: Path) -> None:
    (place / "python/a-1.0-py3-none-any.whl").write_text("b wheel")
    (fault,) = look(signers=signers(key))
    assert fault.startswith("python/a-1.0-py3-none-any.whl has the sha256 ")


def test_no_bundle_asks_for_no_signature(look: Look, place: Path, key: Path) -> None:
    (place / "bundle.json").unlink()
    (fault,) = look(signers=signers(key))
    assert fault.startswith("there is no bundle in ")
