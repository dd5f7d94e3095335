# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's packages by dpkg and rpm, what is held, and what the driver's files say. Versions and forms are real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bounded, _nvidia_driver_files, _nvidia_packages

STATUS = """Package: nvidia-open
Status: hold ok installed
Priority: optional
Architecture: amd64
Version: 580.159.03-1
Depends: nvidia-driver (= 580.159.03-1), nvidia-kernel-open-dkms (= 580.159.03-1)

Package: bash
Essential: yes
Status: install ok installed
Version: 5.2.37-2
Description: has nvidia in its words
 Package: nvidia-fake

Package: libnvidia-compute-580
Status: install ok half-configured
Architecture: amd64
Version: 1:580.142-0ubuntu0.24.04.1

Package: nvidia-driver-pinning-580
Status: install ok installed
Version: 580-1

Package: nvidia-kernel-open-dkms
Status: hold ok installed
Version: 580.159.03-1

Package: nvidia-container-toolkit
Status: install ok installed
Version: 1.20.0-1

Package: cuda-keyring
Status: install ok installed
Version: 1.1-1

Package: nvidia-cuda-toolkit
Status: install ok installed
Version: 12.4.131~12.4.1-2

Package: nvidia-settings
Status: deinstall ok config-files
Version: 535.171.04-1
"""
RPM = """nvidia-driver 3:580.159.03-1.el9
kmod-nvidia-open-dkms 3:580.159.03-1.el9
nvidia-container-toolkit 0:1.20.0-1
cuda-drivers 0:580.159.03-1
libnvidia-ml 3:580.142-1.el9
bash 0:5.1.8-9.el9
"""


def absent(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
    raise FileNotFoundError(2, "No such file", argv[0])


def test_dpkg(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    found = _nvidia_packages.read(absent, str(tmp_path))
    assert [(one["name"], one["version"], one["held"], one["whole"]) for one in _nvidia_packages.of_driver(found)] == [
        ("cuda-keyring", "1.1-1", False, True),
        ("libnvidia-compute-580", "1:580.142-0ubuntu0.24.04.1", False, False),
        ("nvidia-driver-pinning-580", "580-1", False, True),
        ("nvidia-kernel-open-dkms", "580.159.03-1", True, True),
        ("nvidia-open", "580.159.03-1", True, True),
    ]
    assert [one["name"] for one in _nvidia_packages.of_toolkit(found)] == ["nvidia-container-toolkit"]
    assert _nvidia_packages.versions_in_step(found) == {
        "580.142": ["libnvidia-compute-580"],
        "580.159.03": ["nvidia-kernel-open-dkms", "nvidia-open"],
    }


@pytest.mark.parametrize(
    ("path", "text", "held"),
    [
        ("etc/dnf/plugins/versionlock.list", "# a comment\nnvidia-driver-3:580.159.03-1.el9.*\n", {"nvidia-driver"}),
        (
            "etc/dnf/plugins/versionlock.list",
            "*nvidia*580*\n!bash-5.0\n",
            {"nvidia-driver", "kmod-nvidia-open-dkms", "libnvidia-ml"},
        ),
        (
            "etc/dnf/versionlock.toml",
            'version = "1.0"\n[[packages]]\nname = "cuda-drivers"\n[[packages.conditions]]\nkey = "evr"\n',
            {"cuda-drivers"},
        ),
        ("etc/dnf/plugins/versionlock.list", "nvidia-driver-3:580.142-1.el9.*\n", set()),
        ("etc/dnf/dnf.conf", "[main]\n", set()),
    ],
)
def test_rpm_and_versionlocks(tmp_path: Path, path: str, text: str, held: set[str]) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    asked = []

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        asked.append(argv)
        return 0, RPM, ""

    found = _nvidia_packages.read(run, str(tmp_path))
    assert asked[0][:3] == ["rpm", "--root", str(tmp_path)]
    assert {one["name"] for one in found if one["held"]} == held
    assert {one["name"]: one["version"] for one in found}["nvidia-driver"] == "3:580.159.03-1.el9"
    assert {one["name"]: one["version"] for one in found}["cuda-drivers"] == "580.159.03-1"


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no rpm"), _bounded.NotAnswering("hangs")])
def test_no_answer_of_rpm_is_no_package(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        raise error

    assert _nvidia_packages.read(run, str(tmp_path)) == []


def test_neither_dpkg_nor_rpm(tmp_path: Path) -> None:
    assert _nvidia_packages.read(absent, str(tmp_path)) == []


def test_what_distributions_keep_at_other_versions_is_not_compared() -> None:
    """As on Debian 13 with its own driver."""
    rows = {
        "nvidia-driver": "550.163.01-2", "nvidia-kernel-dkms": "550.163.01-2", "libcuda1": "550.163.01-2",
        "nvidia-persistenced": "535.171.04-1", "nvidia-modprobe": "570.133.07-1", "nvidia-settings": "550.163.01-1",
        "nvidia-kernel-common": "20240109+1", "nvidia-support": "20240109+1", "libnvidia-egl-wayland1": "1:1.1.18-1",
    }  # fmt: skip
    found = [{"name": name, "version": version} for name, version in rows.items()]
    assert list(_nvidia_packages.versions_in_step(found)) == ["550.163.01"]


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("1:580.159.03-1ubuntu1", "580.159.03"),
        ("580.142-0ubuntu0.24.04.1", "580.142"),
        ("3:580.159.03-1.el9", "580.159.03"),
        ("610.43.02-1ubuntu1", "610.43.02"),
        ("580-1", None),
        ("1.1-1", None),
        ("12.4.131~12.4.1-2", None),
    ],
)
def test_the_drivers_version_in_a_packages(version: str, upstream: str | None) -> None:
    assert _nvidia_packages.upstream(version) == upstream


def test_a_runfile_is_what_no_package_owns(tmp_path: Path) -> None:
    assert _nvidia_packages.runfile(absent, str(tmp_path)) is False
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/nvidia-uninstall").touch()
    assert _nvidia_packages.runfile(absent, str(tmp_path)) is True
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    assert _nvidia_packages.runfile(lambda argv, timeout: (0, "nvidia-installer", ""), str(tmp_path)) is False
    assert _nvidia_packages.runfile(lambda argv, timeout: (1, "", "not owned"), str(tmp_path)) is True
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "nvidia-driver.list").write_text("/usr/bin\n/usr/bin/nvidia-uninstall-hook\n")
    assert _nvidia_packages.runfile(absent, str(tmp_path)) is True
    (info / "nvidia-legacy.list").write_text("/usr/bin\n/usr/bin/nvidia-uninstall\n")
    assert _nvidia_packages.runfile(absent, str(tmp_path)) is False


