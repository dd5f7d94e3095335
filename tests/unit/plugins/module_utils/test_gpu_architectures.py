# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of which architecture a GPU is, by PCI device and by compute capability."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _gpu_architectures as architectures

# Devices of the PCI ID repository: at the ends of ranges, where NVIDIA's numbers jump, and what is common.
DEVICES = {
    "0x0fc0": "older",  # GeForce GT 640, GK107
    "0x102d": "older",  # Tesla K80
    "0x1340": "maxwell",  # GeForce 830M, the first of Maxwell
    "0x13f2": "maxwell",  # Tesla M60
    "0x17fd": "maxwell",  # Tesla M40
    "0x15f8": "pascal",  # Tesla P100 PCIe 16GB, between two ranges of Maxwell
    "0x1617": "maxwell",  # GeForce GTX 980M
    "0x1b38": "pascal",  # Tesla P40
    "0x1d01": "pascal",  # GeForce GT 1030
    "0x1d81": "volta",  # TITAN V
    "0x1db4": "volta",  # Tesla V100 PCIe 16GB
    "0x1df6": "volta",  # Tesla V100S
    "0x1e02": "turing",  # TITAN RTX, the first of Turing
    "0x1eb8": "turing",  # Tesla T4
    "0x2182": "turing",  # GeForce GTX 1660 Ti, after the first of Ampere
    "0x20b0": "ampere",  # A100 SXM4
    "0x20f1": "ampere",  # A100 PCIe
    "0x2204": "ampere",  # GeForce RTX 3090
    "0x25b6": "ampere",  # A2, A16
    "0x2330": "hopper",  # H100 SXM5
    "0x2335": "hopper",  # H200
    "0x2342": "hopper",  # GH200
    "0x2684": "ada",  # GeForce RTX 4090
    "0x26b9": "ada",  # L40S
    "0x28f8": "ada",  # RTX 2000 Ada embedded, the last of Ada
    "0x2901": "blackwell",  # B200
    "0x2b85": "blackwell",  # GeForce RTX 5090
    "0x2e12": "blackwell",  # GB10
    "0x3182": "blackwell",  # B300, after the first of Rubin
    "0x3000": "rubin",
}


@pytest.mark.parametrize(("device", "architecture"), DEVICES.items())
def test_by_pci_device_as_sysfs_and_as_nvidia_smi_write_it(device: str, architecture: str) -> None:
    assert architectures.of_device(device) == architecture
    assert architectures.of_device(f"0x{device[2:].upper()}10DE") == architecture


@pytest.mark.parametrize("device", [None, "", "[N/A]", "0x", "0xffff", "0x4000", "0x0000"])
def test_an_unknown_device_is_of_none(device: str | None) -> None:
    assert architectures.of_device(device) is None


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [
        ("3.5", "older"), ("5.0", "maxwell"), ("5.2", "maxwell"), ("6.1", "pascal"), ("7.0", "volta"), ("7.2", "volta"),
        ("7.5", "turing"), ("8.0", "ampere"), ("8.6", "ampere"), ("8.7", "ampere"), ("8.9", "ada"), ("9.0", "hopper"),
        ("10.0", "blackwell"), ("10.3", "blackwell"), ("12.0", "blackwell"), ("12.1", "blackwell"), ("13.0", None),
        ("", None), ("[N/A]", None), (None, None), ("8", None),
    ],
)  # fmt: skip
def test_by_compute_capability(capability: str | None, architecture: str | None) -> None:
    assert architectures.of_capability(capability) == architecture


def test_capability_goes_before_device() -> None:
    gpu = {"compute_capability": "9.0", "pci_device_id": "0x26B910DE"}
    assert architectures.of_gpu(gpu) == "hopper"
    assert architectures.of_gpu({**gpu, "compute_capability": None}) == "ada"


def test_ranges_do_not_overlap() -> None:
    ranges = sorted(architectures._DEVICES)
    assert all(first[1] < second[0] for first, second in zip(ranges, ranges[1:]))
    assert {name for _first, _last, name in ranges} == set(architectures.ARCHITECTURES)
