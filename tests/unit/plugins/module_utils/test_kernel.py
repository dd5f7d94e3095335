# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels, modules, headers, DKMS, nouveau and Secure Boot, of trees made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bounded, _kernel, _rooted

EFIVARS = "sys/firmware/efi/efivars"
SECURE_BOOT = f"{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
MODULES = {
    "6.12.48": "filename:       /lib/modules/6.12.48/updates/dkms/nvidia.ko.xz\nversion:        580.142\n"
    "supported:      external\nlicense:        Dual MIT/GPL\nfirmware:       nvidia/580.142/gsp_tu10x.bin\n",
    "6.12.57": "filename:       /lib/modules/6.12.57/updates/dkms/nvidia.ko.xz\nversion:        580.159.03\n"
    "license:        NVIDIA\nparm:           NVreg_ResmanDebugLevel:int\n",
}


def put(root: Path, path: str, content: str | bytes = "") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


def modinfo(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
    if argv[0] != "modinfo":
        raise FileNotFoundError(2, "No such file", argv[0])
    release, name = argv[-2], argv[-1]
    text = MODULES.get(release) if name == "nvidia" else None
    return (0, text, "") if text else (1, "", f"modinfo: ERROR: Module {name} not found.\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "proc/sys/kernel/osrelease", "6.12.48\n")
    for release in ("6.12.9", "6.12.48", "6.12.57"):
        put(tmp_path, f"boot/vmlinuz-{release}")
        put(tmp_path, f"lib/modules/{release}/modules.dep")
    put(tmp_path, "lib/modules/6.13.0-removed/extra/rest")
    put(tmp_path, "usr/src/linux-headers-6.12.48/Makefile")
    (tmp_path / "lib/modules/6.12.48/build").symlink_to("/usr/src/linux-headers-6.12.48")
    (tmp_path / "lib/modules/6.12.57/build").symlink_to("/usr/src/linux-headers-6.12.57")
    return tmp_path


def test_kernels_and_their_modules(root: Path) -> None:
    found = _kernel.read(modinfo, str(root))
    assert (found["running"], found["newest_installed"]) == ("6.12.48", "6.12.57"), "one without an image is none"
    assert found["modules"] == {"6.12.9": None, "6.12.48": "580.142", "6.12.57": "580.159.03"}
    assert found["module_flavors"] == {"6.12.9": None, "6.12.48": "open", "6.12.57": "proprietary"}
    assert found["headers"] == {"6.12.9": False, "6.12.48": True, "6.12.57": False}, "by links within the root"


def test_nothing_is_asked_where_nothing_concerns_the_driver(root: Path) -> None:
    def refuse(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        raise AssertionError(argv)

    assert set(_kernel.read(refuse, str(root), False)["modules"].values()) == {None}


def test_a_running_kernel_that_was_removed_is_told(root: Path) -> None:
    put(root, "proc/sys/kernel/osrelease", "6.1.0\n")
    found = _kernel.read(modinfo, str(root))
    assert (found["running"], found["modules"]["6.1.0"], found["headers"]["6.1.0"]) == ("6.1.0", None, False)


def test_red_hat_has_images_and_headers_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, "lib/modules/5.14.0-570.el9.x86_64/vmlinuz")
    put(tmp_path, "usr/src/kernels/5.14.0-570.el9.x86_64/Makefile")
    found = _kernel.read(modinfo, str(tmp_path))
    assert (found["running"], found["newest_installed"]) == (None, "5.14.0-570.el9.x86_64")
    assert found["headers"] == {"5.14.0-570.el9.x86_64": True}


def test_debians_own_module_has_another_name() -> None:
    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if argv[-1] == "nvidia":
            return 1, "", "modinfo: ERROR: Module nvidia not found.\n"
        return 0, "version:        550.163.01\nlicense:        NVIDIA\n", ""

    assert _kernel.module("6.12.57", run, "/")[:2] == ("550.163.01", "proprietary")


def test_modinfo_outside_the_path_and_hanging() -> None:
    def elsewhere(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if argv[0] != "/usr/sbin/modinfo":
            raise FileNotFoundError(2, "No such file", argv[0])
        return 0, "version: 580.142\n", ""

    def hangs(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        raise _bounded.NotAnswering

    assert _kernel.module("6.12.57", elsewhere, "/").version == "580.142"
    assert _kernel.module("6.12.57", hangs, "/") == _kernel.NO_MODULE


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({SECURE_BOOT: b"\x06\x00\x00\x00\x01"}, "enabled"),
        ({SECURE_BOOT: b"\x06\x00\x00\x00\x00"}, "disabled"),
        ({SECURE_BOOT: b"\x06\x00\x00\x00\x01", f"{EFIVARS}/MokSBStateRT-{SHIM}": b"\x06\x00\x00\x00\x01"}, "disabled"),
        ({SECURE_BOOT: b"\x06\x00\x00\x00\x01", f"{EFIVARS}/MokSBStateRT-{SHIM}": b"\x06\x00\x00\x00\x00"}, "enabled"),
        ({"sys/firmware/acpi/tables/DSDT": b""}, "disabled"),
        ({}, None),
    ],
    ids=["on", "off", "ignored by shim", "not ignored by shim", "no EFI", "hidden, as in a container"],
)
def test_secure_boot_by_the_firmwares_variables(tmp_path: Path, files: dict[str, bytes], told: str | None) -> None:
    for path, content in files.items():
        put(tmp_path, path, content)
    assert _kernel.secure_boot(modinfo, str(tmp_path)) == told


@pytest.mark.parametrize(
    ("out", "err", "told"),
    [
        ("SecureBoot enabled\n", "", "enabled"),
        ("SecureBoot disabled\n", "", "disabled"),
        ("SecureBoot enabled\nSecureBoot validation is disabled in shim\n", "", "disabled"),
        ("", "EFI variables are not supported on this system\n", "disabled"),
        ("", "Failed to read SecureBoot\n", None),
    ],
)
def test_secure_boot_by_mokutil_where_the_variables_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, out: str, err: str, told: str | None
) -> None:
    monkeypatch.setattr(_rooted, "read_bytes", lambda root, path: None)
    monkeypatch.setattr(_rooted, "names", lambda root, path: ["acpi", "efi"])
    assert _kernel.secure_boot(lambda argv, timeout: (0, out, err), "/") == told


def test_a_key_is_enrolled_where_the_firmwares_list_has_it(tmp_path: Path) -> None:
    key = bytes(range(200))
    assert _kernel.mok_enrolled(str(tmp_path)) is None, "no key"
    put(tmp_path, "var/lib/dkms/mok.pub", key)
    assert _kernel.mok_enrolled(str(tmp_path)) is None, "no EFI"
    put(tmp_path, f"{EFIVARS}/MokListRT-{SHIM}", b"\x06\0\0\0head" + bytes(400))
    assert _kernel.mok_enrolled(str(tmp_path)) is False
    put(tmp_path, f"{EFIVARS}/MokListRT-{SHIM}", b"\x06\0\0\0head" + key + b"tail")
    assert _kernel.mok_enrolled(str(tmp_path)) is True


@pytest.mark.parametrize(
    ("path", "text", "kept_off"),
    [
        ("etc/modprobe.d/nvidia.conf", "options nvidia x=1\nblacklist nouveau\noptions nouveau modeset=0\n", True),
        ("usr/lib/modprobe.d/nvidia.conf", "  blacklist   nouveau  \n", True),
        ("etc/modprobe.d/off.conf", "install nouveau /bin/false\n", True),
        ("proc/cmdline", "BOOT_IMAGE=/vmlinuz rd.driver.blacklist=nouveau modprobe.blacklist=nouveau quiet\n", True),
        ("proc/cmdline", "BOOT_IMAGE=/vmlinuz modprobe.blacklist=pcspkr,nouveau\n", True),
        ("etc/modprobe.d/nvidia.conf", "# blacklist nouveau\nblacklist nouveau_x\n", False),
        ("etc/modprobe.d/nvidia.conf.bak", "blacklist nouveau\n", False),
    ],
)
def test_nouveau_is_kept_off(tmp_path: Path, path: str, text: str, kept_off: bool) -> None:
    put(tmp_path, path, text)
    assert _kernel.nouveau_blacklisted(str(tmp_path)) is kept_off
    assert _kernel.nouveau_loaded(str(tmp_path)) is False


LOG = "DKMS (dkms-3.2.2) make.log for nvidia/580.159.03 for kernel 6.12.57 (x86_64)\n"


@pytest.mark.parametrize("title", [LOG, "DKMS make.log for nvidia-580.159.03 for kernel 6.12.57 (x86_64)\n"])
def test_a_build_that_left_a_log_and_no_modules_failed(tmp_path: Path, title: str) -> None:
    base = "var/lib/dkms/nvidia/580.159.03"
    text = title + "".join(f"line {number}\n" for number in range(100)) + "make: *** [Makefile:246: modules] Error 2\n"
    put(tmp_path, f"{base}/build/make.log", text)
    [found] = _kernel.dkms_failed(str(tmp_path))
    assert (found["kernel"], found["path"]) == ("6.12.57", f"/{base}/build/make.log")
    assert found["log"].splitlines()[-1] == "make: *** [Makefile:246: modules] Error 2"
    assert len(found["log"].splitlines()) == _kernel.LOG_LINES
    put(tmp_path, f"{base}/6.12.57/x86_64/module/nvidia.ko.xz")
    assert _kernel.dkms_failed(str(tmp_path)) == []


def test_versions_are_ordered_by_their_numbers() -> None:
    names = ["6.1.0-25-amd64", "6.1.0-9-amd64", "6.12.0-1-amd64", "5.14.0-570.el9.x86_64"]
    assert sorted(names, key=_rooted.version_key) == [names[3], names[1], names[0], names[2]]


def test_links_stay_within_the_root(tmp_path: Path) -> None:
    put(tmp_path, "run/cdi/nvidia.yaml", "here")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "var/up").symlink_to("../../../run")
    (tmp_path / "var/loop").symlink_to("loop")
    assert _rooted.read(str(tmp_path), "var/run/cdi/nvidia.yaml") == "here"
    assert _rooted.read(str(tmp_path), "var/up/cdi/nvidia.yaml") == "here"
    assert _rooted.read(str(tmp_path), "var/loop/x") is None
    assert _rooted.names(str(tmp_path), "var/run/cdi") == ["nvidia.yaml"]
    assert _rooted.names(str(tmp_path), "absent") == []
