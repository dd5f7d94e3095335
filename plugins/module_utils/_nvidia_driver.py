# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done about a host's NVIDIA driver: from what ``gpu_info`` tells and what is wished to faults, notes,
packages and steps.

Nothing here looks at a host. What the releases differ in is data (the role's vars/RELEASE.yml, ``system`` below);
the wish is the role's variables.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t

NONE, NVIDIA, DISTRIBUTION = "none", "nvidia", "distribution"
NVIDIA_REPOSITORIES = "https://developer.download.nvidia.com/compute/cuda/repos"
# How NVIDIA's repository names the machines that uname knows by other names.
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}
PACKAGE_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# NVIDIA's open kernel modules start with Turing, the proprietary ones end with branch 580 for what is older, and
# Blackwell has open ones only, from branch 570 on. Turing's PCI devices start here; everything below is Volta or older.
# Source: the device table in the README of NVIDIA's open-gpu-kernel-modules, which starts at 1E02; the Driver
# Installation Guide, Kernel Modules.
FIRST_OPEN_DEVICE = 0x1E00
FIRST_OPEN_CAPABILITY = (7, 5)
LAST_PROPRIETARY_BRANCH = 580
FIRST_BLACKWELL_BRANCH = 570
_OLD = ("older", "maxwell", "pascal", "volta")

_RESTART = ("version_mismatch", "restart_due")
_GPU_CLASSES = ("0x0300", "0x0302")
_NVSWITCH_CLASS = "0x0680"
_MIG_PROFILE = re.compile(r"^[1-7]g\.\d+gb(\+[a-z.]+)?$|^\d+$")

Data = t.Mapping[str, t.Any]


def number(version: str) -> tuple[int, ...]:
    """A version's numbers, for comparison; ``580.95.05`` is (580, 95, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-")[0]))


def upstream(version: str) -> str:
    """NVIDIA's own version in a package's: ``3:580.95.05-1.el9`` is ``580.95.05``."""
    return version.rsplit(":", 1)[-1].split("-")[0]


def matches(version: str, branch: str, exact: str = "") -> bool:
    """Whether a package's version is of the branch, or is exactly the version that is wished."""
    own = upstream(version)
    return own == exact if exact else own == branch or own.startswith(branch + ".")


def source_kind(source: str) -> str:
    """``none``, ``nvidia`` or ``distribution``; a URL is a mirror of NVIDIA's repositories."""
    return NVIDIA if "://" in source or source.startswith("file:/") else source


def repository_url(source: str, system: Data, architecture: str) -> str:
    """Where NVIDIA's packages for this release and machine are, with a slash at its end, or nothing."""
    if source_kind(source) != NVIDIA or not system:
        return ""
    base = NVIDIA_REPOSITORIES if source == NVIDIA else source.rstrip("/")
    return f"{base}/{system['directory']}/{ARCHITECTURES.get(architecture, architecture)}/"


def kernel_modules(info: Data, wished: str = "auto") -> str:
    """``open`` or ``proprietary``: what is wished, else what the GPUs' generation needs."""
    return wished if wished != "auto" else "proprietary" if old_cards(info) else "open"


def cards(info: Data) -> list[Data]:
    """NVIDIA's GPUs on the PCI bus."""
    return [card for card in info.get("pci_devices") or [] if str(card.get("class"))[:6] in _GPU_CLASSES]


def old_cards(info: Data) -> list[str]:
    """PCI addresses of GPUs that only the proprietary modules drive, told by the PCI device or, with a driver, by the
    GPU itself."""
    found = [
        str(gpu.get("pci_bus_id"))
        for gpu in info.get("gpus") or []
        if number(gpu.get("compute_capability") or "7.5") < FIRST_OPEN_CAPABILITY
    ]
    return found or [str(card.get("address")) for card in cards(info) if _older_than_turing(card)]


def _older_than_turing(card: Data) -> bool:
    if card.get("architecture"):
        return card["architecture"] in _OLD
    return int(str(card.get("device_id") or "0xffff"), 16) < FIRST_OPEN_DEVICE


def _new_cards(info: Data) -> list[str]:
    return [str(card.get("address")) for card in cards(info) if not _older_than_turing(card)]


def nvswitches(info: Data) -> int:
    """How many NVSwitches are on the PCI bus; with one, nothing computes without Fabric Manager."""
    told = (info.get("fabric") or {}).get("nvswitches")
    if isinstance(told, int):
        return told
    return len([item for item in info.get("pci_devices") or [] if str(item.get("class"))[:6] == _NVSWITCH_CLASS])


def kernels(info: Data) -> list[str]:
    """The running kernel and the newest that is installed, which the next start runs."""
    told = info.get("kernel") or {}
    return [name for name in dict.fromkeys([told.get("running"), told.get("newest_installed")]) if name]


class Set(t.NamedTuple):
    """Names of packages. Those of ``driver`` move together; the others have versions of their own."""

    driver: list[str]
    headers: list[str]
    pinning: str
    rivals: list[str]
    others: list[str]

    @property
    def names(self) -> list[str]:
        return [*([self.pinning] if self.pinning else []), *self.headers, *self.driver]


