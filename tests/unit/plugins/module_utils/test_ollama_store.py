# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ollama's models directory as files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store
from ansible_collections.onprem.llm.plugins.module_utils._ollama_verify import Verification
from ansible_collections.onprem.llm.plugins.module_utils._transfer import Limits
from ansible_collections.onprem.llm.plugins.module_utils._turn import Turn

OWN, REWRITTEN = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SYSTEM = {"mediaType": "application/vnd.ollama.image.system", "digest": "sha256:" + "c" * 64, "size": 3}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    for name, weights in (("chat", REWRITTEN), ("other", OWN)):
        path = Path(store.manifest_path(str(directory), name))
        path.parent.mkdir(parents=True)
        layers = [{"mediaType": store.WEIGHTS_TYPE, "digest": weights, "size": 4}, SYSTEM]
        path.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
        path.chmod(0o640)
    (directory / "blobs").mkdir()
    for digest, content in ((OWN, b"12345"), (REWRITTEN, b"1234")):
        Path(store.blob_path(str(directory), digest)).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gemma3", "registry.ollama.ai/library/gemma3/latest"),
        ("gemma3:270m", "registry.ollama.ai/library/gemma3/270m"),
        ("house/model:1", "registry.ollama.ai/house/model/1"),
        ("mirror.example:5000/house/model", "mirror.example:5000/house/model/latest"),
    ],
)
def test_manifests_place(name: str, path: str) -> None:
    assert store.manifest_path("/m", name) == f"/m/manifests/{path}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b/c/d",
        "a/b/c/d/e",
        "../x",
        "a/../b",
        "x:..",
        "a//b",
        ".hidden",
        "/etc/passwd",
        "%2e%2e/x",
        "a" * 400,
        "a\nb",
        "a\x00",
        "x:1\n",
        "ä",
        "a:b:c",
        "host:port/a/b",
    ],
)
def test_name_that_is_none(name: str) -> None:
    with pytest.raises(store.StoreError, match="is no model's name"):
        store.manifest_path("/m", name)


def test_weights_are_put_back(models: Path) -> None:
    store.put_weights_back(str(models), "chat:latest", REWRITTEN, OWN)
    path = Path(store.manifest_path(str(models), "chat"))
    manifest = json.loads(path.read_text())
    assert manifest["layers"] == [{"mediaType": store.WEIGHTS_TYPE, "digest": OWN, "size": 5}, SYSTEM]
    assert path.stat().st_mode & 0o777 == 0o640
    assert not Path(store.blob_path(str(models), REWRITTEN)).exists()
    assert sorted(entry.name for entry in models.iterdir()) == ["blobs", "manifests"]


def test_weights_that_another_model_has_stay(models: Path) -> None:
    path = Path(store.manifest_path(str(models), "other"))
    path.write_text(path.read_text().replace(OWN, REWRITTEN))
    (path.parent / "broken").write_text("{")
    store.put_weights_back(str(models), "chat", REWRITTEN, OWN)
    assert Path(store.blob_path(str(models), REWRITTEN)).exists()


@pytest.mark.parametrize(
    ("name", "rewritten", "digest", "said"),
    [
        ("absent", REWRITTEN, OWN, "absent/latest is not there; is .*models the server's models directory"),
        ("chat", REWRITTEN, "sha256:" + "d" * 64, "blobs/sha256-d+ is not there"),
        ("chat", OWN, OWN, "does not name the weights sha256:a+ alone"),
    ],
)
def test_store_of_another_server(models: Path, name: str, rewritten: str, digest: str, said: str) -> None:
    with pytest.raises(store.StoreError, match=said):
        store.put_weights_back(str(models), name, rewritten, digest)
    assert REWRITTEN in Path(store.manifest_path(str(models), "chat")).read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"layers": 1}', '{"layers": [1]}'])
def test_file_that_is_no_manifest(models: Path, content: str) -> None:
    path = Path(store.manifest_path(str(models), "chat"))
    path.write_text(content)
    with pytest.raises(store.StoreError, match="is no manifest"):
        store.put_weights_back(str(models), "chat", REWRITTEN, OWN)
    assert path.read_text() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led where others may not go")
