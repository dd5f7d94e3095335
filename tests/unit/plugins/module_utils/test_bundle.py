# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle is held against its list: what is missing, cut off, changed, or not in it is told by name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bundle

IMAGE = "sha256:" + "a" * 64
WEIGHTS = "sha256:" + "b" * 64
MODEL = "registry.ollama.ai/library/qwen3:8b"
PINNED, NEWER = {"nginx": "", "docker-ce": "5:29.6.1-"}, {"docker-ce": "5:30.0.0-"}
DEB = "apt/trixie/nginx_1.26.3-3+deb13u10_amd64.deb"


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, _bundle.Bundle]:
    """A bundle of three files as bundle.yml leaves it."""
    place = tmp_path / "bundle"
    for path, text in {
        DEB: "a package",
        "oci/blobs/sha256/" + "c" * 64: "weights",
        "python/a-1.0-py3-none-any.whl": "w",
    }.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    made = _bundle.Bundle(
        "0.1.0",
        (
            _bundle.Distribution(
                "trixie", "amd64", {"nginx": "1.26.3-3+deb13u10", "docker-ce": "5:29.6.1-1~debian.13~trixie"}
            ),
        ),
        (_bundle.Image("docker.io/ollama/ollama:0.32.15", IMAGE),),
        (_bundle.Model(MODEL, WEIGHTS, "sha256:" + "d" * 64),),
        (_bundle.ModelFile("e" * 64, 7),),
        _bundle.contents(_bundle.Reader(str(place), {})),
    )
    (place / "bundle.json").write_bytes(made.text())
    return place, made


def check(place: Path, stamps: dict[str, Any] | None = None) -> tuple[list[str], dict[str, Any], int]:
    """Faults, stamps, and how many bytes were read."""
    count = [0]

    def report(number: int) -> None:
        count[0] += number

    reader = _bundle.Reader(str(place), stamps or {}, report)
    faults = _bundle.check(reader, _bundle.load(str(place))[0])
    return faults, reader.stamps, count[0]


def test_the_list_says_the_same_again(bundle: tuple[Path, _bundle.Bundle]) -> None:
    place, made = bundle
    found, sha256 = _bundle.load(str(place), hashlib.sha256(made.text()).hexdigest())
    assert found.text() == made.text()
    assert sha256 == hashlib.sha256(made.text()).hexdigest()


def test_a_whole_bundle_is_read_once(bundle: tuple[Path, _bundle.Bundle]) -> None:
    place, made = bundle
    faults, stamps, read = check(place)
    assert (faults, read) == ([], made.size)
    assert check(place, stamps) == ([], stamps, 0)


def test_another_list_than_the_one_that_is_pinned(bundle: tuple[Path, _bundle.Bundle]) -> None:
    with pytest.raises(_bundle.BundleError, match=r"and 0{64} is wanted"):
        _bundle.load(str(bundle[0]), "0" * 64)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(_bundle.BundleError, match=r"there is no bundle in .*bundle.json: No such file"):
        _bundle.load(str(tmp_path))


def test_a_changed_byte_fails_with_its_file_though_size_and_mtime_are_as_before(
    bundle: tuple[Path, _bundle.Bundle],
) -> None:
    place, _made = bundle
    _faults, stamps, _read = check(place)
    before = (place / DEB).stat()
    (place / DEB).write_text("A package")
    os.utime(place / DEB, ns=(before.st_atime_ns, before.st_mtime_ns))
    (fault,) = check(place, stamps)[0]
    assert fault.startswith(f"{DEB} has the sha256 ")
    assert "a byte of it was changed" in fault


def test_a_missing_and_a_truncated_file_fail_by_name(bundle: tuple[Path, _bundle.Bundle]) -> None:
    place, made = bundle
    missing, short = made.contents[0].path, made.contents[1].path
    (place / missing).unlink()
    (place / short).write_text("we")
    faults = check(place)[0]
    assert faults == [
        f"{missing} is missing (No such file or directory)",
        f"{short} has 2 bytes, and bundle.json says 7: it was cut off or changed",
    ]


def test_a_link_out_of_the_bundle_is_no_file_of_it(bundle: tuple[Path, _bundle.Bundle], tmp_path: Path) -> None:
    place, _made = bundle
    (tmp_path / "elsewhere").write_text("a package")
    (place / DEB).unlink()
    (place / DEB).symlink_to(tmp_path / "elsewhere")
    assert check(place)[0] == [f"{DEB} is no file of the bundle's own, but a link or something else"]
    (place / DEB).unlink()
    (place / "apt/trixie").rename(tmp_path / "trixie")
    (tmp_path / "trixie" / DEB.rpartition("/")[2]).write_text("a package")
    (place / "apt/trixie").symlink_to(tmp_path / "trixie")
    assert check(place)[0] == [f"{DEB} is no file of the bundle's own, but a link or something else"]


