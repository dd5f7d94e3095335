# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has to compute on: its state and its problems, by all that is read of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_host, _gpu_problems
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_smi as smi
from gpu_answers import DEVICE, L40S, LISTING, MIB, MIG, RTX, UUID, answer, document


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   8192 kB\nHugePages_Total:  0\n"
    )
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.12.57-amd64\n")
    return tmp_path


@pytest.fixture
def card(root: Path) -> Callable[..., None]:
    """Put an NVIDIA device on the PCI bus."""

    def add(address: str = "0000:01:00.0", kind: str = "0x030200", driver: str | None = "nvidia") -> None:
        device = root / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        for name, value in (("vendor", "0x10de"), ("device", "0x26b9"), ("class", kind)):
            (device / name).write_text(value + "\n")
        if driver:
            target = root / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(target)

    return add


def test_a_divided_gpu_has_its_instances_with_what_only_the_listing_and_only_the_document_know(root: Path) -> None:
    found = _gpu_host.collect("nvidia-smi", 5, answer(MIG + RTX), str(root))
    assert (found["state"], found["problems"]) == ("ready", [])
    divided, plain = found["gpus"]
    assert plain["mig_devices"] == []
    assert divided["mig_devices"][0] == {
        "index": 0, "uuid": "MIG-aaaaaaaa-0000-0000-0000-000000000000", "profile": "3g.71gb",
        "name": "NVIDIA H200 MIG 3g.71gb", "gpu_instance_id": 2, "compute_instance_id": 0,
        "memory_total_bytes": 71424 * MIB, "memory_free_bytes": 71403 * MIB,
    }  # fmt: skip
    assert [device["profile"] for device in divided["mig_devices"]] == ["3g.71gb", "1g.18gb"]


UNKNOWN = DEVICE.format(0, 2, "71424 MiB", "71403 MiB") + DEVICE.format(1, 9, "N/A", "[Insufficient Permissions]")
SECOND = MIG.replace(UUID, UUID[:-1] + "7").replace("0, GPU", "1, GPU")


@pytest.mark.parametrize(
    ("run", "codes", "words"),
    [
        pytest.param(
            answer(MIG, listing=LISTING[: LISTING.index("\n") + 1], xml=document("None")),
            ["mig_no_instance"],
            ["nvidia-smi mig -i 0 -cgi PROFILE -C"],
            id="no instance",
        ),
        pytest.param(answer(MIG + SECOND), ["mig_no_instance"], ["GPU 1: MIG is enabled"], id="on one of two GPUs"),
        pytest.param(
            answer(MIG + SECOND, listing="", xml=document("")),
            ["mig_no_instance", "mig_no_instance"],
            ["GPU 0: MIG is enabled", "GPU 1: MIG is enabled"],
            id="on none of two GPUs",
        ),
        pytest.param(
            answer(MIG, xml=document(UNKNOWN)), ["mig_unknown"], ["the memory of its MIG device 1"], id="[N/A]"
        ),
        pytest.param(
            answer(MIG, listing=LISTING[: LISTING.index("  MIG 1g")]),
            ["mig_unknown"],
            ["the UUID of its MIG device 1"],
            id="not listed",
        ),
        pytest.param(
            answer(MIG, xml=document(DEVICE.format(0, 2, "71424 MiB", "71403 MiB"))),
            ["mig_unknown"],
            ["the memory of its MIG device 1"],
            id="not in the document",
        ),
        pytest.param(answer(MIG, xml="<gpu"), ["mig_unreadable"], ["no XML document"], id="half a document"),
        pytest.param(answer(MIG, xml=""), ["mig_unreadable"], ["no XML document"], id="no document"),
        pytest.param(
            answer(MIG, xml=(2, "Insufficient Permissions")),
            ["mig_unreadable"],
            ["nvidia-smi -q -x does not tell the MIG instances: the user lacks the right"],
            id="document refused",
        ),
    ],
)
def test_mig_by_halves_is_told(run: smi.Run, codes: list[str], words: list[str], root: Path) -> None:
    found = _gpu_host.collect("nvidia-smi", 5, run, str(root))
    assert [item["code"] for item in found["problems"]] == codes
    assert found["state"] == "ready", "the other GPUs, or those instances that are whole, may be planned on"
    for word, item in zip(words, found["problems"]):
        assert word in item["message"]


