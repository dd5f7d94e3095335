"""The attacks by group, in the order in which they are carried out: what may disturb comes late."""

from __future__ import annotations

from tests.attack.groups import (
    bodies,
    credentials,
    floods,
    http2,
    logs,
    management,
    methods,
    options,
    origins,
    paths,
    ports,
    secrets,
    slow,
    smuggling,
    tls,
)
from tests.attack.model import Attack

ORDER = (
    tls,
    credentials,
    paths,
    methods,
    management,
    smuggling,
    http2,
    origins,
    bodies,
    options,
    logs,
    slow,
    floods,
    ports,
    secrets,
)
ATTACKS: list[Attack] = [attack for group in ORDER for attack in group.ATTACKS]