def test_link_of_the_owners_making_leads_nowhere(models: Path) -> None:
    # Outside pytest's own directory, which is closed to the owner anyway.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        mine = Path(shutil.copytree(models, f"{directory}/models"))
        outside = Path(shutil.move(Path(store.manifest_path(str(mine), "chat")).parent, f"{directory}/outside"))
        Path(store.manifest_path(str(mine), "chat")).parent.symlink_to(outside)
        for path in [mine, *mine.rglob("*")]:
            os.chown(path, 12345, 12345, follow_symlinks=False)
        (outside / "latest").chmod(0o644)
        with pytest.raises(store.StoreError, match="chat is a symbolic link"):
            store.put_weights_back(str(mine), "chat", REWRITTEN, OWN)
        assert REWRITTEN in (outside / "latest").read_text()
        assert sorted(path.name for path in mine.iterdir()) == ["blobs", "manifests"]
    assert os.geteuid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another's place")
def test_what_root_writes_is_the_owners(models: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        mine = Path(shutil.copytree(models, f"{directory}/models"))
        for path in [mine, *mine.rglob("*")]:
            os.chown(path, 12345, 12346)
        store.put_weights_back(str(mine), "chat", REWRITTEN, OWN)
        written = Path(store.manifest_path(str(mine), "chat")).stat()
        assert (written.st_uid, written.st_gid) == (12345, 12346)


def foreign(directory: Path, **models: bytes) -> Path:
    """A store of others with models by name, each of its weights alone."""
    (directory / "blobs").mkdir(parents=True)
    for name, weights in models.items():
        layers = []
        for content in (weights, b"{}"):
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            Path(store.blob_path(str(directory), digest)).write_bytes(content)
            layers.append({"mediaType": store.WEIGHTS_TYPE, "digest": digest, "size": len(content)})
        path = Path(store.manifest_path(str(directory), name))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"layers": layers[:1], "config": layers[1]}, indent=1))
    return directory


def test_models_are_adopted_by_link(tmp_path: Path) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa", b=b"bbb"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    result = store.adopt(str(source), str(destination))
    assert (result.adopted, result.skipped, result.copied_bytes) == (["a:latest", "b:latest"], [], 0)
    assert result.linked_bytes == len(b"aaa" + b"bbb" + b"{}")
    for path in source.glob("blobs/*"):
        assert (destination / "blobs" / path.name).samefile(path)
    for path in source.glob("manifests/*/*/*/*"):
        copy = destination / path.relative_to(source)
        assert copy.read_bytes() == path.read_bytes()
        assert not copy.samefile(path)
    again = store.adopt(str(source), str(destination))
    assert (again.adopted, again.kept) == ([], ["a:latest", "b:latest"])


def test_what_others_may_not_read_is_copied(tmp_path: Path) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    for path in source.glob("blobs/*"):
        path.chmod(0o600)
    result = store.adopt(str(source), str(destination))
    assert (result.linked_bytes, result.copied_bytes) == (0, 5)
    for path in source.glob("blobs/*"):
        assert (destination / "blobs" / path.name).read_bytes() == path.read_bytes()
        assert not (destination / "blobs" / path.name).samefile(path)
    assert [path.name for path in destination.iterdir() if path.is_file()] == []


@pytest.mark.parametrize("fault", ["damaged", "missing", "link", "no digest", "no manifest"])
def test_a_model_that_is_not_whole_stays_behind(tmp_path: Path, fault: str) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa", b=b"bbb"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    blob = Path(store.blob_path(str(source), f"sha256:{hashlib.sha256(b'aaa').hexdigest()}"))
    manifest = Path(store.manifest_path(str(source), "a"))
    if fault == "damaged":
        blob.write_bytes(b"aab")
    elif fault in ("missing", "link"):
        blob.unlink()
        if fault == "link":
            (tmp_path / "elsewhere").write_bytes(b"aaa")
            blob.symlink_to(tmp_path / "elsewhere")
    else:
        manifest.write_text(manifest.read_text().replace("sha256:", "../../") if fault == "no digest" else "no JSON")
    result = store.adopt(str(source), str(destination))
    assert result.adopted == ["b:latest"]
    assert [name for name, _ in result.skipped] == ["a:latest"]
    assert not Path(store.manifest_path(str(destination), "a")).exists()
    assert not (destination / "blobs" / blob.name).exists()


