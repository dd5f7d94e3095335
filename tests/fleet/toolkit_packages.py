"""Stand-ins for the NVIDIA Container Toolkit's packages, and a signed repository of them, laid out as NVIDIA's own.

Names, dependencies, files and units are those of the toolkit's 1.20.0 (packaging/debian, deployments/systemd); the
content is not NVIDIA's. ``nvidia-ctk`` is a program that makes a CDI spec of what the host's nvidia-smi says, whose
edits are environment variables and a file, so that Docker resolves it without a GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.fleet.nvidia_packages import Package, build, index, key, sign

HERE = Path(__file__).parent
PLACE = "libnvidia-container/stable/deb/amd64"
# One with the CVE, two that may serve, and one that is newer than what the role is asked for.
VERSIONS = ("1.17.4", "1.19.1", "1.20.0", "1.21.0")

REFRESH_PATH = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver or toolkit install / upgrade events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""
REFRESH_SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=/usr/bin/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecCondition=/bin/sh -c 'grep -qE "/nvidia[.]ko" /lib/modules/%v/modules.dep'
ExecStart=/usr/bin/nvidia-smi -L
ExecStart=/usr/bin/nvidia-ctk cdi generate

[Install]
WantedBy=multi-user.target
"""
UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")


def toolkit(version: str) -> Iterator[Package]:
    """The packages of one version. Before 1.18 there were no units."""
    packaged = f"{version}-1"
    units = tuple(map(int, version.split("."))) >= (1, 18, 0)
    program = (HERE / "nvidia_ctk.py").read_text(encoding="utf-8").replace("@VERSION@", version)
    files = {"/usr/bin/nvidia-ctk": (program.encode(), 0o755), "/usr/bin/nvidia-cdi-hook": (b"#!/bin/sh\n", 0o755)}
    # What dh_installsystemd makes of the units, and the packages' own line.
    start = [f"deb-systemd-helper enable {unit} >/dev/null || true" for unit in UNITS]
    start += ["systemctl daemon-reload || true", f"deb-systemd-invoke start {' '.join(UNITS)} >/dev/null || true"]
    configure = "/usr/bin/nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place"
    scripts = {"postinst": "\n".join([configure, *(start if units else [])])}
    if units:
        files |= {
            "/lib/systemd/system/nvidia-cdi-refresh.path": (REFRESH_PATH.encode(), 0o644),
            "/lib/systemd/system/nvidia-cdi-refresh.service": (REFRESH_SERVICE.encode(), 0o644),
            "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env": (b"# NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=\n", 0o644),
        }
        scripts["prerm"] = f'[ "$1" != remove ] || deb-systemd-invoke stop {" ".join(UNITS)} >/dev/null || true'
        scripts["postrm"] = f'[ "$1" != purge ] || deb-systemd-helper purge {" ".join(UNITS)} >/dev/null || true'
    yield Package(
        "nvidia-container-toolkit-base",
        packaged,
        files=files,
        scripts=scripts,
        fields={"Breaks": "nvidia-container-runtime (<= 3.5.0-1), nvidia-container-runtime-hook"},
        conffiles=("/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env",) if units else (),
    )
    yield Package("libnvidia-container1", packaged)
    yield Package("libnvidia-container-tools", packaged, depends=f"libnvidia-container1 (>= {packaged})")
    yield Package(
        "nvidia-container-toolkit",
        packaged,
        depends=f"nvidia-container-toolkit-base (= {packaged}), libnvidia-container-tools (= {packaged})",
        files={"/usr/bin/nvidia-container-runtime-hook": (b"#!/bin/sh\n", 0o755)},
    )


def older() -> Iterator[Package]:
    """What hosts may have from years ago."""
    yield Package("nvidia-docker2", "2.8.0-1", "all")


def make(directory: Path) -> None:
    """The repository below ``directory``/srv, its key as ``key.asc`` and, as ``other.asc``, one that signs nothing."""
    shutil.rmtree(directory, ignore_errors=True)
    repository = directory / "srv" / PLACE
    repository.mkdir(parents=True)
    for version in VERSIONS:
        for package in toolkit(version):
            build(package, repository)
    for package in older():
        build(package, repository)
    index(repository)
    home, _fingerprint = key(directory, "key")
    sign(repository, home)
    key(directory, "other")
