# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run would do to each host and what speaks against it: from roles' statements and a host's state to sentences,
and from the hosts' sentences to one report.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils._text import human_bytes

# What a report says of a host, in the order of the lines.
SECTIONS = ("note", "install", "change", "restart", "interrupt")

# Groups of which a host of `llm_nodes` is in exactly one: they say whether it must compute on GPUs.
KINDS = ("gpu_nodes", "cpu_nodes")


def sentences(value: t.Any) -> list[str]:
    """The sentences in what a role's template gave: a list, or a text with one a line.

    A line that begins with a blank continues the one before. What is empty is dropped.
    """
    if value is None:
        return []
    if isinstance(value, str):
        lines: list[str] = []
        for line in value.splitlines():
            if lines and line[:1].isspace() and line.strip():
                lines[-1] += " " + line.strip()
            elif line.strip():
                lines.append(line.strip())
        return lines
    if isinstance(value, (list, tuple)):
        return [text for item in value if item and (text := " ".join(str(item).split()))]
    return [str(value)]


def refusal(message: str, user: str, python: str = "") -> str:
    """Why a host that answers cannot be worked on, and what would be right.

    :arg message: what ``ansible.builtin.setup`` failed with; the words are those of ansible-core 2.19 to 2.21.
    :arg user: the user that logs in.
    :arg python: the interpreter that the inventory names, if it does.
    """
    said = message.removeprefix("Task failed: ").strip()
    if "Missing sudo password" in said:
        return (
            f"ansible_become_password is not set, and sudo asks {user} for a password; give it (--ask-become-pass, or "
            f"a variable from the vault), or let {user} use sudo without one"
        )
    if "Incorrect sudo password" in said:
        return (
            f"ansible_become_password is refused: it is not {user}'s password, or {user} may not use sudo; "
            "give the right one, or name an ansible_user who may"
        )
    version = re.search(r"minimum of Python[- ]?v?(?:ersion)? ?([\d.]+\d).*?version: ([\d.]+)", said, re.I | re.S)
    if version:
        return (
            f"ansible_python_interpreter is {python or 'what the host has'}, Python {version[2]}; "
            f"{version[1]} or newer is needed on the host"
        )
    if "interpreter" in said and "not found" in said:
        return (
            f"ansible_python_interpreter is {python or 'not set'}, and the host has no Python there; "
            "install python3, or name the interpreter that is there"
        )
    return f"the host's facts cannot be gathered: {said or 'no reason was given'}"


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a run would write below a directory."""

    path: str
    size: int
    purpose: str
    variable: str


def space_faults(needs: t.Iterable[Need], filesystems: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """A sentence for each file system that cannot take all that would be written to it.

    :arg filesystems: by path, ``device`` and ``free_bytes`` of the file system that holds it.
    """
    by_device: dict[t.Any, list[Need]] = {}
    for need in needs:
        if need.path in filesystems and need.size > 0:
            by_device.setdefault(filesystems[need.path]["device"], []).append(need)
    found = []
    for mates in by_device.values():
        free = int(filesystems[mates[0].path]["free_bytes"])
        total = sum(need.size for need in mates)
        if total > free:
            what = ", ".join(f"{need.purpose} {human_bytes(need.size)}" for need in mates)
            found.append(
                f"{mates[0].variable} is {mates[0].path}, whose file system has {human_bytes(free)} ({free} bytes) "
                f"free; {human_bytes(total)} ({total} bytes) are needed ({what}). "
                "Free some, or name a directory on a larger file system."
            )
    return found


def groups_faults(groups: t.Mapping[str, t.Sequence[str]]) -> list[str]:
    """What is missing in the inventory's groups, or contradicts itself."""
    nodes = groups.get("llm_nodes") or []
    found = []
    if not nodes:
        found.append(
            "llm_nodes: the group has no host; put the inference nodes into its children gpu_nodes and cpu_nodes"
        )
    kinds = {kind: set(groups.get(kind) or []) for kind in KINDS}
    for host in sorted(kinds["gpu_nodes"] & kinds["cpu_nodes"]):
        found.append(f"gpu_nodes, cpu_nodes: {host} is in both; a node computes on its GPUs or on its CPU")
    for host in nodes:
        if not any(host in members for members in kinds.values()):
            found.append(
                f"llm_nodes: {host} is neither in gpu_nodes nor in cpu_nodes; put it into one of these children"
            )
    for kind, members in kinds.items():
        for host in sorted(members - set(nodes)):
            found.append(f"{kind}: {host} is not in llm_nodes; make {kind} a child of llm_nodes")
    return found


