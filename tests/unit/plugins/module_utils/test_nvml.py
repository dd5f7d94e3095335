# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML, by a library that is compiled here: with real structures, and in trouble."""

from __future__ import annotations

import faulthandler
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bounded, _gpu_host, _nvidia_smi, _nvml

MIB = 2**20
SOURCE = Path(__file__).parent / "nvml_stand_in.c"
UUID = "GPU-11111111-2222-3333-4444-555555555555"
COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler to make a stand-in library with")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    assert COMPILER
    subprocess.run([COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(path), str(SOURCE)], check=True)
    return str(path)


@needs_compiler
def test_a_gpu_has_the_same_keys_as_from_nvidia_smi(library: str) -> None:
    cells = ["0", *["[N/A]"] * (len(_nvidia_smi.FIELDS) - 1)]
    [by_command] = _nvidia_smi.parse_query(", ".join(cells))[0]
    for gpu in _nvml.read(library)["gpus"]:
        assert gpu.keys() == by_command.keys()


@needs_compiler
def test_values_and_their_units(library: str) -> None:
    found = _nvml.read(library)
    assert (found["driver_version"], found["cuda_version"], found["code"]) == ("580.159.03", "13.0", None)
    assert found["lost"] == [[2, "device_lost"]]
    gpu = found["gpus"][0]
    assert gpu == {
        "index": 0, "uuid": UUID, "name": "NVIDIA H200", "memory_total_bytes": 143771 * MIB,
        "memory_free_bytes": 143102 * MIB, "memory_used_bytes": 55 * MIB, "compute_capability": "9.0",
        "pci_bus_id": "00000000:83:00.0", "pci_device_id": "0x233510DE", "mig_mode": "Disabled",
        "mig_mode_pending": "Disabled", "mig_devices": [], "ecc_mode": "Enabled", "ecc_mode_pending": "Disabled",
        "display_active": "Disabled", "persistence_mode": "Enabled", "compute_mode": "Default",
        "temperature_celsius": 28, "temperature_margin_celsius": None, "temperature_slowdown_celsius": 90,
        "power_draw_watts": 78.28, "power_limit_watts": 650.0, "power_limit_min_watts": 200.0,
        "power_limit_max_watts": 700.0, "power_limit_default_watts": 700.0,
        "clocks_event_reasons": ["hw_slowdown", "hw_thermal_slowdown"], "ecc_errors_uncorrected": 5,
        "row_remap": {"correctable": 1, "uncorrectable": 2, "pending": True, "failure": False},
        "retired_pages_pending": None, "recovery_action": None, "fabric_state": None,
        "processes": [{"pid": 4711, "name": "/usr/bin/ollama", "memory_bytes": 538 * MIB},
                      {"pid": 4712, "name": None, "memory_bytes": None}],
        "nvlink_active": 17, "architecture": "hopper",
    }  # fmt: skip