def test_a_check_that_is_bound_in_time_goes_on(bundle: tuple[Path, _bundle.Bundle]) -> None:
    place, made = bundle
    stamps: dict[str, Any] = {}
    turns = 0
    while True:
        allowed = iter([True])
        reader = _bundle.Reader(str(place), stamps, go_on=lambda left=allowed: next(left, False))
        turns += 1
        try:
            assert _bundle.check(reader, made) == []
            break
        except _bundle.Paused:
            assert len(reader.stamps) == len(stamps) + 1
            stamps = reader.stamps
    assert turns == len(made.contents)


@pytest.fixture
def long(tmp_path: Path) -> tuple[Path, _bundle.Bundle]:
    """A bundle of one file of 3 MiB and a bit."""
    place = tmp_path / "long"
    place.mkdir()
    (place / "a").write_bytes(bytes(range(256)) * 12290)
    return place, _bundle.Bundle("0.1.0", contents=_bundle.contents(_bundle.Reader(str(place), {})))


def test_a_long_file_is_read_in_turns_that_tell_how_far_they_are(long: tuple[Path, _bundle.Bundle]) -> None:
    place, made = long
    stamps, read, told = {}, [], []
    while True:
        # As the module keeps them.
        reader = _bundle.Reader(str(place), json.loads(json.dumps(stamps)), read.append, lambda: False)
        try:
            assert _bundle.check(reader, made) == []
            break
        except _bundle.Paused:
            stamps = reader.stamps
            told.append(reader.progress(["a", "gone"]))
    size = 256 * 12290
    assert told == [(done, size) for done in (2**20, 2 * 2**20, 3 * 2**20, size)]
    assert sum(read) == size


def test_a_file_that_changes_between_turns_is_read_anew(long: tuple[Path, _bundle.Bundle]) -> None:
    place, made = long
    reader = _bundle.Reader(str(place), {}, go_on=lambda: False)
    with pytest.raises(_bundle.Paused):
        _bundle.check(reader, made)
    with (place / "a").open("r+b") as stream:
        stream.write(b"x")
    assert reader.progress(["a"])[0] == 0
    (fault,) = _bundle.check(_bundle.Reader(str(place), reader.stamps), made)
    assert fault.startswith("a has the sha256 ")


def test_without_openssl_a_file_is_read_whole_and_the_next_one_in_the_next_turn(
    long: tuple[Path, _bundle.Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bundle._digest, "_library", lambda: None)
    place, _made = long
    (place / "b").write_bytes(b"b")
    made = _bundle.Bundle("0.1.0", contents=_bundle.contents(_bundle.Reader(str(place), {})))
    reader = _bundle.Reader(str(place), {}, go_on=lambda: False)
    with pytest.raises(_bundle.Paused):
        _bundle.check(reader, made)
    assert reader.progress("ab") == (256 * 12290, 256 * 12290 + 1)
    assert _bundle.check(_bundle.Reader(str(place), reader.stamps, go_on=lambda: False), made) == []


def spoil(made: _bundle.Bundle, **fields: Any) -> bytes:
    data = json.loads(made.text())
    for name, value in fields.items():
        if isinstance(value, dict) and isinstance(data[name], list):
            data[name][0].update(value)
        else:
            data[name] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": 2}, "has the schema 2; this version of the collection reads 1"),
        ({"schema": None}, "has the schema None"),
        ({"collection": []}, "collection has no version"),
        ({"models": {"digest": "sha256:abc"}}, "digest of an entry of models is 'sha256:abc'"),
        ({"models": "none"}, "models is no list"),
        ({"models": [1]}, "an entry of models is 1; it must have name, digest, manifest_digest"),
        ({"contents": {"size": -1}}, "size of an entry of contents is '-1'"),
        ({"contents": {"size": True}}, "size of an entry of contents is 'True'"),
        ({"contents": {"sha256": "A" * 64}}, "sha256 of an entry of contents"),
        ({"contents": {"more": 1}}, "it must have path, size, sha256"),
        ({"distributions": {"packages": {"nginx": 1}}}, "packages of an entry of distributions"),
        *(
            ({"contents": {"path": path}}, "path of an entry of contents")
            for path in ("/etc/passwd", "../x", "a/../../x", "a//b", "./a", "", "a/", "a\\b", "a\nb", "a b", 7)
        ),
    ],
)
def test_a_list_that_cannot_be(bundle: tuple[Path, _bundle.Bundle], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(_bundle.BundleError) as error:
        _bundle.parse(spoil(bundle[1], **fields))
    assert said in str(error.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 10000, b'{"schema": 1}'])
