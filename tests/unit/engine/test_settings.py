"""Go's notations, as the engine stand-in reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.server import settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("-1s", -1), ("0", 0), ("+2h", 7200), (".5s", 0.5)],
)
def test_duration(text: str, seconds: float) -> None:
    assert settings.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("banana", 'time: invalid duration "banana"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("300", 'time: missing unit in duration "300"'),
        ("5m x", 'time: invalid duration "5m x"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="duration") as failure:
        settings.parse_duration(text)
    assert str(failure.value) == message


@given(st.from_regex(r"-?([0-9]{1,4}(ns|us|ms|s|m|h)){1,4}", fullmatch=True))
def test_sign_turns_a_duration_around(text: str) -> None:
    opposite = text[1:] if text.startswith("-") else f"-{text}"
    assert settings.parse_duration(opposite) == -settings.parse_duration(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(-1, settings.FOREVER), ("-1s", settings.FOREVER), (0, 0), ("10m", 600), (30, 30), (0.5, 0.5)],
)
def test_keep_alive(value: object, seconds: float) -> None:
    assert settings.parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", [True, [], {}, None])
def test_what_is_no_keep_alive(value: object) -> None:
    with pytest.raises(ValueError, match="Unsupported type"):
        settings.parse_keep_alive(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("127.0.0.1", 11434)),
        ("0.0.0.0:11434", ("0.0.0.0", 11434)),
        ("0.0.0.0", ("0.0.0.0", 11434)),
        (":8080", ("127.0.0.1", 8080)),
        ("http://10.0.0.1", ("10.0.0.1", 80)),
        ("https://10.0.0.1/x", ("10.0.0.1", 443)),
        ("[::1]:1234", ("::1", 1234)),
        ("::1", ("::1", 11434)),
        ('"1.2.3.4"', ("1.2.3.4", 11434)),
    ],
)
def test_host(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, int]) -> None:
    monkeypatch.setenv("OLLAMA_HOST", text)
    assert settings.host_and_port() == expected
