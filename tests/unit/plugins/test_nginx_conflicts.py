# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a host's nginx and sockets is in the way of a new server, and what is not."""

from __future__ import annotations

import pytest
from ansible_collections.onprem.llm.plugins.filter.nginx_conflicts import FilterModule
from ansible_collections.onprem.llm.plugins.module_utils import _nginx

nginx_conflicts = FilterModule().filters()["nginx_conflicts"]
SHOP = "FILE /etc/nginx/sites-enabled/shop"
DEFAULT = [SHOP, "server {", "listen 443 ssl default_server;", "server_name shop.example.com;"]

FREE = {
    "nothing there": [],
    "another site by name, default as it says": DEFAULT,
    "another port": [SHOP, "server {", "listen 8443 ssl;"],
    "IPv6 alone": [SHOP, "server {", "listen [::]:443 ssl;"],
    "a UNIX socket": [SHOP, "server {", "listen unix:/run/shop.sock;"],
    "nginx itself listens": ["LISTENS 0.0.0.0:443 nginx", *DEFAULT],
    "another program on another port": ["LISTENS 0.0.0.0:8080 java", "LISTENS [::]:443 java"],
    "first by the order of files": ["FILE /etc/nginx/conf.d/a.conf", "server {", "listen 443 ssl;", "server_name a;"],
    "our own site": [
        "FILE /etc/nginx/conf.d/onprem-llm-gateway.conf",
        "server {",
        "listen 0.0.0.0:443 ssl;",
        "server_name llm.example.com;",
    ],
}
TAKEN = {
    "another program": (["LISTENS 0.0.0.0:443 apache2"], "apache2 listens on port 443"),
    "another program, both families": (["LISTENS *:443 java"], "java listens on port 443"),
    "another program on one address": (["LISTENS 192.0.2.1:443 haproxy"], "haproxy listens on port 443"),
    "a program without a name": (["LISTENS 0.0.0.0:443"], "another program listens"),
    "the same name": (
        [*DEFAULT[:3], "server_name shop.example.com LLM.example.com;"],
        "answers for llm.example.com already",
    ),
    "plain HTTP": ([SHOP, "server {", "listen 443 default_server;"], "has port 443 without TLS"),
    "default by order alone": ([SHOP, "server {", "listen 443 ssl;"], "say default_server in its listen"),
    "one address of its own": ([SHOP, "server {", "listen 192.0.2.1:443 ssl;"], "listens on 192.0.2.1:443 itself"),
}


@pytest.mark.parametrize("case", FREE)
def test_sites_live_side_by_side(case: str) -> None:
    assert nginx_conflicts(FREE[case], "0.0.0.0", 443, ["llm.example.com"]) == []


@pytest.mark.parametrize("case", TAKEN)
def test_conflict_is_said(case: str) -> None:
    lines, words = TAKEN[case]
    said = nginx_conflicts(lines, "0.0.0.0", "443", ["llm.example.com"])
    assert len(said) == 1
    assert words in said[0]


def test_an_address_stays_with_the_site_that_is_the_default() -> None:
    """A client that asks for an address names no server in its handshake, and meets the default's certificate."""
    six = [*DEFAULT[:2], "listen [::]:443 ssl default_server;", DEFAULT[3]]
    for lines, listen, address, other in (
        (DEFAULT, "0.0.0.0", "192.0.2.1", "2001:db8::1"),
        (six, "[::]", "2001:db8::1", "192.0.2.1"),
    ):
        said = nginx_conflicts(lines, listen, 443, ["llm.example.com", address])
        assert len(said) == 1
        assert f"answers for {address}; have the new one answer for names alone" in said[0]
        # It is the default of its own family alone.
        assert nginx_conflicts(lines, listen, 443, ["llm.example.com", other]) == []


def test_families_are_apart() -> None:
    lines = ["LISTENS 0.0.0.0:443 apache2", "LISTENS [::]:443 java"]
    for listen, program in (("0.0.0.0", "apache2"), ("[::]", "java")):
        assert nginx_conflicts(lines, listen, 443, ["llm.example.com"]) == [
            f"{program} listens on port 443; choose another port, or have it leave this one"
        ]
    assert nginx_conflicts(["LISTENS *:443 java"], "[::]", 443, ["llm.example.com"])


def test_a_site_that_leaves_is_in_nobodys_way() -> None:
    lines = ["FILE /etc/nginx/sites-enabled/default", "server {", "listen 80 default_server;", "server_name _;"]
    assert nginx_conflicts(lines, "0.0.0.0", 80, ["192.0.2.1"], False)
    assert nginx_conflicts(lines, "0.0.0.0", 80, ["192.0.2.1"], False, leaving="/etc/nginx/sites-enabled/default") == []


def test_a_site_on_every_address_would_lose_one() -> None:
    said = nginx_conflicts(DEFAULT, "192.0.2.1", 443, ["llm.example.com"])
    assert "would get nothing more on 192.0.2.1" in said[0]
    beside = [*DEFAULT, "listen 192.0.2.1:443 ssl default_server;"]
    assert nginx_conflicts(beside, "192.0.2.1", 443, ["llm.example.com"]) == []


@pytest.mark.parametrize(
    ("arguments", "address", "port"),
    [
        ("80", "0.0.0.0", 80),
        ("*:8080 reuseport", "0.0.0.0", 8080),
        ("192.0.2.1", "192.0.2.1", 80),
        ("[::]:443 ssl", "[::]", 443),
        ("[2001:DB8::1]", "[2001:db8::1]", 80),
        ("localhost:8000", "localhost", 8000),
    ],
)
def test_listen_is_read(arguments: str, address: str, port: int) -> None:
    place = _nginx.listener(arguments)
    assert place is not None
    assert (place.address, place.port) == (address, port)


def test_a_server_without_listen_has_port_80() -> None:
    assert _nginx.servers([SHOP, "server {", "server_name a b;"])[0].listeners == [_nginx.Listener("0.0.0.0", 80)]