def test_what_is_no_list(data: bytes) -> None:
    with pytest.raises(_bundle.BundleError):
        _bundle.parse(data)


def test_a_file_that_is_named_twice(bundle: tuple[Path, _bundle.Bundle]) -> None:
    data = json.loads(bundle[1].text())
    data["contents"].append(data["contents"][0])
    with pytest.raises(_bundle.BundleError, match=r"contents names .* twice"):
        _bundle.parse(json.dumps(data).encode())


def wants(**more: Any) -> dict[str, Any]:
    return {
        "models": [{"name": MODEL, "digest": WEIGHTS, "hosts": ["gpu01"]}],
        "images": [{"reference": "ollama/ollama:0.32.15", "digest": IMAGE, "hosts": ["gpu01"]}],
        "files": [{"name": "own:1b", "sha256": "e" * 64, "hosts": ["gpu01"]}],
        "packages": [{"release": "trixie", "architecture": "amd64", "packages": PINNED, "hosts": ["gw01"]}],
        **more,
    }  # fmt: skip


def test_nothing_lacks(bundle: tuple[Path, _bundle.Bundle]) -> None:
    assert _bundle.lacking(bundle[1], wants()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"models": [{"name": MODEL.replace("8b", "4b"), "digest": "", "hosts": ["gpu01", "gpu02"]}]},
            "it has no model registry.ollama.ai/library/qwen3:4b, which gpu01, gpu02 want",
        ),
        (
            {"models": [{"name": MODEL, "digest": IMAGE, "hosts": ["gpu01"]}]},
            f"it has the model {MODEL} with the weights {WEIGHTS}, and gpu01 wants {IMAGE}",
        ),
        (
            {"images": [{"reference": "ollama/ollama:0.33.0", "digest": WEIGHTS, "hosts": ["gpu01"]}]},
            f"it has no image ollama/ollama:0.33.0@{WEIGHTS}, which gpu01 wants",
        ),
        (
            {"files": [{"name": "own:1b", "sha256": "f" * 64, "hosts": ["gpu01"]}]},
            f"it has no file of own:1b with the sha256 {'f' * 64}, which gpu01 wants",
        ),
        (
            {"packages": [{"release": "noble", "architecture": "amd64", "packages": {}, "hosts": ["gw01"]}]},
            "it has no packages for noble amd64, which gw01 wants; it has some for: trixie amd64",
        ),
        (
            {"packages": [{"release": "trixie", "architecture": "amd64", "packages": {"ufw": ""}, "hosts": ["gw01"]}]},
            "it has no package ufw for trixie, which gw01 wants",
        ),
        (
            {"packages": [{"release": "trixie", "architecture": "amd64", "packages": NEWER, "hosts": ["gw01"]}]},
            "it has the package docker-ce 5:29.6.1-1~debian.13~trixie for trixie, and gw01 wants 5:30.0.0-*",
        ),
    ],
)  # fmt: skip
def test_what_lacks_is_told_by_name(bundle: tuple[Path, _bundle.Bundle], more: dict[str, Any], said: str) -> None:
    assert _bundle.lacking(bundle[1], wants(**more)) == [said]


def test_many_hosts_are_not_all_named(bundle: tuple[Path, _bundle.Bundle]) -> None:
    hosts = [f"gpu{number:02}" for number in range(9)]
    (fault,) = _bundle.lacking(bundle[1], {"models": [{"name": "x:1", "hosts": hosts}]})
    assert fault == "it has no model x:1, which gpu00, gpu01, gpu02, gpu03 and 5 more want"


def test_a_name_that_no_bundle_can_have(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("")
    with pytest.raises(_bundle.BundleError, match="a b cannot be in a bundle"):
        _bundle.contents(_bundle.Reader(str(tmp_path), {}))


def test_writing_the_same_is_no_change(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b")
    assert [_bundle.write(path, b"1"), _bundle.write(path, b"1"), _bundle.write(path, b"2")] == [True, False, True]
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_what_a_run_that_was_killed_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "b.new").write_bytes(b"half")
    assert _bundle.write(str(tmp_path / "b"), b"whole")
    assert os.listdir(tmp_path) == ["b"]


def test_the_releases_are_those_of_the_roles() -> None:
    import yaml

    text = (Path(__file__).resolve().parents[4] / "roles/system/vars/main.yml").read_text(encoding="utf-8")
    assert list(_bundle.RELEASES) == yaml.safe_load(text)["__system_releases"]
