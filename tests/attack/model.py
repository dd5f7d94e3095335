"""What an attack is: data with one function that carries it out and judges what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.position import Position

HELD, FAILED, NOT_TRIED = "held", "FAILED", "not tried"


class NotTried(Exception):
    """The fleet lacks what the attack needs; the message says what."""


class Starved(Exception):
    """Somebody else was not served; the message says how that showed."""


@dataclass(frozen=True)
class Verdict:
    """``seen``: what the fleet did, in a few words."""

    held: bool
    seen: str


@dataclass(frozen=True)
class Attack:
    """``tries`` and ``expected`` are for people; ``act`` judges by itself. Names are unique."""

    group: str
    name: str
    tries: str
    expected: str
    act: Callable[[Position], Verdict]


@dataclass(frozen=True)
class Result:
    group: str
    name: str
    tries: str
    expected: str
    seen: str
    outcome: str
    seconds: float


def carry_out(attack: Attack, position: Position) -> Result:
    """One attack's result. Whatever it raises counts against the fleet, save ``NotTried``: an attack that broke proves
    nothing."""
    began = time.monotonic()
    try:
        verdict = attack.act(position)
        outcome, seen = HELD if verdict.held else FAILED, verdict.seen
        if not position.alive():
            outcome, seen = FAILED, f"{seen}; afterwards the gateway no longer answers /healthz"
    except NotTried as reason:
        outcome, seen = NOT_TRIED, str(reason)
    except Starved as reason:
        outcome, seen = FAILED, str(reason)
    except Exception as error:
        outcome, seen = FAILED, f"{type(error).__name__}: {error}"
    spent = round(time.monotonic() - began, 2)
    return Result(attack.group, attack.name, attack.tries, attack.expected, seen, outcome, spent)
