# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts with GPUs want of a bundle for their driver and container toolkit, in one play over all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import plays

# Facts of the hosts of the site, where the bundle is held against what they want.
SITE = {"distribution": "Debian", "distribution_release": "trixie", "distribution_version": "13.2"}
SITE |= {"distribution_major_version": "13", "architecture": "x86_64", "os_family": "Debian", "default_ipv4": {}}


def seen(device: str, *packages: str) -> dict[str, Any]:
    """What preflight saw of a host with one GPU, and of these packages there."""
    card = {"address": "0000:01:00.0", "class": "0x030200", "vendor_id": "0x10de", "device_id": device}
    there = {name: {"version": "580.95.05-1", "held": True} for name in packages}
    installation = {"packages": there, "repository_file": True}
    info = {"pci_devices": [card], "gpus": [], "kernel": {"running": "6.12.57-amd64"}, "installation": installation}
    return {"nvidia_driver_gpu_info": info}


INSTALLED = ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms"]
HEADERS = ["linux-headers-6.12.57-amd64", "linux-headers-amd64", "nvidia-driver-pinning-580"]
# By host: its release, where the bundle is made, and its variables.
HOSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "trixie": ("trixie", {}),
    "noble": ("noble", {}),
    "newer": ("noble", {"nvidia_driver_branch": "595"}),
    "wished": ("noble", {"nvidia_driver_kernel_modules": "proprietary"}),
    "exact": ("trixie", {"nvidia_driver_version": "580.95.05", "nvidia_container_toolkit_source": "none"}),
    "own": ("trixie", {"nvidia_driver_source": "distribution", "nvidia_driver_branch": "550"}),
    "image": ("trixie", {"nvidia_driver_source": "none", "nvidia_container_toolkit_source": "none"}),
    "volta": ("", seen("0x1db6")),
    "hopper": ("", seen("0x2330")),
    "headers": ("", seen("0x2330", *HEADERS)),
    "there": ("", seen("0x2330", *INSTALLED, *HEADERS)),
}
PLAY = [
    {
        "hosts": "volta:hopper:headers:there",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.set_fact": {**SITE, "cacheable": True}}],
    },
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {
                "onprem.llm.bundle_wants": {
                    "hosts": ["{{ item.key }}"],
                    "releases": "{{ [item.value] | select }}",
                    "mirrors": {"Debian": "http://deb.example/debian", "Ubuntu": "http://ubuntu.example/ubuntu"},
                },
                "loop": "{{ cases | dict2items }}",
                "register": "wanted",
            },
            {
                "ansible.builtin.copy": {
                    "content": "{{ wanted.results | map(attribute='wants.packages') | to_json }}",
                    "dest": "{{ place }}/wants.json",
                    "mode": "0600",
                }
            },
        ],
    },
]


@pytest.fixture(scope="module")
def wants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each host wants of packages."""
    place = tmp_path_factory.mktemp("drivers")
    hosts = {name: variables for name, (_release, variables) in HOSTS.items()}
    cases = {name: release for name, (release, _variables) in HOSTS.items()}
    common = {"docker_source": "distribution", "ollama_image_archive": "/none.tar", "models_workloads": []}
    common |= {"nvidia_driver_source": "nvidia", "cases": cases, "place": str(place)}
    groups = {"llm_nodes": {"children": {"gpu_nodes": {"hosts": hosts}}}}
    (place / "hosts.yml").write_text(json.dumps({"all": {"children": groups, "vars": common}}))
    (place / "play.yml").write_text(json.dumps(PLAY))
    done = plays.run(place / "play.yml", inventory=place / "hosts.yml")
    assert done.returncode == 0, done.stdout
    return dict(zip(cases, json.loads((place / "wants.json").read_text()), strict=True))


def of_nvidia(wanted: list[dict[str, Any]]) -> list[dict[str, str]]:
    """NVIDIA's packages, want by want."""
    sets = [{name: start for name, start in want["packages"].items() if "nvidia" in name} for want in wanted]
    return [names for names in sets if names]


