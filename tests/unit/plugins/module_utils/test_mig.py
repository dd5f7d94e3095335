# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MIG devices in nvidia-smi's listing and document. The texts have the form of real output, the values are made up."""

from __future__ import annotations

import contextlib

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _mig
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20
GPU = "GPU-11111111-2222-3333-4444-555555555555"
NEW, OLD = "MIG-8e4b1c70-5a02-5d3e-9f16-c2a7d0b4e680", f"MIG-{GPU}/7/0"

# Driver 590.48.01 on an H200; R450 and R460 made a MIG device's UUID of its GPU's and the numbers of its instances.
LISTINGS = {
    "590.48.01, compute instances of one GPU instance": (
        f"GPU 0: NVIDIA H200 (UUID: {GPU})\n  MIG 1c.3g.71gb  Device  0: (UUID: {NEW})\n",
        {(GPU, 0): ("1c.3g.71gb", NEW)},
    ),
    "two digits": (
        f"GPU 0: NVIDIA H200 (UUID: {GPU})\n  MIG 1g.18gb     Device 10: (UUID: {NEW})\n",
        {(GPU, 10): ("1g.18gb", NEW)},
    ),
    "media extensions": (
        f"GPU 0: A100 (UUID: {GPU})\n  MIG 1g.10gb+me  Device  0: (UUID: {NEW})\n",
        {(GPU, 0): ("1g.10gb+me", NEW)},
    ),
    "UUID of old drivers": (
        f"GPU 0: A100-PCIE-40GB (UUID: {GPU})\n  MIG 1g.5gb Device 0: (UUID: {OLD})\n",
        {(GPU, 0): ("1g.5gb", OLD)},
    ),
    "two GPUs, the first whole": (
        (
            f"GPU 0: NVIDIA H200 (UUID: {GPU}9)\nGPU 1: NVIDIA H200 (UUID: {GPU})\n"
            f"  MIG 2g.35gb     Device  2: (UUID: {NEW})\n"
        ),
        {(GPU, 2): ("2g.35gb", NEW)},
    ),
    "no GPU before": (f"  MIG 2g.35gb     Device  2: (UUID: {NEW})\n", {}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listing(name: str) -> None:
    text, found = LISTINGS[name]
    assert _mig.parse_listing(text) == found


# The elements and their order are those of a recording of an A100 under driver 535.54.03.
DOCUMENT = f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <attached_gpus>2</attached_gpus>
    <gpu id="00000000:01:00.0">
        <product_name>NVIDIA A100-SXM4-80GB</product_name>
        <mig_mode>
            <current_mig>Enabled</current_mig>
            <pending_mig>Enabled</pending_mig>
        </mig_mode>
        <mig_devices>
            <mig_device>
                <index>0</index>
                <gpu_instance_id>3</gpu_instance_id>
                <compute_instance_id>1</compute_instance_id>
                <device_attributes><shared><multiprocessor_count>14</multiprocessor_count></shared></device_attributes>
                <ecc_error_count><volatile_count><sram_uncorrectable>0</sram_uncorrectable></volatile_count></ecc_error_count>
                <fb_memory_usage>
                    <total>19968 MiB</total>
                    <reserved>0 MiB</reserved>
                    <used>12 MiB</used>
                    <free>19955 MiB</free>
                </fb_memory_usage>
                <bar1_memory_usage><total>32767 MiB</total><used>0 MiB</used><free>32767 MiB</free></bar1_memory_usage>
            </mig_device>
        </mig_devices>
        <uuid>{GPU}</uuid>
        <fb_memory_usage><total>81920 MiB</total><free>80999 MiB</free></fb_memory_usage>
    </gpu>
    <gpu id="00000000:41:00.0">
        <mig_devices>
            None
        </mig_devices>
        <uuid>GPU-other</uuid>
    </gpu>
</nvidia_smi_log>
"""


def test_document() -> None:
    assert _mig.parse_document(DOCUMENT) == {
        (GPU, 0): {
            "index": 0, "gpu_instance_id": 3, "compute_instance_id": 1,
            "memory_total_bytes": 19968 * MIB, "memory_free_bytes": 19955 * MIB,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    "nothing", ["N/A", "[N/A]", "[Not Supported]", "Insufficient Permissions", "", "-1 MiB", "19955"]
)
def test_memory_that_is_not_told_is_none(nothing: str) -> None:
    [found] = _mig.parse_document(DOCUMENT.replace("19955 MiB", nothing)).values()
    assert (found["memory_total_bytes"], found["memory_free_bytes"]) == (19968 * MIB, None)


def test_a_device_without_a_number_is_none() -> None:
    assert _mig.parse_document(DOCUMENT.replace("<index>0</index>", "<index>N/A</index>")) == {}


@pytest.mark.parametrize("text", ["", "No devices were found", DOCUMENT[:400], "<nvidia_smi_log></gpu>", "\0"])
def test_what_is_no_document_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|no element|column|null"):
        _mig.parse_document(text)


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    _mig.parse_listing(text)
    with contextlib.suppress(ValueError):
        _mig.parse_document(text)
