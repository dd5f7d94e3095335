# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_info and model_select as modules: one feeds the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., dict[str, Any]]
LINE = (
    "0, GPU-{number}, NVIDIA Example, {total}, {free}, 0, 8.9, 00000000:01:00.0, "
    "[N/A], [N/A], [N/A], [N/A], Disabled, Disabled, 580.142, 0x268410DE, Default, 41, [N/A], 20.10, 450.00, 150.00, "
    "600.00, 450.00, 0x0000000000000001, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], None, N/A"
)


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Callable[[int], str]:
    """A stand-in that shows one GPU of so many MiB."""

    def write(mebibytes: int) -> str:
        path = tmp_path / f"nvidia-smi-{mebibytes}"
        line = LINE.format(number="0" * 8, total=mebibytes, free=mebibytes - 300)
        path.write_text(f"#!/bin/sh\necho '{line}'\n")
        path.chmod(0o755)
        return str(path)

    return write


def select(run: Run, gpus: dict[str, Any], path: str, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "gpus": gpus["gpus"], "host": gpus["host"], "engine_version": "0.32.15", "host_name": "node1",
        "workloads": [{"name": "chat", "models": ["mine:1"], "context_length": {"min": 1024, "max": 1 << 20}}],
        "catalog": [{"name": "mine:1", "source": {"type": "gguf", "path": path, "sha256": "a5" * 32}}],
    }  # fmt: skip
    return run("model_select", **{**arguments, **more})


def test_from_gpu_to_plan(run: Run, nvidia_smi: Callable[[int], str], gguf_file: Callable[..., str]) -> None:
    path = gguf_file(context=1 << 20, layers=16)
    plans = {}
    for mebibytes in (4096, 16384):
        found = run("gpu_info", nvidia_smi=nvidia_smi(mebibytes), check_mode=True)
        assert (found["changed"], found["state"], found["problems"]) == (False, "ready", [])
        assert found["driver"]["loaded_version"] == "580.142"
        result = select(run, found, path)
        assert result["changed"] is False
        plans[mebibytes] = result["plan"]
        again = select(run, found, path, current_plan=result["plan"])
        assert again["plan"] == result["plan"]
    small, large = (plan["instances"][0]["models"][0] for plan in plans.values())
    assert small["context_length"] < large["context_length"]
    assert small["gpus"] == ["GPU-00000000"]


def test_a_plan_that_changes_what_runs_is_told(
    run: Run, nvidia_smi: Callable[[int], str], gguf_file: Callable[..., str]
) -> None:
    path = gguf_file(context=1 << 20, layers=16)
    found = run("gpu_info", nvidia_smi=nvidia_smi(4096))
    first = select(run, found, path, diff=True)
    assert (first["changes"], "diff" in first) == ([], False)
    again = select(run, found, path, diff=True, current_plan=first["plan"])
    assert (again["changed"], again["changes"], "diff" in again) == (False, [], False)
    fewer = [{"name": "chat", "models": ["mine:1"], "context_length": 1024, "slots": 1}]
    for diff in (True, False):
        other = select(run, found, path, diff=diff, check_mode=True, current_plan=first["plan"], workloads=fewer)
        assert other["changed"] is False
        assert other["changes"][0].startswith("chat: mine:1 Q4_K_M: ")
        assert other["changes"][1].startswith("ollama: OLLAMA_CONTEXT_LENGTH ")
        assert ("diff" in other) is diff
        if diff:
            assert "  OLLAMA_CONTEXT_LENGTH=1024\n" in other["diff"]["after"]
            assert "  OLLAMA_CONTEXT_LENGTH=1024\n" not in other["diff"]["before"]


def test_gpu_info_without_anything(run: Run, tmp_path: Path) -> None:
    found = run("gpu_info", nvidia_smi=str(tmp_path / "absent"))
    assert "failed" not in found
    assert found["gpus"] == []
    assert found["host"]["memory_total_bytes"] > 0


