# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modelfiles: what Ollama's parser accepts and refuses, and what it makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _modelfile
from ansible_collections.onprem.llm.plugins.module_utils._modelfile import ModelfileError
from hypothesis import given
from hypothesis import strategies as st

Commands = list[tuple[str, str, str]]


def commands(text: str) -> Commands:
    return [(command.instruction, command.key, command.value) for command in _modelfile.parse(text).commands]


# What parser/parser.go of 0.32.15 makes of each: instruction, parameter or role, value. FROM base comes first.
ACCEPTED: dict[str, tuple[str, Commands]] = {
    "case of the word": ("from base\nsYsTeM be kind\n", [("SYSTEM", "", "be kind")]),
    "comment": ("# made by hand\nFROM base\n  # indented, and about SYSTEM\nSYSTEM a\n", [("SYSTEM", "", "a")]),
    "a hash inside a value is no comment": ("FROM base\nSYSTEM a # b\n", [("SYSTEM", "", "a # b")]),
    "blanks around a value": ("FROM   base  \nLICENSE \t MIT \t\n", [("LICENSE", "", "MIT")]),
    "blanks kept by quotes": ('FROM base\nPARAMETER stop "User: "\n', [("PARAMETER", "stop", "User: ")]),
    "no newline at the end": ("FROM base\nSYSTEM last", [("SYSTEM", "", "last")]),
    "CRLF": ("FROM base\r\nSYSTEM a\r\nLICENSE b\r\n", [("SYSTEM", "", "a"), ("LICENSE", "", "b")]),
    "CR alone": ("FROM base\rSYSTEM a\r", [("SYSTEM", "", "a")]),
    "CRLF inside quotes stays": ('FROM base\r\nSYSTEM """a\r\nb"""\r\n', [("SYSTEM", "", "a\r\nb")]),
    "several lines": ('FROM base\nSYSTEM """\none\n two\n"""\n', [("SYSTEM", "", "\none\n two\n")]),
    "several lines in single quotes": ('FROM base\nSYSTEM "one\ntwo"\n', [("SYSTEM", "", "one\ntwo")]),
    "quotes inside triple quotes": (
        'FROM base\nSYSTEM """say "no""""\n',
        [("SYSTEM", "", 'say "no"')],
    ),
    "triple quotes in the middle of a line do not close": (
        'FROM base\nSYSTEM """a""" b\nc"""\n',
        [("SYSTEM", "", 'a""" b\nc')],
    ),
    "a quoted word and more goes on to the next quote": (
        'FROM base\nSYSTEM "a" b\nc"\n',
        [("SYSTEM", "", 'a" b\nc')],
    ),
    "quotes in the middle are text": ('FROM base\nSYSTEM say "no"\n', [("SYSTEM", "", 'say "no"')]),
    "empty in quotes": ('FROM base\nSYSTEM ""\n', [("SYSTEM", "", "")]),
    "empty in triple quotes": ('FROM base\nTEMPLATE """"""\n', [("TEMPLATE", "", "")]),
    "nothing after the blank": ("FROM base\nSYSTEM \nLICENSE b\n", [("SYSTEM", "", ""), ("LICENSE", "", "b")]),
    "blanks after closing quotes": ('FROM base\nSYSTEM """a"""  \t\n', [("SYSTEM", "", "a")]),
    "parameter": ("FROM base\nparameter Temperature 0.3\n", [("PARAMETER", "Temperature", "0.3")]),
    "parameter twice": (
        "FROM base\nPARAMETER stop a\nPARAMETER stop b\n",
        [("PARAMETER", "stop", "a"), ("PARAMETER", "stop", "b")],
    ),
    "messages": (
        "FROM base\nMESSAGE user Hello: you\nMESSAGE assistant \"\"\"Good\nday\"\"\"\n",
        [("MESSAGE", "user", "Hello: you"), ("MESSAGE", "assistant", "Good\nday")],
    ),
    "every instruction": (
        "FROM base\nTEMPLATE t\nADAPTER ./a\nLICENSE l\nREQUIRES 0.17.0\nRENDERER r\nPARSER p\nDRAFT ./d\n",
        [
            ("TEMPLATE", "", "t"), ("ADAPTER", "", "./a"), ("LICENSE", "", "l"), ("REQUIRES", "", "0.17.0"),
            ("RENDERER", "", "r"), ("PARSER", "", "p"), ("DRAFT", "", "./d"),
        ],
    ),
    "what is not printable is left out": (
        "FROM base\nSYSTEM a\u3000b\x07c\u200dd\u00a0e\n",
        [("SYSTEM", "", "abcde")],
    ),
    "a tab inside stays": ("FROM base\nSYSTEM a\tb\n", [("SYSTEM", "", "a\tb")]),
    "a byte order mark": ("\ufeffFROM base\n", []),
    "other scripts": ("FROM base\nSYSTEM あなたは👋\n", [("SYSTEM", "", "あなたは👋")]),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    text, expected = ACCEPTED[case]
    assert commands(text) == [("FROM", "", "base"), *expected]


def test_from_may_come_last_and_be_quoted() -> None:
    assert commands('SYSTEM a\nFROM " two  words "\n')[1] == ("FROM", "", " two  words ")


# The line that the error names, and what it says.
REFUSED: dict[str, tuple[str, int, str]] = {
    "nothing": ("", 0, "there is no FROM"),
    "comments alone": ("# FROM base\n", 0, "there is no FROM"),
    "no FROM": ("SYSTEM a\n", 0, "FROM gemma3:4b"),
    "unknown instruction": ("FROM base\n\nSYTEM a\n", 3, "there is no instruction SYTEM; did you mean SYSTEM?"),
    "nothing like it": ("FROM base\nあなたは a\n", 2, "triple quotes"),
    "a word with other characters": ("FROM base\nSYSTEM: a\n", 2, "did you mean SYSTEM?"),
    "instruction without value": ("FROM base\nSYSTEM\n", 2, "SYSTEM has no value"),
    "instruction at the end": ("FROM base\nLICENSE", 2, "LICENSE has no value"),
    "a second line without quotes": ("FROM base\nSYSTEM one\ntwo three\n", 3, "there is no instruction two"),
    "open quotes": ('FROM base\nSYSTEM "a\nLICENSE b\n', 2, "the quotes that SYSTEM opens are not closed"),
    "open triple quotes": ('FROM base\nSYSTEM """a""\n', 2, "not closed"),
    "three quotes alone": ('FROM base\nSYSTEM """\n', 2, "not closed"),
    "parameter without value": ("FROM base\nPARAMETER temperature\n", 2, "PARAMETER temperature has no value"),
    "parameter at the end": ("FROM base\nPARAMETER temperature", 2, "has no value"),
    "parameter with two blanks": ("FROM base\nPARAMETER  temperature 1\n", 2, "exactly one"),
    "parameter with a dash": ("FROM base\nPARAMETER top-k 1\n", 2, "'top-k'"),
    "unknown role": ("FROM base\nMESSAGE User a\n", 2, "did you mean user?"),
    "role without text": ("FROM base\nMESSAGE user\n", 2, "MESSAGE user has no value"),
    "the line after several": ('FROM base\nSYSTEM """a\r\nb\r\nc"""\r\nBAD x\r\n', 5, "no instruction BAD"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, line, says = REFUSED[case]
    with pytest.raises(ModelfileError) as error:
        _modelfile.parse(text)
    assert error.value.line == line
    assert says in str(error.value)
    assert str(error.value).startswith(f"line {line}: ") is bool(line)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    text = _modelfile.decode((mark + "FROM base\nSYSTEM あ\n").encode(encoding))
    assert commands(text) == [("FROM", "", "base"), ("SYSTEM", "", "あ")]


def test_what_is_no_utf8_is_replaced() -> None:
    assert commands(_modelfile.decode(b"FROM base\nSYSTEM a\xffb\n"))[1][2] == "a\ufffdb"


def test_what_is_left_out_is_noted() -> None:
    modelfile = _modelfile.parse("FROM base\nSYSTEM a\u3000b\n")
    assert modelfile.notes == ("line 2: Ollama leaves U+3000 out of what SYSTEM says",)


def test_content() -> None:
    content = _modelfile.content(
        _modelfile.parse(
            "FROM base\nSYSTEM first\nSYSTEM second\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER top_k 7\n"
            "PARAMETER top_k 8\nPARAMETER temperature 1\nPARAMETER use_mmap T\nPARAMETER mirostat 1\n"
            'LICENSE one\nLICENSE two\nMESSAGE user a: b\nREQUIRES v0.17.0\nTEMPLATE ""\n'
        )
    )
    assert content == _modelfile.Content(
        origin="base",
        system="second",
        template="",
        parameters={"stop": ["a", "b"], "top_k": 8, "temperature": 1.0, "use_mmap": True},
        license=("one", "two"),
        messages=(("user", "a: b"),),
        requires="0.17.0",
        notes=("line 10: Ollama no longer has the parameter mirostat",),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FROM a\nFROM b\n", "line 2: a second FROM"),
        ("FROM a\nADAPTER b\nADAPTER c\n", "line 3: a second ADAPTER"),
        ('FROM ""\n', "line 1: FROM has no value"),
        ("FROM a\nPARAMETER temprature 1\n", "line 2: there is no parameter temprature; did you mean temperature?"),
        ("FROM a\nPARAMETER temperature low\n", "line 2: temperature is 'low'; it is a number"),
        ("FROM a\nPARAMETER top_k 1.5\n", "line 2: top_k is '1.5'; it is a whole number"),
        ("FROM a\nPARAMETER top_k 4 # few\n", "a comment stands on a line of its own"),
        ("FROM a\nPARAMETER use_mmap yes\n", "line 2: use_mmap is 'yes'; it is true or false"),
        ("FROM a\nREQUIRES soon\n", "line 2: REQUIRES is 'soon'; a version such as 0.17.0"),
    ],
)
def test_content_refused(text: str, says: str) -> None:
    with pytest.raises(ModelfileError) as error:
        _modelfile.content(_modelfile.parse(text))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("temperature", 1, 1.0), ("temperature", "0.3", 0.3), ("temperature", ".5e1", 5.0), ("top_k", "40", 40),
        ("top_k", 40.0, 40), ("num_predict", -1, -1), ("stop", "a", ["a"]), ("stop", ["a", "b"], ["a", "b"]),
        ("use_mmap", False, False), ("use_mmap", "1", True), ("stop", None, None), ("seed", None, None),
    ],
)  # fmt: skip
def test_parameter(name: str, value: Any, typed: Any) -> None:
    found = _modelfile.parameters({name: value})
    assert found == {name: typed}
    assert type(found[name]) is type(typed)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("temperature", True, "parameters: temperature is True; it is a number"),
        ("temperature", "nan", "a number"),
        ("temperature", 1e39, "a number"),
        ("top_k", 2**63, "a whole number"),
        ("top_k", True, "a whole number"),
        ("stop", [1], "a text or a list of texts"),
        ("num_cxt", 1, "did you mean num_ctx?"),
        ("mirostat", 1, "Ollama no longer has the parameter mirostat"),
        ("x", 1, "these are known: num_ctx"),
    ],
)
def test_parameter_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(ModelfileError) as error:
        _modelfile.parameters({name: value})
    assert says in str(error.value)


