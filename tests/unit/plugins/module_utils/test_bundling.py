# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle is made from a registry on loopback and packages by an apt that the test plays; twice is once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _apt, _bundle, _bundling, _digest, _transfer, _turn
from registry_fake import serve

MODEL = "registry.ollama.ai/library/tiny:1"
WEIGHTS = b"GGUF" + bytes(range(256)) * 1000
LIMITS = _transfer.Limits(stall_seconds=5, attempts=2, backoff_seconds=0.01)
PARAGRAPH = """Package: nginx
Version: 1:1.26.3-3
Architecture: amd64
Depends: libc6
Filename: pool/main/n/nginx/nginx_1.26.3-3_amd64.deb
Size: 4
SHA256: {}
Description: a server
 in two lines
"""


def make(place: Path, url: str, wants: dict[str, Any], run: Any = None) -> tuple[list[str], str, bool]:
    """Make a bundle: the purposes of what was fetched, the list's SHA-256, whether it changed."""
    registries = [_bundling.Registry("registry.ollama.ai", url)]
    place.mkdir(exist_ok=True)
    with _transfer.Staging(f"{place}.staging") as staging:
        looker = _bundling.Looker(
            str(place), staging.path, registries, LIMITS, run or (lambda command: (1, "", "none"))
        )
        plan = _bundling.Plan.load(looker.look(wants).dump())
        reader = _bundle.Reader(str(place), {})
        missing = _bundling.missing(plan, reader)
        for piece in missing:
            _bundling.bring(piece, looker, staging, reader, _turn.Turn(LIMITS), 0, 0)
        _made, sha256, changed = _bundling.seal(plan, reader, "0.1.0")
    return [piece.purpose for piece in missing], sha256, changed


def faults(place: Path) -> list[str]:
    return _bundle.check(_bundle.Reader(str(place), {}), _bundle.load(str(place))[0])


