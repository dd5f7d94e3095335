# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi says, and what becomes of it. The texts have the form of real output, the values are made up."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_health, _gpu_host
from ansible_collections.onprem.llm.plugins.module_utils import _nvidia_smi as smi
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20
UUID = "GPU-11111111-2222-3333-4444-555555555555"
L40S = (
    f"0, {UUID}, NVIDIA L40S, 46068, 45460, 0, 8.9, 00000000:01:00.0, "
    "[N/A], [N/A], Enabled, Enabled, Disabled, Disabled, 595.80, 0x26B910DE, Default, 63, 25, 144.97, 350.00, "
    "100.00, 350.00, 350.00, 0x0000000000000004, 0, 0, 0, No, No, [N/A], None, N/A\n"
)
RTX = (
    f"1, {UUID[:-1]}6, NVIDIA RTX 4080, 16376, 15348, 596, 8.9, 00000000:02:00.0, "
    "[N/A], [N/A], [N/A], [N/A], Enabled, Disabled, 595.80, 0x270210DE, Default, 43, [N/A], 26.20, 320.00, "
    "150.00, 400.00, 320.00, 0x0000000000000001, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], None, N/A\n"
)
MIG = (
    f"0, {UUID}, NVIDIA H200, 143771, 143103, 55, 9.0, 00000000:83:00.0, "
    "Enabled, Enabled, Enabled, Enabled, Disabled, Enabled, 590.48.01, 0x233510DE, Default, 28, 59, 78.28, 700.00, "
    "200.00, 700.00, 700.00, 0x0000000000000001, 0, [N/A], [N/A], [N/A], [N/A], [N/A], None, Completed\n"
)
LISTING = f"""GPU 0: NVIDIA H200 (UUID: {UUID})
  MIG 3g.71gb     Device  0: (UUID: MIG-aaaaaaaa-0000-0000-0000-000000000000)
  MIG 1g.18gb     Device  1: (UUID: MIG-bbbbbbbb-0000-0000-0000-000000000000)
"""
DEVICE = """<mig_device><index>{}</index><gpu_instance_id>{}</gpu_instance_id>
<compute_instance_id>0</compute_instance_id><fb_memory_usage><total>{}</total><reserved>0 MiB</reserved>
<used>22 MiB</used><free>{}</free></fb_memory_usage><bar1_memory_usage><total>9 MiB</total></bar1_memory_usage>
</mig_device>"""
DEVICES = DEVICE.format(0, 2, "71424 MiB", "71403 MiB") + DEVICE.format(1, 9, "16384 MiB", "16376 MiB")


def document(devices: str = DEVICES, uuid: str = UUID) -> str:
    """nvidia-smi -q -x, less what nobody reads."""
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
        f'<gpu id="00000000:83:00.0"><mig_devices>{devices}</mig_devices><uuid>{uuid}</uuid>'
        "<fb_memory_usage><total>143771 MiB</total></fb_memory_usage></gpu></nvidia_smi_log>\n"
    )


def answer(
    out: str = "",
    err: str = "",
    status: int = 0,
    modinfo: str = "",
    listing: str = LISTING,
    xml: str | tuple[int, str] = document(),
) -> smi.Run:
    """A host whose nvidia-smi answers this."""

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if "modinfo" in argv[0]:
            told = f"filename: /nvidia.ko\nversion:        {modinfo}\nlicense:        Dual MIT/GPL\n"
            return (0, told, "") if modinfo else (1, "", "modinfo: ERROR: Module nvidia not found.")
        if argv[1:] == ["-L"]:
            return 0, listing, ""
        if argv[1:] == ["-q", "-x"]:
            return (0, xml, "") if isinstance(xml, str) else (*xml, "")
        return status, out, err

    return run


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


