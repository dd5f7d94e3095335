"""The driver between branches on one host, with real apt and DKMS: what is moved, held and built, and what is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.plays import ROOT, run

HOST = "nvidia-gpu1"
INVENTORY = ROOT / "molecule/nvidia/inventory"
SET = ("nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms")


def on_host(command: str) -> str:
    argv = ["docker", "exec", HOST, "sh", "-c", command]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def versions() -> dict[str, str]:
    """NVIDIA's packages on the host with their versions, the pinning package left out."""
    said = on_host("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' '*nvidia*' libcuda1")
    rows = [line.split() for line in said.splitlines()]
    return {row[1]: row[2] for row in rows if row[0] == "installed" and "pinning" not in row[1]}


def converge(**wish: object) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "molecule/nvidia/converge.yml", inventory=INVENTORY, variables=wish, timeout=900)


def test_the_branch_is_installed_held_and_built() -> None:
    assert set(versions().values()) == {"580.95.05-1"}
    assert set(SET) <= set(versions())
    assert set(on_host("apt-mark showhold").split()) == set(SET)
    assert "580.95.05" in on_host("modinfo -F version nvidia")
    assert "nvidia-driver-pin" in on_host("ls /etc/apt/preferences.d")


def test_upgrades_of_others_leave_it_alone() -> None:
    said = on_host("apt-get --simulate dist-upgrade")
    assert "nvidia" not in "".join(line for line in said.splitlines(True) if line.startswith(("Inst", "Remv")))


@pytest.fixture
def companion() -> Iterator[None]:
    """What somebody installed beside the set moves along."""
    on_host("apt-get install -y -qq libnvidia-encode1")
    yield
    on_host("apt-get purge -y -qq libnvidia-encode1")


def moved(version: str, **wish: object) -> None:
    """Move the set, and see that all of it moved."""
    before = versions()
    result = converge(**wish)
    assert result.returncode == 0, result.stdout
    assert versions() == dict.fromkeys(before, f"{version}-1")
    assert on_host("modinfo -F version nvidia").strip() == version
    assert set(on_host("apt-mark showhold").split()) == set(SET)


@pytest.mark.usefixtures("companion")
def test_whole_set_moves_to_another_branch() -> None:
    moved("595.71.05", nvidia_driver_branch="595")


@pytest.mark.long
@pytest.mark.usefixtures("companion")
def test_whole_set_moves_back_to_an_older_release() -> None:
    moved("580.82.07", nvidia_driver_version="580.82.07")


@pytest.mark.long
def test_held_package_in_the_way_is_refused() -> None:
    on_host("apt-mark hold libcuda1")
    result = converge(nvidia_driver_branch="595")
    on_host("apt-mark unhold libcuda1")
    assert result.returncode != 0
    assert "libcuda1 is held at 580.82.07-1, not by this role" in " ".join(result.stdout.split())
    assert set(versions().values()) == {"580.82.07-1"}


@pytest.mark.long
def test_failed_build_shows_its_log() -> None:
    on_host("touch /etc/break-nvidia-build")
    result = converge(nvidia_driver_branch="595")
    on_host("rm /etc/break-nvidia-build")
    assert result.returncode != 0
    assert "implicit declaration of function 'follow_pfn'" in " ".join(result.stdout.split())
    # Mended, the next run goes on from there.
    on_host("dpkg --configure -a")
    result = converge(nvidia_driver_branch="595")
    assert result.returncode == 0, result.stdout
    assert set(versions().values()) == {"595.71.05-1"}


@pytest.mark.long
def test_running_node_is_left_alone() -> None:
    on_host("mkdir -p /run/onprem-llm && echo '{\"ready\": true}' >/run/onprem-llm/warm.json")
    result = converge(nvidia_driver_branch="580")
    on_host("rm /run/onprem-llm/warm.json")
    assert result.returncode == 0, result.stdout
    assert set(versions().values()) == {"595.71.05-1"}
