# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kept_release and kept_release_info on a host whose Docker answers as 26.1 does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
OLD, NEW = "20261122T120000Z-0.32.15", "20261122T130000Z-0.32.16"
IMAGES = {"0.32.15": "sha256:" + "a" * 64, "0.32.16": "sha256:" + "b" * 64}
DOCKER = """#!/bin/sh
echo "$@" >>{place}/calls
case "$1 $2" in
"container inspect")
    [ -s {place}/running ] || {{ echo "Error: No such container: $3" >&2; exit 1; }}
    case "$3" in
    --format) cat {place}/running;;
    *) printf '[{{"Image": "%s", "Config": {{"Image": "ollama/ollama:x"}}}}]\\n' "$(cat {place}/running)";;
    esac;;
"image ls") cat {place}/images;;
"image inspect") grep -qxF "$5" {place}/images && echo "$5" || exit 1;;
"info --format") echo {place};;
esac
"""


class Host:
    def __init__(self, place: Path, run: Run) -> None:
        self.place, self.run = place, run
        self.arguments = {
            "directory": str(place / "releases"),
            "files": {"release.json": str(place / "release.json"), "compose.yml": str(place / "compose.yml")},
            "models_dir": str(place / "models"),
            "blobs_dir": str(place / "kept"),
        }
        program = place / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(DOCKER.format(place=place), encoding="utf-8")
        program.chmod(0o755)
        (place / "images").write_text("".join(f"{image}\n" for image in IMAGES.values()), encoding="utf-8")
        self.install("0.32.15")

    def install(self, version: str) -> None:
        image = {"id": IMAGES[version], "reference": IMAGES[version]}
        release = {"schema": 1, "engine": {"version": version, "image": image}, "models": {}}
        (self.place / "release.json").write_text(json.dumps(release), encoding="utf-8")
        (self.place / "compose.yml").write_text(f"image: {IMAGES[version]}\n", encoding="utf-8")
        (self.place / "running").write_text(IMAGES[version], encoding="utf-8")

    def keep(self, name: str, **more: Any) -> dict[str, Any]:
        return self.run("kept_release", name=name, **self.arguments, **more)

    def info(self, **more: Any) -> dict[str, Any]:
        given = {"release": str(self.place / "release.json"), "journal": str(self.place / "upgrade.json"), **more}
        return self.run("kept_release_info", warm=str(self.place / "warm.json"), **self.arguments, **given)


@pytest.fixture
def host(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Host(tmp_path, run)


def test_what_runs_is_kept_with_its_image_and_comes_back(host: Host) -> None:
    first = host.keep(OLD, times={"out_seconds": 1.5, "at": "x"})
    assert (first["name"], first["changed"]) == (OLD, True)
    assert f"image tag {IMAGES['0.32.15']} onprem-llm/kept:{OLD}" in (host.place / "calls").read_text(encoding="utf-8")
    assert not host.keep(NEW, times={"out_seconds": 1.5, "at": "x"})["changed"]
    host.install("0.32.16")
    assert host.keep(NEW)["name"] == NEW
    info = host.info()
    assert [entry["name"] for entry in info["kept"]] == [OLD, NEW]
    assert (info["current"], info["kept"][0]["times"]["out_seconds"]) == (NEW, 1.5)
    back = host.run("kept_release", state="restored", name=OLD, **host.arguments)
    assert back["changed"]
    assert IMAGES["0.32.15"] in (host.place / "compose.yml").read_text(encoding="utf-8")
    assert not host.run("kept_release", state="restored", name=OLD, **host.arguments)["changed"]


def test_the_number_is_bounded_and_tags_go_with_releases(host: Host) -> None:
    for second in range(4):
        (host.place / "compose.yml").write_text(f"{second}", encoding="utf-8")
        result = host.keep(f"2026112{second}T120000Z-0.32.15", keep=2)
    assert result["dropped"] == ["20261121T120000Z-0.32.15"]
    assert sorted(os.listdir(host.place / "releases")) == ["20261122T120000Z-0.32.15", "20261123T120000Z-0.32.15"]
    assert "image rm onprem-llm/kept:20261121T120000Z-0.32.15" in (host.place / "calls").read_text(encoding="utf-8")


def test_check_mode_keeps_nothing(host: Host) -> None:
    assert host.run("kept_release", check_mode=True, name=OLD, **host.arguments)["changed"]
    assert not (host.place / "releases").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "latest"}, "name is 'latest'"),
        ({"name": OLD, "keep": 1}, "keep is 1; at least 2"),
        ({"name": OLD, "state": "restored"}, "has no record.json"),
    ],
)
def test_what_cannot_be_is_told(host: Host, arguments: dict[str, Any], told: str) -> None:
    assert told in host.run("kept_release", **{**host.arguments, **arguments})["msg"]


def test_without_a_container_nothing_can_be_kept(host: Host) -> None:
    (host.place / "running").write_text("", encoding="utf-8")
    assert "Docker does not tell which image onprem-llm-ollama runs" in host.keep(OLD)["msg"]


def test_a_damaged_record_of_what_runs(host: Host) -> None:
    path = host.place / "release.json"
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    info = host.info()
    assert info["release"] is None
    assert "is damaged: it is no JSON" in info["release_fault"]
    assert "site.yml" in info["release_fault"]
    assert "cannot be kept" in host.keep(OLD)["msg"]
    path.unlink()
    assert "Run site.yml first" in host.info()["release_fault"]


def test_a_journal_is_told_and_a_damaged_one_is_a_fault(host: Host) -> None:
    assert (host.info()["journal"], host.info()["journal_fault"]) == (None, "")
    (host.place / "upgrade.json").write_text('{"step": "changing", "left": "x"}', encoding="utf-8")
    assert host.info()["journal"]["step"] == "changing"
    (host.place / "upgrade.json").write_text("{", encoding="utf-8")
    assert "remove it if the node serves as it should" in host.info()["journal_fault"]


def test_images_that_are_there_are_not_asked_for(host: Host) -> None:
    there = host.info(images=[IMAGES["0.32.16"]], registries=["127.0.0.1:9/x/y:1@sha256:" + "d" * 64])
    assert (there["image_there"], there["registry_faults"]) == (True, [])
    assert there["free_bytes"] > 0
    (host.place / "images").write_text(IMAGES["0.32.15"] + "\n", encoding="utf-8")
    asked = host.info(images=[IMAGES["0.32.16"]], registries=["127.0.0.1:9/x/y:1@sha256:" + "d" * 64])
    assert (asked["image_there"], asked["image_bytes"], len(asked["registry_faults"])) == (False, None, 1)


def test_how_long_loads_took(host: Host) -> None:
    assert host.info()["load_seconds"] is None
    models = [{"seconds": 1.5}, {"seconds": 2}]
    (host.place / "warm.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    assert host.info()["load_seconds"] == 3.5
    (host.place / "warm.json").write_text(json.dumps({"models": [{"seconds": None}]}), encoding="utf-8")
    assert host.info()["load_seconds"] is None
