# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters and tests as templates call them."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.onprem.llm.plugins.filter.engine_network_faults import FilterModule as EngineNetwork
from ansible_collections.onprem.llm.plugins.filter.manifest_path import FilterModule as ManifestPath
from ansible_collections.onprem.llm.plugins.filter.mirror_order import FilterModule as MirrorOrder
from ansible_collections.onprem.llm.plugins.filter.network_fault import FilterModule as NetworkFault
from ansible_collections.onprem.llm.plugins.filter.weak_credentials import FilterModule as WeakCredentials
from ansible_collections.onprem.llm.plugins.test.world import TestModule as World


def crypt(password: str, salt: str) -> str:
    """The hash that a user's administrator would have made."""
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def weak(*users: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = WeakCredentials().filters()["weak_credentials"](users)
    return found


@pytest.mark.parametrize("word", ["changeme", "", "app", "ollama\n"])
def test_a_key_that_is_a_word(word: str) -> None:
    assert weak({"name": "app", "api_keys": [{"sha256": sha256("k" * 40)}, {"sha256": sha256(word)}]}) == [
        {"name": "app", "kind": "key"}
    ]


@pytest.mark.parametrize(("word", "salt"), [("password", "abc"), ("carol", "a.b/c"), ("letmein", "rounds=1000$abc")])
def test_a_password_that_is_a_word(word: str, salt: str) -> None:
    assert weak({"name": "Carol", "password_hash": crypt(word, salt)}) == [{"name": "Carol", "kind": "password_hash"}]


def test_strong_credentials_pass() -> None:
    strong = {
        "name": "app",
        "api_keys": [{"sha256": sha256("k" * 40)}],
        "password_hash": crypt("wV7-long-and-random", "abc"),
    }
    assert weak(strong, {"name": "none"}) == []


def test_manifest_path() -> None:
    path = ManifestPath().filters()["manifest_path"]
    assert path("gemma3:270m", "/models") == "/models/manifests/registry.ollama.ai/library/gemma3/270m"
    with pytest.raises(AnsibleFilterError, match="is no model's name"):
        path("../../etc:x", "/models")


def test_network_fault_is_empty_for_what_passes() -> None:
    fault = NetworkFault().filters()["network_fault"]
    assert fault("10.0.0.0/8") == ""
    assert "10.0.0.0/24" in fault("10.0.0.1/24")


def test_world() -> None:
    assert World().tests()["world"]("0.0.0.0/0")


def test_the_hosts_networks_are_read_from_its_facts() -> None:
    faults = EngineNetwork().filters()["engine_network_faults"]
    facts = {
        "interfaces": ["lo", "eth0", "br-1a", "down"],
        "lo": {"ipv4": {"network": "127.0.0.0", "netmask": "255.0.0.0"}},
        "eth0": {"ipv4": {"network": "172.30.0.0", "netmask": "255.255.0.0"}},
        "br_1a": {"ipv4": {"network": "172.30.250.0", "netmask": "255.255.255.240"}},
        "down": {},
    }
    (fault,) = faults("172.30.250.0/28", "172.30.250.2", facts)
    assert "eth0 of the host is in 172.30.0.0/16" in fault


def order(mirrors: list[str], host: str, hosts: list[str]) -> list[str]:
    found: list[str] = MirrorOrder().filters()["mirror_order"](mirrors, host, hosts)
    return found


def test_nodes_begin_with_one_mirror_after_the_other() -> None:
    mirrors, nodes = ["a", "b", "c"], [f"n{number}" for number in range(7)]
    firsts = [order(mirrors, node, nodes)[0] for node in nodes]
    assert firsts == ["a", "b", "c", "a", "b", "c", "a"]
    assert order(mirrors, "n1", nodes) == ["b", "c", "a"]
    # One more at the end moves nobody.
    assert [order(mirrors, node, [*nodes, "n7"])[0] for node in nodes] == firsts


def test_a_mirror_asks_itself_first_and_is_not_counted() -> None:
    nodes = ["b", "n0", "n1"]
    assert order(["a", "b"], "b", nodes) == ["b", "a"]
    assert [order(["a", "b"], node, nodes)[0] for node in ("n0", "n1")] == ["a", "b"]


def test_order_without_mirrors_or_for_a_host_that_is_no_node() -> None:
    assert order([], "n0", ["n0"]) == []
    assert order(["a", "b"], "gw", ["n0"]) == ["a", "b"]
    assert order(["a"], "n5", ["n4", "n5"]) == ["a"]
