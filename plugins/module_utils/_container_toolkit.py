# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gives containers the GPUs: the NVIDIA Container Toolkit and its CDI specs, and what has to be done about them.

:func:`look` reads a host for ``gpu_info``. :func:`judge` decides, from what that returns and what is wished for,
what is installed, whether the specs are written anew, and what speaks against it.
"""

from __future__ import annotations

import json
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _rooted

KIND = "nvidia.com/gpu"
PROGRAM = "/usr/bin/nvidia-ctk"
RECORD = "/etc/onprem-llm/nvidia_container_toolkit.json"
SOURCES_FILE = "/etc/apt/sources.list.d/onprem-llm-nvidia-container-toolkit.sources"
GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"

# The set that NVIDIA releases together under one version (packaging/debian/control of 1.20.0); for CDI the first alone
# is enough, the hook of the old runtime is in the others.
BASE = "nvidia-container-toolkit-base"
SET = (BASE, "nvidia-container-toolkit", "libnvidia-container-tools", "libnvidia-container1")
# What came before it. The set breaks the first two up to 3.5.0; nvidia-docker2 brings a daemon.json of its own.
RIVALS = ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-docker2")
UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")


def look(root: str) -> dict[str, t.Any]:
    """What a host has of toolkits, below ``root``, beside packages and specs.

    :returns: sources (mappings of path and url, of the package repositories in force that have the toolkit),
        units_enabled (whether both units start with the host; None where the toolkit has none, as before 1.18) and
        record (what the role wrote down of its own work, None without).
    """
    return {
        "sources": _sources(root),
        "units_enabled": _units_enabled(root),
        "record": _record(root),
    }


def _sources(root: str) -> list[dict[str, str]]:
    found = []
    directory = "etc/apt/sources.list.d"
    for path in ("etc/apt/sources.list", *(f"{directory}/{name}" for name in _rooted.names(root, directory))):
        if path.endswith((".list", ".sources")):
            for url in _urls(_rooted.read(root, path) or "", path.endswith(".sources")):
                if re.search(r"libnvidia-container|nvidia-container-toolkit|nvidia-docker", url):
                    found.append({"path": f"/{path}", "url": url})
    return found


def _urls(text: str, deb822: bool) -> list[str]:
    """URLs of the sources that are in force, without what apt fills in for the architecture."""
    urls: list[str] = []
    if deb822:
        for stanza in re.split(r"\n\s*\n", text):
            if not re.search(r"(?mi)^Enabled:\s*no\b", stanza):
                urls += [url for line in re.findall(r"(?mi)^URIs:\s*(.*)$", stanza) for url in line.split()]
    else:
        urls += re.findall(r"(?m)^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text)
    return [url.replace("$(ARCH)", "").rstrip("/") for url in urls]


def _units_enabled(root: str) -> bool | None:
    places = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
    if not all(any(_rooted.exists(root, f"{place}/{unit}") for place in places) for unit in UNITS):
        return None
    wants = [name for name in _rooted.names(root, places[0]) if name.endswith(".wants")]
    started = {unit for name in wants for unit in _rooted.names(root, f"{places[0]}/{name}")}
    return started >= set(UNITS)


def _record(root: str) -> dict[str, t.Any] | None:
    try:
        found = json.loads(_rooted.read(root, RECORD.lstrip("/")) or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


# --- What is to be done

# Source: NVIDIA's security bulletins for the Container Toolkit.
FLOOR, FLOOR_CVES = (1, 17, 8), "CVE-2025-23266, CVE-2025-23267"
PREFERRED, PREFERRED_CVES = (1, 20, 0), "CVE-2026-24260"


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, an epoch left out; none where it has none."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version or "")
    return tuple(map(int, found.group(1).split("."))) if found else ()


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def devices(specs: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, t.Mapping[str, t.Any]]:
    """The spec that each device name of NVIDIA's GPUs is resolved by.

    A later directory goes before an earlier one: Docker reads /etc/cdi, then /run/cdi (tags.cncf.io's pkg/cdi).
    """
    usable = [spec for spec in specs if spec.get("valid") and spec.get("kind") == KIND]
    usable.sort(key=lambda spec: _directory(spec) != "/etc/cdi")
    return {str(name): spec for spec in usable for name in spec.get("devices") or []}


def _directory(spec: t.Mapping[str, t.Any]) -> str:
    return re.sub(r"^/var/run/", "/run/", os.path.dirname(str(spec["path"])))


def clashes(specs: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """What two specs of one directory both name: such a device is resolved by neither, says CDI."""
    places: dict[tuple[str, str], str] = {}
    found = []
    for spec in specs:
        if not spec.get("valid") or spec.get("kind") != KIND:
            continue
        for name in spec.get("devices") or []:
            other = places.setdefault((_directory(spec), str(name)), str(spec["path"]))
            if other != spec["path"]:
                found.append(f"{KIND}={name} in {other} and {spec['path']}")
    return found


def unnamed(gpus: t.Iterable[t.Mapping[str, t.Any]], names: t.Iterable[str]) -> list[str]:
    """The GPUs and MIG devices that no name stands for, in words.

    ``all`` alone names every GPU; beside names of single ones it says nothing of those that are missing. nvidia-ctk
    names a GPU whose MIG is enabled by its instances alone, GPU:INSTANCE or their UUID (pkg/nvcdi/lib-nvml.go and
    namer.go of the toolkit's 1.20.0).
    """
    known, found = set(names), []
    if known == {"all"}:
        return []
    for gpu in gpus:
        if gpu.get("mig_mode") == "Enabled":
            for device in gpu.get("mig_devices") or []:
                if not {f"{gpu['index']}:{device['index']}", str(device["uuid"])} & known:
                    found.append(f"MIG device {gpu['index']}:{device['index']} ({device['uuid']})")
        elif not {str(gpu["index"]), str(gpu["uuid"])} & known:
            found.append(f"GPU {gpu['index']} ({gpu['uuid']})")
    return found


def _names(gpus: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """Every name by which a container can ask for one of these."""
    found = []
    for gpu in gpus:
        found += [str(gpu["index"]), str(gpu["uuid"])]
        for device in gpu.get("mig_devices") or []:
            found += [f"{gpu['index']}:{device['index']}", str(device["uuid"])]
    return found


class Wish(t.NamedTuple):
    """What the role's variables ask for."""

    source: str  # auto, nvidia or none
    version: str
    runtime: str  # cdi or legacy
    cdi_spec: str  # any or toolkit
    hold: bool
    url: str  # of the package repository; empty where one repository has everything
    planned: t.Sequence[str]  # the names by which the plan wants its devices


def judge(info: t.Mapping[str, t.Any], wish: Wish) -> dict[str, t.Any]:
    """What has to be done about the toolkit of a host, and what speaks against it.

    :arg info: what the module ``gpu_info`` returned.
    :returns: managed (whether the role installs the toolkit), packages (name: version that is wanted, for those),
        outstanding (those to be installed, moved or held), write_source (whether apt has to be told of the
        repository), refresh (why the specs are written anew, or empty), enable (whether the units are), names (the
        devices that the specs give), faults (sentences), notes (sentences) and report (one).
    """
    toolkit = info.get("toolkit") or {}
    gpus = info.get("gpus") or []
    specs = (info.get("cdi") or {}).get("specs") or []
    installed = {item["name"]: item for item in toolkit.get("packages") or []}
    version = str(toolkit.get("version") or "")
    resolved = devices(specs)
    names = list(resolved)
    missing = unnamed(gpus, names)
    unplannable = [name for name in wish.planned if name not in resolved]
    needed = [*_names(gpus), "all", *wish.planned]
    stale = sorted({_mismatch(resolved[name], info) for name in needed if name in resolved} - {""})
    broken = [spec for spec in specs if not spec.get("valid") and spec.get("kind") in (KIND, None, "")]
    lacking = bool(not names or missing or unplannable or wish.cdi_spec == "toolkit" or wish.runtime == "legacy")
    managed = wish.source == "nvidia" or (
        wish.source == "auto" and (bool(toolkit.get("record")) or (not version and lacking))
    )
    wanted = _wanted(wish, installed) if managed else {}
    outstanding = [
        name
        for name, start in wanted.items()
        if name not in installed
        or not installed[name]["version"].startswith(start)
        or (wish.hold and not installed[name]["held"])
    ]
    comes = any(
        name not in installed or not installed[name]["version"].startswith(wanted[name]) for name in outstanding
    )
    units = toolkit.get("units_enabled")
    able = wish.source != "none" and bool(comes or version)
    refresh = ""
    if able and wish.runtime == "cdi":
        refresh = _refresh_reason(names, missing, unplannable, stale, comes, bool(broken))
    faults = _wish_faults(wish, managed)
    faults += _rival_faults(toolkit, installed, version, wish, managed)
    faults += _version_faults(version, comes, wish)
    if not faults and wish.runtime == "cdi":
        faults += _spec_faults(names, missing, unplannable, stale, broken, clashes(specs), version, able)
    return {
        "managed": managed,
        "packages": wanted,
        "outstanding": outstanding,
        "write_source": managed and bool(wish.url) and not _known_source(toolkit, wish),
        "refresh": refresh,
        "enable": bool(managed or version) and wish.source != "none" and wish.runtime == "cdi" and units is False,
        "names": names,
        "faults": faults,
        "notes": _notes(toolkit, installed, version, wish, comes),
        "report": f"CDI devices {', '.join(names) or 'none'}; toolkit {version or 'not installed'}.",
    }


def _wanted(wish: Wish, installed: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Base alone for CDI; what is installed of the set moves with it, as it is released."""
    needed = SET if wish.runtime == "legacy" else tuple(name for name in SET if name == BASE or name in installed)
    return dict.fromkeys(needed, f"{wish.version}-")


def _mismatch(spec: t.Mapping[str, t.Any], info: t.Mapping[str, t.Any]) -> str:
    """Why a spec's libraries do not fit, or nothing. Those of a driver that waits for a restart fit after it: nothing
    that is written before would."""
    driver = info.get("driver") or {}
    written, loaded = spec.get("driver_version"), driver.get("loaded_version")
    if not written or not loaded or written in (loaded, driver.get("installed_version")):
        return ""
    return f"{spec['path']} gives containers the libraries of driver {written}, and {loaded} is loaded"


def _refresh_reason(
    names: t.Sequence[str],
    missing: t.Sequence[str],
    unplannable: t.Sequence[str],
    stale: t.Sequence[str],
    comes: bool,
    broken: bool,
) -> str:
    if not names:
        return "the toolkit is new" if comes else "no spec names a GPU"
    if missing:
        return f"no spec names {', '.join(missing)}"
    if unplannable:
        return f"no spec names {', '.join(unplannable)}, which the plan uses"
    if stale:
        return "; ".join(stale)
    return "the toolkit is new" if comes else "a spec cannot be read" if broken else ""


def _known_source(toolkit: t.Mapping[str, t.Any], wish: Wish) -> bool:
    """Whether apt knows the repository by a file of somebody else: a second would have another Signed-By."""
    return any(
        item["url"].startswith(wish.url.rstrip("/")) and item["path"] != SOURCES_FILE
        for item in toolkit.get("sources") or []
    )


def _wish_faults(wish: Wish, managed: bool) -> list[str]:
    faults = []
    exact = re.match(r"^\d+\.\d+\.\d+$", wish.version)
    if managed and not exact:
        faults.append(
            f"nvidia_container_toolkit_version is {wish.version}; it must be an exact version of three numbers, such "
            f"as {dotted(PREFERRED)}."
        )
    elif managed and numbers(wish.version) < FLOOR:
        faults.append(
            f"nvidia_container_toolkit_version is {wish.version}, which has {FLOOR_CVES}, by which a container takes "
            f"over its host. It must be {dotted(FLOOR)} or newer, better {dotted(PREFERRED)}."
        )
    if managed and wish.url and not re.match(r"^(https?|file)://?[^\s/]*/?\S*$", wish.url):
        faults.append(
            f"nvidia_container_toolkit_repository_url is {wish.url}; it must be a URL such as "
            "https://nvidia.github.io/libnvidia-container/stable."
        )
    return faults


def _rival_faults(
    toolkit: t.Mapping[str, t.Any], installed: t.Mapping[str, t.Any], version: str, wish: Wish, managed: bool
) -> list[str]:
    if not managed:
        return []
    faults = []
    rivals = [
        f"{name} {installed[name]['version']}"
        for name in RIVALS
        if name in installed
        and (name != "nvidia-container-runtime" or numbers(installed[name]["version"]) <= (3, 5, 0))
    ]
    if rivals:
        faults.append(
            f"An older toolkit is installed: {', '.join(rivals)}. nvidia-docker2 has its own daemon.json, and the "
            "others stand in the way of nvidia-container-toolkit. Keep what you need of /etc/docker/daemon.json, "
            f"remove them (apt-get remove {' '.join(item.split(' ')[0] for item in rivals)}), and run this again; or "
            "set nvidia_container_toolkit_source: none."
        )
    if toolkit.get("copies"):
        faults.append(
            f"A second toolkit is on the host: {', '.join(toolkit['copies'])}, of no package, so nobody would "
            f"move it with {PROGRAM}, and a shell finds it first. Remove it, or set "
            "nvidia_container_toolkit_source: none to keep to it."
        )
    theirs = [item["path"] for item in toolkit.get("sources") or [] if item["path"] != SOURCES_FILE]
    ours = [item["url"] for item in toolkit.get("sources") or [] if item["path"] == SOURCES_FILE]
    double = [
        item["path"]
        for item in toolkit.get("sources") or []
        if item["path"] in theirs and any(item["url"].startswith(url) or url.startswith(item["url"]) for url in ours)
    ]
    if double:
        faults.append(
            f"{', '.join(double)} and {SOURCES_FILE} both name NVIDIA's repository, with keys of their own, and apt "
            "refuses that (Conflicting values set for option Signed-By). Remove one."
        )
    return faults


def _version_faults(version: str, comes: bool, wish: Wish) -> list[str]:
    if version and numbers(version) < FLOOR and not comes:
        text = f"NVIDIA Container Toolkit {version} has {FLOOR_CVES}, by which a container takes over its host."
        better = f"{dotted(FLOOR)}, better {dotted(PREFERRED)} or newer"
        return [f"{text} Install {better}; nvidia_container_toolkit_source: nvidia does."]
    if wish.source == "none" and not version and (wish.cdi_spec == "toolkit" or wish.runtime == "legacy"):
        asks = "cdi_spec is toolkit" if wish.cdi_spec == "toolkit" else "runtime is legacy"
        return [f"nvidia_container_toolkit_{asks}, and there is no nvidia-ctk on the host. {_install()}"]
    return []


def _install() -> str:
    return (
        f"Set nvidia_container_toolkit_source: nvidia, or install {BASE} {dotted(PREFERRED)} or newer from NVIDIA's "
        "repository (https://nvidia.github.io/libnvidia-container/), which writes a spec by itself "
        f"(nvidia-cdi-refresh.service), or by hand: {GENERATE}"
    )


def _spec_faults(
    names: t.Sequence[str],
    missing: t.Sequence[str],
    unplannable: t.Sequence[str],
    stale: t.Sequence[str],
    broken: t.Sequence[t.Mapping[str, t.Any]],
    double: t.Sequence[str],
    version: str,
    able: bool,
) -> list[str]:
    """What is wrong with the specs and this role does not mend: it writes none where it is told to keep away."""
    faults = []
    if double:
        faults.append(
            f"Two CDI specs name the same device: {'; '.join(double)}. Docker resolves neither; remove one file."
        )
    if able:
        return faults
    if not names:
        reason = f" ({broken[0]['path']}: {broken[0].get('reason')})" if broken else ""
        faults.append(
            f"No CDI spec in /etc/cdi or /var/run/cdi names a device of the kind {KIND} with its edits{reason}, so no "
            f"container can be given a GPU. {'Write one: ' + GENERATE if version else _install()}"
        )
    elif missing:
        faults.append(
            f"The CDI specs name {', '.join(names)}, and neither the index nor the UUID of {', '.join(missing)}. They "
            "were written for other GPUs or other MIG instances (nothing writes them anew when MIG changes); write "
            f"them anew: {GENERATE}"
        )
    elif unplannable:
        faults.append(
            f"The plan gives the engine {', '.join(unplannable)}, and no CDI spec names {KIND}={unplannable[0]} (they "
            f"name {', '.join(names)}), so Docker could not start it. Write a spec with UUIDs, as nvidia-ctk does from "
            f"1.15.0 on: {GENERATE}"
        )
    elif stale:
        faults.append(f"{'; '.join(stale)}: no container would compute. Write the spec anew: {GENERATE}")
    return faults


def _notes(
    toolkit: t.Mapping[str, t.Any], installed: t.Mapping[str, t.Any], version: str, wish: Wish, comes: bool
) -> list[str]:
    notes = []
    if version and numbers(version) < PREFERRED and not comes:
        notes.append(f"WARNING: {PREFERRED_CVES} is fixed in the NVIDIA Container Toolkit {dotted(PREFERRED)}.")
    if wish.runtime == "legacy":
        notes.append(
            "WARNING: nvidia_container_toolkit_runtime is legacy. Its hook gives a container the GPUs behind systemd's "
            "back, so a systemctl daemon-reload takes them away again (NVML: Unknown Error), and the models go on on "
            "the CPU until the container is made anew. From 1.18 on, its runtime writes a CDI spec for itself unless "
            "its mode is legacy. nvidia_container_toolkit_runtime: cdi has no such defect."
        )
    kept = [f"{name} {installed[name]['version']}" for name in RIVALS if name in installed]
    if kept:
        notes.append(f"{', '.join(kept)} of an older toolkit is installed, and stays.")
    if toolkit.get("copies"):
        notes.append(f"{', '.join(toolkit['copies'])} is a toolkit of no package, and stays.")
    return notes