def packages(info: Data, wish: Data, system: Data) -> Set:
    """The packages of the wished branch on this release, for these GPUs and kernels.

    ``rivals`` belong to the other source, ``others`` to the other kind of kernel modules.
    """
    kind = source_kind(wish["source"])
    names = system.get(kind) or {}
    branch, exact = wish["branch"], wish.get("version") or ""
    flavour = kernel_modules(info, wish.get("kernel_modules") or "auto")
    opposite = "proprietary" if flavour == "open" else "open"
    versioned = branch and number(branch) < number(system.get("unversioned_from") or "0")

    def filled(patterns: t.Iterable[str], kind_of_modules: str) -> list[str]:
        found: list[str] = []
        for pattern in patterns:
            for kernel in (kernels(info) or [""]) if "{kernel" in pattern else [""]:
                values = {
                    "{branch}": branch,
                    "{-branch}": f"-{branch}" if versioned else "",
                    "{-open}": "-open" if kind_of_modules == "open" else "",
                    "{version}": exact or branch,
                    "{kernel}": kernel,
                    "{kernel_flavour}": kernel.rsplit("-", 1)[-1],
                    "{architecture}": PACKAGE_ARCHITECTURES.get(wish.get("architecture") or "", "amd64"),
                }
                name = pattern
                for placeholder, value in values.items():
                    name = name.replace(placeholder, value)
                if name not in found:
                    found.append(name)
        return found

    driver = filled([*names.get("tools", []), *names.get(flavour, [])], flavour)
    if nvswitches(info):
        driver += filled(names.get("fabric", []), flavour)
    headers = [] if names.get("signed") else filled(system.get("headers", []), flavour)
    other_source = system.get(DISTRIBUTION if kind == NVIDIA else NVIDIA) or {}
    rivals = [
        name
        for part in ("open", "proprietary")
        for name in filled(other_source.get(part, []), part)
        if name not in driver and name not in filled(names.get(opposite, []), opposite)
    ]
    pinning = filled([names["pinning"]], flavour)[0] if names.get("pinning") else ""
    return Set(driver, headers, pinning, rivals, filled(names.get(opposite, []), opposite))


def bundled(wish: Data, system: Data) -> list[dict[str, str]]:
    """What a bundle has to have for hosts of the release whose GPUs nobody has seen yet: name → start of the version,
    once for each kind of kernel modules that may be theirs. With NVIDIA's own packages, Fabric Manager too.

    The headers are those of the release's newest kernel; ``generic`` is what Ubuntu's servers run.
    """
    kind, branch, exact = source_kind(wish["source"]), wish["branch"], wish.get("version") or ""
    names = dict(system.get(kind) or {})
    if not names:
        return []
    if kind == NVIDIA:
        names["tools"] = [*names["tools"], *names.get("fabric", [])]
    system = {**system, kind: names, "headers": [name for name in system["headers"] if "{kernel}" not in name]}
    wished = wish.get("kernel_modules") or "auto"
    older = number(branch)[:1] <= (LAST_PROPRIETARY_BRANCH,)
    flavours = [wished] if wished != "auto" else ["open", "proprietary"] if older else ["open"]
    found = []
    for flavour in flavours:
        wanted = packages({"kernel": {"running": "generic"}}, {**wish, "kernel_modules": flavour}, system)
        start = exact or f"{branch}."
        found.append(dict.fromkeys(wanted.headers, "") | dict.fromkeys(wanted.driver, start if kind == NVIDIA else ""))
    return found


def fingerprint_of_key(armored: str) -> str:
    """The fingerprint of the first public key in ASCII armor: SHA-1 of its packet (RFC 4880, 12.2; version 4).

    :raises ValueError: there is none.
    """
    block = re.search(r"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END PGP", armored, re.DOTALL)
    # Headers end with an empty line; the checksum begins with an equals sign, as no line of base64 does.
    body = re.split(r"\r?\n[ \t]*\r?\n", block.group(1), maxsplit=1)[-1] if block else ""
    try:
        data = base64.b64decode("".join(line for line in body.split() if not line.startswith("=")))
    except binascii.Error as error:
        raise ValueError(f"the key's armor is broken: {error}") from None
    if len(data) < 6 or not data[0] & 0x80:
        raise ValueError("there is no OpenPGP public key in it")
    tag, size, start = data[0] & 0x3F, 0, 0
    if data[0] & 0x40:
        first = data[1]
        size, start = (first, 2) if first < 192 else (((first - 192) << 8) + data[2] + 192, 3)
        if first == 255:
            size, start = int.from_bytes(data[2:6], "big"), 6
    else:
        tag, width = (data[0] >> 2) & 0x0F, 1 << (data[0] & 3)
        size, start = int.from_bytes(data[1 : 1 + width], "big"), 1 + width
    packet = data[start : start + size]
    if tag != 6 or not packet or packet[0] != 4 or len(packet) != size:
        raise ValueError("there is no OpenPGP public key of version 4 in it")
    return hashlib.sha1(b"\x99" + size.to_bytes(2, "big") + packet).hexdigest().upper()


