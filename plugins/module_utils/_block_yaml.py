# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the YAML that NVIDIA's toolkit writes, where the host's Python has no PyYAML.

Only what a Go program's YAML has is understood: mappings and sequences in block form, plain and quoted scalars on one
line, ``[]`` and ``{}``. Anything else is refused, never guessed.
"""

from __future__ import annotations

import json
import re
import typing as t

_KEY = re.compile(r"^(?P<key>[A-Za-z_][\w./-]*|\"[^\"]*\"|'[^']*'):(?:\s+(?P<value>.*))?$")

_PLAIN = re.compile(r"^([A-Za-z0-9_/.+(]|=.|[-:]\S)")


def _scalar(text: str) -> t.Any:
    if text in ("[]", "{}"):
        return [] if text == "[]" else {}
    if text[:1] == '"':
        return json.loads(text)
    if text[:1] == "'":
        if not re.match(r"^'(?:[^']|'')*'$", text):
            raise ValueError(f"not understood: {text[:60]}")
        return text[1:-1].replace("''", "'")
    if text in ("~", "null"):
        return None
    if not _PLAIN.match(text) or re.search(r":(\s|$)|\s#", text):
        raise ValueError(f"not understood: {text[:60]}")
    if text in ("true", "false"):
        return text == "true"
    if re.match(r"^-?([0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})$", text):
        return float(text)
    if re.match(r"^-?0[0-7]+$", text):
        raise ValueError(f"octal or a text: {text[:60]}")
    return int(text) if re.match(r"^-?(0|[1-9][0-9]{0,17})$", text) else text


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: list[tuple[int, str]] = []
        for line in text.splitlines():
            bare = line.strip()
            if bare and not bare.startswith("#") and bare != "---":
                if "\t" in line[: len(line) - len(line.lstrip())]:
                    raise ValueError("a tab indents a line")
                self.lines.append((len(line) - len(line.lstrip(" ")), bare))

    def value(self, indent: int) -> t.Any:
        """The value whose lines stand at ``indent``."""
        is_sequence = self.lines[0][1].startswith("- ") or self.lines[0][1] == "-"
        return self.sequence(indent) if is_sequence else self.mapping(indent)

    def nested(self, indent: int, sequence_too: bool) -> t.Any:
        """What a key or a dash without a value holds: the lines further in, or a sequence at its own depth."""
        if self.lines:
            depth, text = self.lines[0]
            if depth > indent or (sequence_too and depth == indent and text.startswith("-")):
                return self.value(depth)
        return None

    def mapping(self, indent: int) -> dict[str, t.Any]:
        found: dict[str, t.Any] = {}
        while self.lines and self.lines[0][0] == indent:
            match = _KEY.match(self.lines[0][1])
            if not match:
                raise ValueError(f"not understood: {self.lines[0][1][:60]}")
            self.lines.pop(0)
            key = match.group("key").strip("\"'")
            if key in found:
                raise ValueError(f"{key} stands twice")
            found[key] = _scalar(match.group("value").strip()) if match.group("value") else self.nested(indent, True)
        if self.lines and self.lines[0][0] > indent:
            raise ValueError(f"not understood: {self.lines[0][1][:60]}")
        return found

    def sequence(self, indent: int) -> list[t.Any]:
        found: list[t.Any] = []
        while self.lines and self.lines[0][0] == indent and self.lines[0][1].startswith("-"):
            depth, text = self.lines.pop(0)
            rest = text[1:].lstrip()
            if not rest:
                found.append(self.nested(depth, False))
            elif rest.startswith("- ") or _KEY.match(rest):
                inner = depth + len(text) - len(rest)
                self.lines.insert(0, (inner, rest))
                found.append(self.value(inner))
            else:
                found.append(_scalar(rest))
        return found


def load(text: str) -> t.Any:
    """The document's value.

    :raises ValueError: it is not of the part of YAML that is understood here.
    """
    reader = _Reader(text)
    if not reader.lines:
        return None
    found = reader.value(reader.lines[0][0])
    if reader.lines:
        raise ValueError(f"not understood: {reader.lines[0][1][:60]}")
    return found
