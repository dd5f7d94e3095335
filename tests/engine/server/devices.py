"""The simulated GPUs of the container, and where a loaded model's layers go on them.

A GPU is an environment variable ``SIMULATED_GPU_<index>=<uuid>|<name>|<memory total in MiB>``, which the test hosts'
CDI spec injects for every device that the container is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
# What the driver, the CUDA context and the display leave unusable on a real device.
RESERVED = 1024 * MIB


@dataclass(frozen=True)
class Device:
    """One GPU; ``memory`` is its total in bytes."""

    index: int
    uuid: str
    name: str
    memory: int

    @property
    def usable(self) -> int:
        return max(0, self.memory - RESERVED)


@dataclass(frozen=True)
class Placement:
    """How many of a model's layers are offloaded, and the bytes on each device (in the devices' order)."""

    offloaded: int
    layers: int
    on_device: tuple[int, ...]

    @property
    def vram(self) -> int:
        return sum(self.on_device)


def present() -> list[Device]:
    """The container's GPUs by ascending index; ordinals are those of CUDA, from 0 without gaps."""
    found = []
    for key, value in os.environ.items():
        match = re.fullmatch(r"SIMULATED_GPU_(\d+)", key)
        if match:
            uuid, name, memory = value.split("|")
            found.append(Device(int(match[1]), uuid, name, int(memory) * MIB))
    return sorted(found, key=lambda device: device.index)


def left_on_cpu(home: Path, layers: int) -> int | None:
    """Layers that the spill switch keeps on the CPU: the number in ``simulate_spill``, half if it says none."""
    try:
        text = (home / "simulate_spill").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return min(layers, int(text)) if text.isdigit() else (layers + 1) // 2


def place(size: int, layers: int, devices: list[Device], taken: Mapping[int, int], on_cpu: int | None) -> Placement:
    """Where ``size`` bytes in ``layers`` layers go, ``taken`` being the bytes in use by a device's index.

    As Ollama's scheduler has it: whole on the one device with the most room if it fits there, else spread over all of
    them in proportion to their room, and what fits on none stays on the CPU.
    """
    room = [max(0, device.usable - taken.get(device.index, 0)) for device in devices]
    offloaded = min(layers if on_cpu is None else layers - on_cpu, layers * sum(room) // size)
    if offloaded <= 0:
        return Placement(0, layers, (0,) * len(devices))
    vram = size if offloaded == layers else size * offloaded // layers
    widest = max(range(len(devices)), key=lambda i: room[i])
    if vram <= room[widest]:
        return Placement(offloaded, layers, tuple(vram if i == widest else 0 for i in range(len(devices))))
    shares = [vram * space // sum(room) for space in room]
    shares[widest] += vram - sum(shares)
    return Placement(offloaded, layers, tuple(shares))
