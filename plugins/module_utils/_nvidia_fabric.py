# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVSwitches of a host, and the Fabric Manager that they need."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _container_gpus, _nvidia_packages
from ansible_collections.onprem.llm.plugins.module_utils._bounded import Run
from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import Problem, problem

_SWITCH_CLASS = "0x0680"
_UNIT = "nvidia-fabricmanager.service"


def read(
    devices: t.Iterable[t.Mapping[str, t.Any]], packages: t.Sequence[_nvidia_packages.Package], run: Run, root: str
) -> dict[str, t.Any]:
    """How many NVSwitches there are, and what belongs to them; ``fabricmanager_active`` is None where it is absent."""
    switches = sum(1 for device in devices if device["class"][:6] == _SWITCH_CLASS)
    version = _nvidia_packages.version_of(packages, r"^(cuda-)?(nvidia-)?fabric-?manager")
    state = _container_gpus.unit_state(_UNIT, run, root) if switches or version else "absent"
    return {
        "nvswitches": switches,
        "fabricmanager_version": version,
        "fabricmanager_active": None if state == "absent" else state == "active",
        "nscq_version": _nvidia_packages.version_of(packages, r"^libnvidia-nscq"),
    }


def problems(
    fabric: t.Mapping[str, t.Any], driver: t.Mapping[str, t.Any], gpus: t.Iterable[t.Mapping[str, t.Any]]
) -> list[Problem]:
    """What is wrong with Fabric Manager. GPUs that are registered with a fabric have one, be it in another machine."""
    if not fabric["nvswitches"] or {gpu["fabric_state"] for gpu in gpus} == {"Completed"}:
        return []
    version, wanted = fabric["fabricmanager_version"], driver["installed_version"] or driver["loaded_version"]
    found = []
    if version is None and fabric["fabricmanager_active"] is None:
        found.append(
            problem(
                "fabricmanager_missing",
                f"the host has {fabric['nvswitches']} NVSwitches and no Fabric Manager, without which CUDA does not "
                f"start there: install nvidia-fabricmanager {wanted or 'of exactly the version of the driver'}",
            )
        )
    elif version and wanted and version != wanted:
        found.append(
            problem(
                "fabricmanager_version",
                f"Fabric Manager is {version} and the driver {wanted}; they must be equal, or it ends at once",
            )
        )
    elif fabric["fabricmanager_active"] is False:
        found.append(
            problem("fabricmanager_inactive", "Fabric Manager does not run: systemctl status nvidia-fabricmanager")
        )
    return found
