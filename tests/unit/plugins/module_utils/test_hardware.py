# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices: measured, by name, divided, or shown wrongly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _hardware
from ansible_collections.onprem.llm.plugins.module_utils._workload import PlanError
from plan_cases import GIB, GPUS, HOST, TABLE, gpu

MIB = 2**20
KEEP = _hardware.Budgeting()


def test_the_shipped_table_is_whole() -> None:
    names = [row["name"] for row in GPUS["gpus"]]
    assert len(names) == len(set(names)) > 40
    assert {6144, 8188, 10240, 12288, 16376, 24564, 32607, 49140, 81559} <= {row["memory_mib"] for row in GPUS["gpus"]}
    for row in GPUS["gpus"]:
        assert row["bandwidth_gb_s"] is None or 100 < row["bandwidth_gb_s"] < 10000
    contexts = {row["cuda_context_mib"] for row in GPUS["gpus"] if "cuda_context_mib" in row}
    assert min(contexts) == 107
    assert max(contexts) == GPUS["cuda_context_mib"] == _hardware.CUDA_CONTEXT_BYTES >> 20


@pytest.mark.parametrize(
    ("name", "mebibytes", "count"),
    [
        ("RTX 4090", 24564, 1),
        ("NVIDIA GeForce RTX 4090", 24564, 1),
        ("4090", 24564, 1),
        ("2x L40S", 46068, 2),
        ("RTX A6000 with ECC", 46068, 1),
        ("A10 without ECC", 24564, 1),
        ("8 x H100 80GB HBM3", 81559, 8),
        ("H200 MIG 3g.71gb", 71424, 1),
        ("24564 MiB", 24564, 1),
        ("80 GiB", 81920, 1),
    ],
)
def test_gpus_by_name(name: str, mebibytes: int, count: int) -> None:
    found = _hardware.named([name], TABLE)
    assert [item["memory_total_bytes"] for item in found] == [mebibytes * MIB] * count
    assert len({item["uuid"] for item in found}) == count
    assert all(item["memory_free_bytes"] <= item["memory_total_bytes"] for item in found)


def test_a_gpu_by_its_size_is_called_by_it() -> None:
    assert [gpu["name"] for gpu in _hardware.named(["2x 24 GiB"], TABLE)] == ["24 GiB", "24 GiB"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("RTX 4900", "did you mean"),
        ("Radeon RX 7900", "is not in the table"),
        ("0x RTX 4090", "1 to 64"),
        ("1000x RTX 4090", "1 to 64"),
        ("L40S MIG 1g.5gb", "in the table of GPUs are none"),
        ("", "is needed"),
        ("0 GiB", "'1 GiB' to '1024 GiB'"),
        ("9999999 GiB", "'1 GiB' to '1024 GiB'"),
    ],
)
def test_a_name_that_nobody_knows(name: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        _hardware.named([name], TABLE)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA GeForce RTX 4090", True),
        ("NVIDIA H100 80GB HBM3", True),
        # Other cards, whose memory is slower.
        ("NVIDIA GeForce RTX 4090 Laptop GPU", False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", False),
    ],
)
def test_the_bandwidth_is_that_of_the_very_card(name: str, known: bool) -> None:
    assert bool(_hardware.bandwidth_of(name, TABLE)) is known


@pytest.mark.parametrize(
    "shown",
    [
        {"memory_total_bytes": None},
        {"memory_free_bytes": None},
        {"memory_total_bytes": 0},
        {"memory_free_bytes": -1},
        {"memory_free_bytes": 99 * GIB},
        {"memory_total_bytes": "[N/A]"},
        {"uuid": None},
    ],
)
def test_a_gpu_that_tells_nothing_usable_is_left_out_and_named(shown: dict[str, Any]) -> None:
    devices, remarks = _hardware.devices([{**gpu(0, 24, name="NVIDIA Example"), **shown}, gpu(1, 24)], HOST, KEEP)
    assert [device.id for device in devices] == ["GPU-1"]
    assert "is left out" in remarks[0]


def test_a_divided_gpu_is_its_instances_each_alone() -> None:
    card = gpu(0, 140, mig_mode="Enabled", mig_devices=[gpu(7, 70), gpu(8, 35)])
    devices, remarks = _hardware.devices([card], HOST, KEEP)
    assert [(device.id, device.alone) for device in devices] == [("GPU-7", True), ("GPU-8", True)]
    assert remarks == []


def test_compute_instances_that_share_memory_are_planned_on_once() -> None:
    shared = [
        gpu(7, 70, gpu_instance_id=2, profile="1c.3g.71gb"),
        gpu(8, 70, gpu_instance_id=2, profile="2c.3g.71gb"),
        gpu(9, 35, gpu_instance_id=3, profile="2g.35gb"),
        gpu(6, 70, gpu_instance_id=2, profile="1c.3g.71gb"),
    ]
    devices, remarks = _hardware.devices([gpu(0, 140, mig_mode="Enabled", mig_devices=shared)], HOST, KEEP)
    assert [device.id for device in devices] == ["GPU-8", "GPU-9"]
    assert [remark.split()[0] for remark in remarks] == ["GPU-7", "GPU-6"]
    assert all("shares the memory of GPU instance 2 with GPU-8" in remark for remark in remarks)


