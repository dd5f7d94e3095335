# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's XID messages in the kernel log of this start of the host."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.onprem.llm.plugins.module_utils import _xid
from ansible_collections.onprem.llm.plugins.module_utils._bounded import NotAnswering, Run

# As the driver prints them (open kernel modules, nv-tracepoint.h and common_nvswitch.h), with MIG and before R4xx:
#   NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
#   NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No
#   NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120, intr 10000000
#   nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)
_MESSAGE = re.compile(
    r"(?P<kind>S?Xid) \((?:PCI:)?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?[^)]*\): "
    r"(?P<code>[0-9]{1,6}),? ?(?P<words>.*)$"
)
_TIME = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:[+-]\d\d:?\d\d|Z)?|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)\s"
)
_BOOT = "Linux version "
PATTERN = "NVRM: Xid|SXid"
# Of a log file, the end.
MOST_BYTES = 16 * 2**20
# A GPU in trouble repeats itself without end.
MOST_EVENTS = 100

Event = dict[str, t.Any]


def parse(text: str) -> list[Event]:
    """The XIDs of a log's lines, oldest first; the same code of the same device once, with its last time and count."""
    found: dict[tuple[str, str, int], Event] = {}
    for line in text.splitlines():
        message = _MESSAGE.search(line)
        if not message:
            continue
        switch, code, words = message.group("kind") == "SXid", int(message.group("code")), message.group("words")
        domain, rest = message.group("bus").lower().split(":", 1)
        bus = f"{domain[-4:].zfill(4)}:{rest}.0"
        stamp = _TIME.match(line)
        meant = _xid.switch_meaning(words) if switch else _xid.meaning(code, words)
        event = found.pop((message.group("kind"), bus, code), None) or {"count": 0}
        found[message.group("kind"), bus, code] = {
            "time": stamp.group("time") if stamp else None,
            "pci_bus_id": bus,
            "code": code,
            "switch": switch,
            "text": meant.text,
            "action": meant.action,
            "critical": bool(meant.critical or event.get("critical")),
            "message": words.strip(),
            "count": event["count"] + 1,
        }
    return list(found.values())[-MOST_EVENTS:]


def _file(path: str) -> str | None:
    """The end of a log file, from the last start of the host on."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - MOST_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return None
    return text[max(0, text.rfind(_BOOT)) :]


def _commands(run: Run, timeout: float) -> str | None:
    """The journal's kernel messages of this start, else the kernel's own buffer; None where neither can be read."""
    plain = ["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "short-iso"]
    for argv in ([*plain, "--grep", PATTERN], plain, ["dmesg", "--time-format", "iso"], ["dmesg"]):
        try:
            status, out, err = run(argv, timeout)
        except (OSError, NotAnswering):
            continue
        # journalctl ends with 1 where nothing matches.
        if status == 0 or (argv[0] == "journalctl" and "--grep" in argv and status == 1 and not err.strip()):
            return out
    return None


def read(run: Run, root: str = "/", timeout: float = 20) -> list[Event] | None:
    """The XIDs since the host's start. Below another root, and where the journal has none, of the log's files.

    None where no log of the running system can be read.
    """
    told = _commands(run, timeout) if root == "/" else ""
    found = parse(told or "")
    for name in ("var/log/kern.log", "var/log/messages") if not found else ():
        text = _file(os.path.join(root, name))
        if text is not None:
            return parse(text)
    return None if told is None else found
