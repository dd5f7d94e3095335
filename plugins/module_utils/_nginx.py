# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a new nginx server can live beside the sites and the processes that a host has.

nginx chooses a server by the local address and port of the connection, the most specific ``listen`` first, and only
among those by name (ngx_http_core_module, "How nginx processes a request").
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

WILDCARDS = ("0.0.0.0", "[::]")


@dataclass(frozen=True)
class Listener:
    """Where a server listens: an address as nginx writes it, IPv6 in brackets, and a port."""

    address: str
    port: int
    tls: bool = False
    default: bool = False


@dataclass
class Server:
    """One ``server`` block."""

    file: str
    listeners: list[Listener] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def listener(arguments: str) -> Listener | None:
    """The arguments of a ``listen`` directive; None for a UNIX socket, which meets no address."""
    place, *options = arguments.split()
    if place.startswith("unix:"):
        return None
    address, colon, port = place.rpartition(":")
    if place.isdigit():
        address, port = "0.0.0.0", place
    elif not colon or place.endswith("]"):
        address, port = place, "80"
    if address == "*":
        address = "0.0.0.0"
    if not port.isdigit():
        return None
    return Listener(address.lower(), int(port), "ssl" in options, bool({"default", "default_server"} & set(options)))


def servers(lines: t.Iterable[str]) -> list[Server]:
    """The server blocks of a configuration, from its directives ``FILE <path>``, ``server {``, ``listen …`` and
    ``server_name …`` in order, one a line. A server without ``listen`` has port 80 of every address."""
    found: list[Server] = []
    file = ""
    for line in lines:
        word, _blank, rest = line.strip(" \t;{}").partition(" ")
        if word == "FILE":
            file = rest.strip()
        elif word == "server":
            found.append(Server(file))
        elif word == "listen" and found:
            place = listener(rest)
            if place:
                found[-1].listeners.append(place)
        elif word == "server_name" and found:
            found[-1].names += rest.lower().split()
    for server in found:
        if not server.listeners:
            server.listeners.append(Listener("0.0.0.0", 80))
    return found


def conflicts(
    theirs: list[Server],
    listening: t.Iterable[tuple[str, int, str]],
    wanted: Listener,
    names: t.Collection[str],
    file: str,
) -> list[str]:
    """Why a new server cannot be had without breaking what is there, a clause each, ways out included.

    :param theirs: server blocks of others.
    :param listening: address, port and program of every socket that listens now.
    :param wanted: where the new server is to listen.
    :param names: its names.
    :param file: the file that it comes in; nginx reads files in order, and the first server of a socket is its default.
    """
    found = []
    for program in sorted(
        {
            program or "another program"
            for address, port, program in listening
            if port == wanted.port
            and program != "nginx"
            and (address == wanted.address or address in (*WILDCARDS, "*") or wanted.address in WILDCARDS)
            # nginx's own sockets for IPv6 take no IPv4 (`ipv6only`).
            and (address == "*" or ("[" in address) == ("[" in wanted.address))
        }
    ):
        found.append(f"{program} listens on port {wanted.port}; choose another port, or have it leave this one")
    same: list[tuple[Server, Listener]] = []
    for server in theirs:
        for place in server.listeners:
            if place.port != wanted.port or ("[" in place.address) != ("[" in wanted.address):
                continue
            if place.address == wanted.address:
                same.append((server, place))
            elif place.address not in WILDCARDS and wanted.address in WILDCARDS:
                found.append(
                    f"the site in {server.file} listens on {place.address}:{place.port} itself, and would get all that "
                    f"comes to that address; have it listen on {wanted.port}, or choose another address"
                )
            elif place.address in WILDCARDS and not any(
                other.address == wanted.address and other.port == wanted.port for other in server.listeners
            ):
                found.append(
                    f"the site in {server.file} listens on port {place.port} of every address, and would get nothing "
                    f"more on {wanted.address}; add `listen {wanted.address}:{wanted.port}` to it, or choose 0.0.0.0"
                )
    for server, place in same:
        shared = sorted({name.lower() for name in names} & set(server.names))
        if shared:
            found.append(f"the site in {server.file} answers for {', '.join(shared)} already; choose another name")
        if place.tls != wanted.tls:
            found.append(
                f"the site in {server.file} has port {place.port} {'with' if place.tls else 'without'} TLS, and a port "
                "is one or the other; choose another port"
            )
    family = r".*:" if "[" in wanted.address else r"[0-9.]+$"
    addresses = [name for name in names if re.match(family, name)]
    holder = next((server for server, place in same if place.default), None)
    if holder and addresses:
        found.append(
            f"the site in {holder.file} is the default there and answers for {', '.join(addresses)}; have the new one "
            "answer for names alone"
        )
    if same and not any(place.default for _holder, place in same) and same[0][0].file > file:
        found.append(
            f"the site in {same[0][0].file} answers on port {wanted.port} for every name that no other site has, only "
            "because it is the first, which it would be no more; say default_server in its listen"
        )
    return list(dict.fromkeys(found))


def parse_socket(line: str) -> tuple[str, int, str] | None:
    """``ADDRESS:PORT PROGRAM`` as address, port and program; None for what is none. An interface's name is left out."""
    match = re.match(r"^(\S+):(\d+)(?: (.*))?$", line)
    return (re.sub(r"%\w+", "", match[1]), int(match[2]), (match[3] or "").strip()) if match else None