def test_the_instances_of_one_of_two_gpus_are_planned_on() -> None:
    cards = [gpu(0, 140, mig_mode="Enabled", mig_devices=[gpu(7, 70)]), gpu(1, 140, mig_mode="Enabled", mig_devices=[])]
    devices, [remark] = _hardware.devices(cards, HOST, KEEP)
    assert [device.id for device in devices] == ["GPU-7"]
    assert remark.startswith("GPU-1 is left out: MIG is enabled")


def test_an_instance_that_is_half_known_is_left_out() -> None:
    instances = [gpu(7, 70), gpu(8, 35, uuid=None, name="H200 MIG 2g.35gb"), gpu(9, 18, memory_free_bytes=None)]
    devices, remarks = _hardware.devices([gpu(0, 140, mig_mode="Enabled", mig_devices=instances)], HOST, KEEP)
    assert [device.id for device in devices] == ["GPU-7"]
    assert remarks == [
        "H200 MIG 2g.35gb is left out: its UUID is not known, by which containers are given it",
        "GPU-9 is left out: its memory is not known",
    ]


@pytest.mark.parametrize(("now", "then"), [(None, "Enabled"), ("Disabled", "Enabled"), ("Enabled", "Disabled")])
def test_a_gpu_whose_mig_changes_with_the_next_reset_is_left_out(now: str | None, then: str) -> None:
    card = gpu(0, 140, mig_mode=now, mig_mode_pending=then, mig_devices=[gpu(7, 70)])
    devices, [remark] = _hardware.devices([card], HOST, KEEP)
    assert devices == []
    assert f"and {then.lower()} from the GPU's next reset on" in remark


@pytest.mark.parametrize("instances", [None, [], "[N/A]"])
def test_a_gpu_half_divided_says_what_to_do(instances: Any) -> None:
    devices, [remark] = _hardware.devices([gpu(0, 140, mig_mode="Enabled", mig_devices=instances)], HOST, KEEP)
    assert devices == []
    assert "make one, or turn MIG off" in remark


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 107),
        ("GeForce RTX 3090", 256),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 555),
        ("NVIDIA H200 MIG 3g.71gb", 555),
        ("NVIDIA H100 PCIe", 555),
        ("", 555),
    ],
)
def test_a_cuda_context_is_the_gpus_own_or_the_most_known(name: str, mebibytes: int) -> None:
    assert _hardware.cuda_context_bytes(name, TABLE) == mebibytes << 20
    [device], _remarks = _hardware.devices([gpu(0, 24, name=name)], {}, KEEP, None, TABLE)
    assert device.cuda_context == mebibytes << 20
    [device], _remarks = _hardware.devices([gpu(0, 24, name=name)], {}, replace(KEEP, cuda_context=7), None, TABLE)
    assert device.cuda_context == 7


def test_the_context_of_an_instance_is_its_cards() -> None:
    """The smallest known is no more than that of the card, whose name alone tells."""
    table = replace(
        TABLE, gpus=tuple(replace(row, cuda_context=9) if row.name == "H200" else row for row in TABLE.gpus)
    )
    instance = {"uuid": "MIG-1", "name": "MIG 3g.71gb", "memory_total_bytes": GIB, "memory_free_bytes": GIB}
    card = gpu(0, 141, name="NVIDIA H200", mig_mode="Enabled", mig_devices=[instance])
    [device], _remarks = _hardware.devices([card], {}, KEEP, None, table)
    assert (device.id, device.cuda_context) == ("MIG-1", 9)
    [device], _remarks = _hardware.devices(_hardware.named(["H200 MIG 3g.71gb"], table), {}, KEEP, None, table)
    assert device.cuda_context == 9


def test_a_screen_and_the_operators_headroom_take_their_part() -> None:
    keep = _hardware.Budgeting(headroom=2 * GIB, display=GIB)
    plain, shown = (
        _hardware.devices([gpu(0, 24, **more)], HOST, keep)[0][0].budget for more in ({}, {"display_active": "Enabled"})
    )
    assert plain == 24 * GIB - 3 * GIB
    assert shown == plain - GIB


def test_a_host_by_its_size() -> None:
    host = _hardware.host_by_size(
        {"memory_gib": 64, "channels": 2, "mega_transfers": 5600, "numa_nodes": 2, "cores": 16}
    )
    assert host["memory_bandwidth"] == pytest.approx(89.6e9)
    assert [len(node["cores"]) for node in host["numa_nodes"]] == [8, 8]
    assert "more than one NUMA node has" in _hardware.numa_remark(host, 40 * GIB)
    assert "one of them holds" in _hardware.numa_remark(host, 20 * GIB)
    assert _hardware.numa_remark(_hardware.host_by_size({"memory_gib": 64}), GIB) == ""


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ({"cores": 8}, "memory_gib is not given"),
        ({"memory_gib": -1}, "memory_gib is -1"),
        ({"memory_gib": 10**9}, "up to 65536"),
        ({"memory_gib": True}, "memory_gib is True"),
        ({"ram": 64}, "the field 'ram'"),
    ],
)
def test_refuses_an_absurd_host(size: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        _hardware.host_by_size(size)


def test_refuses_a_wrong_table() -> None:
    with pytest.raises(PlanError, match="memory_mib are needed"):
        _hardware.table({"gpus": [{"name": "X"}]})