def key_of_repository(wish: Data, system: Data, given: bool) -> tuple[str, str]:
    """File name and fingerprint of the repository's key; no fingerprint where the key itself is ``given``."""
    own = system.get("key") or {}
    wished = wish.get("fingerprint") or ""
    name = f"{wished[-8:]}.pub" if wished and wished != own.get("fingerprint") else own.get("file") or ""
    return name, wished or ("" if given else own.get("fingerprint") or "")


def trusted_source(url: str, armored: str, fingerprint: str) -> str:
    """As :func:`apt_source`, for a key with this fingerprint, or with any where that is empty.

    :raises ValueError: it is no key, or another.
    """
    try:
        seen = fingerprint_of_key(armored)
    except ValueError as error:
        raise ValueError(f"The key of the repository {url} cannot be used: {error}.") from error
    if fingerprint and seen != fingerprint:
        raise ValueError(
            f"The key of the repository {url} has the fingerprint {seen}; {fingerprint} is the right one, so nothing "
            "is believed from there. See who stands between, or give another in nvidia_driver_repository_fingerprint."
        )
    return apt_source(url, armored)


def apt_source(url: str, armored: str) -> str:
    """The source entry (deb822) for a flat repository, with the key that alone may sign it."""
    key = "\n".join(f" {line.strip() or '.'}" for line in armored.strip().splitlines())
    return f"# Ansible managed\nTypes: deb\nURIs: {url}\nSuites: /\nSigned-By:\n{key}\n"


# What apt 2.4 to 3.0 says (gpgv's and sqv's words among it), most telling first.
_APT_FAILURES = (
    (
        r"EXPKEYSIG|KEYEXPIRED|[Ee]xpired",
        (
            "the key that signs it has expired, so nothing from it is believed; take a newer release of this "
            "collection, or "
            "give the new key with nvidia_driver_repository_key_file"
        ),
    ),
    (
        r"NO_PUBKEY|Missing key|is not signed|BADSIG|[Bb]ad signature|No good signature|No binding signature",
        ("its signature is not of the key that was given; give the right one with nvidia_driver_repository_key_file"),
    ),
    (
        r"Could not resolve|Temporary failure|[Cc]ould not connect|Unable to connect|timed out|Connection|No route",
        ("it is not reached; see the host's way out (system_proxy_url), or name a mirror in nvidia_driver_source"),
    ),
    (
        r"404|does not have a Release file|File not found|no longer has a Release",
        (
            "there is no package repository at that place; see nvidia_driver_source, to which the directories of "
            "release and "
            "machine are appended"
        ),
    ),
)


def apt_failure(text: str, url: str) -> str:
    """What apt's words about a repository mean, and the way out."""
    said = [line.strip() for line in text.splitlines()]
    line = next((line for line in said if line.startswith(("E:", "Err:", "W:"))), text.strip())
    means = next((meaning for pattern, meaning in _APT_FAILURES if re.search(pattern, text)), "apt refuses it")
    return f"The repository {url} cannot be used: {means} (apt: {line[:300]})."


