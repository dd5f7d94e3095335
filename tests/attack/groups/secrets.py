"""Secrets where they must not lie, seen from inside each host: as what a guest on it could find, and a backup keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.attack import leaks
from tests.attack.model import Attack, NotTried, Verdict
from tests.attack.position import Position

SCRIPT = Path(leaks.__file__).read_text(encoding="utf-8")
KINDS: list[tuple[str, str]] = [
    ("process list", "keys and passwords in command lines"),
    ("environment", "keys and passwords in environments, of containers too"),
    ("log", "keys and passwords in logs, the journal and shell histories"),
    ("file for all", "keys and passwords in files that everybody may read"),
    ("file", "keys and passwords in any file: hashes alone are needed"),
    ("private key", "private keys that others than their owner may read"),
    ("hashes for all", "hashes of credentials that everybody may read"),
]


def findings(position: Position) -> dict[str, list[list[str]]]:
    """By host; looked for once."""
    if not position.findings:
        for name, host in position.hosts.items():
            given = json.dumps({"secrets": position.access.secrets, "root": position.root})
            position.findings[name] = json.loads(host.run(["python3", "-c", SCRIPT], given))
    return position.findings


def kind(wanted: str) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        found = [
            (host, *rest)
            for host, all_found in findings(position).items()
            for kind, *rest in all_found
            if kind == wanted
        ]
        if found:
            return Verdict(
                False,
                f"{found[0][0]}: {found[0][1]} in {found[0][2]}"
                + (f", and {len(found) - 1} more" if len(found) > 1 else ""),
            )
        return Verdict(True, f"none on {len(position.hosts)} hosts")

    return act


def world_writable(position: Position) -> Verdict:
    """What root's programs read, nobody else may write."""
    places = (
        "/etc/nginx",
        "/etc/onprem-llm",
        "/etc/ufw",
        "/etc/docker",
        "/etc/systemd/system",
        "/etc/logrotate.d",
        "/usr/local/bin",
        "/usr/local/lib",
    )
    places = tuple(position.root + place for place in places)
    for name, host in position.hosts.items():
        command = 'for p; do [ -e "$p" ] && find "$p" ! -type l \\( -perm -o+w -o ! -user root \\) -print; done; true'
        found = [line for line in host.run(["sh", "-c", command, "sh", *places]).splitlines() if line]
        if found:
            return Verdict(False, f"{name}: {found[0]}")
    return Verdict(True, f"none on {len(position.hosts)} hosts")


def nginx_runs_unprivileged(position: Position) -> Verdict:
    """Who breaks into a worker should not be root at once."""
    command = "ps -eo user=,args= | grep '[n]ginx: worker'"
    try:
        owners = {line.split()[0] for line in position.gateway.run(["sh", "-c", command]).splitlines()}
    except RuntimeError:
        raise NotTried("there is no nginx worker on the gateway") from None
    return Verdict("root" not in owners, f"workers are {', '.join(sorted(owners))}'s")


ATTACKS = [
    *(Attack("secrets", f"secrets: {name}", tries, "none", kind(name)) for name, tries in KINDS),
    Attack("secrets", "files that others may write", "in /etc and /usr/local", "none", world_writable),
    Attack("secrets", "rights of nginx's workers", "whose are they?", "not root's", nginx_runs_unprivileged),
]