# Texts as an author may quote them: a quote at a line's end would close early, and there is no way to escape one.
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" \n\t"), max_size=60)
_QUOTABLE = _TEXT.filter(lambda text: not any(line.rstrip(" \t").endswith('"') for line in text.split("\n")[:-1]))
_LINE = _TEXT.map(lambda text: text.replace("\n", " ").strip(" \t")).filter(lambda text: text[:1] != '"')
_COMMAND = st.one_of(
    st.tuples(st.sampled_from(["SYSTEM", "TEMPLATE", "LICENSE"]), st.just("")),
    st.tuples(st.just("MESSAGE"), st.sampled_from(_modelfile.ROLES)),
    st.tuples(st.just("PARAMETER"), st.sampled_from(sorted(_modelfile.PARAMETERS))),
)


@given(
    st.lists(st.tuples(_COMMAND, st.one_of(_LINE.map(lambda x: (x, x)), _QUOTABLE.map(lambda x: (x, f'"""{x}"""')))))
)
def test_what_is_written_is_read(written: list[tuple[tuple[str, str], tuple[str, str]]]) -> None:
    lines = ["FROM base"]
    expected = [("FROM", "", "base")]
    for (instruction, key), (value, quoted) in written:
        lines.append(" ".join(part for part in (instruction, key) if part) + " " + quoted)
        expected.append((instruction, key, value))
    assert commands("\n".join(lines) + "\n") == expected


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    line = None
    try:
        _modelfile.parse("FROM base\n" + text)
    except ModelfileError as error:
        line = error.line
    assert line is None or 2 <= line <= 2 + len(text)
