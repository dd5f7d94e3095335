# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ollama_export and ollama_import: what goes into the file comes out of it, and nothing else does."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _ollama_store as store

Run = Callable[..., dict[str, Any]]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A store with two models that share a file."""
    directory = tmp_path / "from" / "models"
    (directory / "blobs").mkdir(parents=True)
    for name, weights in (("a:1", b"GGUF a" * 9), ("host:5000/team/b:2", b"GGUF b" * 9)):
        layers = []
        for kind, data in ((store.WEIGHTS_TYPE, weights), ("licence", b"free")):
            Path(store.blob_path(str(directory), digest(data))).write_bytes(data)
            layers.append({"mediaType": kind, "digest": digest(data), "size": len(data)})
        path = Path(store.manifest_path(str(directory), name))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"layers": layers}, indent=1))
    return directory


def exported(run: Run, models: Path, path: Path, *names: str, **more: Any) -> dict[str, Any]:
    return run("ollama_export", names=list(names), models_dir=str(models), path=str(path), **more)


def imported(run: Run, path: Path, into: Path, **more: Any) -> dict[str, Any]:
    into.parent.mkdir(exist_ok=True)
    return run("ollama_import", path=str(path), models_dir=str(into), **more)


def test_there_and_back(run: Run, models: Path, tmp_path: Path) -> None:
    archive, into = tmp_path / "models.tar", tmp_path / "to" / "models"
    names = ["host:5000/team/b:2", "a:1"]
    assert exported(run, models, archive, *names, check_mode=True)["changed"]
    assert not archive.exists()
    done = exported(run, models, archive, *names)
    assert (done["changed"], done["size_bytes"]) == (True, 54 + 54 + 4)
    assert exported(run, models, archive, *names)["changed"] is False
    again = tmp_path / "again.tar"
    exported(run, models, again, *reversed(names))
    assert again.read_bytes() == archive.read_bytes(), "the same models give the same bytes"
    assert imported(run, archive, into, check_mode=True)["imported"] == sorted(names)
    assert not into.exists()
    done = imported(run, archive, into)
    assert (done["imported"], done["copied_bytes"]) == (sorted(names), 54 + 54 + 4)
    assert files(into) == files(models)
    assert list((tmp_path / "to" / "staging").iterdir()) == []
    assert imported(run, archive, into)["changed"] is False


def test_by_hand(run: Run, models: Path, tmp_path: Path) -> None:
    exported(run, models, tmp_path / "models.tar", "a:1")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "../models.tar"], cwd=tmp_path / "out", check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    subprocess.run(["tar", "-cf", "../hand.tar", "."], cwd=tmp_path / "out", check=True)
    assert imported(run, tmp_path / "hand.tar", tmp_path / "to" / "models")["imported"] == ["a:1"]


def test_another_model_of_the_name(run: Run, models: Path, tmp_path: Path) -> None:
    exported(run, models, tmp_path / "models.tar", "a:1")
    path = Path(store.manifest_path(str(models), "a:1"))
    path.write_text(path.read_text() + "\n")
    refused = imported(run, tmp_path / "models.tar", models)
    assert refused["failed"]
    assert digest(path.read_bytes()) in refused["msg"]
    assert imported(run, tmp_path / "models.tar", models, update=True)["changed"]


def test_what_cannot_be_exported(run: Run, models: Path, tmp_path: Path) -> None:
    archive = tmp_path / "models.tar"
    assert "c:latest is not installed" in exported(run, models, archive, "c")["msg"]
    assert "is no model's name" in exported(run, models, archive, "../c")["msg"]
    blob = Path(store.blob_path(str(models), digest(b"GGUF a" * 9)))
    blob.write_bytes(b"GGUF x" * 9)
    assert f"is damaged: its sha256 is {digest(b'GGUF x' * 9)[7:]}" in exported(run, models, archive, "a:1")["msg"]
    blob.unlink()
    assert "which is not in" in exported(run, models, archive, "a:1")["msg"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == []


def rewritten(archive: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> None:
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, data in members:
            for info, content in change(member, data):
                info.size = len(content) if info.isreg() else 0
                tar.addfile(info, io.BytesIO(content))


def special(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (special("../../etc/passwd"), "no file of a model"),
        (special("/etc/passwd"), "no file of a model"),
        (special("manifests/h/n/m/../t"), "no file of a model"),
        (special("manifests/h/n/m"), "no file of a model"),
        (special("blobs/sha256-" + "A" * 64), "no file of a model"),
        (special("blobs/sha256-" + "a" * 64, tarfile.SYMTYPE, "/etc/passwd"), "no plain file"),
        (special("blobs/sha256-" + "a" * 64, tarfile.LNKTYPE, "SHA256SUMS"), "no plain file"),
        (special("blobs", tarfile.SYMTYPE, "/etc"), "no plain file"),
        (special("blobs/sha256-" + "a" * 64, tarfile.CHRTYPE), "no plain file"),
        (special("blobs/sha256-" + "a" * 64, tarfile.FIFOTYPE), "no plain file"),
        (special("blobs/../../x", tarfile.DIRTYPE), "no plain file"),
        (special("blobs/sha256-" + "a" * 64), "is not in its SHA256SUMS"),
        (special("SHA256SUMS"), "has it twice"),
    ],
)
def test_archive_with_tricks(run: Run, models: Path, tmp_path: Path, extra: tarfile.TarInfo, said: str) -> None:
    archive, into = tmp_path / "models.tar", tmp_path / "to" / "models"
    exported(run, models, archive, "a:1")
    rewritten(archive, lambda member, data: [(member, data), *([(extra, b"x")] if member.name == "SHA256SUMS" else [])])
    result = imported(run, archive, into)
    assert result["failed"]
    assert said in result["msg"]
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("fault", ["blob", "manifest", "cut", "no sums", "sums", "missing blob", "no tar", "last blob"])
def test_damaged_archive_leaves_nothing_behind(run: Run, models: Path, tmp_path: Path, fault: str) -> None:
    archive, into = tmp_path / "models.tar", tmp_path / "to" / "models"
    exported(run, models, archive, "a:1", "host:5000/team/b:2")
    last = sorted(path for path in files(models) if path.startswith("blobs/"))[-1]

    def change(member: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if (fault == "blob" and "blobs" in member.name) or (fault == "last blob" and member.name == last):
            return [(member, data[:-1] + b"?")]
        if fault == "manifest" and "manifests" in member.name:
            return [(member, data + b" ")]
        if fault == "missing blob" and member.name == last:
            return []
        if fault == "no sums" and member.name == "SHA256SUMS":
            return []
        if fault == "sums" and member.name == "SHA256SUMS":
            return [(member, data + b"hello\n")]
        return [(member, data)]

    if fault == "cut":
        archive.write_bytes(archive.read_bytes()[:3000])
    elif fault == "no tar":
        archive.write_bytes(b"GGUF")
    else:
        rewritten(archive, change)
    result = imported(run, archive, into)
    assert result["failed"], result
    assert files(into) == {} if into.exists() else True
    staging = tmp_path / "to" / "staging"
    assert not staging.exists() or list(staging.iterdir()) == []
