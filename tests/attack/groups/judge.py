"""Judgements that several groups share."""

from __future__ import annotations

from collections.abc import Collection

from tests.attack.model import Verdict
from tests.attack.wire import Answer, Exchange

CLIENT_ERRORS = frozenset(range(400, 432)) - {429}
# A coding or a version that the server does not know is its own matter by RFC 9110.
UNREADABLE = CLIENT_ERRORS | {501, 505}


def refused(answer: Answer, statuses: Collection[int]) -> Verdict:
    """Held if the gateway itself says no, by one of the statuses and in the form that clients read."""
    held = answer.status in statuses and answer.is_refusal
    note = " from the engine itself" if answer.status in statuses and not answer.is_refusal and answer.json else ""
    return Verdict(held, f"{answer}{note}" if answer.status else "no answer")


def one_refusal(found: Exchange, statuses: Collection[int] = UNREADABLE) -> Verdict:
    """Held if one refusal is all that comes, or the connection closes without an answer."""
    if not found.answers:
        return Verdict(found.ended or not found.rest.startswith(b"HTTP"), str(found))
    return Verdict(len(found.answers) == 1 and refused(found.first, statuses).held, str(found))


def one_answer(found: Exchange) -> Verdict:
    """Held if the bytes are read as one request, or refused: a second answer would be a second request's."""
    return Verdict(len(found.answers) <= 1 and found.first.status not in (500, 502, 504), str(found))
