# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder of a diagnosis: what is checked in which order, and what a broken rung says about the others.

A rung *needs* another where it cannot even be asked without it, and *follows* others where their fault may be the cause
of its own. So a stopped Docker leaves open whether models answer, while a full disk hides no expired certificate. The
order of the ladder is one in which every cause comes before its effects; a test holds that.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field, replace

OK, BROKEN, REMARK, UNKNOWN, NOT_ASKED = "ok", "broken", "remark", "unknown", "not asked"
# What a host is to do; a single box is a node and a gateway without an endpoint.
FUNCTIONS = ("gpu_node", "node", "endpoint", "gateway", "balancer", "mirror", "mirrored")


@dataclass(frozen=True)
class Rung:
    """One step: what is checked, and on which hosts (``function``, empty for all)."""

    name: str
    checked: str
    function: str = ""
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()


RUNGS = (
    Rung("clock", "The clock is right"),
    Rung("disk", "No file system is full or read-only"),
    Rung("memory_kills", "The kernel killed nothing for want of memory"),
    Rung("dns", "A name server answers"),
    Rung("hardware", "Every GPU is on the PCI bus", "gpu_node"),
    Rung("firmware", "Secure Boot lets the driver's module load", "gpu_node", follows=("hardware",)),
    Rung("module", "The driver's module is loaded, the installed one", "gpu_node", follows=("hardware", "firmware")),
    Rung("xid", "The driver reported no critical GPU fault (XID) since boot", "gpu_node"),
    Rung("device_nodes", "The driver's device nodes are there", "gpu_node", follows=("module",)),
    Rung(
        "nvidia_smi",
        "nvidia-smi shows every GPU",
        "gpu_node",
        follows=("hardware", "firmware", "module", "xid", "device_nodes"),
    ),
    Rung("gpu_health", "The GPUs are sound, cool and divided as planned", "gpu_node", ("nvidia_smi",), ("xid",)),
    Rung("toolkit", "The NVIDIA Container Toolkit has no known hole", "gpu_node"),
    Rung("cdi", "The CDI specifications name every planned GPU", "gpu_node", follows=("nvidia_smi", "gpu_health")),
    Rung("docker", "Docker answers", "node", follows=("disk", "memory_kills")),
    Rung("container", "The engine's container runs", "node", ("docker",), ("disk", "memory_kills", "cdi")),
    Rung(
        "container_gpu",
        "The container sees the planned GPUs",
        "gpu_node",
        ("container",),
        ("module", "xid", "nvidia_smi", "gpu_health", "cdi"),
    ),
    Rung("models", "The planned models' files are whole, and the engine may read them", "node", follows=("disk",)),
    Rung("engine", "The engine answers", "node", ("container",), ("disk", "memory_kills")),
    Rung("warm", "The planned models are loaded, and watched", "node", ("engine",), ("memory_kills", "models")),
    Rung(
        "offload",
        "The engine has every layer where the plan says",
        "node",
        ("engine",),
        ("nvidia_smi", "gpu_health", "container_gpu", "warm"),
    ),
    Rung("memory", "Memory and context are as planned", "node", ("engine",), ("warm", "offload")),
    Rung("answers", "Every planned model answers", "node", ("engine",), ("memory_kills", "models", "warm")),
    Rung(
        "speed",
        "Answers come at the expected speed",
        "node",
        ("answers",),
        ("gpu_health", "offload", "memory", "memory_kills"),
    ),
    Rung("certificate", "The fleet's certificates are in time, and their keys their own", follows=("clock",)),
    Rung("endpoint", "The endpoint admits gateways alone", "endpoint", follows=("disk", "certificate")),
    Rung("balancer", "The balancer has every node", "balancer", follows=("clock", "disk", "certificate")),
    Rung(
        "gateway",
        "The gateway admits users alone, and streams",
        "gateway",
        follows=("disk", "certificate", "balancer", "engine", "models", "warm", "answers"),
    ),
    Rung("registry", "The mirror's registry serves", "mirror", follows=("disk", "certificate")),
    Rung("mirror", "A mirror answers this node", "mirrored", follows=("dns", "clock", "certificate", "registry")),
    Rung("firewall", "The firewall is closed where no rule opens it"),
    Rung("logs", "Logs are rotated", follows=("disk",)),
)
NAMES = tuple(rung.name for rung in RUNGS)


@dataclass(frozen=True)
class Finding:
    """What one rung came to on one host.

    :ivar seen: what was read from the host. ``means``: what follows from it. ``mend``: the command or playbook that
        mends it. The last two are empty where nothing is wrong.
    :ivar about: other hosts of which it tells; a fault of theirs explains it.
    :ivar because: rungs that leave this one open, where it is unknown.
    """

    rung: str
    verdict: str
    seen: str = ""
    means: str = ""
    mend: str = ""
    about: tuple[str, ...] = ()
    because: tuple[str, ...] = ()

    @property
    def checked(self) -> str:
        return RUNGS[NAMES.index(self.rung)].checked