@pytest.mark.parametrize("mode", [0o644, 0o600], ids=["linked", "copied"])
@pytest.mark.parametrize("replaced", [False, True], ids=["", "the begun copy is replaced"])
def test_an_adoption_goes_on_where_its_turn_ended(tmp_path: Path, mode: int, replaced: bool) -> None:
    weights = os.urandom(3 * 2**20 + 5)
    source, destination = foreign(tmp_path / "theirs", a=weights, b=b"bbb"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    Path(store.blob_path(str(source), f"sha256:{hashlib.sha256(weights).hexdigest()}")).chmod(mode)
    resume: dict[str, Any] = {}
    told = []
    while len(told) < 50:
        try:
            result = store.adopt(str(source), str(destination), False, lambda: False, resume)
            break
        except store.AdoptionPaused as paused:
            resume = json.loads(json.dumps(paused.resume))  # as a module's result and argument
            told.append((paused.done_bytes, paused.total_bytes))
        for begun in destination.glob(".onprem-llm-copy-*") if replaced and len(told) == 3 else []:
            begun.rename(tmp_path / "away")
            begun.write_bytes((tmp_path / "away").read_bytes()[:-1] + b"x")
    assert (result.adopted, result.kept, result.skipped) == (["a:latest", "b:latest"], [], [])
    total = len(weights) + len(b"bbb") + len(b"{}")
    assert (result.linked_bytes + result.copied_bytes, bool(result.copied_bytes)) == (total, mode == 0o600)
    assert {whole for _, whole in told} == {total}
    done = [here for here, _ in told]
    assert len(done) >= 5
    assert done == sorted(done) or (replaced and mode == 0o600)
    for path in source.glob("blobs/*"):
        assert (destination / "blobs" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in destination.iterdir() if path.is_file()] == []


def test_a_copy_that_another_process_works_at_is_left_to_it(tmp_path: Path) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    for path in source.glob("blobs/*"):
        path.chmod(0o600)
    with pytest.raises(store.AdoptionPaused):
        store.adopt(str(source), str(destination), False, lambda: False)
    [begun] = destination.glob(".onprem-llm-copy-*")
    with open(begun, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        result = store.adopt(str(source), str(destination))
        assert [(name, "another process" in reason) for name, reason in result.skipped] == [("a:latest", True)]
        assert begun.stat().st_ino == os.fstat(other.fileno()).st_ino
    assert store.adopt(str(source), str(destination)).adopted == ["a:latest"]
    assert [path.name for path in destination.iterdir() if path.is_file()] == []


def test_check_mode_adopts_nothing(tmp_path: Path) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa"), tmp_path / "ours" / "models"
    destination.parent.mkdir()
    assert store.adopt(str(source), str(destination), check=True).adopted == ["a:latest"]
    assert not destination.exists()


def test_root_follows_no_link_of_the_engine(tmp_path: Path) -> None:
    source, destination = foreign(tmp_path / "theirs", a=b"aaa"), tmp_path / "ours" / "models"
    destination.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (destination / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(store.StoreError, match="blobs is a symbolic link"):
        store.adopt(str(source), str(destination))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def staged(directory: Path, content: bytes) -> Any:
    """A file in a staging directory, as a transfer leaves it."""
    directory.mkdir(exist_ok=True)
    (directory / "whole").write_bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return SimpleNamespace(digest=digest, dir_fd=os.open(directory, os.O_RDONLY), name="whole", size=len(content))


def test_blob_is_installed_by_rename_and_the_manifest_in_one_step(tmp_path: Path) -> None:
    blob = staged(tmp_path / "staging", b"aaa")
    inode = (tmp_path / "staging" / "whole").stat().st_ino
    with store.Store(str(tmp_path / "models")) as own:
        assert not own.has(blob.digest)
        assert own.names() == {}
        assert own.manifest("a") is None
        own.install(blob, blob.digest)
        content = json.dumps({"layers": [{"digest": blob.digest, "size": 3}]}).encode()
        own.write_manifest("host:1/house/a:b", content)
        assert own.manifest("host:1/house/a:b") == content
        assert own.names() == {"host:1/house/a:b": (blob.digest,)}
        assert own.has(blob.digest, 3)
        assert not own.has(blob.digest, 4)
    path = Path(store.blob_path(str(tmp_path / "models"), blob.digest))
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o640)
    assert sorted(entry.name for entry in (tmp_path / "models").iterdir()) == ["blobs", "manifests"]
    os.close(blob.dir_fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another's place")
def test_what_is_installed_is_the_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    blob = staged(tmp_path / "staging", b"aaa")
    with store.Store(str(tmp_path / "models")) as own:
        own.install(blob, blob.digest)
        own.write_manifest("a", b"{}")
    os.close(blob.dir_fd)
    for path in (tmp_path / "models").rglob("*"):
        about = path.stat()
        assert (about.st_uid, about.st_gid) == (12345, 12346), path
        assert about.st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)


def read(own: store.Store, *digests: str) -> dict[str, str | None]:
    """The damaged ones."""
    known = Verification(own, Turn(Limits()), {})
    known.read(store.Blob(digest, own.size(digest) or 0) for digest in digests)
    return known.damaged


def test_damaged_blobs_are_found_and_replaced(models: Path, tmp_path: Path) -> None:
    content = b"whole"
    good = f"sha256:{hashlib.sha256(content).hexdigest()}"
    missing = "sha256:" + "e" * 64
    Path(store.blob_path(str(models), good)).write_bytes(b"broken")
    with store.Store(str(models)) as own:
        found = read(own, good, missing)
        assert found == {good: f"sha256:{hashlib.sha256(b'broken').hexdigest()}", missing: None}
        blob = staged(tmp_path / "staging", content)
        own.install(blob, blob.digest)
        os.close(blob.dir_fd)
        assert read(own, good) == {}


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_file_becomes_a_blob_by_link_or_copy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(mode)
    digest = f"sha256:{hashlib.sha256(b'GGUF').hexdigest()}"
    with store.Store(str(tmp_path / "models")) as own:
        for _ in range(2):
            with open(path, "rb") as stream:
                assert own.linkable(stream) is (mode == 0o644)
                (own.link if mode == 0o644 else own.copy)(stream, digest)
        for become in (own.link, own.copy):
            with open(path, "rb") as stream, pytest.raises(store.StoreError, match="is damaged"):
                become(stream, OWN)
    blob = Path(store.blob_path(str(tmp_path / "models"), digest))
    assert blob.samefile(path) is (mode == 0o644)
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["blobs"]
    assert len(list((tmp_path / "models" / "blobs").iterdir())) == 1


def test_unreferenced_blobs(models: Path) -> None:
    loose = models / "blobs" / "sha256-1234-partial"
    loose.write_bytes(b"123")
    with store.Store(str(models)) as own:
        assert own.unreferenced() == {}, "a young one may belong to a model that is being made"
        os.utime(loose, (0, 0))
        assert own.unreferenced() == {loose.name: 3}
        own.remove_blob(loose.name)
        assert own.unreferenced(older_than=-1) == {}
        Path(store.manifest_path(str(models), "chat")).write_text("{")
        with pytest.raises(store.StoreError, match="chat/latest: it is no manifest"):
            own.unreferenced()


def test_a_pipe_in_place_of_a_file_is_not_waited_for(models: Path) -> None:
    place = Path(store.manifest_path(str(models), "chat"))
    place.unlink()
    os.mkfifo(place)
    with store.Store(str(models)) as own, pytest.raises(store.StoreError, match="is no file"):
        own.manifest("chat")
