# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi answers on some hosts. The texts have the form of real output, the values are made up."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.onprem.llm.plugins.module_utils._bounded import Run

MIB = 2**20
UUID = "GPU-11111111-2222-3333-4444-555555555555"
L40S = (
    f"0, {UUID}, NVIDIA L40S, 46068, 45460, 0, 8.9, 00000000:01:00.0, "
    "[N/A], [N/A], Enabled, Enabled, Disabled, Disabled, 595.80, 0x26B910DE, Default, 63, 25, 144.97, 350.00, "
    "100.00, 350.00, 350.00, 0x0000000000000004, 0, 0, 0, No, No, [N/A], None, N/A\n"
)
RTX = (
    f"1, {UUID[:-1]}6, NVIDIA RTX 4080, 16376, 15348, 596, 8.9, 00000000:02:00.0, "
    "[N/A], [N/A], [N/A], [N/A], Enabled, Disabled, 595.80, 0x270210DE, Default, 43, [N/A], 26.20, 320.00, "
    "150.00, 400.00, 320.00, 0x0000000000000001, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], None, N/A\n"
)
MIG = (
    f"0, {UUID}, NVIDIA H200, 143771, 143103, 55, 9.0, 00000000:83:00.0, "
    "Enabled, Enabled, Enabled, Enabled, Disabled, Enabled, 590.48.01, 0x233510DE, Default, 28, 59, 78.28, 700.00, "
    "200.00, 700.00, 700.00, 0x0000000000000001, 0, [N/A], [N/A], [N/A], [N/A], [N/A], None, Completed\n"
)
LISTING = f"""GPU 0: NVIDIA H200 (UUID: {UUID})
  MIG 3g.71gb     Device  0: (UUID: MIG-aaaaaaaa-0000-0000-0000-000000000000)
  MIG 1g.18gb     Device  1: (UUID: MIG-bbbbbbbb-0000-0000-0000-000000000000)
"""
DEVICE = """<mig_device><index>{}</index><gpu_instance_id>{}</gpu_instance_id>
<compute_instance_id>0</compute_instance_id><fb_memory_usage><total>{}</total><reserved>0 MiB</reserved>
<used>22 MiB</used><free>{}</free></fb_memory_usage><bar1_memory_usage><total>9 MiB</total></bar1_memory_usage>
</mig_device>"""
DEVICES = DEVICE.format(0, 2, "71424 MiB", "71403 MiB") + DEVICE.format(1, 9, "16384 MiB", "16376 MiB")


def document(devices: str = DEVICES, uuid: str = UUID) -> str:
    """nvidia-smi -q -x, less what nobody reads."""
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
        f'<gpu id="00000000:83:00.0"><mig_devices>{devices}</mig_devices><uuid>{uuid}</uuid>'
        "<fb_memory_usage><total>143771 MiB</total></fb_memory_usage></gpu></nvidia_smi_log>\n"
    )


def answer(
    out: str = "",
    err: str = "",
    status: int = 0,
    modinfo: str | dict[str, str] = "",
    listing: str = LISTING,
    xml: str | tuple[int, str] = document(),
) -> Run:
    """A host whose nvidia-smi answers this. ``modinfo``: the module's version, of all kernels or of each."""

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        if "modinfo" in argv[0]:
            version = modinfo if isinstance(modinfo, str) else modinfo.get(argv[-2])
            told = f"filename: /nvidia.ko\nversion:        {version}\nlicense:        Dual MIT/GPL\n"
            return (0, told, "") if version else (1, "", "modinfo: ERROR: Module nvidia not found.")
        if argv[1:] == ["-L"]:
            return 0, listing, ""
        if argv[1:] == ["-q", "-x"]:
            return (0, xml, "") if isinstance(xml, str) else (*xml, "")
        return status, out, err

    return run
