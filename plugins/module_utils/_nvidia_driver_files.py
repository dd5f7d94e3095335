# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVIDIA driver a host runs, and which lies on its disk."""

from __future__ import annotations

import glob
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_packages, _rooted
from ansible_collections.onprem.llm.plugins.module_utils._bounded import Run

_LIBRARIES = ("usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/nvidia/current", "usr/lib64", "usr/lib")


def loaded(root: str) -> tuple[str | None, str | None]:
    """Version and flavor (open or proprietary) of the loaded kernel module; None where it is not told.

    The driver's line is ``NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build …``, and
    without ``Open`` for the proprietary module.
    """
    text = _rooted.read(root, "proc/driver/nvidia/version") or ""
    found = re.search(r"NVRM version:(.*?)\s(\d+\.\d+(?:\.\d+)?)\s", text)
    if not found:
        return (_rooted.read(root, "sys/module/nvidia/version") or "").strip() or None, None
    return found.group(2), "open" if "Open Kernel Module" in found.group(1) else "proprietary"


def library_version(root: str) -> str | None:
    """Version of libnvidia-ml on disk: of the one that libnvidia-ml.so.1 leads to, else of the newest."""
    found = []
    for place in _LIBRARIES:
        for path in glob.glob(os.path.join(glob.escape(root), place, "libnvidia-ml.so.*")):
            within = os.path.relpath(path, root)
            target = os.path.basename(_rooted.below(root, within) if root != "/" else os.path.realpath(path))
            version = re.match(r"^libnvidia-ml\.so\.(\d{3}\.\d+(?:\.\d+)?)$", target)
            if version and os.path.basename(path) == "libnvidia-ml.so.1":
                return version.group(1)
            if version:
                found.append(version.group(1))
    return max(found, key=_rooted.version_key, default=None)


def read(
    run: Run, root: str, kernel: t.Mapping[str, t.Any], packages: t.Sequence[_nvidia_packages.Package]
) -> dict[str, t.Any]:
    """Loaded and installed driver. Installed is the module on disk of the running kernel, or else of the next one."""
    version, flavor = loaded(root)
    release = next((one for one in (kernel["running"], kernel["newest_installed"]) if kernel["modules"].get(one)), None)
    installed = kernel["modules"].get(release)
    return {
        "loaded_version": version,
        "loaded_flavor": flavor,
        "installed_version": installed,
        "installed_flavor": kernel["module_flavors"].get(release),
        "library_version": library_version(root),
        "branch": (installed or version or "").split(".")[0] or None,
        "runfile": _nvidia_packages.runfile(run, root),
        "packages": _nvidia_packages.of_driver(packages),
    }
