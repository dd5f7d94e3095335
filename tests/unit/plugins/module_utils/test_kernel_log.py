# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XID messages in the kernel log. The lines have the forms of real ones, the values are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _bounded, _kernel_log, _xid
from hypothesis import given
from hypothesis import strategies as st

FALLEN = "NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
FAULT = (
    "NVRM: Xid (PCI:0000:65:00): 31, pid=4711, name=ollama, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS "
    "GPCCLIENT_T1_0 faulted @ 0x7f2a_31000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)


@pytest.mark.parametrize(
    ("line", "time", "bus", "code", "critical"),
    [
        pytest.param(
            f"2026-11-22T07:14:03+0000 gpu1 kernel: {FALLEN}",
            "2026-11-22T07:14:03+0000", "0000:65:00.0", 79, True, id="journal, short-iso",
        ),
        pytest.param(
            f"2026-11-22T07:14:03,123456+00:00 {FALLEN}",
            "2026-11-22T07:14:03,123456+00:00", "0000:65:00.0", 79, True, id="dmesg --time-format iso",
        ),
        pytest.param(f"[  123.456789] {FALLEN}", None, "0000:65:00.0", 79, True, id="dmesg"),
        pytest.param(
            f"Nov  2 07:14:03 gpu1 kernel: [  123.456789] {FAULT}",
            "Nov  2 07:14:03", "0000:65:00.0", 31, False, id="kern.log of rsyslog",
        ),
        pytest.param(
            f"2026-11-22T07:14:03.123456+00:00 gpu1 kernel: [ 1.5] {FAULT}",
            "2026-11-22T07:14:03.123456+00:00", "0000:65:00.0", 31, False, id="kern.log of Debian 12",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
            None, "0000:01:00.0", 94, False, id="of a MIG instance",
        ),
        pytest.param(
            "NVRM: Xid (0000:0A:00): 31, Ch 0000000b, engmask 00000120, intr 10000000",
            None, "0000:0a:00.0", 31, False, id="of an old driver",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)",
            None, "0018:01:00.0", 149, True, id="NVLink 5, another PCI domain",
        ),
        pytest.param(
            "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)",
            None, "0000:c1:00.0", 28006, False, id="of a switch",
        ),
        pytest.param(
            "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            None, "0000:c1:00.0", 20034, True, id="fatal, of a switch",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:65:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
            None, "0000:65:00.0", 154, True, id="the driver's own verdict",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:65:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
            None, "0000:65:00.0", 154, False, id="the driver's own verdict, taken back",
        ),
        pytest.param("NVRM: Xid (PCI:0000:65:00): 999, what is this", None, "0000:65:00.0", 999, False, id="unknown"),
    ],
)  # fmt: skip
def test_forms(line: str, time: str | None, bus: str, code: int, critical: bool) -> None:
    [event] = _kernel_log.parse(f"noise\n{line}\nNVRM: GPU at PCI:0000:65:00: GPU-1\n")
    assert (event["time"], event["pci_bus_id"], event["code"], event["critical"]) == (time, bus, code, critical)
    assert event["text"]
    assert event["action"]
    assert event["message"]
    assert event["message"] in line


def test_the_same_again_is_counted_with_its_last_time_and_order() -> None:
    lines = [f"2026-11-22T07:00:0{second}+0000 h kernel: {FAULT}" for second in range(3)]
    other = f"2026-11-22T07:00:01+0000 h kernel: {FALLEN}"
    found = _kernel_log.parse("\n".join([lines[0], other, *lines[1:]]))
    assert [(event["code"], event["count"], event["time"]) for event in found] == [
        (79, 1, "2026-11-22T07:00:01+0000"),
        (31, 3, "2026-11-22T07:00:02+0000"),
    ]


