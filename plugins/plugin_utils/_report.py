# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports for people, beside what a task returns."""

from __future__ import annotations

import typing as t

from ansible import constants as C
from ansible.utils.display import Display


def show(lines: t.Iterable[tuple[str, str | None]]) -> None:
    """Print lines, each with the colour that it is given.

    Not by way of the task's result, which each callback folds and quotes in its own way. Callbacks other than the
    default one, such as json, own the standard output; with them, the result alone has the lines.
    """
    if C.DEFAULT_STDOUT_CALLBACK in ("default", "ansible.builtin.default"):
        for text, colour in lines:
            Display().display(text, color=colour)
