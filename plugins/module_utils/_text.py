# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for people: sizes, and the name that was probably meant."""

from __future__ import annotations

import difflib
import typing as t


def human_bytes(count: int) -> str:
    """``count`` bytes in the largest binary unit in which it is at least one: ``1.5 GiB``, ``-12 MiB``, ``900 B``."""
    size = float(abs(count))
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size /= 1024
        unit = larger
    digits = 0 if unit in ("B", "KiB") or size >= 100 else 1
    return "{0}{1:.{2}f} {3}".format("-" if count < 0 else "", size, digits, unit)


def nearest(name: str, known: t.Iterable[str]) -> str | None:
    """The known name most like ``name``, or None where nothing is like it (ratio under 0.6, the default of difflib)."""
    found = difflib.get_close_matches(name, sorted(set(known)), n=1)
    return found[0] if found else None
