# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of which architecture an NVIDIA GPU is: by its PCI device before any driver runs, by its compute capability after."""

from __future__ import annotations

import typing as t

# In the order in which they came. What is `older` than Maxwell is driven by no branch that NVIDIA still keeps.
ARCHITECTURES = ("older", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell", "rubin")

# First and last PCI device of each range. Source: the PCI ID repository (pci.ids of 2026-08-22, by the chips' names
# GM, GP, GV, TU, GA, AD, GH, GB, GR), rounded to the blocks in which NVIDIA gives numbers; from Turing on compared with
# the table of devices in the README of the open kernel modules 595.45.04.
_DEVICES: tuple[tuple[int, int, str], ...] = (
    (0x0001, 0x133F, "older"),
    (0x1340, 0x14FF, "maxwell"),
    (0x15C0, 0x15FF, "pascal"),
    (0x1600, 0x16FF, "maxwell"),
    (0x1720, 0x172F, "pascal"),
    (0x1740, 0x17FF, "maxwell"),
    (0x1B00, 0x1D7F, "pascal"),
    (0x1D80, 0x1DFF, "volta"),
    (0x1E00, 0x1FFF, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2180, 0x21FF, "turing"),
    (0x2200, 0x228F, "ampere"),
    (0x2300, 0x23FF, "hopper"),
    (0x2400, 0x25FF, "ampere"),
    (0x2680, 0x28FF, "ada"),
    (0x2900, 0x2F7F, "blackwell"),
    (0x3000, 0x30FF, "rubin"),
    (0x3180, 0x33FF, "blackwell"),
)

# Source: NVIDIA's table of compute capabilities (https://developer.nvidia.com/cuda-gpus), and CUDA's programming guide.
_CAPABILITIES: tuple[tuple[tuple[int, int], str], ...] = (
    ((0, 0), "older"),
    ((5, 0), "maxwell"),
    ((6, 0), "pascal"),
    ((7, 0), "volta"),
    ((7, 5), "turing"),
    ((8, 0), "ampere"),
    ((8, 9), "ada"),
    ((9, 0), "hopper"),
    ((10, 0), "blackwell"),
)
# What is newer than this is not known here; 12.1 is the highest of Blackwell's.
_NEWEST = (12, 9)


def of_device(device_id: str | None) -> str | None:
    """Architecture of a PCI device, as sysfs (``0x26b9``) or nvidia-smi (``0x26B910DE``) writes it, else None."""
    try:
        number = int(device_id or "", 16)
    except ValueError:
        return None
    if number > 0xFFFF:
        number >>= 16
    return next((name for first, last, name in _DEVICES if first <= number <= last), None)


def of_capability(capability: str | None) -> str | None:
    """Architecture of a compute capability such as ``8.9``, or None where that is not known."""
    major, dot, minor = (capability or "").partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        return None
    version = (int(major), int(minor))
    if version > _NEWEST:
        return None
    return [name for least, name in _CAPABILITIES if least <= version][-1]


def of_gpu(gpu: t.Mapping[str, t.Any]) -> str | None:
    """Architecture of a GPU by what its driver tells of it."""
    return of_capability(gpu.get("compute_capability")) or of_device(gpu.get("pci_device_id"))