def madison(text: str) -> dict[str, list[str]]:
    """Versions by package from ``apt-cache madison``, newest first."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[1] not in found.setdefault(parts[0], []):
            found[parts[0]].append(parts[1])
    return found


def chosen_versions(
    names: t.Sequence[str], versions: t.Mapping[str, t.Sequence[str]], wish: Data, more: t.Iterable[str] = ()
) -> dict[str, str]:
    """The version of each package at which the set moves: the newest of NVIDIA's versions that all of ``names`` have
    and that is of the wished branch, or exactly the wished one. ``more`` are installed packages that move along where
    they have it. Nothing where there is no such version."""
    fitting = [
        {upstream(item) for item in versions.get(name, ()) if matches(item, wish["branch"], wish.get("version") or "")}
        for name in names
    ]
    together = set.intersection(*fitting) if fitting else set()
    if not together:
        return {}
    target = max(together, key=number)
    found = {}
    for name in dict.fromkeys([*names, *more]):
        mates = [item for item in versions.get(name, ()) if upstream(item) == target]
        if mates:
            found[name] = mates[0]
    return found


def branches_of(versions: t.Mapping[str, t.Sequence[str]], names: t.Iterable[str]) -> list[str]:
    """Branches that a repository has, oldest first."""
    found = {upstream(version).split(".")[0] for name in names for version in versions.get(name, ())}
    return sorted(found, key=int)


def _sentences_of_branch(info: Data, wish: Data, system: Data) -> list[str]:
    branch, known = wish["branch"], wish["branches"]
    floor = wish["minima"][-1]["driver"]
    found = []
    if branch not in known:
        found.append(f"nvidia_driver_branch is {branch}; known branches are {', '.join(sorted(known))}.")
    if not branch.isdigit():
        return found
    if int(branch) < int(floor):
        found.append(f"nvidia_driver_branch is {branch}, and the engine needs {floor} or newer.")
    old = old_cards(info)
    if old and int(branch) > LAST_PROPRIETARY_BRANCH:
        found.append(
            f"nvidia_driver_branch is {branch}, and the GPU at {', '.join(old)} is older than Turing; "
            f"{LAST_PROPRIETARY_BRANCH} is the last branch that drives it."
        )
    exact = wish.get("version") or ""
    if exact and not matches(exact, branch):
        found.append(f"nvidia_driver_version is {exact}; it must be of nvidia_driver_branch, such as {branch}.95.05.")
    if wish["source"] == NONE:
        return found
    blackwell = [item for item in [*cards(info), *(info.get("gpus") or [])] if item.get("architecture") == "blackwell"]
    flavour = kernel_modules(info, wish.get("kernel_modules") or "auto")
    if blackwell and int(branch) < FIRST_BLACKWELL_BRANCH:
        found.append(
            f"nvidia_driver_branch is {branch}, and the GPU is of the generation Blackwell, which "
            f"{FIRST_BLACKWELL_BRANCH} is the first to drive."
        )
    if flavour == "proprietary" and blackwell:
        found.append(
            "nvidia_driver_kernel_modules is proprietary, and the GPU is of the generation Blackwell, which only the "
            "open ones drive; set it to auto or open."
        )
    if flavour == "open" and old:
        found.append(
            f"nvidia_driver_kernel_modules is open, and the GPU at {', '.join(old)} is older than Turing, which only "
            "the proprietary ones drive; set it to auto or proprietary."
        )
    if old and _new_cards(info) and blackwell:
        found.append(
            f"The GPU at {', '.join(old)} needs the proprietary kernel modules and one of the generation "
            f"Blackwell the "
            "open ones; no driver runs both, so take one out."
        )
    oldest = system.get("oldest_branch") or ""
    if source_kind(wish["source"]) == NVIDIA and oldest and int(branch) < int(oldest):
        found.append(
            f"nvidia_driver_branch is {branch}, and NVIDIA's repository for {wish['distribution']} begins with "
            f"{oldest}. "
            f'Set nvidia_driver_branch: "{oldest}", or nvidia_driver_source: distribution.'
        )
    own = (system.get(DISTRIBUTION) or {}).get("branches")
    if wish["source"] == DISTRIBUTION and own and branch not in own:
        found.append(
            f"nvidia_driver_source is distribution, and {wish['distribution']} has branch {', '.join(own)} alone; "
            f"nvidia_driver_branch is {branch}. "
            + (
                f'Set nvidia_driver_branch: "{own[-1]}", or nvidia_driver_source: nvidia.'
                if int(own[-1]) >= int(floor)
                else f"The engine needs {floor} or newer: set nvidia_driver_source: nvidia."
            )
        )
    return found


def _unsupported(info: Data, wish: Data, advice: str) -> list[str]:
    """GPUs whose driver the engine does not take, as sentences."""
    found = []
    loaded = (info.get("driver") or {}).get("loaded_version") or ""
    moved = wish["source"] != NONE
    for gpu in info.get("gpus") or []:
        capability = gpu.get("compute_capability") or "7.0"
        rows = [row for row in wish["minima"] if number(row["compute_capability"]) <= number(capability)]
        text = f"GPU {gpu.get('index')} ({gpu.get('name')}, compute capability {capability})"
        if not rows:
            found.append(
                f"{text} is older than the engine supports; it needs compute capability "
                f"{wish['minima'][0]['compute_capability']}. Move the host to cpu_nodes, or take the GPU out."
            )
        elif loaded and number(loaded)[:1] < number(rows[-1]["driver"]) and not moved:
            found.append(
                f"{text} runs with driver {loaded}, and the engine needs {rows[-1]['driver']} or newer. {advice}"
            )
    return found


def _advice(info: Data, wish: Data) -> str:
    old = old_cards(info)
    return (
        f"Have this role install it with nvidia_driver_source: nvidia, or install branch {wish['branch']} with the "
        f"{'proprietary' if old else 'open'} kernel modules from NVIDIA's repository for {wish['distribution']} "
        f"yourself: first nvidia-driver-pinning-{wish['branch']}, then {'cuda-drivers' if old else 'nvidia-open'}; "
        "restart the host. With Secure Boot on (mokutil --sb-state), modules that DKMS builds load only after its key "
        "/var/lib/dkms/mok.pub is enrolled at the console."
    )


def _consent(wish: Data) -> str:
    return (
        "Restart the host, or let this role do it with nvidia_driver_reboot: allow."
        if not wish["reboot"]
        else "nvidia_driver_reboot is forbid: restart the host yourself."
    )


def _playbook(wish: Data) -> str:
    return f"ansible-playbook onprem.llm.driver -e target={wish.get('host') or 'NODE'} does it, after draining the node"


def _secure_boot(info: Data, wish: Data, system: Data) -> str:
    kernel = info.get("kernel") or {}
    kind = source_kind(wish["source"])
    if kernel.get("secure_boot") != "enabled" or kernel.get("mok_enrolled") or (system.get(kind) or {}).get("signed"):
        return ""
    signed = (system.get(DISTRIBUTION) or {}).get("signed")
    return (
        "Secure Boot is on, and the key by which DKMS signs the modules that it builds is not enrolled, so they would "
        "not load. Once, with somebody at the console: install dkms, make its key (dkms generate_mok, or see "
        "docs/nvidia.md), run mokutil --import /var/lib/dkms/mok.pub with a password, restart, and choose Enroll "
        "MOK at "
        "the blue screen. Or turn Secure Boot off in the firmware."
        + (" Or set nvidia_driver_source: distribution, whose modules are signed already." if signed else "")
    )


def _site_faults(info: Data, wish: Data, system: Data, wanted: Set) -> list[str]:
    """What on the host speaks against an installation."""
    site = info.get("installation") or {}
    found = []
    for name, entry in sorted((site.get("packages") or {}).items()):
        if name in wanted.rivals:
            found.append(
                f"{name} {entry['version']} is of the other source than nvidia_driver_source: {wish['source']}. Both "
                f"cannot be had: remove it (apt-get purge {name}, with what it brought), or change "
                f"nvidia_driver_source."
            )
    ours = set((site.get("record") or {}).get("held") or [])
    for item in (info.get("driver") or {}).get("packages") or []:
        if (
            item.get("held")
            and item["name"] not in ours
            and re.match(r"\d{3}\.", upstream(item["version"]))
            and not matches(item["version"], wish["branch"], wish["version"])
        ):
            found.append(
                f"{item['name']} is held at {item['version']}, not by this role, and stands in the way of branch "
                f"{wish['branch']}: let it go (apt-mark unhold {item['name']}), or set nvidia_driver_branch to "
                f"what it is."
            )
    for place in site.get("other_sources") or []:
        found.append(
            f"{place} names NVIDIA's repository, too; two sources of one place with different keys keep apt from "
            "working at all (Conflicting values set for option Signed-By). Take that file away"
            + (" (apt-get purge cuda-keyring)." if "cuda" in place else ".")
        )
    if site.get("audit"):
        found.append(
            f"dpkg has left packages half installed or half configured ({', '.join(site['audit'][:5])}). Mend them: "
            "dpkg --configure -a && apt-get --fix-broken install."
        )
    repository = site.get("repository") or {}
    if repository.get("error"):
        found.append(repository["error"])
    versions = repository.get("versions") or {}
    if versions and not repository.get("error"):
        missing = [name for name in wanted.driver if not chosen_versions([name], versions, wish)]
        if source_kind(wish["source"]) == NVIDIA and not missing and not chosen_versions(wanted.driver, versions, wish):
            found.append(
                f"{repository.get('url') or 'The repository'} has no one version of branch {wish['branch']} of "
                f"{', '.join(wanted.driver)}; it is being filled, or broken. Try again later."
            )
        if source_kind(wish["source"]) == NVIDIA and missing:
            there = branches_of(versions, wanted.driver)
            what = f"version {wish['version']}" if wish["version"] else f"branch {wish['branch']}"
            known = sorted({upstream(item) for item in versions.get(missing[0], ())}, key=number)
            found.append(
                f"{repository.get('url')} has no {missing[0]} of {what}. "
                + (
                    f"It has branches {', '.join(there)} (versions {', '.join(known[-6:])})."
                    if there
                    else "It has none."
                )
            )
    return found


def _host_faults(info: Data, wish: Data, system: Data) -> list[str]:
    """Faults of a host whose driver this role is to install or move."""
    if source_kind(wish["source"]) not in (NVIDIA, DISTRIBUTION):
        return [
            (
                f"nvidia_driver_source is {wish['source']}; it must be none, nvidia, distribution, or the URL of a "
                f"mirror of "
                f"{NVIDIA_REPOSITORIES}."
            )
        ]
    if not system or not system.get(source_kind(wish["source"])):
        return [
            (
                f"nvidia_driver_source is {wish['source']}, and this role knows no packages for "
                f"{wish['distribution']}; it "
                f"knows those of {', '.join(wish['supported'])}. Install the driver yourself and set "
                f"nvidia_driver_source: none."
            )
        ]
    found = []
    if wish.get("architecture") not in ARCHITECTURES:
        found.append(f"NVIDIA has no driver for {wish.get('architecture')}; it has for {', '.join(ARCHITECTURES)}.")
    if (info.get("driver") or {}).get("runfile"):
        found.append(
            "The driver was installed by NVIDIA's runfile, beside the package manager, and packages over it would mix "
            "two versions. Take it away first: nvidia-uninstall (or sh NVIDIA-Linux-*.run --uninstall), then restart."
        )
    fingerprint = wish.get("fingerprint") or (system.get("key") or {}).get("fingerprint")
    if (
        source_kind(wish["source"]) == NVIDIA
        and not fingerprint
        and not wish.get("key_given")
        and not wish["one_repository"]
    ):
        found.append(
            f"The fingerprint of the key of NVIDIA's repository for {wish['distribution']} is not known to this "
            f"role. Give "
            "it with nvidia_driver_repository_fingerprint, or the key itself with nvidia_driver_repository_key_file."
        )
    return found


def decide(info: Data, wish: Data, system: Data) -> dict[str, t.Any]:
    """What is wrong, what is worth knowing and what is due.

    :arg info: what the module ``nvidia_driver_info`` returned, which is ``gpu_info``'s answer, ``serving`` and
        ``installation``.
    :arg wish: ``source``, ``branch``, ``version``, ``kernel_modules``, ``reboot``, ``drained``, ``persistence``,
        ``power_limit_watts``, ``ecc``, ``mig``, ``hold``; ``distribution``, ``architecture``, ``host``, ``today``
        (YYYY-MM), ``branches`` (branch → last month with fixes), ``minima``, ``supported``.
    :arg system: the release's data; empty where there is none.
    """
    wish = {"version": "", "one_repository": False, **wish}
    driver = info.get("driver") or {}
    loaded, installed = driver.get("loaded_version") or "", driver.get("installed_version") or ""
    codes = [item["code"] for item in info.get("problems") or []]
    problems = "; ".join(item["message"] for item in info.get("problems") or [])
    state, advice = info.get("state"), _advice(info, wish)
    managed = wish["source"] != NONE
    serving = bool(info.get("serving")) or any(gpu.get("processes") for gpu in info.get("gpus") or [])
    busy = serving and not wish.get("drained")
    kernel = info.get("kernel") or {}

    faults = _sentences_of_branch(info, wish, system)
    notes: list[str] = []
    due = {"packages": False, "nouveau": False, "settings": False, "mig": False, "restart": False}
    wanted = Set([], [], "", [], [])
    versions: dict[str, str] = {}
    if managed:
        found = _host_faults(info, wish, system)
        faults += found
        if not found:
            wanted = packages(info, wish, system)
            due["packages"] = packages_due(info, wish, wanted, source_kind(wish["source"]))
            there = [item["name"] for item in driver.get("packages") or []]
            offered = ((info.get("installation") or {}).get("repository") or {}).get("versions") or {}
            versions = chosen_versions(wanted.driver, offered, wish, there)
            due["nouveau"] = kernel.get("nouveau_blacklisted") is False
            if due["packages"]:
                faults += _site_faults(info, wish, system, wanted)
                secure = _secure_boot(info, wish, system)
                faults += [secure] if secure else []
    if state == "no_gpu":
        faults.append(
            "The host is in gpu_nodes and has no NVIDIA GPU: none is on the PCI bus, and no driver shows one. "
            "Move it to "
            "cpu_nodes, or see why the GPU is missing (lspci -d 10de:; passthrough, seating, firmware)."
        )
    restart_due = bool(set(_RESTART) & set(codes))
    if managed and state == "no_driver" and not due["packages"]:
        # It is installed, and nothing has loaded it yet.
        restart_due = True
    if state == "no_driver" and not managed:
        where = ", ".join(str(card.get("address")) for card in cards(info)) or "an unknown address"
        nouveau = (
            " Keep nouveau from loading (a line `blacklist nouveau` under /etc/modprobe.d, update-initramfs -u)."
            if "nouveau_loaded" in codes
            else ""
        )
        faults.append(
            f"The NVIDIA GPU at {where} has no driver ({problems}). {advice}{nouveau} Or move the host to cpu_nodes."
        )
    repairs = managed and due["packages"]
    if state == "broken" and not (restart_due and wish["reboot"] == "allow") and not repairs:
        faults.append(f"The NVIDIA driver is in trouble: {problems}. {_consent(wish) if restart_due else ''}".strip())
    elif state == "broken" and restart_due and busy:
        faults.append(f"The NVIDIA driver is in trouble: {problems}. The node still serves: {_playbook(wish)}.")
    if state == "ready" and restart_due and not wish["reboot"]:
        faults.append(
            f"{problems}. {_consent(wish)} To go on with the loaded driver, set nvidia_driver_reboot: forbid."
        )
    nouveau_loaded = bool(kernel.get("nouveau_loaded")) or "nouveau_loaded" in codes
    if repairs and not wish["reboot"] and (nouveau_loaded or loaded):
        why = "nouveau holds the GPU" if nouveau_loaded else f"driver {loaded} is loaded"
        faults.append(
            f"The driver of branch {wish['branch']} is to be installed, and {why}, so the host has to be "
            f"restarted for it. "
            "Set nvidia_driver_reboot: allow to have that done, or forbid to do it yourself."
        )
    faults += _unsupported(info, wish, advice)
    settings = wanted_settings(info, wish)
    layout, mig_faults = mig_commands(info, wish)
    faults += settings.faults + mig_faults
    unit = settings_unit(settings.boot + mig_at_boot(wish, [str(gpu.get("index")) for gpu in info.get("gpus") or []]))
    fabric = bool(nvswitches(info)) and managed and (info.get("fabric") or {}).get("fabricmanager_active") is False
    # Without GPUs that answer, a unit for them is neither wished nor in the way.
    differs = bool(info.get("gpus")) and "settings_unit" in info and unit != info["settings_unit"]
    due["settings"] = settings.differs or differs or (fabric and state in ("ready", "broken") and not due["packages"])
    due["mig"] = bool(layout)
    due["restart"] = restart_due or (managed and nouveau_loaded and not due["packages"])
    postponed = []
    if busy:
        reasons = {
            "packages": f"another driver than {loaded or installed} is to be installed (branch {wish['branch']})",
            "mig": "the GPUs are to be divided otherwise",
            "restart": "the installed driver is not the loaded one",
        }
        postponed = [
            reason for key, reason in reasons.items() if due[key] and (key != "restart" or wish["reboot"] == "allow")
        ]
        for key in reasons:
            due[key] = False
    notes.append(_report(info, wish, loaded, problems))
    notes += [f"WARNING: {reason}, and the node serves: {_playbook(wish)}." for reason in postponed]
    if managed and driver.get("packages") is not None and (info.get("installation") or {}).get("locked_by"):
        notes.append(
            f"WARNING: {info['installation']['locked_by']} holds apt's lock; the run waits for it five minutes."
        )
    due["restart"] = (due["restart"] and wish["reboot"] == "allow") or (due["restart"] and managed and not busy)
    return {
        "faults": faults,
        "notes": notes,
        "due": any(due.values()),
        "steps": due,
        "postponed": postponed,
        "kernel_modules": kernel_modules(info, wish.get("kernel_modules") or "auto"),
        "packages": wanted._asdict(),
        "install": [f"{name} {versions[name]}" if name in versions else name for name in wanted.names]
        if due["packages"]
        else [],
        "transaction": [f"{name}={version}" for name, version in versions.items()]
        or [name for name in wanted.driver if due["packages"]],
        "old_pins": [
            name
            for name in (info.get("installation") or {}).get("packages") or {}
            if name.startswith("nvidia-driver-pinning-") and wanted.pinning and name != wanted.pinning
        ],
        "module_faults": module_faults(info) if managed else [],
        "settings_unit": unit,
        "once": settings.once,
        "mig": layout,
        "reload": not nouveau_loaded and (not serving or bool(wish.get("drained"))),
        "works": state == "ready" and len(cards(info)) <= len(info.get("gpus") or []),
    }


def packages_due(info: Data, wish: Data, wanted: Set, kind: str) -> bool:
    """Whether something of the set is missing, of another branch or version, of two versions, or not held."""
    site = info.get("installation") or {}
    there = site.get("packages") or {}
    if kind == NVIDIA and not wish["one_repository"] and site.get("repository_file") is False:
        return True
    if any(name not in there for name in wanted.headers):
        return True
    if wanted.pinning and not wish["one_repository"] and wanted.pinning not in there:
        return True
    for name in wanted.driver:
        entry = there.get(name)
        if entry is None or (wish.get("hold", True) and not entry["held"]):
            return True
        if kind == NVIDIA and not matches(entry["version"], wish["branch"], wish["version"]):
            return True
    own = {upstream(there[name]["version"]) for name in wanted.driver} if kind == NVIDIA else set()
    return len(own) > 1 or any(name in there for name in wanted.others)


def module_faults(info: Data) -> list[str]:
    """After an installation: kernels without the module, with what DKMS wrote of its failure."""
    found = []
    kernel = info.get("kernel") or {}
    built = kernel.get("modules") or {}
    failed = {item.get("kernel"): item for item in kernel.get("dkms_failed") or []}
    for name in kernels(info):
        if built.get(name):
            continue
        log = failed.get(name) or next(iter(failed.values()), None)
        lines = [line for line in str((log or {}).get("log") or "").splitlines() if line.strip()][-12:]
        found.append(
            f"The NVIDIA module was not built for the kernel {name}"
            + (". The end of DKMS's log:\n  " + "\n  ".join(lines) if lines else "; see dkms status and /var/lib/dkms.")
        )
    return found


def _report(info: Data, wish: Data, loaded: str, problems: str) -> str:
    names = ", ".join(str(gpu.get("name")) for gpu in info.get("gpus") or [])
    text = f"Driver {loaded or 'of unknown version'} runs {names}." if names else "No driver runs a GPU yet."
    branch = loaded.split(".")[0]
    end = wish["branches"].get(branch, "")
    older = bool(loaded) and not end and int(branch) < max(int(item) for item in wish["branches"])
    if (end and end < wish["today"]) or older:
        text += (
            f" WARNING: NVIDIA ended branch {branch}{' in ' + end if end else ''}, so it gets no fixes; move to "
            f"{wish['branch']}."
        )
    return text + (f" WARNING: {problems}" if problems else "")


class Settings(t.NamedTuple):
    """``boot``: arguments of the nvidia-smi calls that each start of the host needs, because the driver forgets.
    ``once``: those whose effect stays. ``differs``: whether something is not as wished now."""

    boot: list[list[str]]
    once: list[list[str]]
    faults: list[str]
    differs: bool


def wanted_settings(info: Data, wish: Data) -> Settings:
    """Power limit, error correction and persistence, as nvidia-smi is told of them."""
    boot: list[list[str]] = []
    once: list[list[str]] = []
    faults: list[str] = []
    differs = False
    limit, ecc, persistence = (
        int(wish.get("power_limit_watts") or 0),
        wish.get("ecc") or "",
        wish.get("persistence") or "",
    )
    for gpu in info.get("gpus") or []:
        index = str(gpu.get("index"))
        who = f"GPU {index} ({gpu.get('name')})"
        if limit:
            low, high = gpu.get("power_limit_min_watts"), gpu.get("power_limit_max_watts")
            if low is not None and high is not None and not low <= limit <= high:
                faults.append(f"nvidia_driver_power_limit_watts is {limit}; {who} takes {low:g} to {high:g}.")
            elif low is None and "power_limit_min_watts" in gpu:
                faults.append(f"nvidia_driver_power_limit_watts is {limit}, and {who} has no power limit to be set.")
            else:
                boot.append(["-i", index, f"--power-limit={limit}"])
                differs = differs or gpu.get("power_limit_watts") not in (None, limit)
        if ecc:
            wished = ecc.capitalize()
            if gpu.get("ecc_mode") is None:
                faults.append(f"nvidia_driver_ecc is {ecc}, and {who} has no error correction that could be set.")
            elif (gpu.get("ecc_mode_pending") or gpu["ecc_mode"]) != wished:
                once.append(["-i", index, f"--ecc-config={int(ecc == 'enabled')}"])
        if persistence and gpu.get("persistence_mode") not in (None, persistence.capitalize()):
            differs = True
    return Settings(boot, once, faults, differs or bool(once))


def settings_unit(commands: t.Sequence[t.Sequence[str]]) -> str:
    """The systemd unit that repeats at each start what the driver forgets; empty where there is nothing."""
    if not commands:
        return ""
    calls = "\n".join("ExecStart=-/usr/bin/nvidia-smi " + " ".join(command) for command in commands)
    return f"""# Ansible managed
