# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi says, and what becomes of it. The texts have the form of real output, the values are made up."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_smi as smi
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20
UUID = "GPU-11111111-2222-3333-4444-555555555555"
L40S = f"0, {UUID}, NVIDIA L40S, 46068, 45460, 0, 8.9, 00000000:01:00.0, [N/A], Enabled, Disabled, 595.80\n"
RTX = f"1, {UUID[:-1]}6, NVIDIA RTX 4080, 16376, 15348, 596, 8.9, 00000000:02:00.0, [N/A], [N/A], Disabled, 595.80\n"
MIG = f"0, {UUID}, NVIDIA H200, 143771, 143103, 55, 9.0, 00000000:83:00.0, Enabled, Enabled, Enabled, 590.48.01\n"


def answer(out: str = "", err: str = "", status: int = 0, modinfo: str = "") -> smi.Run:
    """A host whose nvidia-smi answers this."""

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if "modinfo" in argv[0]:
            return (0, modinfo + "\n", "") if modinfo else (1, "", "modinfo: ERROR: Module nvidia not found.")
        return status, out, err

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   8192 kB\nHugePages_Total:  0\n"
    )
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


def test_reads_two_gpus_of_different_kinds() -> None:
    gpus, version, problems = smi.parse_query(RTX + L40S)
    assert (version, problems) == ("595.80", [])
    assert [gpu["index"] for gpu in gpus] == [0, 1], "in the driver's order"
    assert gpus[0] == {
        "index": 0, "uuid": UUID, "name": "NVIDIA L40S", "memory_total_bytes": 46068 * MIB,
        "memory_free_bytes": 45460 * MIB, "memory_used_bytes": 0, "compute_capability": "8.9",
        "pci_bus_id": "00000000:01:00.0", "mig_mode": None, "ecc_mode": "Enabled", "persistence_mode": "Disabled",
    }  # fmt: skip
    assert gpus[1]["ecc_mode"] is None


HEADER = ", ".join(smi.FIELDS) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEADER + L40S, id="header line"),
        pytest.param(L40S.replace("46068,", "46068 MiB,").replace("45460,", "45460 MiB,"), id="units"),
        pytest.param("\n" + L40S + "\n", id="empty lines"),
        pytest.param(L40S.replace(", ", ","), id="no spaces"),
    ],
)
def test_reads_other_forms_of_the_same_answer(text: str) -> None:
    [gpu] = smi.parse_query(text)[0]
    assert (gpu["memory_total_bytes"], gpu["memory_free_bytes"]) == (46068 * MIB, 45460 * MIB)


def test_a_name_may_hold_a_comma() -> None:
    [gpu] = smi.parse_query(L40S.replace("NVIDIA L40S", "NVIDIA Graphics, Engineering Sample"))[0]
    assert gpu["name"] == "NVIDIA Graphics, Engineering Sample"
    assert gpu["memory_total_bytes"] == 46068 * MIB


@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]", "N/A", "", "[Not Found]", "ERR!", "[Unknown Error]"])
def test_what_the_driver_does_not_tell_is_none(nothing: str) -> None:
    [gpu] = smi.parse_query(L40S.replace("46068", nothing).replace("45460", nothing).replace("8.9", nothing))[0]
    assert (gpu["memory_total_bytes"], gpu["memory_free_bytes"], gpu["compute_capability"]) == (None, None, None)


def test_memory_that_is_not_told_is_a_problem() -> None:
    _gpus, _version, problems = smi.parse_query(L40S.replace("46068", "[N/A]").replace("45460", "[N/A]"))
    assert [item["code"] for item in problems] == ["memory_unknown"]


def test_mig_is_told() -> None:
    [gpu], _version, problems = smi.parse_query(MIG)
    assert gpu["mig_mode"] == "Enabled"
    assert [item["code"] for item in problems] == ["mig_enabled"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library: 595.80", "version_mismatch"),
        ("Unable to determine the device handle for GPU0000:65:00.0: Unknown Error", "device_lost"),
        ("Unable to determine the device handle for gpu 0000:65:00.0: GPU is lost.  Reboot the system", "device_lost"),
        ("Failed to initialize NVML: Insufficient Permissions", "no_permission"),
        ("Failed to initialize NVML: GPU access blocked by the operating system", "blocked"),
        ("Failed to initialize NVML: Unknown Error", "nvml_failed"),
        ("Failed to initialize NVML: Driver Not Loaded", "driver_not_loaded"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure ...",
            "driver_not_loaded",
        ),
        ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "library_missing"),
        ('Field "mig.mode.current" is not a valid field to query.', "driver_too_old"),
        ("No devices were found", "no_devices"),
        ("Segmentation fault", "nvidia_smi_failed"),
        ("", "nvidia_smi_failed"),
    ],
)
def test_failures_have_a_code_and_a_sentence(text: str, code: str) -> None:
    [found] = smi.parse_failure(text)
    assert found["code"] == code
    assert (text.splitlines() or ["no output"])[0] in found["message"]


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    gpus, _version, _problems = smi.parse_query(text)
    assert all(isinstance(gpu["index"], int) for gpu in gpus)
    assert smi.parse_failure(text)


@given(
    st.lists(
        st.text(st.characters(blacklist_characters=",\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")),
        min_size=11,
        max_size=11,
    )
)
def test_any_cells_are_read(cells: list[str]) -> None:
    [gpu], _version, _problems = smi.parse_query(", ".join(["7", *cells]) + "\n")
    assert gpu["index"] == 7


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
        pytest.param(lambda root, card: card(), answer(MIG), "ready", ["mig_enabled"], id="MIG"),
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
            lambda root, card: (card(), card("0000:03:00.0", kind="0x068000")), answer(L40S), "ready", [], id="NVSwitch"
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
    found = smi.collect("nvidia-smi", 5, run, str(root))
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
    found = smi.collect("nvidia-smi", 5, raising(error), str(root))
    assert (found["state"], [item["code"] for item in found["problems"]]) == (state, codes)


def test_versions_loaded_and_installed(root: Path) -> None:
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build  (dvs-builder)  Tue\n"
        "GCC version:  gcc version 14.2.0\n"
    )
    assert smi.loaded_version(str(root)) == "580.159.03"
    assert smi.installed_version(answer(modinfo="580.142")) == "580.142"
    assert smi.installed_version(answer()) is None


def command(path: Path, script: str) -> str:
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.fspath(path)


def test_a_command_that_hangs_is_left(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(smi.NotAnswering, match=r"0\.2 seconds"):
        smi.run_bounded([command(tmp_path / "hangs", "sleep 60\n")], 0.2)
    assert time.monotonic() - start < 5


def test_asks_once_and_in_english(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = command(tmp_path / "nvidia-smi", f'echo "$LC_ALL $*" >> {log}\nprintf "%s" "{L40S}"\n')
    found: dict[str, Any] = smi.collect(path, 5)
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA L40S"]
    assert log.read_text() == f"C --query-gpu={','.join(smi.FIELDS)} --format=csv,noheader,nounits\n"
