"""The releases that the collection supports stand in two roles' data, and are the same."""

from __future__ import annotations

from rules import ROOT, load


def test_releases_of_system_and_docker_are_equal() -> None:
    system = load(ROOT / "roles/system/vars/main.yml")["__system_releases"]
    assert system == list(load(ROOT / "roles/docker/vars/main.yml")["__docker_distributions"])