def address_faults(addresses: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """Hosts of different names at the same place.

    :arg addresses: by variable, each host's value; two hosts with the same one are one host, or one is wrong.
    """
    found = []
    for variable, values in addresses.items():
        mates: dict[t.Any, list[str]] = {}
        for host, value in values.items():
            if value not in (None, ""):
                mates.setdefault(value, []).append(host)
        for value, hosts in mates.items():
            if len(hosts) > 1:
                found.append(f"{variable} is {value} for {', '.join(hosts)}; each host needs an address of its own")
    return found


def wanted_paths(statement: t.Mapping[str, t.Any]) -> list[str]:
    """Every path of a role's statement whose presence or content matters."""
    return [entry["path"] for entry in statement.get("files") or []] + list(statement.get("paths") or [])


def changes(statement: t.Mapping[str, t.Any], state: t.Mapping[str, t.Any]) -> dict[str, list[str]]:
    """What a role would install and change on a host, and which of its units it would start.

    :arg statement: ``packages`` (names), ``files`` (``path``, and ``sha256`` or None where the content is not known
        yet), ``units`` and ``containers`` (names).
    :arg state: the host's, as the module ``host_state`` returns it.
    """
    installed = state.get("packages") or {}
    files = state.get("files") or {}
    units = state.get("units") or {}
    found: dict[str, list[str]] = {"install": [], "change": [], "restart": []}
    absent = [name for name in statement.get("packages") or [] if name not in installed]
    if absent:
        found["install"].append(", ".join(absent))
    for entry in statement.get("files") or []:
        there = files.get(entry["path"]) or {}
        if not there.get("exists"):
            found["change"].append(f"{entry['path']} (new)")
        elif entry.get("sha256") and entry["sha256"] != there.get("sha256"):
            found["change"].append(entry["path"])
        elif entry.get("mode") and there.get("mode") and entry["mode"] != there["mode"]:
            found["change"].append(f"{entry['path']} (mode {there['mode']}, will be {entry['mode']})")
    for name in statement.get("units") or []:
        there = units.get(name) or {}
        if not there.get("active"):
            found["restart"].append(f"{name} (start)")
        elif not there.get("enabled"):
            found["change"].append(f"{name} (enable at boot)")
    containers = state.get("containers") or {}
    for name in statement.get("containers") or []:
        if name not in containers or not containers[name]["running"]:
            found["restart"].append(f"the container {name} (start)")
    return found


def grouped(by_host: t.Mapping[str, t.Iterable[str]], hosts: t.Sequence[str]) -> list[str]:
    """Every sentence once, with the hosts that it is true of.

    :arg hosts: all hosts of the run; a sentence that is true of each of several says so in one word.
    """
    owners: dict[str, list[str]] = {}
    for host in hosts:
        for sentence in by_host.get(host, []):
            mates = owners.setdefault(sentence, [])
            if host not in mates:
                mates.append(host)
    lines = []
    for sentence, mates in owners.items():
        whose = f"all {len(hosts)} hosts" if len(mates) == len(hosts) > 1 else ", ".join(mates)
        lines.append(f"{whose}: {sentence}")
    return lines


def outlook_lines(by_host: t.Mapping[str, t.Mapping[str, t.Sequence[str]]], hosts: t.Sequence[str]) -> list[str]:
    """The report of a run that may begin: what it would do, hosts with the same outlook together."""
    together: list[tuple[t.Mapping[str, t.Sequence[str]], list[str]]] = []
    for host in hosts:
        outlook = by_host.get(host)
        if outlook is None:
            continue
        mates = next((names for known, names in together if known == outlook), None)
        if mates is None:
            together.append((outlook, [host]))
        else:
            mates.append(host)
    lines = []
    for outlook, names in together:
        lines.append(", ".join(names) + ":")
        if not any(outlook.get(section) for section in SECTIONS if section != "note"):
            lines.append("  nothing to do")
        for section in SECTIONS:
            for index, item in enumerate(outlook.get(section) or []):
                lines.append(f"  {section if index == 0 else '':<9} {item}")
    return lines