def test_a_driver_that_hangs_over_mig_is_broken(root: Path) -> None:
    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if argv[1:] == ["-q", "-x"]:
            raise smi.NotAnswering("no answer")
        return answer(MIG)(argv, timeout)

    found = _gpu_host.collect("nvidia-smi", 5, run, str(root))
    assert (found["state"], [item["code"] for item in found["problems"]]) == ("broken", ["hangs"])


@pytest.mark.parametrize(
    ("text", "times"),
    [(L40S, 1), (L40S.replace("[N/A], [N/A]", "Disabled, Disabled"), 1), (MIG, 3)],
    ids=["no MIG", "MIG off", "MIG"],
)
def test_nvidia_smi_runs_three_times_for_mig_and_else_once(root: Path, text: str, times: int) -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        asked.append(argv)
        return answer(text)(argv, timeout)

    _gpu_host.collect("nvidia-smi", 5, run, str(root))
    assert len([argv for argv in asked if argv[0] == "nvidia-smi"]) == times


Prepare = Callable[[Path, Callable[..., None]], None]


@pytest.mark.parametrize(
    ("prepare", "run", "state", "codes"),
    [
        pytest.param(lambda root, card: card(), answer(L40S), "ready", [], id="one GPU"),
        pytest.param(lambda root, card: None, answer(L40S), "ready", [], id="simulated GPU, nothing on the bus"),
        pytest.param(
            lambda root, card: card(),
            answer(L40S, modinfo="595.90"),
            "ready",
            ["restart_due"],
            id="update not loaded yet",
        ),
        pytest.param(lambda root, card: card(), answer(MIG), "ready", [], id="MIG"),
        pytest.param(
            lambda root, card: (card(), card("0000:02:00.0")),
            answer(L40S),
            "broken",
            ["gpu_missing"],
            id="GPU off the bus",
        ),
        pytest.param(
            lambda root, card: (card(), card("0000:02:00.0", driver="vfio-pci")),
            answer(L40S),
            "ready",
            [],
            id="another GPU given to a virtual machine",
        ),
        pytest.param(
            lambda root, card: (card(), card("0000:03:00.0", kind="0x068000")),
            answer(L40S),
            "ready",
            ["fabricmanager_missing"],
            id="NVSwitch without Fabric Manager",
        ),
        pytest.param(
            lambda root, card: (card(), card("0000:03:00.0", kind="0x068000")),
            answer(L40S.replace("None, N/A", "None, Completed")),
            "ready",
            [],
            id="NVSwitch, and the GPU is in its fabric",
        ),
        pytest.param(
            lambda root, card: card(),
            answer(L40S + "Unable to determine the device handle for GPU0000:02:00.0: Unknown Error\n", status=255),
            "broken",
            ["device_lost"],
            id="one of two lost",
        ),
        pytest.param(
            lambda root, card: card(),
            answer(L40S.replace("45460", "[GPU requires reset]")),
            "broken",
            ["reset_required"],
            id="reset required",
        ),
        pytest.param(
            lambda root, card: card(),
            answer("Failed to initialize NVML: Driver/library version mismatch\n", status=18),
            "broken",
            ["version_mismatch"],
            id="library of another version",
        ),
        pytest.param(
            lambda root, card: card(),
            answer(err="couldn't communicate with the NVIDIA driver", status=9),
            "no_driver",
            ["driver_not_loaded"],
            id="driver not loaded",
        ),
        pytest.param(
            lambda root, card: (card(driver="nouveau"), (root / "sys/module/nouveau").mkdir(parents=True)),
            answer(err="couldn't communicate with the NVIDIA driver", status=9),
            "no_driver",
            ["driver_not_loaded", "nouveau_loaded"],
            id="nouveau",
        ),
        pytest.param(
            lambda root, card: card(),
            answer("No devices were found\n", status=6),
            "broken",
            ["no_devices"],
            id="GPU not seen",
        ),
        pytest.param(
            lambda root, card: None, answer("No devices were found\n", status=6), "no_gpu", [], id="driver without GPU"
        ),
        pytest.param(
            lambda root, card: card(), answer(status=1), "broken", ["nvidia_smi_failed"], id="fails without words"
        ),
    ],
)
def test_state(
    prepare: Prepare, run: smi.Run, state: str, codes: list[str], root: Path, card: Callable[..., None]
) -> None:
    prepare(root, card)
    found = _gpu_host.collect("nvidia-smi", 5, run, str(root))
    assert (found["state"], [item["code"] for item in found["problems"]]) == (state, codes)
    assert found["host"]["memory_total_bytes"] == 16384 * 1024
    assert found["host"]["memory_available_bytes"] == 8192 * 1024
    assert found["host"]["cpu_count"] >= 1


