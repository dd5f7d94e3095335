"""Where the engine stand-in puts layers on simulated GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.server.devices import MIB, Device, left_on_cpu, place, present

SMALL = Device(0, "GPU-a", "NVIDIA L4", 11 * 1024 * MIB)
LARGE = Device(1, "GPU-b", "NVIDIA L40S", 45 * 1024 * MIB)
GIB = 1024 * MIB


def test_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATED_GPU_10", "GPU-k|NVIDIA L4|23034")
    monkeypatch.setenv("SIMULATED_GPU_2", "GPU-c|NVIDIA L40S|46068")
    assert [(gpu.index, gpu.uuid, gpu.memory) for gpu in present()] == [
        (2, "GPU-c", 46068 * MIB),
        (10, "GPU-k", 23034 * MIB),
    ]


@pytest.mark.parametrize(
    ("size", "devices", "taken", "on_cpu", "offloaded", "on_device"),
    [
        (8 * GIB, [], {}, None, 0, ()),
        (8 * GIB, [SMALL, LARGE], {}, None, 20, (0, 8 * GIB)),
        (8 * GIB, [SMALL, LARGE], {1: 40 * GIB}, None, 20, (8 * GIB, 0)),
        (54 * GIB, [SMALL, LARGE], {}, None, 20, (10 * GIB, 44 * GIB)),
        (20 * GIB, [SMALL], {}, None, 10, (10 * GIB,)),
        (8 * GIB, [SMALL], {}, 5, 15, (6 * GIB,)),
        (8 * GIB, [SMALL], {}, 20, 0, (0,)),
        (8 * GIB, [SMALL], {0: 10 * GIB}, None, 0, (0,)),
    ],
    ids=["no GPU", "roomiest", "roomiest of what is left", "spread", "half fits", "spilled", "all spilled", "full"],
)
def test_place(
    size: int,
    devices: list[Device],
    taken: dict[int, int],
    on_cpu: int | None,
    offloaded: int,
    on_device: tuple[int, ...],
) -> None:
    placement = place(size, 20, devices, taken, on_cpu)
    assert (placement.offloaded, placement.on_device) == (offloaded, on_device)


@given(
    st.integers(1, 2**40),
    st.integers(1, 100),
    st.lists(st.integers(0, 200_000), max_size=8),
    st.one_of(st.none(), st.integers(0, 100)),
)
def test_placement_never_exceeds_the_devices(size: int, layers: int, memories: list[int], on_cpu: int | None) -> None:
    devices = [Device(index, f"GPU-{index}", "x", memory * MIB) for index, memory in enumerate(memories)]
    placement = place(size, layers, devices, {}, None if on_cpu is None else min(on_cpu, layers))
    assert 0 <= placement.offloaded <= layers
    assert placement.vram <= size
    for device, used in zip(devices, placement.on_device, strict=True):
        # Whole bytes of a share are rounded, at most by one a device.
        assert 0 <= used <= device.usable + len(devices)
    if placement.vram == size:
        assert placement.offloaded == layers


@pytest.mark.parametrize(("content", "layers"), [("", 10), ("3\n", 3), ("99", 19), ("x", 10)])
def test_spill_switch(tmp_path: Path, content: str, layers: int) -> None:
    assert left_on_cpu(tmp_path, 19) is None
    (tmp_path / "simulate_spill").write_text(content)
    assert left_on_cpu(tmp_path, 19) == layers
