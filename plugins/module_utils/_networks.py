# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a text is an IP network as firewalls take it, and what was probably meant."""

from __future__ import annotations

import ipaddress

# Prefixes of so few bits are as good as everybody, also where they are written as two halves.
WORLD_BITS = 7


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
        return ipaddress.ip_network(text, strict=False).prefixlen <= WORLD_BITS
    except ValueError:
        return False