def test_endless_messages_are_bounded() -> None:
    text = "\n".join(FALLEN.replace("79", str(number)) for number in range(1000, 1500))
    found = _kernel_log.parse(text)
    assert (len(found), found[-1]["code"]) == (_kernel_log.MOST_EVENTS, 1499)


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    assert isinstance(_kernel_log.parse(text), list)
    assert isinstance(_kernel_log.parse("NVRM: Xid (PCI:0000:65:00): 79, " + text), list)


def answers(**given: Any) -> tuple[_bounded.Run, list[str]]:
    """Commands by the first word, and ``grep`` for a journal that is asked for a pattern."""
    asked: list[str] = []

    def run(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
        name = "grep" if "--grep" in argv else argv[0]
        asked.append(name)
        answer = given.get(name, FileNotFoundError(2, "No such file"))
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    return run, asked


@pytest.mark.parametrize(
    ("given", "asked", "found"),
    [
        ({"grep": (0, FALLEN, "")}, ["grep"], 1),
        ({"grep": (1, "", "Compiled without pattern matching support"), "journalctl": (0, FALLEN, "")},
         ["grep", "journalctl"], 1),
        ({"dmesg": (0, FALLEN, "")}, ["grep", "journalctl", "dmesg"], 1),
        ({"grep": _bounded.NotAnswering(), "journalctl": _bounded.NotAnswering(), "dmesg": (0, FALLEN, "")},
         ["grep", "journalctl", "dmesg"], 1),
        ({"dmesg": (1, "", "dmesg: read kernel buffer failed: Operation not permitted")},
         ["grep", "journalctl", "dmesg", "dmesg"], None),
        ({"grep": (1, "", "")}, ["grep"], None),
    ],
    ids=["journal", "journal without patterns", "no journal", "journal hangs", "not permitted", "nothing there"],
)  # fmt: skip
def test_where_the_log_is_read(given: Any, asked: list[str], found: int | None) -> None:
    run, order = answers(**given)
    text = _kernel_log._commands(run, 5)
    assert order == asked
    assert len(_kernel_log.parse(text or "")) == (found or 0)


@pytest.mark.parametrize("name", ["kern.log", "messages"])
def test_below_another_root_the_file_since_the_last_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    text = f"h kernel: Linux version 6.1\nh kernel: {FALLEN}\nh kernel: Linux version 6.12\nh kernel: {FAULT}\n"
    (tmp_path / "var/log" / name).write_text(text)
    run, asked = answers()
    assert [event["code"] for event in _kernel_log.read(run, str(tmp_path)) or []] == [31]
    assert asked == []


def test_a_long_file_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel_log, "MOST_BYTES", 4096)
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/kern.log").write_text(f"{FALLEN}\n" + "x" * 5000 + f"\n{FAULT}\n")
    assert [event["code"] for event in _kernel_log.read(answers()[0], str(tmp_path)) or []] == [31]


def test_no_log_is_no_event(tmp_path: Path) -> None:
    assert _kernel_log.read(answers()[0], str(tmp_path)) == []


def test_a_log_that_cannot_be_read_is_not_one_without_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel_log, "_file", lambda path: None)
    assert _kernel_log.read(answers()[0]) is None
    assert _kernel_log.read(answers(grep=(1, "", ""))[0]) == []
    monkeypatch.setattr(_kernel_log, "_file", lambda path: FALLEN)
    assert [event["code"] for event in _kernel_log.read(answers()[0]) or []] == [79]


# What NVIDIA's catalogue has one do, of those that a fleet meets most.
@pytest.mark.parametrize(
    ("code", "critical"),
    [(13, False), (31, False), (43, False), (45, False), (48, True), (62, True), (63, False), (64, True), (74, True),
     (79, True), (92, False), (94, False), (95, True), (109, True), (119, True), (120, True), (140, True), (143, True)],
)  # fmt: skip
def test_critical_is_what_a_restarted_program_does_not_mend(code: int, critical: bool) -> None:
    assert _xid.meaning(code).critical is critical


def test_every_code_has_a_known_action() -> None:
    assert {key for _text, key in _xid.CODES.values()} <= set(_xid.ACTIONS)
