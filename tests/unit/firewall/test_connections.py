# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bound on an address's connections, in a real kernel: idle ones on the loopback of a network of their own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from test_firewall import block, evaluated, variables

PORT, MOST = 8443, 5
# Who listens takes every connection and says nothing. Tells how many a second address, and the first, may have, and
# whether the first may have one more when one of its own has ended.
ASK = """
import json, socket, sys
family, hosts, port = (socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET), sys.argv[1:4], int(sys.argv[4])
listener = socket.create_server(("", port), family=family, backlog=500)
def many(host, count):
    found = []
    for _ in range(count):
        connection = socket.socket(family)
        connection.bind((host, 0))
        connection.settimeout(2)
        try:
            connection.connect((hosts[0], port))
            found.append(connection)
        except ConnectionRefusedError:
            connection.close()
    return found
first, near, far = many(hosts[0], 12), many(hosts[1], 3), many(hosts[2], 3)
told = [len(first), len(near), len(far)]
listener.accept()[0].close()
first.pop(0).close()
import time
time.sleep(0.3)
told.append(len(many(hosts[0], 2)))
print(json.dumps(told))
"""


@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("iptables-restore"), reason="no iptables here")
@pytest.mark.parametrize(
    ("family", "hosts", "near"),
    # The second has an address of its own, which with IPv6 is in the first one's /64; the third in no case.
    [(4, ["127.0.0.1", "127.0.0.2", "127.0.0.3"], 3), (6, ["fd00:0:0:1::1", "fd00:0:0:1::2", "fd00:0:0:2::1"], 0)],
)
def test_an_address_has_so_many_connections_and_no_more(family: int, hosts: list[str], near: int) -> None:
    known = variables(gateway_port=PORT, gateway_address_connections=MOST)
    text = evaluated("__firewall_files", known)[family // 2]["block"]
    tool, six = ("iptables", "") if family == 4 else ("ip6tables", "6")
    chains = "".join(f"{tool} -N ufw{six}-before-{way}; " for way in ("input", "forward"))
    addresses = "".join(f"ip -6 addr add {host}/128 dev lo nodad; " for host in hosts if family == 6)
    script = f"ip link set lo up; {addresses}{chains}{tool} -A INPUT -j ufw{six}-before-input; {tool}-restore -n && "
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", script + 'exec "$@"', "sh", sys.executable, "-c", ASK, *hosts, str(PORT)],
        input=text + "\n", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "Operation not permitted" in run.stderr:
        pytest.skip("no network namespaces here")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [MOST, near, 3, 1]


def test_proxies_have_as_many_as_their_clients_need_and_nodes_have_no_gateway() -> None:
    assert [rule for rule in block(4) if "connlimit" in rule]
    assert not [rule for rule in block(4, gateway_trusted_proxies=["192.0.2.9"]) if "connlimit" in rule]
    assert not [rule for rule in block(6, groups={"llm_nodes": ["box1"]}) if "connlimit" in rule]
    [rule] = [rule for rule in block(6, gateway_port=8443) if "connlimit" in rule]
    assert re.search(r"--dport 8443 .*--connlimit-above 256 --connlimit-mask 64 ", rule)


@pytest.mark.parametrize("family", [4, 6])
def test_what_comes_from_containers_is_asked_for_first(family: int) -> None:
    # Each is put above the one before, so the first of them is the last to be asked.
    inserted = [rule for rule in block(family) if re.match(r"-I ufw6?-before-input 1 ", rule)]
    assert "connlimit" in inserted[0]
    assert len(inserted) > 2
    assert all(rule.endswith("-HOST") for rule in inserted[1:])