def test_reads_two_gpus_of_different_kinds() -> None:
    gpus, version, problems = smi.parse_query(RTX + L40S)
    assert (version, problems) == ("595.80", [])
    assert [gpu["index"] for gpu in gpus] == [0, 1], "in the driver's order"
    assert gpus[0] == {
        "index": 0, "uuid": UUID, "name": "NVIDIA L40S", "memory_total_bytes": 46068 * MIB,
        "memory_free_bytes": 45460 * MIB, "memory_used_bytes": 0, "compute_capability": "8.9",
        "pci_bus_id": "00000000:01:00.0", "pci_device_id": "0x26B910DE", "mig_mode": None, "mig_mode_pending": None,
        "mig_devices": [], "ecc_mode": "Enabled", "ecc_mode_pending": "Enabled", "display_active": "Disabled",
        "persistence_mode": "Disabled", "compute_mode": "Default", "temperature_celsius": 63,
        "temperature_slowdown_celsius": 88, "power_draw_watts": 144.97, "power_limit_watts": 350.0,
        "power_limit_min_watts": 100.0, "power_limit_max_watts": 350.0, "power_limit_default_watts": 350.0,
        "clocks_event_reasons": ["sw_power_cap"], "ecc_errors_uncorrected": 0,
        "row_remap": {"correctable": 0, "uncorrectable": 0, "pending": False, "failure": False},
        "retired_pages_pending": None, "recovery_action": "None", "fabric_state": None, "processes": None,
        "nvlink_active": None, "architecture": "ada",
    }  # fmt: skip
    assert (gpus[1]["ecc_mode"], gpus[1]["display_active"], gpus[1]["row_remap"]) == (None, "Enabled", None)


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


@pytest.mark.parametrize("cells", [("46068", "45460"), ("46068",), ("45460",)])
@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]"])
def test_memory_that_is_not_told_is_a_problem(cells: tuple[str, ...], nothing: str) -> None:
    text = L40S
    for cell in cells:
        text = text.replace(cell, nothing)
    _gpus, _version, problems = smi.parse_query(text)
    assert [item["code"] for item in problems] == ["memory_unknown"]


def test_a_divided_gpu_needs_no_memory_of_its_own() -> None:
    [gpu], _version, problems = smi.parse_query(MIG.replace("143103", "[N/A]"))
    assert (gpu["mig_mode"], problems) == ("Enabled", [])


def test_a_mode_is_enabled_or_disabled_or_not_told() -> None:
    deprecated = "[Requested functionality has been deprecated]"
    [gpu] = smi.parse_query(L40S.replace("Disabled, Disabled, 595", f"{deprecated}, {deprecated}, 595"))[0]
    assert (gpu["display_active"], gpu["persistence_mode"]) == (None, None)


MODES = "[N/A], [N/A], Enabled, Enabled"


@pytest.mark.parametrize(
    ("modes", "code", "way_out"),
    [
        ("Disabled, Enabled, Enabled, Enabled", "mig_mode_pending", "-mig 0"),
        ("Enabled, Disabled, Enabled, Enabled", "mig_mode_pending", "-mig 1"),
        ("[N/A], Enabled, Enabled, Enabled", "mig_mode_pending", "-mig 0"),
        ("[N/A], [N/A], Enabled, Disabled", "ecc_mode_pending", "-e 1"),
        ("[N/A], [N/A], Disabled, Enabled", "ecc_mode_pending", "-e 0"),
    ],
)
def test_a_mode_that_the_next_reset_changes_is_told_with_the_way_back(modes: str, code: str, way_out: str) -> None:
    [gpu] = smi.parse_query(L40S.replace(MODES, modes))[0]
    [found] = _gpu_health.problems(gpu)
    assert found["code"] == code
    assert f"nvidia-smi -i 0 {way_out})" in found["message"]


@pytest.mark.parametrize("modes", ["Disabled, Disabled, Enabled, Enabled", "[N/A], Disabled, [N/A], [N/A]", MODES])
def test_modes_that_stay_are_no_problem(modes: str) -> None:
    assert _gpu_health.problems(smi.parse_query(L40S.replace(MODES, modes))[0][0]) == []


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
        min_size=len(smi.FIELDS) - 1,
        max_size=len(smi.FIELDS) - 1,
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