def ok(rung: str, seen: str) -> Finding:
    return Finding(rung, OK, seen)


def broken(rung: str, seen: str, means: str, mend: str, about: t.Sequence[str] = ()) -> Finding:
    return Finding(rung, BROKEN, seen, means, mend, tuple(about))


def remark(rung: str, seen: str, means: str, mend: str = "") -> Finding:
    return Finding(rung, REMARK, seen, means, mend)


def not_asked(rung: str, seen: str) -> Finding:
    return Finding(rung, NOT_ASKED, seen)


class Unreadable(Exception):
    """A rung cannot be asked, and no other rung says why; the text says what failed."""


@dataclass
class Climb:
    """A way up the ladder: each rung is asked unless one that it needs is broken.

    :ivar functions: what the host is to do, of :data:`FUNCTIONS`.
    """

    functions: frozenset[str]
    findings: dict[str, Finding] = field(default_factory=dict)

    def ask(self, checks: t.Mapping[str, t.Callable[[], Finding]]) -> list[Finding]:
        """One finding for each rung of the host, in the ladder's order.

        :arg checks: by rung, what asks the host. An exception of one leaves its rung unknown, never the others.
        """
        for rung in RUNGS:
            if rung.function and rung.function not in self.functions:
                continue
            away = self.causes(rung.needs)
            if away:
                self.findings[rung.name] = Finding(rung.name, UNKNOWN, "not asked", because=away)
                continue
            try:
                found = checks[rung.name]()
            except Exception as error:
                text = str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"
                found = Finding(rung.name, UNKNOWN, text, "It could not be checked, and may be broken.")
            causes = self.causes(rung.needs + rung.follows)
            if causes and found.verdict in (BROKEN, UNKNOWN):
                found = replace(found, verdict=UNKNOWN, because=causes)
            self.findings[rung.name] = found
        return list(self.findings.values())

    def causes(self, names: t.Iterable[str]) -> tuple[str, ...]:
        """The broken rungs that these are, or that leave these unknown, in the ladder's order."""
        found: set[str] = set()
        for name in names:
            finding = self.findings.get(name)
            if finding is None:
                continue
            if finding.verdict == BROKEN or (finding.verdict == UNKNOWN and not finding.because):
                found.add(name)
            found.update(finding.because if finding.verdict == UNKNOWN else ())
        return tuple(sorted(found, key=NAMES.index))


def faults(findings: t.Iterable[Finding]) -> list[Finding]:
    """The causes, the first on top: broken rungs, and those that could not be asked for a reason of their own."""
    return [item for item in findings if item.verdict == BROKEN or (item.verdict == UNKNOWN and not item.because)]


def as_data(findings: t.Iterable[Finding]) -> list[dict[str, t.Any]]:
    """For JSON, each with what was checked."""
    return [
        {**asdict(item), "checked": item.checked, "about": list(item.about), "because": list(item.because)}
        for item in findings
    ]


def from_data(data: t.Iterable[t.Mapping[str, t.Any]]) -> list[Finding]:
    """What :func:`as_data` gave."""
    return [
        Finding(
            str(item["rung"]),
            str(item["verdict"]),
            str(item["seen"]),
            str(item["means"]),
            str(item["mend"]),
            tuple(item["about"]),
            tuple(item["because"]),
        )
        for item in data
    ]


def across(hosts: t.Mapping[str, t.Sequence[Finding]]) -> dict[str, list[Finding]]:
    """The findings of a fleet, in which a fault that tells of another host follows from what is broken there.

    A node without an engine is the cause of what its gateway finds, and is told of once.
    """
    sick = {host: [item.rung for item in faults(found)] for host, found in hosts.items()}
    result: dict[str, list[Finding]] = {}
    for host, found in hosts.items():
        result[host] = []
        for item in found:
            elsewhere = [f"{other}: {sick[other][0]}" for other in item.about if other != host and sick.get(other)]
            if item.verdict == BROKEN and elsewhere and len(elsewhere) == len(item.about):
                item = replace(item, verdict=UNKNOWN, because=tuple(elsewhere))
            result[host].append(item)
        demoted = {item.rung: item.because for item in result[host] if item.verdict == UNKNOWN and item.because}
        for number, item in enumerate(result[host]):
            if item.verdict == UNKNOWN and any(name in demoted for name in item.because):
                because = tuple(dict.fromkeys(one for name in item.because for one in demoted.get(name, (name,))))
                result[host][number] = replace(item, because=because)
    return result