def test_a_driver_comes_for_each_kind_of_gpu_and_with_the_toolkit(wants: dict[str, Any]) -> None:
    opened, older, toolkit = of_nvidia(wants["trixie"])
    rest = ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-fabricmanager", "libnvidia-nscq"]
    assert opened == dict.fromkeys([*rest, "nvidia-kernel-open-dkms"], "580.")
    assert older == dict.fromkeys([*rest, "nvidia-kernel-dkms"], "580.")
    assert toolkit == {"nvidia-container-toolkit-base": "1.20.0-"}


def test_it_comes_from_nvidia_s_repository_by_its_key_and_with_the_newest_kernel_s_headers(
    wants: dict[str, Any],
) -> None:
    _base, driver, _older, toolkit = wants["trixie"]
    url = "https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/"
    fingerprint = "02182E60104FCDC26EAE1B8597A5D4CB8793F200"
    key = {"key": "", "key_url": f"{url}8793F200.pub", "fingerprint": fingerprint}
    assert driver["repositories"] == [{"name": "nvidia", "url": url, **key}]
    assert "Pin: version 580.*\n" in driver["preferences"]
    assert [name for name in driver["packages"] if "headers" in name] == ["linux-headers-amd64"]
    source = "URIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64\n"
    assert source in toolkit["sources"]["toolkit.sources"]
    assert all("http://deb.example/debian" in want["sources"]["archive.sources"] for want in wants["trixie"])


@pytest.mark.parametrize(
    ("host", "kinds"),
    [
        ("noble", ["nvidia-dkms-580-open", "nvidia-dkms-580"]),
        ("newer", ["nvidia-dkms-open"]),
        ("wished", ["nvidia-dkms-580"]),
    ],
)
def test_kinds_of_modules_by_branch_and_wish(wants: dict[str, Any], host: str, kinds: list[str]) -> None:
    *sets, _toolkit = of_nvidia(wants[host])
    assert [[name for name in names if "dkms" in name] for names in sets] == [[kind] for kind in kinds]
    assert all("linux-headers-generic" in want["packages"] for want in wants[host][1:-1])


def test_an_exact_version_and_no_toolkit(wants: dict[str, Any]) -> None:
    assert [set(names.values()) for names in of_nvidia(wants["exact"])] == [{"580.95.05"}, {"580.95.05"}]


def test_the_distribution_s_driver_needs_no_repository(wants: dict[str, Any]) -> None:
    assert all("repositories" not in want for want in wants["own"])
    own = ["nvidia-smi", "nvidia-persistenced", "nvidia-open-kernel-dkms"]
    assert of_nvidia(wants["own"])[0] == dict.fromkeys(own, "")


def test_what_comes_with_the_hosts_image_is_in_no_bundle(wants: dict[str, Any]) -> None:
    assert of_nvidia(wants["image"]) == []


@pytest.mark.parametrize(("host", "modules"), [("volta", "nvidia-kernel-dkms"), ("hopper", "nvidia-kernel-open-dkms")])
def test_at_the_site_the_gpus_that_were_seen_say_which_driver(wants: dict[str, Any], host: str, modules: str) -> None:
    (names,) = [want["packages"] for want in wants[host]]
    assert names["nvidia-driver-cuda"] == "580."
    assert {name for name in names if "dkms" in name} == {modules}
    assert "linux-headers-6.12.57-amd64" in names
    assert names["nvidia-container-toolkit-base"] == "1.20.0-"


def test_headers_that_came_with_the_host_s_image_need_no_bundle(wants: dict[str, Any]) -> None:
    (names,) = [want["packages"] for want in wants["headers"]]
    assert "nvidia-kernel-open-dkms" in names
    assert [name for name in names if "headers" in name] == []


def test_a_driver_that_is_there_needs_no_bundle(wants: dict[str, Any]) -> None:
    assert of_nvidia(wants["there"]) == [{"nvidia-container-toolkit-base": "1.20.0-"}]