def raising(error: Exception) -> smi.Run:
    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "with_card", "state", "codes"),
    [
        (FileNotFoundError(2, "No such file"), False, "no_gpu", []),
        (FileNotFoundError(2, "No such file"), True, "no_driver", ["nvidia_smi_missing"]),
        (PermissionError(13, "Permission denied"), True, "broken", ["no_permission"]),
        (smi.NotAnswering("no answer"), True, "broken", ["hangs"]),
    ],
)
def test_state_without_an_answer(
    error: Exception, with_card: bool, state: str, codes: list[str], root: Path, card: Callable[..., None]
) -> None:
    if with_card:
        card()
    found = _gpu_host.collect("nvidia-smi", 5, raising(error), str(root))
    assert (found["state"], [item["code"] for item in found["problems"]]) == (state, codes)


def command(path: Path, script: str) -> str:
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.fspath(path)


def test_asks_once_and_in_english(tmp_path: Path, root: Path) -> None:
    log = tmp_path / "log"
    path = command(tmp_path / "nvidia-smi", f'echo "$LC_ALL $*" >> {log}\nprintf "%s" "{L40S}"\n')
    found: dict[str, Any] = _gpu_host.collect(path, 5, root=str(root))
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA L40S"]
    assert log.read_text() == f"C --query-gpu={','.join(smi.FIELDS)} --format=csv,noheader,nounits\n"


STATUS = "Package: {}\nStatus: {} ok installed\nArchitecture: amd64\nVersion: {}-1\n\n"
LIBRARY = "usr/lib/x86_64-linux-gnu/libnvidia-ml.so."
CONFIGURED = ("nvidia-open", "nvidia-kernel-open-dkms", "libnvidia-compute-580")


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def healthy(root: Path, card: Callable[..., None]) -> Path:
    """A host with an L40S, and its driver from packages, whole and of one version."""
    card()
    kernel = "6.12.57-amd64"
    put(
        root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.80  Release\n"
    )
    put(root, f"boot/vmlinuz-{kernel}")
    put(root, f"lib/modules/{kernel}/build/Makefile")
    put(root, "var/lib/dpkg/status", "".join(STATUS.format(name, "hold", "595.80") for name in CONFIGURED))
    put(root, LIBRARY + "595.80")
    put(root, "etc/modprobe.d/nvidia.conf", "blacklist nouveau\n")
    return root


def test_a_healthy_host_has_no_problem_and_all_is_told(healthy: Path) -> None:
    found = _gpu_host.collect("nvidia-smi", 5, answer(L40S, modinfo="595.80"), str(healthy))
    assert (found["state"], found["problems"]) == ("ready", [])
    driver, kernel = found["driver"], found["kernel"]
    assert (driver["loaded_version"], driver["installed_version"], driver["library_version"]) == ("595.80",) * 3
    assert (driver["loaded_flavor"], driver["installed_flavor"], driver["branch"]) == ("open", "open", "595")
    assert (driver["runfile"], len(driver["packages"]), driver["packages"][0]["held"]) == (False, 3, True)
    assert (kernel["running"], kernel["newest_installed"]) == ("6.12.57-amd64", "6.12.57-amd64")
    assert found["pci_devices"][0]["architecture"] == "ada"
    assert found["fabric"] == {
        "nvswitches": 0, "fabricmanager_version": None, "fabricmanager_active": None, "nscq_version": None
    }  # fmt: skip
    assert found["cdi"] == {"specs": []}
    assert found["toolkit"] == {
        "version": None,
        "mode": None,
        "refresh_path_unit": "absent",
        "packages": [],
        "copies": [],
        "sources": [],
        "units_enabled": None,
        "record": None,
    }


