# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How containers get a host's GPUs: NVIDIA's container toolkit, Docker's settings for it, and CDI specifications."""

from __future__ import annotations

import json
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import (
    _block_yaml,
    _container_toolkit,
    _nvidia_packages,
    _rooted,
)
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run
from ansible_collections.onprem.llm.plugins.module_utils._gpu_problems import Problem, problem

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

# The runtime directory comes second and outweighs the first (the CDI specification, section "CDI JSON").
DIRECTORIES = ("etc/cdi", "var/run/cdi")
KIND = "nvidia.com/gpu"
_KIND = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_UNITS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_REFRESH = "nvidia-cdi-refresh.path"
# Where a toolkit lands that came by no package: built from source, and NVIDIA's GPU operator.
_COPIES = ("usr/local/bin/nvidia-ctk", "usr/local/nvidia/toolkit/nvidia-ctk")

Spec = dict[str, t.Any]


def unit_state(unit: str, run: Run, root: str) -> str:
    """``active``, ``inactive`` or ``absent``. Below another root nothing runs, so a unit that is there is inactive."""
    if not any(_rooted.exists(root, f"{directory}/{unit}") for directory in _UNITS):
        return "absent"
    if root != "/":
        return "inactive"
    try:
        return "active" if run(["systemctl", "is-active", unit], 10)[0] == 0 else "inactive"
    except (OSError, NotAnswering):
        return "inactive"


def docker_mode(text: str | None) -> str | None:
    """``cdi`` or ``legacy`` (the runtime ``nvidia``) by Docker's daemon.json; None where it says neither or no JSON."""
    try:
        settings = json.loads(text or "{}")
    except ValueError:
        return None
    if not isinstance(settings, dict):
        return None
    features, runtimes = settings.get("features"), settings.get("runtimes")
    if settings.get("default-runtime") == "nvidia":
        return "legacy"
    if isinstance(features, dict) and features.get("cdi") is True:
        return "cdi"
    return "legacy" if isinstance(runtimes, dict) and "nvidia" in runtimes else None


def _version(run: Run, root: str, packages: t.Sequence[_nvidia_packages.Package]) -> str | None:
    package = next((one for one in packages if one["name"].startswith("nvidia-container-toolkit")), None)
    if package:
        found = re.search(r"(?:^|:)(\d+\.\d+\.\d+)", package["version"])
        return found.group(1) if found else None
    if root != "/":
        return None
    try:
        _status, out, err = run(["nvidia-ctk", "--version"], 10)
    except (OSError, NotAnswering):
        return None
    told = re.search(r"version (\d+\.\d+\.\d+)", out + err)
    return told.group(1) if told else None


def toolkit(run: Run, root: str, packages: t.Sequence[_nvidia_packages.Package]) -> dict[str, t.Any]:
    """The toolkit's version, how Docker uses it, and whether the specification is refreshed by itself."""
    return {
        "version": _version(run, root, packages),
        "mode": docker_mode(_rooted.read(root, "etc/docker/daemon.json")),
        "refresh_path_unit": unit_state(_REFRESH, run, root),
        "packages": list(packages),
        "copies": [f"/{path}" for path in _COPIES if _rooted.exists(root, path)],
        **_container_toolkit.look(root),
    }


