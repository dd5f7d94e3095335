"""The gateway behind a proxy of the site's, and by IPv6."""

from __future__ import annotations

import http.client

import pytest
from by_name import NAME, Answer, ask, tls
from conftest import FLEET

BOX, CLIENT = FLEET.hosts
SPOOFED = "203.0.113.7"
# The bridge's own address, from which this machine reaches the fleet: a client that nobody trusts.
OURSELVES = "10.78.3.1"
ANSWERS = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def answers(port):
    with socket.socket(socket.AF_INET6) as s:
        s.settimeout(1.5)
        return s.connect_ex((sys.argv[1], port)) == 0
ports = [22, 53, 80, 111, 443, 2375, 5000, 8000, 8080, 8088, 8443, 9090, 9100, 11434]
with ThreadPoolExecutor(len(ports)) as pool:
    print(*(port for port, open in zip(ports, pool.map(answers, ports)) if open))
"""


def get(address: str, port: int, key: str = "", name: str = NAME, ca_file: str | None = None) -> Answer:
    """A request that claims to be somebody else's."""
    connection, _certificate = tls(address, name, ca_file, port)
    return ask(
        connection,
        "GET",
        "/v1/models",
        name,
        **{"X-Forwarded-For": SPOOFED} | ({"Authorization": f"Bearer {key}"} if key else {}),
    )


@pytest.fixture
def key(secrets: dict) -> str:
    return secrets["users"]["app"]["api_key"]


def test_client_behind_the_proxy_is_known_by_its_own_address(logged, key: str) -> None:
    answer = get(CLIENT.address, 8443, key)
    assert answer.status == 200
    line = logged(request_id=answer.request_id)
    assert (line["client"], line["proxy"]) == (OURSELVES, CLIENT.address)


def test_claim_of_an_untrusted_address_has_no_effect(logged, key: str, ca_file: str) -> None:
    answer = get(BOX.address, 443, key, ca_file=ca_file)
    assert answer.status == 200
    line = logged(request_id=answer.request_id)
    assert (line["client"], line["proxy"]) == (OURSELVES, OURSELVES)


def test_limit_hits_the_client_and_not_its_proxy(neighbour) -> None:
    statuses = [get(CLIENT.address, 8443).status for _ in range(40)]
    assert {*statuses} == {401, 429}
    code = (
        "import socket,ssl,sys,http.client as h; c=h.HTTPConnection(sys.argv[2]);"
        "c.sock=ssl._create_unverified_context().wrap_socket("
        "socket.create_connection((sys.argv[1],443)),server_hostname=sys.argv[2]);"
        "c.request('GET','/v1/models'); print(c.getresponse().status)"
    )
    assert neighbour.check_output("python3 -c %s %s %s", code, BOX.address, NAME) == "401"


def test_gateway_answers_by_ipv6_under_its_certificate(logged, key: str, ca_file: str) -> None:
    answer = get(BOX.address6, 443, key, name=BOX.address6, ca_file=ca_file)
    assert answer.status == 200
    assert logged(request_id=answer.request_id)["client"] == "fd78:3::1"
    connection = http.client.HTTPConnection(BOX.address6, 80, timeout=10)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().headers["Location"] == "https://[fd78:3::11]/v1/models"


def test_what_is_closed_is_closed_by_ipv6_as_well(gateway, neighbour) -> None:
    assert neighbour.check_output("python3 -c %s %s", ANSWERS, BOX.address6) == "22 80 443"
    for tables in ("iptables", "ip6tables"):
        *others, last = gateway.host.check_output("%s -S ONPREM-LLM", tables).splitlines()
        # By whatever interface it comes.
        assert last.endswith("-j DROP")
        assert " -i " not in last
        assert not [rule for rule in others if "DROP" in rule or rule.startswith("-A ONPREM-LLM -i eth")]