def secure_boot(root: Path) -> None:
    variables = root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    guid = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (variables / f"SecureBoot-{guid}").write_bytes(b"\x06\0\0\0\x01")
    put(root, "var/lib/dkms/mok.pub", "a certificate")
    (root / "proc/driver/nvidia/version").unlink()


def packages(root: Path, *rows: tuple[str, str]) -> None:
    put(root, "var/lib/dpkg/status", "".join(STATUS.format(name, "install", version) for name, version in rows))


NOT_LOADED = answer(err="couldn't communicate with the NVIDIA driver", status=9, modinfo="595.80")
SWITCH = {"address": "0000:03:00.0", "kind": "0x068000"}
FABRIC_UNIT = "usr/lib/systemd/system/nvidia-fabricmanager.service"
XID = "h kernel: NVRM: Xid (PCI:0000:01:00): {}, pid=1, words\n"
# What is done to the healthy host, with which answers, and what is said then.
FAULTS: dict[str, tuple[Callable[[Path, Callable[..., None]], Any], smi.Run, list[str], str]] = {
    "a newer module is on disk": (lambda root, card: None,
        answer(L40S, modinfo="595.90"), ["restart_due", "library_differs"], "595.90 is installed"),
    "the library is of another version": (
        lambda root, card: (root / (LIBRARY + "595.80")).rename(root / (LIBRARY + "580.142")),
        answer(L40S, modinfo="595.80"), ["library_differs"], "library on disk is 580.142"),
    "half an upgrade": (
        lambda root, card: packages(root, ("nvidia-open", "595.80"), ("libnvidia-compute-580", "580.142")),
        answer(L40S, modinfo="595.80"), ["packages_differ"], "580.142: libnvidia-compute-580; 595.80: nvidia-open"),
    "by the runfile": (
        lambda root, card: put(root, "usr/bin/nvidia-uninstall"),
        answer(L40S, modinfo="595.80"), ["runfile_driver"], "nvidia-uninstall"),
    "a new kernel without headers and module": (
        lambda root, card: (put(root, "boot/vmlinuz-6.12.60-amd64"), put(root, "lib/modules/6.12.60-amd64/x")),
        answer(L40S, modinfo={"6.12.57-amd64": "595.80"}), ["module_missing", "headers_missing"],
        "6.12.60-amd64, the kernel that is booted next"),
    "DKMS failed": (
        lambda root, card: put(root, "var/lib/dkms/nvidia/595.80/build/make.log", "for kernel 6.12.57-amd64\nError 2"),
        answer(L40S, modinfo="595.80"), ["dkms_failed"], "build/make.log): Error 2"),
    "Secure Boot refuses DKMS's modules": (
        lambda root, card: secure_boot(root), NOT_LOADED, ["driver_not_loaded", "secure_boot_key"], "not enrolled"),
    "an XID that needs a restart": (
        lambda root, card: put(root, "var/log/kern.log", XID.format(79)),
        answer(L40S, modinfo="595.80"), ["xid_critical"], "0000:01:00.0: XID 79 at an unknown time: the GPU has"),
    "an XID of a program, often": (
        lambda root, card: put(root, "var/log/kern.log", XID.format(31) * 3),
        answer(L40S, modinfo="595.80"), ["xid_application"], "XID 31 3 times, last at"),
    "Fabric Manager of another version": (
        lambda root, card: (card(**SWITCH), packages(root, ("nvidia-fabricmanager-580", "580.142"))),
        answer(L40S, modinfo="595.80"), ["fabricmanager_version"], "Fabric Manager is 580.142 and the driver 595.80"),
    "Fabric Manager that does not run": (
        lambda root, card: (
            card(**SWITCH), packages(root, ("nvidia-fabricmanager-595", "595.80")), put(root, FABRIC_UNIT)),
        answer(L40S, modinfo="595.80"), ["fabricmanager_inactive"], "does not run"),
    "a card that is not known": (
        lambda root, card: put(root, "sys/bus/pci/devices/0000:01:00.0/device", "0x4abc\n"),
        answer(L40S, modinfo="595.80"), ["gpu_unknown"], "PCI device 0x4abc"),
    "a broken CDI specification": (
        lambda root, card: put(root, "etc/cdi/nvidia.yaml", "{"),
        answer(L40S, modinfo="595.80"), ["cdi_invalid"], "/etc/cdi/nvidia.yaml: it is neither JSON nor YAML"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_what_it_is(fault: str, healthy: Path, card: Callable[..., None]) -> None:
    put_in, run, codes, words = FAULTS[fault]
    put_in(healthy, card)
    found = _gpu_host.collect("nvidia-smi", 5, run, str(healthy))
    assert [item["code"] for item in found["problems"]] == codes
    assert any(words in item["message"] for item in found["problems"]), found["problems"]
    assert found["state"] == ("no_driver" if run is NOT_LOADED else "ready")


def test_an_old_card_before_any_driver(root: Path, card: Callable[..., None]) -> None:
    card(driver=None)
    put(root, "sys/bus/pci/devices/0000:01:00.0/device", "0x102d\n")
    found = _gpu_host.collect("nvidia-smi", 5, raising(FileNotFoundError(2, "No such file")), str(root))
    assert found["pci_devices"][0]["architecture"] == "older"
    assert [item["code"] for item in found["problems"]] == ["nvidia_smi_missing", "gpu_too_old"]


def test_a_bus_that_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_gpu_host, "pci_devices", refuse)
    missing = raising(FileNotFoundError(2, "No such file"))
    found = _gpu_host.collect("nvidia-smi", 5, missing, str(root))
    assert (found["state"], [item["code"] for item in found["problems"]]) == ("broken", ["pci_unreadable"])


def test_a_host_without_any_of_it_is_asked_nothing_that_takes_time(root: Path) -> None:
    put(root, "var/lib/dpkg/status", STATUS.format("nvidia-open", "install", "595.80"))
    asked = []

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        asked.append(argv[0])
        raise FileNotFoundError(2, "No such file", argv[0])

    found = _gpu_host.collect("nvidia-smi", 5, run, str(root))
    assert (found["state"], found["problems"]) == ("no_gpu", [])
    assert asked == ["nvidia-smi", "nvidia-ctk"][: len(asked)]


def test_every_word_of_a_problem_is_in_the_table() -> None:
    with pytest.raises(KeyError):
        _gpu_problems.problem("nonsense")
    for code, known in _gpu_problems.KNOWN.items():
        assert _gpu_problems.problem(code) == {"code": code, "message": known.meaning}
        for sentence in (known.meaning, known.remedy):
            assert sentence
            assert not sentence.endswith(".")


def test_a_kernel_log_that_cannot_be_read_is_told(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_host._kernel_log, "read", lambda run, root: None)
    found = _gpu_host.collect("nvidia-smi", 5, answer(L40S, modinfo="595.80"), str(healthy))
    assert ([item["code"] for item in found["problems"]], found["xid"]) == (["kernel_log_unreadable"], [])
    assert found["state"] == "ready"


@pytest.mark.parametrize(
    ("devices", "flavor", "code"),
    [
        (["0x1db4", "0x2b85"], "open", "gpus_mixed"),
        (["0x1db4", "0x2b85"], None, "gpus_mixed"),
        (["0x1db4", "0x26b9"], "open", "module_flavor"),
        (["0x1db4", "0x26b9"], "proprietary", None),
        (["0x1db4"], None, None),
        (["0x2b85"], "proprietary", "module_flavor"),
        (["0x2b85", "0x26b9"], "open", None),
        (["0x26b9"], "proprietary", None),
        (["0x4abc"], "open", None),
    ],
)
def test_modules_of_the_wrong_kind_and_gpus_that_no_driver_runs_together(
    root: Path, card: Callable[..., None], devices: list[str], flavor: str | None, code: str | None
) -> None:
    for number, device in enumerate(devices):
        card(f"0000:0{number}:00.0")
        put(root, f"sys/bus/pci/devices/0000:0{number}:00.0/device", device + "\n")
    found = _gpu_host._flavor_problems(
        _gpu_host.pci_devices(str(root)), {"installed_flavor": flavor, "loaded_flavor": None}
    )
    assert [item["code"] for item in found] == ([code] if code else [])
    if code:
        assert "0000:00:00.0 (" in found[0]["message"]