def test_gpu_info_reads_a_system_below_another_root(run: Run, tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    for name, value in (("vendor", "0x10de"), ("device", "0x1db4"), ("class", "0x030200")):
        (device / name).write_text(value + "\n")
    (tmp_path / "etc/modprobe.d").mkdir(parents=True)
    (tmp_path / "etc/modprobe.d/off.conf").write_text("blacklist nouveau\n")
    found = run("gpu_info", nvidia_smi=str(tmp_path / "absent"), root=str(tmp_path))
    assert (found["state"], found["pci_devices"][0]["architecture"]) == ("no_driver", "volta")
    assert found["kernel"]["nouveau_blacklisted"] is True
    assert (found["driver"]["packages"], found["xid"], found["cdi"]) == ([], [], {"specs": []})
    assert "is no directory" in run("gpu_info", root=str(tmp_path / "nowhere"))["msg"]


def test_gpu_info_returns_what_it_documents(run: Run, nvidia_smi: Callable[[int], str], tmp_path: Path) -> None:
    module = importlib.import_module("ansible_collections.onprem.llm.plugins.modules.gpu_info")
    documented = yaml.safe_load(module.RETURN)
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/kern.log").write_text("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n")
    (tmp_path / "etc/cdi").mkdir(parents=True)
    (tmp_path / "etc/cdi/nvidia.yaml").write_text("{}")
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    package = "Package: nvidia-open\nStatus: hold ok installed\nVersion: 580.142-1\n"
    (tmp_path / "var/lib/dpkg/status").write_text(package)
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.12.57\n")
    (tmp_path / "var/lib/dkms/nvidia/580.142/build").mkdir(parents=True)
    (tmp_path / "var/lib/dkms/nvidia/580.142/build/make.log").write_text("for kernel 6.12.57 (x)\nError 2\n")
    found = run("gpu_info", nvidia_smi=nvidia_smi(8192), root=str(tmp_path))

    def compare(value: Any, described: dict[str, Any], path: str) -> None:
        for one in value if isinstance(value, list) else [value]:
            if "contains" in described and one is not None:
                assert isinstance(one, dict), path
                assert set(one) == set(described["contains"]), path
                for key, inner in described["contains"].items():
                    compare(one[key], inner, f"{path}.{key}")

    compare({key: found[key] for key in documented}, {"contains": documented}, "gpu_info")
    for path in (found["xid"], found["cdi"]["specs"], found["driver"]["packages"], found["kernel"]["dkms_failed"]):
        assert path, "something was there to compare"


def test_gpu_info_refuses_no_time(run: Run) -> None:
    assert "above 0" in run("gpu_info", timeout=0)["msg"]


def test_no_plan_is_a_failure_with_its_reason(
    run: Run, nvidia_smi: Callable[[int], str], gguf_file: Callable[..., str]
) -> None:
    found = run("gpu_info", nvidia_smi=nvidia_smi(1800))
    result = select(run, found, gguf_file())
    assert result["failed"]
    assert result["msg"].startswith("nothing fits on node1. The nearest miss is ")


def test_wrong_workloads_are_refused(run: Run, nvidia_smi: Callable[[int], str], gguf_file: Callable[..., str]) -> None:
    found = run("gpu_info", nvidia_smi=nvidia_smi(8192))
    result = select(run, found, gguf_file(), workloads=[{"name": "chat", "models": ["mine:2"]}])
    assert "did you mean 'mine:1'" in result["msg"]


FILES = Path(__file__).resolve().parents[4] / "roles/models/files"
SHIPPED = {
    option: yaml.safe_load((FILES / name).read_text(encoding="utf-8"))
    for option, name in (
        ("catalog", "catalog.yml"),
        ("benchmarks", "benchmarks.yml"),
        ("library", "library_tags.yml"),
        ("gpu_table", "gpus.yml"),
    )
}
WISHES = [{"name": "chat", "languages": ["ja"], "users": 2, "context_length": {"min": 8192, "max": 32768}}]


def by_name(run: Run, **more: Any) -> dict[str, Any]:
    return run("model_select", **{"engine_version": "0.32.15", "workloads": WISHES, **SHIPPED, **more})


def test_gpus_by_name_need_no_host(run: Run) -> None:
    result = by_name(run, gpu_names=["RTX 4090"], advise=True, explain="qwen3:8b")
    assert result["changed"] is False
    [model] = result["plan"]["instances"][0]["models"]
    assert model["slots"] == 2
    assert result["report"][0] == "ollama on GeForce RTX 4090 (gpu0)"
    assert result["tradeoffs"]
    assert {term["model"] for term in result["explained"]} == {"qwen3:8b"}


def test_a_host_by_its_size_and_gpus_to_buy(run: Run) -> None:
    result = by_name(run, host_size={"memory_gib": 64})
    assert result["plan"]["instances"][0]["gpus"] == []
    bought = by_name(run, purchase=True)
    assert "plan" not in bought
    assert {"gpu", "count", "memory_bytes", "models"} <= set(bought["purchases"][0])


def test_replicas_are_decided_over_the_fleet(run: Run) -> None:
    hosts = [
        {"name": name, "host": {"memory_total_bytes": 2**36},
         "gpus": [{"uuid": f"GPU-{name}", "memory_total_bytes": size << 30, "memory_free_bytes": size << 30}]}
        for name, size in (("a", 12), ("b", 48))
    ]  # fmt: skip
    workloads = [{**WISHES[0], "replicas": 1}]
    served = by_name(run, fleet=hosts, workloads=workloads, host_name="b", gpus=hosts[1]["gpus"], host=hosts[1]["host"])
    whole = by_name(run, fleet=hosts, workloads=workloads)["fleet"]
    assert served["plan"] == whole["plans"]["b"]
    assert [one["host"] for one in whole["serves"]["chat"]] == ["b"]
    passed_over = by_name(run, fleet=hosts, workloads=workloads, host_name="a", gpus=hosts[0]["gpus"])
    assert "no workload is for a" in passed_over["msg"]


def test_a_wrong_name_is_told(run: Run) -> None:
    assert "did you mean" in by_name(run, gpu_names=["RTX 4900"])["msg"]
    assert (
        "runs at ollama.com"
        in by_name(run, gpu_names=["RTX 4090"], workloads=[{"name": "chat", "models": ["kimi-k2.6"]}])["msg"]
    )
