# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modelfiles by Ollama's own grammar, and the parameters that a model may have.

What is accepted, and what comes out of it, is what Ollama 0.17 to 0.32 make of the same bytes (parser/parser.go and
api/types.go of 0.32.15; 0.17 does not know DRAFT). Errors name the line where the instruction begins.
"""

from __future__ import annotations

import codecs
import math
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.llm.plugins.module_utils._text import nearest

INSTRUCTIONS = (
    "FROM",
    "PARAMETER",
    "TEMPLATE",
    "SYSTEM",
    "ADAPTER",
    "LICENSE",
    "MESSAGE",
    "REQUIRES",
    "RENDERER",
    "PARSER",
    "DRAFT",
)
ROLES = ("system", "user", "assistant")

# Options of api/types.go: those of Runner decide how a model is loaded, and another value of one reloads it
# (server/sched.go, needsReload).
LOADING: dict[str, str] = {
    "num_ctx": "int",
    "num_batch": "int",
    "num_gpu": "int",
    "main_gpu": "int",
    "use_mmap": "bool",
    "num_thread": "int",
    "draft_num_predict": "int",
}
PREDICTING: dict[str, str] = {
    "num_keep": "int",
    "seed": "int",
    "num_predict": "int",
    "top_k": "int",
    "top_p": "float",
    "min_p": "float",
    "typical_p": "float",
    "repeat_last_n": "int",
    "temperature": "float",
    "repeat_penalty": "float",
    "presence_penalty": "float",
    "frequency_penalty": "float",
    "stop": "strings",
}
PARAMETERS: dict[str, str] = {**LOADING, **PREDICTING}
# The parser of Ollama passes over these with a warning (parser/parser.go).
DEPRECATED = (
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)

_SPACE = " \t"
_NEWLINE = "\r\n"
_INTEGER = re.compile(r"^[+-]?[0-9]+$")
_NUMBER = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$")
_VERSION = re.compile(
    r"^v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z.-]+)?)?)?$"
)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "strings": "a text or a list of texts",
}
_MAX_FLOAT32 = 3.4028235e38


class ModelfileError(ValueError):
    """The text is no Modelfile, or says what no model can have. ``line`` is the instruction's, 0 for the whole."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class Message(t.NamedTuple):
    """What ``role`` says at the beginning of each conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Command:
    """One instruction. ``instruction`` is its word in capitals; ``key`` the parameter's name or the message's role."""

    instruction: str
    value: str
    key: str = ""
    line: int = 0


@dataclass(frozen=True)
class Modelfile:
    """The instructions in order, and ``notes`` about what Ollama leaves out of the text."""

    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """What a Modelfile asks for, field by field. None or empty where it does not say; a text that it gives as empty is
    empty. ``adapters`` and ``drafts`` are paths; ``origin`` a model's name or a file's path."""

    origin: str
    system: str | None = None
    template: str | None = None
    parameters: t.Mapping[str, t.Any] | None = None
    license: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    adapters: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    notes: tuple[str, ...] = ()


# --- the grammar -----------------------------------------------------------------------------------------------------


def decode(data: bytes) -> str:
    """The text of a file: UTF-16 or UTF-8 by its byte order mark, UTF-8 without one. What is no UTF-8 becomes U+FFFD,
    as Ollama has it."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


class _Scanner:
    """A position in a text, with the line that it is on. CR, LF and the two together end a line."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.line = text, 0, 1

    def peek(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.position : self.position + 1]

    def take(self) -> str:
        character = self.peek()
        self.position += 1
        if character == "\n" or (character == "\r" and self.peek() != "\n"):
            self.line += 1
        return character

    def run(self, stop: str) -> str:
        """Everything up to one of the characters of ``stop``."""
        taken = []
        while self.peek() and self.peek() not in stop:
            taken.append(self.take())
        return "".join(taken)


def _unquoted(text: str) -> str | None:
    """A value without its quotes, None while they are open."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _value(scanner: _Scanner, dropped: set[str]) -> str | None:
    """The value from here on, to the end of the line at which its quotes are closed; None where they never are.

    Of what is neither printable nor white space, Ollama keeps nothing; it is added to ``dropped``.
    """
    taken: list[str] = []
    while True:
        character = scanner.peek()
        if not character or character in _NEWLINE:
            value = _unquoted("".join(taken).strip(_SPACE + _NEWLINE))
            if value is not None or not character:
                return value
        scanner.take()
        if character in _SPACE or character in _NEWLINE or character.isprintable():
            taken.append(character)
        else:
            dropped.add(character)