PROC = "NVRM version: NVIDIA UNIX {}  {}  Release Build  (dvs-builder@U22)  Tue Nov  4 2025\nGCC version:  gcc 14\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PROC.format("Open Kernel Module for x86_64", "580.159.03"), ("580.159.03", "open")),
        (PROC.format("x86_64 Kernel Module", "535.183.01"), ("535.183.01", "proprietary")),
        (PROC.format("Open Kernel Module for aarch64", "590.48.01"), ("590.48.01", "open")),
        ("something else\n", (None, None)),
    ],
)
def test_the_loaded_module(tmp_path: Path, text: str, told: tuple[str | None, str | None]) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert _nvidia_driver_files.loaded(str(tmp_path)) == told


def test_the_loaded_module_by_sysfs(tmp_path: Path) -> None:
    (tmp_path / "sys/module/nvidia").mkdir(parents=True)
    (tmp_path / "sys/module/nvidia/version").write_text("580.142\n")
    assert _nvidia_driver_files.loaded(str(tmp_path)) == ("580.142", None)


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib/x86_64-linux-gnu/nvidia/current"])
def test_the_library_that_programs_load(tmp_path: Path, place: str) -> None:
    assert _nvidia_driver_files.library_version(str(tmp_path)) is None
    directory = tmp_path / place
    directory.mkdir(parents=True)
    for version in ("580.95.05", "580.159.03"):
        (directory / f"libnvidia-ml.so.{version}").touch()
    assert _nvidia_driver_files.library_version(str(tmp_path)) == "580.159.03"
    (directory / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    assert _nvidia_driver_files.library_version(str(tmp_path)) == "580.95.05"


def kernel(running: str | None, newest: str | None, **modules: str | None) -> dict[str, object]:
    flavors = {name: "open" if version else None for name, version in modules.items()}
    return {"running": running, "newest_installed": newest, "modules": modules, "module_flavors": flavors}


@pytest.mark.parametrize(
    ("given", "installed", "branch"),
    [
        (kernel("a", "b", a="580.142", b="590.48.01"), "580.142", "580"),
        (kernel("a", "b", a=None, b="590.48.01"), "590.48.01", "590"),
        (kernel("a", "b", a=None, b=None), None, None),
        (kernel(None, None), None, None),
    ],
)
def test_what_is_installed(tmp_path: Path, given: dict[str, object], installed: str | None, branch: str | None) -> None:
    found = _nvidia_driver_files.read(absent, str(tmp_path), given, [])
    assert (found["installed_version"], found["branch"]) == (installed, branch)
    assert found["installed_flavor"] == ("open" if installed else None)