def test_a_model_and_a_file_are_bundled_once(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF own")
    sha256 = hashlib.sha256(b"GGUF own").hexdigest()
    place = tmp_path / "bundle"
    with serve() as (state, url):
        digest = state.put("tiny:1", WEIGHTS)
        wants = {
            "models": [{"name": MODEL, "digest": digest}],
            "files": [{"name": "own:1", "sha256": sha256, "path": str(own)}],
        }
        first = make(place, url, wants)
        sent = state.sent
        second = make(place, url, wants)
        assert state.sent == sent
    assert set(first[0]) == {f"model {MODEL}", "file of own:1"}
    assert second == ([], first[1], False)
    assert faults(place) == []
    bundle = _bundle.load(str(place))[0]
    assert [model.digest for model in bundle.models] == [digest]
    assert [file.sha256 for file in bundle.files] == [sha256]
    names = [
        e["annotations"]["org.opencontainers.image.ref.name"]
        for e in json.loads((place / "oci/index.json").read_text())["manifests"]
    ]
    assert names == ["library/tiny:1", f"onprem-llm/files:sha256-{sha256}"]


def test_a_changed_blob_comes_anew_and_what_nobody_wants_goes(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    with serve() as (state, url):
        digest = state.put("tiny:1", WEIGHTS)
        wants = {"models": [{"name": MODEL, "digest": digest}]}
        before = make(place, url, wants)
        blob = place / _bundling.blob_path(digest)
        blob.write_bytes(b"x" + WEIGHTS[1:])
        (place / "oci/blobs/sha256/left-over").write_text("")
        after = make(place, url, wants)
    assert after == ([f"model {MODEL}"], before[1], True)
    assert blob.read_bytes() == WEIGHTS
    assert faults(place) == []


def test_a_tag_that_was_re_pointed(tmp_path: Path) -> None:
    with serve() as (state, url):
        digest = state.put("tiny:1", WEIGHTS)
        with pytest.raises(
            _bundle.BundleError, match=f"has the weights {digest} at its registry, and sha256:0+ is pinned"
        ):
            make(tmp_path / "bundle", url, {"models": [{"name": MODEL, "digest": "sha256:" + "0" * 64}]})


def test_a_file_with_another_content(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    want = {"name": "own:1", "sha256": "0" * 64, "path": str(tmp_path / "own.gguf")}
    with serve() as (_state, url), pytest.raises(_bundle.BundleError, match=r"has the sha256 .*, not 0000"):
        make(tmp_path / "bundle", url, {"files": [want]})


def test_a_file_is_copied_in_turns_that_go_on(tmp_path: Path) -> None:
    content = bytes(range(256)) * 12290
    own, place = tmp_path / "own.gguf", tmp_path / "bundle"
    own.write_bytes(content)
    digest = _digest.of_bytes(content)
    piece = _bundling.Piece(_bundling.blob_path(digest), digest, len(content), "file of own:1", {"file": str(own)})
    reader, told, kinds = _bundle.Reader(str(place), {}), [], set()
    place.mkdir()
    with _transfer.Staging(str(tmp_path / "staging")) as staging:

        def brought() -> bool:
            turn = _turn.Turn(_transfer.Limits(seconds=1e-6))
            try:
                _bundling.bring(piece, None, staging, reader, turn, 5, 5 + len(content))
            except _turn.Pending as pending:
                told.append(pending.done_bytes - 5)
                kinds.add((pending.phase, pending.total_bytes))
                assert _bundling.here(piece, staging) == told[-1]
                return False
            return True

        while not brought():
            pass
        assert told == [2**20, 2 * 2**20, 3 * 2**20, len(content)]
        assert (place / piece.path).read_bytes() == content
        assert _bundling.here(piece, staging) == 0
        # Another file under that path, and a copy that was cut off, begin anew.
        for spoil in (
            lambda: own.write_bytes(content[::-1] + b"x"),
            lambda: os.truncate(f"{place / piece.path}.new", 9),
        ):
            (place / piece.path).unlink(missing_ok=True)
            own.write_bytes(content)
            del told[:]
            assert not brought()
            assert not brought()
            spoil()
            assert not brought()
            assert told == [2**20, 2 * 2**20, 2**20]
        while not brought():
            pass
        assert (place / piece.path).read_bytes() == content
    assert kinds == {("transfer", 5 + len(content))}


def test_a_file_that_the_controller_copied_to_its_place(tmp_path: Path) -> None:
    """The controller is another host, and has the file under a path that is not here."""
    place, sha256 = tmp_path / "bundle", hashlib.sha256(b"GGUF own").hexdigest()
    want = {"name": "own:1", "sha256": sha256, "path": "/controller/own.gguf", "size": 8}
    blob = place / _bundling.blob_path(f"sha256:{sha256}")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF own")
    with serve() as (_state, url):
        assert make(place, url, {"files": [want]})[0] == []
        assert faults(place) == []
        blob.write_bytes(b"GGUF oth")
        said = rf"/controller/own.gguf, .* should have the sha256 {sha256}; it is not on this host, and oci/blobs/"
        with pytest.raises(_bundle.BundleError, match=said):
            make(place, url, {"files": [want]})
        blob.unlink()
        with pytest.raises(_bundle.BundleError, match=r"it is not on this host$"):
            make(place, url, {"files": [want]})


def packages(version: str = "") -> dict[str, Any]:
    return {
        "release": "trixie",
        "architecture": "amd64",
        "packages": {"nginx": version},
        "sources": {"a.sources": "Types: deb\n"},
    }


def test_packages_are_those_that_apt_chose(tmp_path: Path) -> None:
    commands: list[list[str]] = []
    text = PARAGRAPH.format(hashlib.sha256(b"deb!").hexdigest())

    def run(command: list[str]) -> tuple[int, str, str]:
        commands.append(command)
        if "install" in command:
            url = "http://a.test/debian/pool/main/n/nginx/nginx_1.26.3-3_amd64.deb"
            return 0, f"'{url}' nginx_1%3a1.26.3-3_amd64.deb 4 SHA256:x\n", ""
        return 0, text if "show" in command else "", ""

    looker = _bundling.Looker(str(tmp_path), str(tmp_path / "s"), [], LIMITS, run)
    plan = looker.look({"packages": [packages("1:1.26.")]})
    assert [command[-1] for command in commands] == ["update", "nginx=1:1.26.*", "nginx=1:1.26.3-3"]
    assert [piece.path for piece in plan.pieces] == ["apt/trixie/nginx_1.26.3-3_amd64.deb"]
    assert plan.distributions == [_bundle.Distribution("trixie", "amd64", {"nginx": "1:1.26.3-3"})]
    assert {"apt/trixie/Packages", "apt/trixie/Release"} <= set(plan.texts)


def test_a_package_that_there_is_none_of(tmp_path: Path) -> None:
    def run(command: list[str]) -> tuple[int, str, str]:
        return (100, "", "E: Unable to locate package nginx\n") if "install" in command else (0, "", "")

    looker = _bundling.Looker(str(tmp_path), str(tmp_path / "s"), [], LIMITS, run)
    with pytest.raises(_apt.AptError, match="apt-get for trixie: E: Unable to locate package nginx"):
        looker.look({"packages": [packages()]})


def test_no_keyring_no_packages(tmp_path: Path) -> None:
    want = packages() | {"sources": {"a.sources": "Signed-By: /nowhere/ubuntu-archive-keyring.gpg\n"}}
    looker = _bundling.Looker(str(tmp_path), str(tmp_path / "s"), [], LIMITS, lambda command: (0, "", ""))
    with pytest.raises(_apt.AptError, match="install the package ubuntu-keyring"):
        looker.look({"packages": [want]})


def test_the_index_places_each_package_here() -> None:
    text = PARAGRAPH.format("a" * 64)
    wanted = {("nginx", "1:1.26.3-3", "amd64"): "http://a.test/pool/main/n/nginx/nginx_1.26.3-3_amd64.deb"}
    found = _apt.described(text, wanted)
    index = _apt.index(found).decode()
    assert "Filename: ./nginx_1.26.3-3_amd64.deb" in index
    assert "pool/" not in index
    release = _apt.release("trixie", "amd64", {"Packages": index.encode()}).decode()
    assert f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} Packages" in release
    assert release == _apt.release("trixie", "amd64", {"Packages": index.encode()}).decode()
    with pytest.raises(_apt.AptError, match="apt says no SHA-256 of nginx_2_amd64"):
        _apt.described(text, {("nginx", "2", "amd64"): "http://a.test/x.deb"})
