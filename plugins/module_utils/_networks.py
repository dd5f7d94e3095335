# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the networks that an inventory names, and what was probably meant."""

from __future__ import annotations

import ipaddress
import typing as t

# What is wider is as good as everybody, also where it is written as halves: no site has more than the largest private
# network of IPv4 (10.0.0.0/8, RFC 1918), or more than a whole provider's allocation of IPv6.
WIDEST_BITS = {4: 8, 6: 32}


def network_fault(text: str) -> str | None:
    """What is wrong with an address or network in CIDR form, and what would be right; None if nothing is.

    ``any`` is UFW's word for every network, and passes.
    """
    if text == "any":
        return None
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return "give an IP address or a network such as 192.168.10.0/24 (UFW knows no host names)"
        return f"the address has bits beyond its prefix; the network is {meant}, the host alone {text.split('/')[0]}"
    if "/" in text and not text.split("/")[1].isdigit():
        return f"give the prefix as a number: {ipaddress.ip_network(text)}"
    return None


def is_world(text: str) -> bool:
    """Whether a network is ``any``, or so large that it stands for everybody."""
    if text == "any":
        return True
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return network.prefixlen < WIDEST_BITS[network.version]


def engine_network_faults(subnet: str, address: str, others: t.Mapping[str, str]) -> list[str]:
    """What is wrong with the engine's own network and its address there.

    :arg others: the host's networks in CIDR form, by interface. One that equals ``subnet`` is the engine's own bridge.
    """
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError:
        return [f"ollama_network_subnet is {subnet}; an IPv4 network such as 172.30.250.0/28 is needed"]
    found = []
    try:
        place = ipaddress.IPv4Address(address)
    except ValueError:
        return [f"ollama_address is {address}; an IPv4 address in ollama_network_subnet ({subnet}) is needed"]
    # Docker takes the first address for the host.
    taken = {network.network_address, network.network_address + 1, network.broadcast_address}
    if place not in network or place in taken:
        found.append(
            f"ollama_address is {address}; an address in ollama_network_subnet ({subnet}) is needed that is neither "
            f"one of its first two nor its last, such as {network.network_address + 2}"
        )
    for interface, text in others.items():
        other = ipaddress.IPv4Network(text, strict=False)
        if other != network and other.overlaps(network):
            found.append(
                f"ollama_network_subnet is {subnet}, and {interface} of the host is in {other}, which overlaps it; "
                "choose a subnet that the host does not have, and ollama_address in it"
            )
    return found