def parse(text: str) -> Modelfile:
    """The instructions of a Modelfile.

    :raises ModelfileError: it is none by Ollama's grammar.
    """
    scanner = _Scanner(text[1:] if text.startswith("\ufeff") else text)
    commands: list[Command] = []
    notes: list[str] = []
    while True:
        while scanner.peek() and scanner.peek() in _SPACE + _NEWLINE:
            scanner.take()
        if not scanner.peek():
            break
        if scanner.peek() == "#":
            scanner.run(_NEWLINE)
            continue
        line = scanner.line
        dropped: set[str] = set()
        instruction = _instruction(scanner, line)
        key = _key(scanner, instruction, line) if instruction in ("PARAMETER", "MESSAGE") else ""
        value = _value(scanner, dropped)
        if value is None:
            raise ModelfileError(
                f"the quotes that {instruction} opens are not closed; the same quotes at a line's end close them", line
            )
        commands.append(Command(instruction, value, key, line))
        if dropped:
            codes = ", ".join(f"U+{ord(character):04X}" for character in sorted(dropped))
            notes.append(f"line {line}: Ollama leaves {codes} out of what {instruction} says")
    if not any(command.instruction == "FROM" for command in commands):
        raise ModelfileError("there is no FROM; it names the model to start from, such as FROM gemma3:4b")
    return Modelfile(tuple(commands), tuple(notes))


def _instruction(scanner: _Scanner, line: int) -> str:
    """The word that a line begins with; the blank after it is taken, too."""
    word = scanner.run(_SPACE + _NEWLINE)
    # The first character may be one that Ollama does not see, such as a byte order mark in the middle of a text.
    name = (word if word[:1].isprintable() else word[1:]).upper()
    if name not in INSTRUCTIONS:
        likely = nearest(name, INSTRUCTIONS)
        meant = f"did you mean {likely}?" if likely else f"these are known: {', '.join(INSTRUCTIONS)}"
        hint = ". A text of several lines stands in triple quotes" if not likely else ""
        raise ModelfileError(f"there is no instruction {word}; {meant}{hint}", line)
    if not scanner.peek() or scanner.peek() in _NEWLINE:
        raise ModelfileError(f"{name} has no value; {_example(name)} is the form", line)
    scanner.take()
    return name


def _example(name: str) -> str:
    return {
        "FROM": "FROM gemma3:4b",
        "PARAMETER": "PARAMETER temperature 0.3",
        "MESSAGE": "MESSAGE user Hello",
        "REQUIRES": "REQUIRES 0.17.0",
    }.get(name, f"{name} text")


def _key(scanner: _Scanner, instruction: str, line: int) -> str:
    """A parameter's name or a message's role; the blank after it is taken, too."""
    if scanner.peek() and scanner.peek() in _SPACE:
        raise ModelfileError(f"more than one blank stands after {instruction}; Ollama takes exactly one", line)
    key = scanner.run(_SPACE + _NEWLINE)
    if instruction == "MESSAGE" and key not in ROLES:
        likely = nearest(key.lower(), ROLES)
        meant = f", did you mean {likely}?" if likely else ""
        raise ModelfileError(f"MESSAGE has the role {key!r}; it is one of {', '.join(ROLES)}{meant}", line)
    if instruction == "PARAMETER" and not re.match(r"^[A-Za-z0-9_]+$", key):
        raise ModelfileError(f"PARAMETER has the name {key!r}; a name has letters, digits and _", line)
    if not scanner.peek() or scanner.peek() in _NEWLINE:
        raise ModelfileError(f"{instruction} {key} has no value; {_example(instruction)} is the form", line)
    scanner.take()
    return key


# --- what it asks for ------------------------------------------------------------------------------------------------


