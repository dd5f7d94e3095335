# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts want of a bundle is what their roles say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

MIRRORS = {"Debian": "http://deb.example/debian", "Ubuntu": "http://ubuntu.example/ubuntu"}


def variables(**given: Any) -> dict[str, Any]:
    """An inventory of one node, as an action sees it."""
    groups = {"llm_nodes": ["gpu01"], "gateways": [], "all": ["gpu01"]}
    host = {"inventory_hostname": "gpu01", "group_names": ["llm_nodes"], "groups": groups, **given}
    return {"groups": groups, "hostvars": {"gpu01": host}, "inventory_hostname": "localhost"}


def wants(act: Any, given: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = act("bundle_wants", {"hosts": ["gpu01"], **arguments}, variables(**given))["wants"]
    return result


def test_a_release_has_every_role_s_packages_and_their_sources(act: Any) -> None:
    found = wants(act, {"docker_source": "distribution"}, releases=["trixie", "noble"], mirrors=MIRRORS)
    debian, ubuntu = found["packages"]
    everything = {"docker.io", "docker-compose", "nginx", "ufw", "docker-registry", "python3-apt"}
    watching = {"prometheus-node-exporter", "prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter"}
    assert everything | watching <= debian["packages"].keys()
    assert "docker-compose-v2" in ubuntu["packages"]
    assert "URIs: http://deb.example/debian-security\n" in debian["sources"]["archive.sources"]
    assert "Suites: noble noble-updates\n" in ubuntu["sources"]["archive.sources"]
    assert found["images"][0]["reference"] == "ollama/ollama:0.32.15"


def test_a_workload_without_models_needs_a_plan(act: Any) -> None:
    given = {"models_workloads": [{"name": "chat"}], "docker_source": "distribution"}
    with pytest.raises(AnsibleError, match=r"the workload chat names no models.*bundle_plans"):
        wants(act, given, releases=["trixie"], mirrors=MIRRORS)


def test_a_release_that_nobody_knows(act: Any) -> None:
    with pytest.raises(AnsibleError, match="releases has buzz; known are bookworm"):
        wants(act, {}, releases=["buzz"], mirrors=MIRRORS)


def test_at_the_site_facts_and_plan_count(act: Any) -> None:
    source = {"type": "registry", "digest": "sha256:" + "a" * 64}
    own = {"type": "gguf", "path": "/x/own.gguf", "sha256": "b" * 64}
    models = [{"name": "qwen3:8b", "source": source}, {"name": "own:1b", "source": own}]
    given = {
        "models_selection": {"plan": {"instances": [{"models": models}]}},
        "ollama_image_archive": "",
        "ansible_facts": {
            "distribution": "Debian", "distribution_release": "trixie", "distribution_major_version": "13",
            "architecture": "x86_64",
        },
    }  # fmt: skip
    found = wants(act, given)
    assert found["models"] == [
        {"name": "registry.ollama.ai/library/qwen3:8b", "digest": "sha256:" + "a" * 64, "hosts": ["gpu01"]}
    ]
    assert found["files"] == [{"name": "own:1b", "sha256": "b" * 64, "path": "/x/own.gguf", "hosts": ["gpu01"]}]
    assert (found["packages"][0]["release"], found["packages"][0]["architecture"]) == ("trixie", "amd64")
    assert "sources" not in found["packages"][0]


def test_a_host_that_was_not_reached_wants_nothing_that_is_known(act: Any) -> None:
    assert wants(act, {})["packages"] == []


@pytest.fixture
def own(act: Any, tmp_path: Path) -> Any:
    """The files of a bundle for a plan whose one model is a file with this source."""

    def files(**source: Any) -> Any:
        models = [{"name": "own:1b", "source": {"type": "gguf", "sha256": "b" * 64, **source}}]
        plans = tmp_path / "plans.json"
        plans.write_text(json.dumps({"gpu01": {"plan": {"instances": [{"models": models}]}}}))
        given = {"docker_source": "distribution"}
        return wants(act, given, releases=["trixie"], mirrors=MIRRORS, plans=str(plans))["files"]

    return files


def test_a_file_of_the_controller_has_its_size(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF own")
    (found,) = own(path=str(path))
    assert found == {"name": "own:1b", "sha256": "b" * 64, "path": str(path), "size": 8, "hosts": ["gpu01"]}


def test_a_file_that_the_controller_has_not(own: Any) -> None:
    said = "gpu01: source.path of the model own:1b is /nowhere/own.gguf, a path on the controller: No such file"
    with pytest.raises(AnsibleError, match=said):
        own(path="/nowhere/own.gguf")


def test_a_file_that_lies_on_its_host_is_in_no_bundle(own: Any) -> None:
    assert own(node_path="/data/own.gguf") == []
