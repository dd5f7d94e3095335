# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's packages on a host by its package manager, which of them are held, and what no package manager knows of."""

from __future__ import annotations

import fnmatch
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _rooted
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run

Package = dict[str, t.Any]

_TOOLKIT = re.compile(r"^(nvidia-container-|libnvidia-container|nvidia-docker)")
_DRIVER = re.compile(
    r"^(nvidia-|libnvidia-|kmod-nvidia|akmod-nvidia|dkms-nvidia|cuda-drivers|cuda-keyring$|cuda-compat-|firmware-nvidia-"
    r"|xserver-xorg-video-nvidia|linux-(modules|objects|signatures)-nvidia-|libcuda1$|xorg-x11-drv-nvidia)"
)
# CUDA's tools of the distributions, and what detects or measures, go with no driver version.
_OTHERS = re.compile(
    r"^(nvidia-(cuda|cudnn|profiler|visual-profiler|nsight|opencl-dev|detect|settings-common)|nvidia-prime)"
)
# These are of the driver's version to the last number. Others are not (keyring, pinning, firmware), or only in NVIDIA's
# own repository (persistenced, modprobe, settings: Debian and Ubuntu keep them at versions of their own).
_IN_STEP = re.compile(
    r"^(nvidia-(driver|kernel|dkms|compute|utils|open|fabricmanager|smi|libs)|libnvidia-(compute|ml|nscq|gl|cfg)"
    r"|cuda-drivers|kmod-nvidia|dkms-nvidia|libcuda1$|nvidia-alternative)"
)
_PINNING = "nvidia-driver-pinning-"
# Where rpm keeps its database.
_RPM = ("var/lib/rpm", "usr/lib/sysimage/rpm")


def upstream(version: str) -> str | None:
    """NVIDIA's version in a package's: ``580.159.03`` of ``1:580.159.03-1ubuntu1``."""
    found = re.search(r"(?:^|:)(\d{3}\.\d+(?:\.\d+)?)(?![\d.])", version)
    return found.group(1) if found else None


def dpkg(text: str) -> list[Package]:
    """NVIDIA's installed packages of dpkg's status file, with what is held."""
    found = []
    for name, block in re.findall(r"^Package: (\S*(?:nvidia|cuda)\S*)\n(.*?)(?=^Package: |\Z)", text, re.M | re.S):
        status = re.search(r"^Status: (\S+) (\S+) (\S+)$", block, re.M)
        version = re.search(r"^Version: (\S+)$", block, re.M)
        if status and version and status.group(3) not in ("not-installed", "config-files"):
            held = status.group(1) == "hold"
            whole = status.group(3) in ("installed", "triggers-pending", "triggers-awaited")
            found.append({"name": name, "version": version.group(1), "held": held, "whole": whole})
    return found


def locks(root: str) -> list[str]:
    """Patterns of dnf's versionlock, of its fourth and fifth version."""
    listed = [
        line.strip()
        for line in (_rooted.read(root, "etc/dnf/plugins/versionlock.list") or "").splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "!"))
    ]
    return listed + re.findall(r'^\s*name\s*=\s*"([^"]+)"', _rooted.read(root, "etc/dnf/versionlock.toml") or "", re.M)


def rpm(text: str, patterns: t.Sequence[str]) -> list[Package]:
    """NVIDIA's packages of ``rpm -qa`` with the format that :func:`read` gives it, with what a versionlock holds."""
    found = []
    for line in text.splitlines():
        name, _space, rest = line.partition(" ")
        epoch, _colon, evr = rest.partition(":")
        if not re.search(r"nvidia|cuda", name) or not evr:
            continue
        full = f"{name}-{epoch}:{evr}"
        forms = {name, f"{name}-{evr}", full, f"{epoch}:{name}-{evr}"}
        held = any(
            fnmatch.fnmatchcase(form, one) for form in forms for one in (*patterns, *(p + ".*" for p in patterns))
        )
        # versionlock writes NAME-EPOCH:VERSION-RELEASE.*, where the architecture ends it.
        held = held or any(fnmatch.fnmatchcase(f"{form}.any", one) for form in forms for one in patterns)
        found.append(
            {"name": name, "version": rest if epoch not in ("0", "(none)") else evr, "held": held, "whole": True}
        )
    return found


def read(run: Run, root: str = "/") -> list[Package]:
    """NVIDIA's packages by name: version, whether held, whether installed whole. Driver and toolkit together."""
    status = _rooted.read(root, "var/lib/dpkg/status")
    if status is not None:
        found = dpkg(status)
    elif any(_rooted.exists(root, path) for path in _RPM):
        where = [] if root == "/" else ["--root", root]
        form = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"
        try:
            code, out, _err = run(["rpm", *where, "-qa", "--queryformat", form], 30)
        except (OSError, NotAnswering):
            return []
        found = rpm(out, locks(root)) if code == 0 else []
    else:
        return []
    return sorted(found, key=lambda package: t.cast(str, package["name"]))


def of_driver(packages: t.Iterable[Package]) -> list[Package]:
    return [
        one
        for one in packages
        if _DRIVER.match(one["name"]) and not _TOOLKIT.match(one["name"]) and not _OTHERS.match(one["name"])
    ]


def of_toolkit(packages: t.Iterable[Package]) -> list[Package]:
    return [one for one in packages if _TOOLKIT.match(one["name"])]


def versions_in_step(packages: t.Iterable[Package]) -> dict[str, list[str]]:
    """NVIDIA's versions of those packages that must be of one, each with the packages that have it."""
    found: dict[str, list[str]] = {}
    for one in packages:
        version = upstream(one["version"])
        if version and _IN_STEP.match(one["name"]) and not one["name"].startswith(_PINNING):
            found.setdefault(version, []).append(one["name"])
    return found


def version_of(packages: t.Iterable[Package], pattern: str) -> str | None:
    """NVIDIA's version of the first package whose name matches."""
    return _rooted.first(upstream(one["version"]) for one in packages if re.match(pattern, one["name"]))


def runfile(run: Run, root: str = "/") -> bool:
    """Whether NVIDIA's runfile installed the driver: its uninstaller is there, and is no package's."""
    if not _rooted.exists(root, "usr/bin/nvidia-uninstall"):
        return False
    info = "var/lib/dpkg/info"
    for name in _rooted.names(root, info):
        if re.match(r"^(lib)?nvidia-.*\.list$", name) and "/usr/bin/nvidia-uninstall\n" in (
            _rooted.read(root, f"{info}/{name}") or ""
        ):
            return False
    if any(_rooted.exists(root, path) for path in _RPM):
        where = [] if root == "/" else ["--root", root]
        try:
            return run(["rpm", *where, "-qf", "/usr/bin/nvidia-uninstall"], 10)[0] != 0
        except (OSError, NotAnswering):
            return True
    return True
