# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MIG instances of GPUs, as nvidia-smi tells of them in two places.

Its listing (``nvidia-smi -L``) has each instance's profile and UUID, its document (``nvidia-smi -q -x``) the memory;
no output has both. They meet at the GPU's UUID and the number of the MIG device on it.
"""

from __future__ import annotations

import re
import typing as t
from xml.etree import ElementTree

MIB = 2**20

_GPU = re.compile(r"^GPU \d+: .*\(UUID: (\S+)\)\s*$")
# Drivers before R470 give a UUID of the form MIG-GPU-…/3/0.
_INSTANCE = re.compile(r"^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)\s*$")

Key = tuple[str, int]
Instance = dict[str, t.Any]


def parse_listing(text: str) -> dict[Key, tuple[str, str]]:
    """Profile and UUID of each MIG device, by its GPU's UUID and its number there, from ``nvidia-smi -L``."""
    found: dict[Key, tuple[str, str]] = {}
    gpu = ""
    for line in text.splitlines():
        card, instance = _GPU.match(line), _INSTANCE.match(line)
        if card:
            gpu = card.group(1)
        elif instance and gpu:
            found[gpu, int(instance.group(2))] = (instance.group(1), instance.group(3))
    return found


def _number(element: ElementTree.Element, path: str) -> int | None:
    text = (element.findtext(path) or "").strip()
    return int(text) if re.match(r"^[0-9]{1,9}$", text) else None


def _bytes(element: ElementTree.Element, path: str) -> int | None:
    found = re.match(r"^([0-9]{1,12}) MiB$", (element.findtext(path) or "").strip())
    return int(found.group(1)) * MIB if found else None


def parse_document(text: str) -> dict[Key, Instance]:
    """Number, GPU instance, compute instance and memory in bytes of each MIG device, from ``nvidia-smi -q -x``.

    What the driver does not tell (``N/A`` and the like) is None.

    :raises ValueError: the text is no XML document.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    found: dict[Key, Instance] = {}
    for gpu in root.iter("gpu"):
        uuid = (gpu.findtext("uuid") or "").strip()
        for device in gpu.iterfind("mig_devices/mig_device"):
            index = _number(device, "index")
            if index is not None:
                found[uuid, index] = {
                    "index": index,
                    "gpu_instance_id": _number(device, "gpu_instance_id"),
                    "compute_instance_id": _number(device, "compute_instance_id"),
                    "memory_total_bytes": _bytes(device, "fb_memory_usage/total"),
                    "memory_free_bytes": _bytes(device, "fb_memory_usage/free"),
                }
    return found


def instances(
    gpu_uuid: str, gpu_name: str, listing: t.Mapping[Key, tuple[str, str]], document: t.Mapping[Key, Instance]
) -> list[Instance]:
    """The MIG devices of one GPU, by number; what only one of the two places knows of them has the rest as None."""
    found = []
    for _gpu, index in sorted(key for key in {*listing, *document} if key[0] == gpu_uuid):
        profile, uuid = listing.get((gpu_uuid, index), (None, None))
        told: Instance = document.get((gpu_uuid, index)) or {
            "index": index,
            "gpu_instance_id": None,
            "compute_instance_id": None,
            "memory_total_bytes": None,
            "memory_free_bytes": None,
        }
        name = f"{gpu_name} MIG {profile}" if profile else f"{gpu_name} MIG"
        found.append({**told, "uuid": uuid, "profile": profile, "name": name})
    return found