@needs_compiler
def test_what_a_gpu_with_mig_does_not_tell_is_none(library: str) -> None:
    gpu = _nvml.read(library)["gpus"][1]
    assert (gpu["processes"], gpu["nvlink_active"], gpu["row_remap"]) == (None, None, None)
    assert gpu["mig_devices"] == [
        {"index": 3, "uuid": "MIG-11111111-2222-3333-4444-555555555555", "profile": "1g.18gb",
         "name": "NVIDIA H200 MIG 1g.18gb", "gpu_instance_id": 9, "compute_instance_id": 0,
         "memory_total_bytes": 16384 * MIB, "memory_free_bytes": 15715 * MIB}
    ]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(
    ("status", "code"),
    [(4, "no_permission"), (9, "driver_not_loaded"), (17, "blocked"), (18, "version_mismatch"), (999, "nvml_failed")],
)
def test_a_library_that_does_not_start_says_why(
    library: str, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_STAND_IN", str(status))
    # ctypes calls the same loaded library, and C's getenv sees what os.environ puts.
    found = _nvml.read(library)
    assert (found["code"], found["gpus"]) == (code, [])


def test_no_library_is_said(tmp_path: Path) -> None:
    assert _nvml.read(str(tmp_path / "libnvidia-ml.so.1"))["code"] == "library_missing"


@needs_compiler
def test_a_library_that_hangs_is_left(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_STAND_IN", "hangs")
    start = time.monotonic()
    with pytest.raises(_bounded.NotAnswering, match=r"0\.3 seconds"):
        _bounded.call_apart(lambda: _nvml.read(library), 0.3)
    assert time.monotonic() - start < 5


@needs_compiler
def test_a_library_that_crashes_takes_nothing_with_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_STAND_IN", "crashes")

    def read() -> Any:
        # pytest's own report of a crash is of no use here.
        faulthandler.disable()
        return _nvml.read(library)

    assert _bounded.call_apart(read, 10) is None


def absent(argv: Any, timeout: float) -> tuple[int, str, str]:
    raise FileNotFoundError(2, "No such file", argv[0])


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for number in (3, 4):
        device = tmp_path / f"sys/bus/pci/devices/0000:8{number}:00.0"
        device.mkdir(parents=True)
        for name, value in (("vendor", "0x10de"), ("device", "0x2335"), ("class", "0x030200")):
            (device / name).write_text(value + "\n")
    return tmp_path


@needs_compiler
def test_without_nvidia_smi_nvml_tells_all(library: str, host: Path) -> None:
    found = _gpu_host.collect("nvidia-smi", 5, absent, str(host), lambda timeout: _nvml.read(library))
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA H200", "NVIDIA H200"]
    assert (found["driver"]["loaded_version"], found["driver"]["cuda_version"]) == ("580.159.03", "13.0")
    assert [item["code"] for item in found["problems"]][:2] == ["nvidia_smi_missing", "device_lost"]
    assert found["state"] == "broken", "a GPU is lost"


@needs_compiler
def test_without_nvidia_smi_healthy_gpus_are_ready(library: str, host: Path) -> None:
    told = {**_nvml.read(library), "lost": []}
    found = _gpu_host.collect("nvidia-smi", 5, absent, str(host), lambda timeout: told)
    assert found["state"] == "ready"
    assert {"thermal_slowdown", "ecc_uncorrected", "row_remap_pending", "ecc_mode_pending"} <= {
        item["code"] for item in found["problems"]
    }


def gpu(uuid: str | None = UUID, **values: Any) -> dict[str, Any]:
    return {"uuid": uuid, "processes": None, "temperature_slowdown_celsius": None, "name": "by nvidia-smi", **values}


def test_nvml_completes_what_nvidia_smi_left_out_and_changes_nothing_else() -> None:
    gpus = [gpu(), gpu(UUID[:-1] + "6"), gpu(None)]
    _nvml.complete(gpus, [gpu(processes=[], temperature_slowdown_celsius=90, name="by NVML"), gpu(None, processes=[])])
    assert gpus[0] == gpu(processes=[], temperature_slowdown_celsius=90)
    assert gpus[1] == gpu(UUID[:-1] + "6")
    assert gpus[2]["processes"] is None


@pytest.mark.parametrize(
    ("told", "state", "codes"),
    [
        (None, "no_driver", ["nvidia_smi_missing"]),
        ({"code": "library_missing"}, "no_driver", ["nvidia_smi_missing"]),
        ({"code": "version_mismatch"}, "broken", ["nvidia_smi_missing", "version_mismatch"]),
        ({"code": "driver_not_loaded"}, "no_driver", ["nvidia_smi_missing", "driver_not_loaded"]),
    ],
)
def test_neither_nvidia_smi_nor_nvml(told: Any, state: str, codes: list[str], host: Path) -> None:
    answer = told and {"gpus": [], "lost": [], "driver_version": None, "cuda_version": None, **told}
    found = _gpu_host.collect("nvidia-smi", 5, absent, str(host), lambda timeout: answer)
    assert (found["state"], [item["code"] for item in found["problems"]]) == (state, codes)


def test_nvml_that_hangs_is_told(host: Path) -> None:
    def hangs(timeout: float) -> None:
        raise _bounded.NotAnswering("no answer")

    found = _gpu_host.collect("nvidia-smi", 5, absent, str(host), hangs)
    assert (found["state"], [item["code"] for item in found["problems"]]) == ("broken", ["nvidia_smi_missing", "hangs"])
