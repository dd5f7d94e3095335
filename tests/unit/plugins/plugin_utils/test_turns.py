# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a play says of long work."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.plugin_utils._turns import Progress, duration

MIB = 2**20


@pytest.mark.parametrize(
    ("phase", "first", "second"),
    [
        (
            "transfer",
            "host: 10 %, 10.0 MiB of 100 MiB, from there",
            "host: 30 %, 30.0 MiB of 100 MiB, 2.0 MiB/s, 35 s left, from there",
        ),
        (
            "verify",
            "host: reading its files: 10 %, 10.0 MiB of 100 MiB",
            "host: reading its files: 30 %, 30.0 MiB of 100 MiB, 2.0 MiB/s, 35 s left",
        ),
        (
            "push",
            "host: putting it into the registry: 10 %, 10.0 MiB of 100 MiB",
            "host: putting it into the registry: 30 %, 30.0 MiB of 100 MiB, 2.0 MiB/s, 35 s left",
        ),
        ("another play transfers it", *["host: waiting: another play transfers it"] * 2),
    ],
)
def test_lines_tell_how_far_it_is(phase: str, first: str, second: str) -> None:
    progress = Progress("host")
    lines = [
        progress.line({"phase": phase, "done_bytes": done, "total_bytes": 100 * MIB}, {"origin": "there"}, now)
        for done, now in ((10 * MIB, 100.0), (30 * MIB, 110.0))
    ]
    assert lines == [first, second]


def test_rates_are_those_of_the_phase() -> None:
    progress = Progress("host")
    progress.line({"phase": "transfer", "done_bytes": 0, "total_bytes": 100 * MIB}, {}, 0.0)
    line = progress.line({"phase": "verify", "done_bytes": 50 * MIB, "total_bytes": 100 * MIB}, {}, 1.0)
    assert line == "host: reading its files: 50 %, 50.0 MiB of 100 MiB"


@pytest.mark.parametrize(("seconds", "said"), [(41.6, "42 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")])
def test_durations_are_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
