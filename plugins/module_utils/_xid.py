# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the numbers in NVIDIA's XID messages mean, and what NVIDIA has one do after them.

Source: NVIDIA's catalogue of XIDs for Ampere and newer
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, as of 2025-10), its column "immediate action";
its codes marked unused are left out, but for those that the list before it has of older GPUs, without an action (57 to
59, 61).
Where the catalogue gives a workflow (45, 48, 74, 144 to 150), the action is what the workflow comes to.
"""

from __future__ import annotations

import typing as t

# Action → (what to do, whether the GPU or the host is not to be trusted before it is done).
ACTIONS: dict[str, tuple[str, bool]] = {
    "ignore": ("nothing for itself", False),
    "application": ("start the program again", False),
    "update": ("update driver and firmware", False),
    "support": ("ask the vendor where it repeats", False),
    "guest": ("restart the virtual machine", True),
    "mechanics": ("power off, and look at power cables and seating", True),
    "link": ("look at the NVLink cables, bridge or baseboard; reset the GPUs that share the link", True),
    "reset": ("reset the GPU (nvidia-smi --gpu-reset) or restart the host", True),
    "restart": ("restart the host; where it repeats, look at power and seating, and have the GPU replaced", True),
}

_COPY = "copy engine exception"
_VIDEO = "video engine exception"

CODES: dict[int, tuple[str, str]] = {
    8: ("the GPU stopped processing", "application"),
    11: ("invalid or corrupted push buffer stream", "application"),
    13: ("graphics engine exception, mostly a program's illegal access or instruction", "application"),
    25: ("invalid or illegal push buffer stream", "application"),
    31: ("page fault in the GPU's memory, mostly a program's illegal address", "application"),
    32: ("invalid or corrupted push buffer stream", "application"),
    37: ("driver firmware error", "ignore"),
    38: ("driver firmware error", "ignore"),
    **dict.fromkeys((39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)), (_COPY, "application")),
    43: ("the GPU stopped processing for one program", "ignore"),
    44: ("graphics engine fault during a context switch", "ignore"),
    45: ("a program was taken off the GPU after an earlier error", "ignore"),
    46: ("the GPU stopped processing", "reset"),
    48: ("double bit error of the memory, not corrected", "reset"),
    54: ("auxiliary power is not connected to the GPU", "mechanics"),
    57: ("the video memory interface could not be set up", "support"),
    58: ("the video memory interface is unstable", "support"),
    59: ("the internal micro-controller reports an error", "support"),
    60: (_VIDEO, "application"),
    61: ("the internal micro-controller stopped at a breakpoint", "support"),
    62: ("the internal micro-controller halted", "reset"),
    63: ("a row of the memory is marked to be replaced with the next reset", "ignore"),
    64: ("a row of the memory could not be replaced", "reset"),
    66: ("illegal access by the driver", "ignore"),
    67: ("illegal access by the driver", "ignore"),
    69: ("graphics engine class error", "application"),
    74: ("NVLink error", "link"),
    78: ("a virtual GPU could not be started", "update"),
    79: ("the GPU has fallen off the bus", "restart"),
    80: ("corrupted data was sent to the GPU", "application"),
    **dict.fromkeys((68, 82, 83, 84, 86, 88, 89, *range(96, 106), 139), (_VIDEO, "application")),
    92: ("many corrected memory errors", "ignore"),
    93: ("the InfoROM was written more often than it is meant to be", "ignore"),
    94: ("a memory error that was contained to one program", "application"),
    95: ("a memory error that was not contained", "reset"),
    106: ("a test message", "ignore"),
    107: ("a test message", "ignore"),
    109: ("a context switch did not end in time", "reset"),
    110: ("security fault", "reset"),
    119: ("the GPU's system processor (GSP) did not answer in time", "reset"),
    120: ("the GPU's system processor (GSP) failed", "reset"),
    121: ("error of the link between chips (C2C)", "ignore"),
    136: ("an NVLink could not be trained", "reset"),
    137: ("NVLink privilege error", "ignore"),
    140: ("a memory error that was not recovered", "reset"),
    141: ("error on CUDA's fast path", "ignore"),
    142: (_VIDEO, "support"),
    143: ("the GPU could not be initialised", "reset"),
    **dict.fromkeys(range(144, 151), ("NVLink error", "link")),
    151: ("the rotation of keys failed (confidential computing)", "guest"),
    152: ("error of the deep learning accelerator's memory management", "ignore"),
    153: ("the deep learning accelerator did not answer in time", "ignore"),
    154: ("what the driver asks for to recover the GPU has changed", "ignore"),
    155: ("NVLink error told by software", "reset"),
    156: ("a part of the GPU is retired with the next reset", "reset"),
    157: ("a part of the GPU could not be retired", "ignore"),
    158: ("fatal time-out of the GPU", "reset"),
    159: ("error of the coherent interface", "support"),
    160: ("a channel of the memory is retired", "ignore"),
    161: ("a channel of the memory could not be retired", "ignore"),
}

_UNKNOWN = ("not in NVIDIA's catalogue as it is known here", "support")


class Meaning(t.NamedTuple):
    """``text``: what happened; ``action``: what to do; ``critical``: the GPU is not to be trusted before."""

    text: str
    action: str
    critical: bool


def meaning(code: int, words: str = "") -> Meaning:
    """What an XID means. ``words`` is the message after the code: XID 154 has the driver's own verdict there."""
    text, key = CODES.get(code, _UNKNOWN)
    if code == 154:
        # "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
        verdict = words.rpartition(" to ")[2].lower()
        key = "restart" if "reboot" in verdict else "reset" if "reset" in verdict or "drain" in verdict else key
    action, critical = ACTIONS[key]
    return Meaning(text, action, critical)


def switch_meaning(words: str) -> Meaning:
    """What an SXID (of an NVSwitch) means, by the word that the driver puts first: Fatal or Non-fatal."""
    if words.lower().startswith("fatal"):
        return Meaning("fatal error of an NVSwitch", ACTIONS["link"][0], True)
    return Meaning("error of an NVSwitch that it got over", ACTIONS["ignore"][0], False)
