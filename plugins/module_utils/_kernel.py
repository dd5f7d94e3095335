# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels of a host and NVIDIA's modules for them: which run, which come next, headers, DKMS, nouveau, Secure Boot."""

from __future__ import annotations

import glob
import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _rooted
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run

# Of the EFI specification (global variables), and of shim.
_EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
_EFIVARS = "sys/firmware/efi/efivars"
# The key with which DKMS signs, and Ubuntu's place for it. DER certificates.
DKMS_KEYS = ("var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.der")
LOG_LINES = 40


class Module(t.NamedTuple):
    version: str | None
    flavor: str | None
    file: str | None


NO_MODULE = Module(None, None, None)


def running(root: str) -> str | None:
    """Release of the running kernel."""
    return (_rooted.read(root, "proc/sys/kernel/osrelease") or "").strip() or None


def installed(root: str) -> list[str]:
    """Releases of the installed kernels, the newest last. One without an image is a rest of a removed one."""
    found = [name for name in _rooted.names(root, "lib/modules") if re.match(r"^[0-9]", name)]
    bootable = [
        name
        for name in found
        if _rooted.exists(root, f"boot/vmlinuz-{name}") or _rooted.exists(root, f"lib/modules/{name}/vmlinuz")
    ]
    return sorted(bootable or found, key=_rooted.version_key)


def flavor_of_license(text: str | None) -> str | None:
    """Open or proprietary, by what the module says of its licence: ``Dual MIT/GPL`` or ``NVIDIA``."""
    return {"dual mit/gpl": "open", "nvidia": "proprietary"}.get((text or "").strip().lower())


def module(release: str, run: Run, root: str) -> Module:
    """NVIDIA's module on disk for a kernel, by modinfo. Debian's own packages call it nvidia-current."""
    where = [] if root == "/" else ["-b", root]
    for name in ("nvidia", "nvidia-current"):
        for modinfo in ("modinfo", "/sbin/modinfo", "/usr/sbin/modinfo"):
            try:
                status, out, _err = run([modinfo, *where, "-k", release, name], 10)
            except NotAnswering:
                return NO_MODULE
            except OSError:
                continue
            if status == 0:
                told = dict(line.split(":", 1) for line in out.splitlines()[::-1] if re.match(r"^[a-z]+:", line))
                version = told.get("version", "").strip() or None
                file = told.get("filename", "").strip() or None
                return Module(version, flavor_of_license(told.get("license")), file)
            break
    return NO_MODULE


def has_headers(release: str, root: str) -> bool:
    """Whether modules can be built for a kernel."""
    return any(
        _rooted.exists(root, f"{place}/Makefile")
        for place in (f"lib/modules/{release}/build", f"usr/src/linux-headers-{release}", f"usr/src/kernels/{release}")
    )


def nouveau_loaded(root: str) -> bool:
    return os.path.isdir(_rooted.below(root, "sys/module/nouveau"))


def nouveau_blacklisted(root: str) -> bool:
    """Whether modprobe's configuration or the kernel's command line keeps nouveau from loading."""
    if re.search(
        r"\b(modprobe|module|rd\.driver)[._]blacklist=\S*\bnouveau\b", _rooted.read(root, "proc/cmdline") or ""
    ):
        return True
    for directory in (
        "etc/modprobe.d",
        "run/modprobe.d",
        "usr/local/lib/modprobe.d",
        "usr/lib/modprobe.d",
        "lib/modprobe.d",
    ):
        for name in _rooted.names(root, directory):
            text = (_rooted.read(root, f"{directory}/{name}") or "") if name.endswith(".conf") else ""
            if re.search(r"^\s*(blacklist\s+nouveau|install\s+nouveau\s+\S*/(true|false))\s*$", text, re.M):
                return True
    return False


def secure_boot(run: Run, root: str) -> str | None:
    """``enabled`` or ``disabled``, or None where that cannot be told. One that shim was told to ignore is disabled."""
    value = _rooted.read_bytes(root, f"{_EFIVARS}/SecureBoot-{_EFI_GLOBAL}")
    if value is not None and len(value) == 5:
        # Four bytes of attributes come before the value.
        ignored = _rooted.read_bytes(root, f"{_EFIVARS}/MokSBStateRT-{_SHIM}")
        off = value[4] != 1 or (ignored is not None and len(ignored) == 5 and ignored[4] == 1)
        return "disabled" if off else "enabled"
    firmware = _rooted.names(root, "sys/firmware")
    if firmware and "efi" not in firmware:
        return "disabled"
    if firmware and root == "/":
        try:
            _status, out, err = run(["mokutil", "--sb-state"], 10)
        except (OSError, NotAnswering):
            return None
        if re.search(r"SecureBoot disabled|validation is disabled|EFI variables are not supported", out + err):
            return "disabled"
        if "SecureBoot enabled" in out:
            return "enabled"
    return None


def mok_enrolled(root: str) -> bool | None:
    """Whether the firmware's list of the owner's keys has the one with which DKMS signs; None where one is missing."""
    key = next((content for content in (_rooted.read_bytes(root, path) for path in DKMS_KEYS) if content), None)
    lists = [name for name in _rooted.names(root, _EFIVARS) if name.startswith(("MokListRT", "db-"))]
    if not key or not _rooted.names(root, _EFIVARS):
        return None
    # The lists hold the certificates as they are (EFI_SIGNATURE_LIST of X.509).
    return any(key in (_rooted.read_bytes(root, f"{_EFIVARS}/{name}") or b"") for name in lists)


def dkms_failed(root: str) -> list[dict[str, str]]:
    """Builds of NVIDIA's modules that left a log and no modules: kernel, the log's path and its last lines."""
    found = []
    base = _rooted.below(root, "var/lib/dkms")
    for path in sorted(glob.glob(os.path.join(glob.escape(base), "nvidia*", "*", "build", "make.log"))):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        title = re.search(r"for kernel (\S+)", text[:500])
        version = os.path.dirname(os.path.dirname(path))
        release = title.group(1) if title else ""
        if release and not glob.glob(os.path.join(glob.escape(version), glob.escape(release), "*", "module", "*.ko*")):
            name = os.path.join("/", os.path.relpath(path, root))
            found.append({"kernel": release, "path": name, "log": "\n".join(text.splitlines()[-LOG_LINES:])})
    return found


def read(run: Run, root: str, asked: bool = True) -> dict[str, t.Any]:
    """All of it. Only where ``asked`` are commands run for it: modinfo for each kernel."""
    now, releases = running(root), installed(root)
    wanted = releases if now is None or now in releases else [now, *releases]
    modules = {release: module(release, run, root) if asked else NO_MODULE for release in wanted}
    return {
        "running": now,
        "newest_installed": releases[-1] if releases else None,
        "modules": {release: one.version for release, one in modules.items()},
        "module_flavors": {release: one.flavor for release, one in modules.items()},
        "headers": {release: has_headers(release, root) for release in wanted},
        "nouveau_loaded": nouveau_loaded(root),
        "nouveau_blacklisted": nouveau_blacklisted(root),
        "secure_boot": secure_boot(run, root),
        "mok_enrolled": mok_enrolled(root),
        "dkms_failed": dkms_failed(root),
    }
