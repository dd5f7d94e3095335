"""Docker-save tars taken under another tag, without loading them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import docker
import pytest

from tests.engine import image

CONFIG = b'{"architecture":"amd64"}'
# Never asked: with its version given, the SDK connects to nothing.
CLIENT = docker.DockerClient("tcp://127.0.0.1:1", version="1.41")
ID = hashlib.sha256(CONFIG).hexdigest()


def save(path: Path, images: list[dict[str, object]] | None) -> Path:
    """A tar as docker save makes it: of 20.10 by the names of its members, of 25 and later by the OCI index beside."""
    members = {f"{ID}.json": CONFIG, "layer/layer.tar": b"layer", "repositories": b"{}", "index.json": b"{}"}
    if images is not None:
        members["manifest.json"] = json.dumps(images).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(*tags: str) -> dict[str, object]:
    return {"Config": f"{ID}.json", "RepoTags": list(tags), "Layers": ["layer/layer.tar"]}


def test_import_archive(tmp_path: Path) -> None:
    given = save(tmp_path / "given.tar", [entry("mine/ollama:dev")])
    path, identity = image.import_archive(CLIENT, given, "0.17.7", tmp_path / "cache")
    assert identity == f"sha256:{ID}"
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == sorted([f"{ID}.json", "layer/layer.tar", "manifest.json"])
        manifest = tar.extractfile("manifest.json")
        layer = tar.extractfile("layer/layer.tar")
        assert manifest
        assert layer
        assert json.load(manifest) == [entry("ollama/ollama:0.17.7")]
        assert layer.read() == b"layer"
    written = path.stat().st_mtime_ns
    again = image.import_archive(CLIENT, given, "0.17.7", tmp_path / "cache")
    assert again == (path, identity)
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "not made by docker save"),
        ([], "one image is wanted, it has 0"),
        ([entry("a:1"), entry("b:2")], "one image is wanted, it has 2: a:1, b:2"),
    ],
)
def test_what_is_no_archive_of_one_image(tmp_path: Path, images: list[dict[str, object]] | None, message: str) -> None:
    given = save(tmp_path / "given.tar", images)
    with pytest.raises(ValueError, match=message):
        image.import_archive(CLIENT, given, "1.2.3", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_unreachable_mirror_is_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "mirrors", lambda suite: [f"deb http://127.0.0.1:1/debian {suite} main"])
    assert image.candidate(tmp_path / "packages.json") is None
