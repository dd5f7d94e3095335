# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a network, and what was probably meant."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.module_utils import _networks as networks


@pytest.mark.parametrize("text", ["any", "10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "fd00::1", "fd00::/64", "::/0"])
def test_networks_that_pass(text: str) -> None:
    assert networks.network_fault(text) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("10.0.0.5/24", "the network is 10.0.0.0/24, the host alone 10.0.0.5"),
        ("fd00::5/64", "the network is fd00::/64"),
        ("10.0.0.0/33", "such as 192.168.10.0/24"),
        ("300.0.0.1", "such as 192.168.10.0/24"),
        ("llm.example.com", "UFW knows no host names"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("", "such as"),
    ],
)
def test_networks_that_do_not(text: str, part: str) -> None:
    assert part in (networks.network_fault(text) or "")


@pytest.mark.parametrize("text", ["any", "0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/7", "::/0", "2000::/3", "2001:db8::/31"])
def test_everybody(text: str) -> None:
    assert networks.is_world(text)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "fd00::/48", "fd00::1", "llm.example.com"])
def test_not_everybody(text: str) -> None:
    assert not networks.is_world(text)


OTHERS = {"eth0": "10.0.0.0/255.255.255.0", "br-1": "172.30.250.0/28"}


def test_the_engines_own_bridge_is_no_conflict() -> None:
    assert networks.engine_network_faults("172.30.250.0/28", "172.30.250.2", OTHERS) == []


@pytest.mark.parametrize(
    ("subnet", "address", "part"),
    [
        ("172.30.250.5/28", "172.30.250.6", "ollama_network_subnet is 172.30.250.5/28"),
        ("172.30.250.0/28", "engine", "ollama_address is engine"),
        ("172.30.250.0/28", "172.30.251.2", "such as 172.30.250.2"),
        ("172.30.250.0/28", "172.30.250.1", "such as 172.30.250.2"),
        ("172.30.250.0/28", "172.30.250.15", "such as 172.30.250.2"),
        ("10.0.0.128/28", "10.0.0.130", "eth0 of the host is in 10.0.0.0/24, which overlaps it"),
    ],
)
def test_engine_networks_that_cannot_be(subnet: str, address: str, part: str) -> None:
    (fault,) = networks.engine_network_faults(subnet, address, OTHERS)
    assert part in fault
