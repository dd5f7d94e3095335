"""The rungs of a GPU host, from what gpu_info returns."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _diagnosis_gpu as rungs
from ansible_collections.onprem.llm.plugins.module_utils._diagnosis_host import Wanted

UUID = "GPU-11111111-2222-3333-4444-555555555555"
PLAN = {"instances": [{"gpus": [UUID], "models": []}]}
GPU = {"index": 0, "uuid": UUID, "name": "NVIDIA L40S", "mig_devices": [], "temperature_celsius": 41}
CARD = {"address": "0000:01:00.0", "class": "0x030200", "driver": "nvidia"}
SOUND: dict[str, Any] = {
    "gpus": [GPU],
    "driver": {"loaded_version": "595.80", "installed_version": "595.80", "loaded_flavor": "open"},
    "kernel": {
        "running": "6.12.57",
        "newest_installed": "6.12.57",
        "modules": {"6.12.57": "595.80"},
        "headers": {"6.12.57": True},
        "nouveau_loaded": False,
        "nouveau_blacklisted": True,
        "secure_boot": "enabled",
        "mok_enrolled": True,
        "dkms_failed": [],
    },
    "xid": [],
    "fabric": {"nvswitches": 0},
    "toolkit": {"version": "1.20.0"},
    "cdi": {
        "specs": [
            {
                "path": "/etc/cdi/nvidia.yaml",
                "kind": "nvidia.com/gpu",
                "devices": ["0", UUID, "all"],
                "valid": True,
                "reason": None,
                "driver_version": "595.80",
            }
        ]
    },
    "pci_devices": [CARD],
    "problems": [],
}
WANTED = Wanted(name="gpu1")
CHECKS = {
    "hardware": lambda info: rungs.hardware(info, PLAN, WANTED),
    "firmware": lambda info: rungs.firmware(info, WANTED),
    "module": lambda info: rungs.module(info, WANTED),
    "xid": lambda info: rungs.xid(info, WANTED),
    "nvidia_smi": lambda info: rungs.nvidia_smi(info, PLAN, WANTED),
    "gpu_health": lambda info: rungs.gpu_health(info, WANTED),
    "toolkit": lambda info: rungs.toolkit(info, WANTED),
    "cdi": lambda info: rungs.cdi(info, PLAN, WANTED),
}


def xid(code: int, critical: bool) -> dict[str, Any]:
    return {"time": None, "pci_bus_id": "0000:01:00.0", "code": code, "text": "t", "action": "a", "critical": critical}


def spec(**changes: Any) -> dict[str, Any]:
    return {"cdi": {"specs": [{**SOUND["cdi"]["specs"][0], **changes}]}}


@pytest.mark.parametrize("rung", CHECKS)
def test_a_sound_host(rung: str) -> None:
    assert CHECKS[rung](SOUND).verdict == "ok"


@pytest.mark.parametrize(
    ("rung", "changes", "verdict", "says"),
    [
        ("hardware", {"pci_devices": [], "gpus": []}, "broken", "no NVIDIA GPU"),
        ("hardware", {"pci_devices": []}, "not asked", "container"),
        ("hardware", {"pci_devices": [{**CARD, "driver": "vfio-pci"}]}, "broken", "vfio-pci"),
        ("firmware", {"kernel": {"mok_enrolled": False}, "driver": {"loaded_version": None}}, "broken", "Secure Boot"),
        ("firmware", {"kernel": {"mok_enrolled": False}}, "ok", "enabled"),
        ("module", {"kernel": {"nouveau_loaded": True}}, "broken", "nouveau"),
        ("module", {"driver": {"installed_version": "595.99"}}, "broken", "595.80 is loaded and 595.99"),
        ("module", {"driver": {"loaded_version": None}}, "broken", "does not load"),
        (
            "module",
            {
                "driver": {"loaded_version": None},
                "kernel": {"dkms_failed": [{"kernel": "6.12.57", "log": "a\nError 2"}]},
            },
            "broken",
            "Error 2",
        ),
        (
            "module",
            {
                "driver": {"loaded_version": None, "installed_version": None},
                "kernel": {"headers": {"6.12.57": False}, "modules": {"6.12.57": None}},
            },
            "broken",
            "headers are not installed",
        ),
        (
            "module",
            {"kernel": {"newest_installed": "6.13", "modules": {"6.12.57": "595.80", "6.13": None}}},
            "remark",
            "6.13 has none",
        ),
        ("xid", {"xid": [xid(79, True)]}, "broken", "XID 79"),
        ("xid", {"xid": [xid(13, False)]}, "remark", "XID 13"),
        ("nvidia_smi", {"gpus": []}, "broken", "no GPU"),
        ("nvidia_smi", {"gpus": [{**GPU, "uuid": "GPU-2"}]}, "broken", UUID),
        ("nvidia_smi", {"problems": [{"code": "hangs", "message": "no answer"}]}, "broken", "no answer"),
        ("nvidia_smi", {"problems": [{"code": "restart_due", "message": "x"}]}, "ok", "1 GPUs"),
        ("gpu_health", {"problems": [{"code": "row_remap_failure", "message": "a row"}]}, "broken", "a row"),
        ("gpu_health", {"problems": [{"code": "thermal_slowdown", "message": "too hot"}]}, "broken", "too hot"),
        ("gpu_health", {"problems": [{"code": "mig_no_instance", "message": "none"}]}, "broken", "none"),
        ("gpu_health", {"problems": [{"code": "row_remap_pending", "message": "later"}]}, "remark", "later"),
        ("toolkit", {"toolkit": {"version": "1.17.4"}}, "broken", "below 1.17.8"),
        ("toolkit", {"toolkit": {"version": "1.19.1"}}, "remark", "below 1.20.0"),
        ("toolkit", {"toolkit": {"version": None}}, "not asked", "not installed"),
        ("cdi", {"cdi": {"specs": []}}, "broken", "no specification"),
        ("cdi", spec(devices=["0"]), "broken", f"lack {UUID}"),
        ("cdi", spec(valid=False, reason="it names no devices", devices=[]), "broken", "names no devices"),
        ("cdi", spec(driver_version="580.10"), "broken", "written for driver 580.10"),
    ],
)
def test_a_fault(rung: str, changes: dict[str, Any], verdict: str, says: str) -> None:
    info = dict(SOUND)
    for key, value in changes.items():
        info[key] = {**SOUND[key], **value} if isinstance(value, dict) else value
    found = CHECKS[rung](info)
    assert found.verdict == verdict, found
    assert says in found.seen
    if verdict == "broken":
        assert found.means
        assert found.mend
        assert "{host}" not in found.mend