def content(modelfile: Modelfile) -> Content:
    """What the instructions come to: of SYSTEM, TEMPLATE and single parameters the last counts, LICENSE, MESSAGE and
    the parameter ``stop`` are collected, and parameters that Ollama no longer has are passed over with a note.

    :raises ModelfileError: several FROM or ADAPTER, an unknown parameter, a value of the wrong type, or a REQUIRES
        that is no version.
    """
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {"LICENSE": [], "ADAPTER": [], "DRAFT": [], "FROM": []}
    given: dict[str, t.Any] = {}
    messages: list[Message] = []
    notes = list(modelfile.notes)
    for command in modelfile.commands:
        name = command.instruction
        if name == "PARAMETER":
            if command.key in DEPRECATED:
                notes.append(f"line {command.line}: Ollama no longer has the parameter {command.key}")
                continue
            value = _parameter(command.key, command.value, "", command.line)
            given[command.key] = given.get(command.key, []) + value if isinstance(value, list) else value
        elif name == "MESSAGE":
            messages.append(Message(command.key, command.value))
        elif name in several:
            several[name].append(command.value)
            if name in ("FROM", "ADAPTER") and len(several[name]) > 1:
                raise ModelfileError(f"a second {name}; a model has one", command.line)
            if name != "LICENSE" and not command.value:
                raise ModelfileError(f"{name} has no value; {_example(name)} is the form", command.line)
        else:
            single[name] = version(command.value, command.line) if name == "REQUIRES" else command.value
    return Content(
        origin=several["FROM"][0],
        system=single.get("SYSTEM"),
        template=single.get("TEMPLATE"),
        parameters=given,
        license=tuple(several["LICENSE"]),
        messages=tuple(messages),
        adapters=tuple(several["ADAPTER"]),
        drafts=tuple(several["DRAFT"]),
        renderer=single.get("RENDERER"),
        parser=single.get("PARSER"),
        requires=single.get("REQUIRES"),
        notes=tuple(notes),
    )


def version(text: str, line: int = 0) -> str:
    """The version that REQUIRES names, without a ``v``.

    :raises ModelfileError: it is none.
    """
    if not _VERSION.match(text):
        raise ModelfileError(f"REQUIRES is {text!r}; a version such as 0.17.0 is needed", line)
    return text[1:] if text.startswith("v") else text


def parameters(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Parameters with the types that the server takes; None stays, and takes a parameter of the base away.

    :raises ModelfileError: a name that Ollama does not know, or a value of another type.
    """
    return {
        name: None if value is None else _parameter(name, value, "parameters: ", 0) for name, value in given.items()
    }


def _parameter(name: str, value: t.Any, where: str, line: int) -> t.Any:
    kind = PARAMETERS.get(name)
    if kind is None:
        if name in DEPRECATED:
            raise ModelfileError(f"{where}Ollama no longer has the parameter {name}; leave it out", line)
        likely = nearest(name, PARAMETERS)
        meant = f"did you mean {likely}?" if likely else f"these are known: {', '.join(PARAMETERS)}"
        raise ModelfileError(f"{where}there is no parameter {name}; {meant}", line)
    typed = _typed(kind, value)
    if typed is None:
        comment = "; a comment stands on a line of its own" if isinstance(value, str) and "#" in value else ""
        raise ModelfileError(f"{where}{name} is {value!r}; it is {_KINDS[kind]}{comment}", line)
    return typed


def _typed(kind: str, value: t.Any) -> t.Any:
    """The value as its kind, None where it is none of it."""
    if kind == "strings":
        values = [value] if isinstance(value, str) else value
        return list(values) if isinstance(values, list) and all(isinstance(item, str) for item in values) else None
    if kind == "bool":
        word = str(value)
        return True if word in _TRUE else False if word in _FALSE else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value)
    if kind == "int":
        if isinstance(value, float) and value.is_integer():
            return int(value)
        number = int(text) if _INTEGER.match(text) else None
        return number if number is not None and -(2**63) <= number < 2**63 else None
    if not _NUMBER.match(text):
        return None
    decimal = float(text)
    return decimal if math.isfinite(decimal) and abs(decimal) <= _MAX_FLOAT32 else None