def parse(text: str) -> t.Any:
    """A specification's value.

    :raises ValueError: it is neither JSON nor YAML, or YAML of a form that is not understood without PyYAML.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    if yaml is None:
        return _block_yaml.load(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _edits(value: t.Mapping[str, t.Any]) -> t.Iterator[t.Any]:
    """Container edits of the whole specification and of its devices."""
    yield value.get("containerEdits")
    for device in value.get("devices") or []:
        yield device.get("containerEdits")


def _paths(value: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for edits in _edits(value):
        if isinstance(edits, dict):
            for node in edits.get("deviceNodes") or []:
                yield str(node.get("hostPath") or node.get("path") or "")
            for mount in edits.get("mounts") or []:
                yield str(mount.get("hostPath") or "")


def wrong(value: t.Any) -> str:
    """Why Docker takes nothing from a specification, or nothing where it is whole."""
    if not isinstance(value, dict):
        return "it is no mapping"
    if not isinstance(value.get("cdiVersion"), str):
        return "it has no cdiVersion"
    if not _KIND.match(str(value.get("kind") or "")):
        return f"its kind is {value.get('kind')!r}; VENDOR/CLASS is right, such as {KIND}"
    devices = value.get("devices")
    if not isinstance(devices, list) or not devices:
        return "it names no devices"
    for device in devices:
        name = device.get("name") if isinstance(device, dict) else None
        if name is None or name == "":
            return "one of its devices has no name"
        if not isinstance(name, str):
            return f"the name of its device {name} is no text; quote it"
        if not isinstance(device.get("containerEdits"), dict) or not device["containerEdits"]:
            return f"its device {name} has no containerEdits"
    names = [device["name"] for device in devices]
    twice = next((name for name in names if names.count(name) > 1), None)
    return f"it names the device {twice} twice" if twice else ""


def spec(text: str, root: str) -> Spec:
    """What a specification says: kind, devices, the driver's version by its libraries, and why it cannot be used."""
    try:
        value = parse(text)
        reason = wrong(value)
    except ValueError as error:
        value, reason = None, f"it is neither JSON nor YAML: {error}"
    if reason:
        told = value if isinstance(value, dict) else {}
        return {"kind": told.get("kind"), "devices": [], "version": told.get("cdiVersion"), "valid": False,
                "reason": reason, "driver_version": None}  # fmt: skip
    paths = [path for path in _paths(value) if path.startswith("/")]
    absent = next((path for path in paths if not _rooted.exists(root, path.lstrip("/"))), None)
    libraries = [
        found.group(1) for found in (re.search(r"\.so\.(\d{3}\.\d+(?:\.\d+)?)$", one) for one in paths) if found
    ]
    return {
        "kind": value["kind"],
        "devices": [device["name"] for device in value["devices"]],
        "version": value["cdiVersion"],
        "valid": absent is None,
        "reason": None if absent is None else f"it names {absent}, which is not there",
        "driver_version": max(set(libraries), key=libraries.count, default=None),
    }


def specs(root: str) -> list[Spec]:
    """The specifications of GPUs, and those of which nothing can be told."""
    found, seen = [], set()
    for directory in DIRECTORIES:
        for name in _rooted.names(root, directory):
            path = f"{directory}/{name}"
            real = os.path.realpath(_rooted.below(root, path))
            if not name.endswith((".yaml", ".json")) or real in seen:
                continue
            seen.add(real)
            text = _rooted.read(root, path)
            one = spec(text, root) if text is not None else {**spec("", root), "reason": "it cannot be read"}
            # Another vendor's, whatever is wrong with it, is no matter of GPUs.
            if one["kind"] == KIND or not _KIND.match(str(one["kind"] or "")):
                found.append({"path": f"/{path}", **one})
    return found


def problems(found: t.Sequence[Spec], used: t.Mapping[str, t.Any], driver: t.Mapping[str, t.Any]) -> list[Problem]:
    """What is wrong with the specifications and the toolkit. A driver that was updated counts by what is on disk."""
    told: list[Problem] = []
    owners: dict[tuple[str, str, str], str] = {}
    present = {driver[key] for key in ("loaded_version", "installed_version", "library_version") if driver[key]}
    for one in found:
        path = one["path"]
        if not one["valid"]:
            told.append(
                problem(
                    "cdi_invalid", f"{path}: {one['reason']}; nvidia-ctk cdi generate --output={path} writes it anew"
                )
            )
            continue
        for device in one["devices"]:
            other = owners.setdefault((os.path.dirname(path), one["kind"], device), path)
            if other != path:
                told.append(
                    problem(
                        "cdi_conflict",
                        f"{other} and {path} both name {one['kind']}={device}, so Docker gives neither: remove one",
                    )
                )
                break
        if one["driver_version"] and present and one["driver_version"] not in present:
            versions = " and ".join(sorted(present))
            told.append(
                problem(
                    "cdi_stale",
                    f"{path} is of driver {one['driver_version']}, and the host has {versions}: "
                    f"nvidia-ctk cdi generate --output={path}",
                )
            )
    names = [one["name"] for one in used["packages"]]
    if "nvidia-docker2" in names and "nvidia-container-toolkit" in names:
        told.append(problem("two_toolkits", "nvidia-docker2 is installed beside nvidia-container-toolkit: remove it"))
    if used["copies"] and names:
        copies = " and ".join(used["copies"])
        told.append(problem("two_toolkits", f"{copies} is there beside the toolkit's packages: remove one of them"))
    return told