[Unit]
Description=Power limit and MIG instances of the GPUs, which the driver forgets when it is unloaded
After=nvidia-persistenced.service nvidia-fabricmanager.service
Before=nvidia-cdi-refresh.service docker.service
ConditionPathExists=/proc/driver/nvidia/version

[Service]
Type=oneshot
RemainAfterExit=yes
{calls}

[Install]
WantedBy=multi-user.target
"""


def mig_at_boot(wish: Data, gpus: t.Iterable[str]) -> list[list[str]]:
    """Arguments of the nvidia-smi calls that make the wished instances on GPUs that have none: MIG outlives a restart
    of the host, its instances do not (NVIDIA's MIG user guide, Getting Started)."""
    found: list[list[str]] = []
    for entry in wish.get("mig") or []:
        profiles = [str(item) for item in entry.get("profiles") or []]
        members = list(gpus) if str(entry.get("gpu")) == "all" else [str(entry.get("gpu"))]
        for name in members if profiles else []:
            found.append(["-i", name, "--multi-instance-gpu=1"])
            found.append(
                ["mig", "-i", name, f"--create-gpu-instance={','.join(profiles)}", "--default-compute-instance"]
            )
    return found


def mig_commands(info: Data, wish: Data) -> tuple[list[list[str]], list[str]]:
    """Arguments of the nvidia-smi calls that bring the GPUs from the MIG instances that they have to those that are
    wished, in order, and faults. Nothing is wished of a GPU that no entry names."""
    commands: list[list[str]] = []
    faults: list[str] = []
    gpus = {str(gpu.get("index")): gpu for gpu in info.get("gpus") or []}
    named: set[str] = set()
    for entry in wish.get("mig") or []:
        name, profiles = str(entry.get("gpu")), [str(item) for item in entry.get("profiles") or []]
        strange = [item for item in profiles if not _MIG_PROFILE.match(item)]
        if strange:
            faults.append(
                f"nvidia_driver_mig has the profile {strange[0]}; nvidia-smi mig -lgip lists those of a GPU, such "
                f"as 3g.71gb."
            )
            continue
        members = list(gpus) if name == "all" else [key for key, gpu in gpus.items() if name in (key, gpu.get("uuid"))]
        if gpus and not members:
            faults.append(
                f"nvidia_driver_mig names the GPU {name}; the host has {', '.join(gpus)}, by index, or by UUID."
            )
        for key in members:
            if key in named:
                faults.append(f"nvidia_driver_mig names GPU {key} twice.")
                continue
            named.add(key)
            commands_of, fault = _mig_of(gpus[key], profiles)
            commands += commands_of
            faults += [fault] if fault else []
    return (commands if not faults else []), faults


def _mig_of(gpu: Data, profiles: list[str]) -> tuple[list[list[str]], str]:
    index = str(gpu.get("index"))
    mode = gpu.get("mig_mode")
    if mode is None:
        return [], f"nvidia_driver_mig names GPU {index} ({gpu.get('name')}), which has no MIG." if profiles else ""
    present = sorted(str(item.get("profile")) for item in gpu.get("mig_devices") or [])
    if mode == "Enabled" and profiles and present == sorted(profiles):
        return [], ""
    if mode == "Disabled" and not profiles:
        return [], ""
    commands: list[list[str]] = []
    if mode == "Enabled" and present:
        commands += [["mig", "-i", index, "--destroy-compute-instance"], ["mig", "-i", index, "--destroy-gpu-instance"]]
    if not profiles:
        return [*commands, ["-i", index, "--multi-instance-gpu=0"]], ""
    if mode == "Disabled":
        commands.append(["-i", index, "--multi-instance-gpu=1"])
    made = ["mig", "-i", index, f"--create-gpu-instance={','.join(profiles)}", "--default-compute-instance"]
    return [*commands, made], ""
