# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role firewall writes for containers, refuses and foretells, evaluated from its own variables."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).resolve().parents[1] / "templates_child.py"

BRIDGE = "br-0123456789ab"
FACTS = {
    "os_family": "Debian",
    "distribution": "Debian",
    "interfaces": ["lo", "eth0", "eth1", "docker0", BRIDGE, "veth12", "br-lan"],
    "br_lan": {"type": "bridge", "interfaces": ["eth1"]},
}
# What UFW has on a host where the role was never run.
FOUND = ["Added user rules:", "(None)", "Status: inactive", "ENABLED=no"]


@functools.cache
def child() -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(Path(sys.prefix) / "collections"), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, str(CHILD)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def evaluated(name: str, variables: dict[str, Any]) -> Any:
    process = child()
    assert process.stdin
    assert process.stdout
    print(json.dumps({"role": "firewall", "name": name, "variables": variables}), file=process.stdin, flush=True)
    answer = json.loads(process.stdout.readline())
    assert "error" not in answer, answer
    return answer["value"]


def variables(found: list[str] | None = None, **values: Any) -> dict[str, Any]:
    """The role's variables on a node that is a gateway, too; ``found`` is what gather.yml read."""
    lines = FOUND + (found or [])
    return {
        "inventory_hostname": "box1",
        "group_names": ["llm_nodes", "gateways"],
        "groups": {"llm_nodes": ["box1", "box2"], "gateways": ["box1"]},
        "hostvars": {"box1": {"ansible_host": "192.0.2.11"}, "box2": {"ansible_host": "192.0.2.12"}},
        "ansible_facts": FACTS,
        "__firewall_found": {"stdout": "\n".join(lines), "stdout_lines": lines},
        "firewall_client_networks": ["192.0.2.0/24"],
        **values,
    }


def block(family: int, **values: Any) -> list[str]:
    """The rules for containers of one family (4 or 6), without their comments, in the order of the file."""
    known = variables(**values)
    text: str = evaluated("__firewall_files", known)[family // 2]["block"]
    assert len(set(re.findall(r'"onprem\.llm \w+ (\w*)"', text))) == 1, "one edition, in each rule"
    plain = [re.sub(r' -m comment --comment "[^"]*"', "", line) for line in text.splitlines()]
    return [line for line in plain if line.startswith(("-A", "-I"))]


def chain(name: str, family: int, **values: Any) -> list[str]:
    return [line.split(" ", 2)[2] for line in block(family, **values) if line.startswith(f"-A {name} ")]


def faults(found: list[str] | None = None, **values: Any) -> list[str]:
    known = variables(found, **values)
    return [line for line in (evaluated("__firewall_faults", known) or "").splitlines() if line.strip()]


def outlook(found: list[str] | None = None, **values: Any) -> dict[str, Any]:
    known = variables(found, **values)
    stated: dict[str, Any] = evaluated("__firewall_outlook", known)
    return {part: [item for item in items if item] for part, items in stated.items()}


# --- Containers, from outside


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_routed_to_containers_is_dropped_from_wherever_it_comes(family: int) -> None:
    rules = chain("ONPREM-LLM", family)
    assert rules[0] == "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    assert rules[-1] == "-j DROP"
    # Before that, only what leaves the host, and what containers send.
    let_go = [rule for rule in rules[1:-1] if rule.endswith("RETURN")]
    assert let_go == [
        *(f"-o {interface} -j RETURN" for interface in ("br-lan", "eth0", "eth1")),
        "-i docker+ -j RETURN",
        "-i br-+ -j RETURN",
    ]


def test_a_bridge_that_leads_out_is_not_taken_for_one_of_dockers() -> None:
    rules = chain("ONPREM-LLM", 4)
    assert rules.index("-i br-lan -j DROP") < rules.index("-i br-+ -j RETURN")
    rules = chain("ONPREM-LLM-HOST", 4)
    assert rules[:2] == ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-i br-lan -j RETURN"]


def test_a_listed_port_is_open_as_published_and_not_by_a_containers_own_address() -> None:
    ports = [
        {"port": "8080", "from": "192.0.2.0/24"},
        {"port": "53", "protocol": "udp", "from": "any"},
        {"port": "9000:9010", "from": "2001:db8::/64"},
    ]
    translated = "-m conntrack --ctstate DNAT --ctorigdstport"
    four = [rule for rule in chain("ONPREM-LLM", 4, firewall_container_ports=ports) if "ctorigdstport" in rule]
    six = [rule for rule in chain("ONPREM-LLM", 6, firewall_container_ports=ports) if "ctorigdstport" in rule]
    assert four == [
        f"-s 192.0.2.0/24 -p tcp {translated} 8080 --ctdir ORIGINAL -j RETURN",
        f"-p udp {translated} 53 --ctdir ORIGINAL -j RETURN",
    ]
    assert six == [
        f"-p udp {translated} 53 --ctdir ORIGINAL -j RETURN",
        f"-s 2001:db8::/64 -p tcp {translated} 9000:9010 --ctdir ORIGINAL -j RETURN",
    ]


def test_a_network_of_dockers_with_a_bridge_of_another_name() -> None:
    known = {"found": ["docker network shop has the bridge shop0", "docker network bridge has the bridge docker0"]}
    facts = {**FACTS, "interfaces": [*FACTS["interfaces"], "shop0"], "shop0": {"interfaces": ["veth77"]}}
    rules = chain("ONPREM-LLM", 4, ansible_facts=facts, **known)
    assert "-i shop0 -j RETURN" in rules
    assert not [rule for rule in rules if "-o shop0" in rule]
    assert [
        rule for rule in block(6, ansible_facts=facts, **known) if rule.startswith("-I ufw6-before-input 1 -i shop0")
    ]
    # It is Docker's, and leads out: nobody can tell who sends.
    facts["shop0"] = {"interfaces": ["veth77", "eth1"]}
    (said,) = faults(known["found"], ansible_facts=facts)
    assert "Docker's network shop has the bridge shop0, to which eth1 belongs, too" in said


# --- The host, from containers


def test_the_engine_reaches_nothing_on_its_host() -> None:
    rules = chain("ONPREM-LLM-HOST", 4, ollama_network_subnet="172.31.9.0/28")
    assert "-s 172.31.9.0/28 -j DROP" in rules
    # It is asked before any other rule of UFW's, by its network, whatever its bridge is called.
    assert block(4, ollama_network_subnet="172.31.9.0/28")[-1] == (
        "-I ufw-before-input 1 ! -i lo -s 172.31.9.0/28 -j ONPREM-LLM-HOST"
    )
    assert not [rule for rule in block(4, group_names=["gateways"]) if "172.30.250" in rule]


@pytest.mark.parametrize(("family", "network"), [(4, "172.18.0.0/16"), (6, "fd00:5::/64")])
def test_any_is_nobody_in_a_container(family: int, network: str) -> None:
    allowed = [
        {"port": "51820", "protocol": "udp", "from": "any"},
        {"port": "5432", "from": network},
    ]
    rules = chain("ONPREM-LLM-HOST", family, firewall_allow=allowed, firewall_ssh_port=2222)
    assert f"-s {network} -p tcp --dport 5432 -j RETURN" in rules
    assert rules[-2:] == ["-p tcp --dport 2222 -j DROP", "-p udp --dport 51820 -j DROP"]


def test_ssh_is_shut_to_containers_whatever_networks_may_use_it() -> None:
    rules = chain("ONPREM-LLM-HOST", 4, firewall_ssh_networks=["172.16.0.0/12"])
    assert "-p tcp --dport 22 -j DROP" in rules
    named = [{"port": "22", "from": "172.18.0.0/16"}]
    rules = chain("ONPREM-LLM-HOST", 4, firewall_allow=named)
    assert rules.index("-s 172.18.0.0/16 -p tcp --dport 22 -j RETURN") < rules.index("-p tcp --dport 22 -j DROP")


def test_a_bridge_that_comes_later_locks_nobody_out() -> None:
    """By its name alone it could be an administrators' one; so Docker's are told by their networks, too."""
    for family in (4, 6):
        jumps = [rule for rule in block(family) if "-I ufw" in rule and "-input" in rule and "-i br-" in rule]
        assert jumps
        assert all(" -s " in rule for rule in jumps)


@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("iptables-restore"), reason="no iptables here")
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_takes_the_rules_and_gives_them_back_as_configure_looks_for_them(family: int) -> None:
    known = variables(
        firewall_container_ports=[{"port": "8000:8010", "from": "any"}],
        firewall_allow=[{"port": "60000:60010", "protocol": "udp", "from": "any"}],
        firewall_routed_interfaces=["wg+"],
    )
    text = evaluated("__firewall_files", known)[family // 2]["block"]
    tool, six = ("iptables", "") if family == 4 else ("ip6tables", "6")
    chains = "".join(f"{tool} -N ufw{six}-before-{way}; " for way in ("input", "forward"))
    load = f"{chains} {tool}-restore -n && {tool}-save -t filter"
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", load], input=text + "\n", capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in run.stderr:
        pytest.skip("no network namespaces here")
    assert run.returncode == 0, run.stderr
    loaded = [line for line in run.stdout.splitlines() if '--comment "onprem.llm ' in line]
    wanted = [line for line in text.splitlines() if line.startswith(("-A", "-I"))]
    assert len(loaded) == len(set(loaded)) == len(wanted)
    assert loaded[0].startswith("-A ONPREM-LLM ")


def test_the_lines_that_the_kernel_is_held_to_are_those_of_the_files() -> None:
    known = variables()
    rules, files = (evaluated(f"__firewall_{name}", known) for name in ("container_rules", "files"))
    lines = [line for file in files[2:] for line in file["block"].splitlines() if line.startswith(("-A", "-I"))]
    assert rules["lines"] == lines
    assert len(lines) > 20
    assert all(f' {rules["edition"]}" -j ' in line for line in lines)


def test_any_variable_makes_another_edition() -> None:
    def edition(**values: Any) -> str:
        known = variables(**values)
        return str(evaluated("__firewall_container_rules", known)["edition"])

    editions = [
        edition(),
        edition(firewall_container_ports=[{"port": "80", "from": "any"}]),
        edition(firewall_routed_interfaces=["wg0"]),
        edition(firewall_container_networks=["10.99.0.0/16"]),
        edition(firewall_ssh_port=2222),
        edition(found=["docker network shop has the bridge shop0"]),
    ]
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in editions)
    assert len(set(editions)) == len(editions)
    assert edition() == editions[0]


def test_monitoring_servers_see_each_other_and_take_packages_from_the_mirror() -> None:
    groups = {"llm_nodes": ["box2"], "monitoring_servers": ["mon1", "mon2"], "model_mirrors": ["box1"]}
    hosts = {f"mon{number}": {"ansible_host": f"192.0.2.5{number}"} for number in (1, 2)}
    hosts |= {f"box{number}": {"ansible_host": f"192.0.2.1{number}"} for number in (1, 2)}

    def rules(host: str) -> set[str]:
        given = variables(inventory_hostname=host, group_names=[], groups=groups, hostvars=hosts)
        return {" ".join(rule.split()[1:5]) for rule in evaluated("__firewall_rules", given)}

    exporter = {own: {f"node-exporter 9100 tcp 192.0.2.5{number}" for number in seen} for own, seen in
                {"mon1": (2,), "mon2": (1,), "box1": (1, 2), "box2": (1, 2)}.items()}  # fmt: skip
    for own, wanted in exporter.items():
        assert {rule for rule in rules(own) if rule.startswith("node-exporter")} == wanted
    mirror = {rule for rule in rules("box1") if rule.startswith("mirror")}
    assert mirror == {f"mirror 8444 tcp 192.0.2.{number}" for number in (12, 51, 52)}


# --- Faults


def test_a_sound_host_has_no_fault() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    "name", ["firewall_client_networks", "firewall_gateway_addresses", "firewall_monitoring_addresses"]
)
@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "10.0.0.0/7", "2001:db8::/31"])
def test_the_world_needs_a_word_of_consent(name: str, network: str) -> None:
    assert [line for line in faults(**{name: [network]}) if f"{name} has '{network}', as good as everybody" in line]
    assert faults(**{name: [network], "firewall_open_to_world": True}) == []


CONTAINERS = [
    "container shop-cart 0.0.0.0:8088->80/tcp, :::8088->80/tcp, 127.0.0.1:9000->9000/tcp, [::1]:9001->9001/tcp, 7/tcp",
    "container dns [::]:53->53/udp, 192.0.2.11:8000-8001->80-81/tcp",
]


def test_each_port_that_would_be_shut_is_named_with_the_way_to_list_it() -> None:
    said = faults(CONTAINERS)
    assert len(said) == 3
    assert said[0].startswith("firewall_container_ports lacks 8088, which the container shop-cart publishes: nobody")
    assert "{port: 8088, from: any}" in said[0]
    assert "{port: 53, protocol: udp, from: any}" in said[1]
    assert "lacks 8000:8001, which the container dns publishes" in said[2]
    # The same number of another protocol is another port.
    listed = [{"port": "8088", "from": "192.0.2.0/24"}, {"port": "53", "from": "192.0.2.0/24"}]
    assert len(faults(CONTAINERS, firewall_container_ports=listed)) == 2
    assert faults(CONTAINERS, firewall_close_container_ports=True) == []


@pytest.mark.parametrize(
    ("found", "part"),
    [
        (["unit firewalld is active"], "this role knows UFW alone"),
        (["unit nftables is active", "nftables.conf flushes the ruleset"], "rules of UFW and Docker"),
        (["unit netfilter-persistent is active"], "remove netfilter-persistent yourself"),
    ],
)
def test_another_firewall_is_a_fault(found: list[str], part: str) -> None:
    (said,) = faults(found)
    assert part in said
    assert "box1" in said


def test_rules_of_nftables_that_flush_nothing_are_no_fault() -> None:
    assert faults(["unit nftables is active"]) == []


def test_another_family_of_distributions_is_a_fault() -> None:
    rhel = {**FACTS, "os_family": "RedHat", "distribution": "Rocky"}
    (said,) = faults(ansible_facts=rhel)
    assert "Rocky" in said
    assert "firewalld is not supported" in said


@pytest.mark.parametrize("name", ["firewall_external_interfaces", "firewall_routed_interfaces"])
@pytest.mark.parametrize("interface", ["docker0", BRIDGE, "br-+", "br+", "+"])
def test_an_interface_of_dockers_leads_to_containers(name: str, interface: str) -> None:
    assert any(f"{name} has '{interface}', which leads to containers" in line for line in faults(**{name: [interface]}))


def test_a_route_of_others_that_would_end_is_a_fault() -> None:
    routes = ["ufw route allow in on eth0 out on tap0", "ufw route allow in on tap0 out on eth1"]
    (said,) = faults(routes)
    assert "firewall_routed_interfaces lacks tap0" in said
    assert faults(routes, firewall_routed_interfaces=["tap0"]) == []


def test_a_trial_needs_time() -> None:
    (said,) = faults(firewall_trial_seconds=5)
    assert "firewall_trial_seconds is 5" in said


# --- What is foretold


def test_policies_of_others_that_are_overridden_are_told() -> None:
    found = [
        "Status: active",
        "ENABLED=yes",
        "IPV6=no",
        'DEFAULT_INPUT_POLICY="ACCEPT"',
        'DEFAULT_FORWARD_POLICY="ACCEPT"',
    ]
    told = outlook(found)
    assert "UFW: what is routed is denied, DEFAULT_FORWARD_POLICY was ACCEPT" in told["change"]
    assert "UFW: what comes in is denied, DEFAULT_INPUT_POLICY was ACCEPT" in told["change"]
    assert "UFW: IPv6 is filtered by its rules, IPV6 was no" in told["change"]
    assert [line for line in told["interrupt"] if line.startswith("what the host routes for others stops")]
    assert not [line for line in outlook([*found, "the policies are ours"])["change"] if "POLICY" in line]
    drop = ["IPV6=yes", 'DEFAULT_INPUT_POLICY="DROP"', 'DEFAULT_FORWARD_POLICY="DROP"']
    assert not [line for line in outlook(drop)["change"] if " was " in line]


def test_ports_that_are_shut_by_consent_are_told() -> None:
    told = outlook(CONTAINERS, firewall_close_container_ports=True)["interrupt"]
    assert (
        "port 8088/tcp of the container shop-cart is shut to all outside; firewall_container_ports keeps one open"
        in told
    )
    assert len([line for line in told if line.startswith("port ")]) == 3


def test_a_trial_lasts_longer_where_more_changes_and_where_hosts_wait_for_each_other() -> None:
    def seconds(hosts: int, networks: list[str]) -> int:
        known = variables(
            ansible_play_hosts=[f"box{number}" for number in range(hosts)],
            ansible_forks=5,
            firewall_ssh_networks=networks,
            __firewall_state={"stdout": "", "stdout_lines": []},
            __firewall_own_rules=networks,
        )
        return int(evaluated("__firewall_trial_seconds", known))

    one = seconds(1, ["any"])
    assert one == seconds(5, ["any"]) == 60 + 5
    assert seconds(1, ["192.0.2.0/24", "198.51.100.0/24"]) == one + 5
    assert seconds(11, ["any"]) == 3 * one


# --- From outside

ADDRESSED_CONTAINERS = [
    {"NetworkSettings": {"Networks": {
        "engine": {"IPAddress": "172.30.250.2", "GlobalIPv6Address": ""},
        "six": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": "fd55::2"},
    }}},
]  # fmt: skip
ADDRESSES = FACTS | {
    "default_ipv4": {"address": "192.0.2.11"},
    "default_ipv6": {"address": "2001:db8::11"},
    "all_ipv4_addresses": ["172.17.0.1", "192.0.2.11", "198.51.100.11"],
    "all_ipv6_addresses": ["fe80::1", "fd55::1", "2001:db8::11", "2001:db8:1::11"],
    "docker0": {"ipv4": {"address": "172.17.0.1"}, "ipv6": [{"address": "fe80::2", "scope": "link"}]},
    "br_0123456789ab": {"ipv6": [{"address": "fd55::1", "scope": "global"}, {"address": "fe80::1", "scope": "link"}]},
}


def probed(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    known = variables(ansible_facts=facts, __firewall_containers={"json": ADDRESSED_CONTAINERS})
    families: list[dict[str, Any]] = evaluated("__firewall_probed_families", known)
    return {family["name"]: family for family in families}


def test_a_host_is_asked_by_each_family_of_which_it_has_an_address() -> None:
    assert probed(ADDRESSES) == {
        "IPv4": {
            "name": "IPv4",
            "own": "192.0.2.11",
            "addresses": ["192.0.2.11", "198.51.100.11"],
            "routed": ["172.17.0.1", "172.30.250.2", "172.18.0.2"],
        },
        "IPv6": {
            "name": "IPv6",
            "own": "2001:db8::11",
            "addresses": ["2001:db8::11", "2001:db8:1::11"],
            "routed": ["fd55::1", "fd55::2"],
        },
    }


def test_a_host_of_ipv4_alone_is_asked_by_that() -> None:
    facts = ADDRESSES | {"all_ipv6_addresses": ["fe80::1"], "default_ipv6": {}}
    assert list(probed(facts)) == ["IPv4"]


def outside(**probe: Any) -> tuple[bool, bool, str]:
    """What is told of one probe by IPv6: whether it is right, whether it was asked, what was found."""
    told = {"source": "2001:db8::100", "tried": 9, "not_tried": [], "unexpected": [], "promised": [22]} | probe
    family = {"name": "IPv6", "own": "2001:db8::11", "addresses": ["2001:db8::11"], "routed": []}
    results = [{"item": ["desk", family], **{key: value for key, value in told.items() if value != "left out"}}]
    result = evaluated("__firewall_outside_results", variables(__firewall_probes={"results": results}))[0]
    assert result["check"] == "From desk, nothing is open by IPv6 but what the rules say"
    return bool(result["ok"]), bool(result["asked"]), result["found"]


SSH, ENGINE = "[2001:db8::11]:22", "[2001:db8::11]:11434"


@pytest.mark.parametrize(
    ("probe", "verdict", "part"),
    [
        ({"open": [SSH]}, (True, True), f"open: {SSH}"),
        ({"open": [SSH, ENGINE], "unexpected": [ENGINE]}, (False, True), f"{ENGINE} open, and no rule says so"),
        ({"open": []}, (False, True), "not even SSH"),
        ({"open": [], "promised": []}, (True, False), "no rule opens one to it"),
        ({"open": [ENGINE], "unexpected": [ENGINE], "promised": []}, (False, True), f"{ENGINE} open, and no rule"),
        ({"open": [], "source": None}, (True, False), "no way to 2001:db8::11"),
        ({"open": "left out", "source": "left out", "msg": "no route to host"}, (False, True), "no route to host"),
    ],
)
def test_what_a_vantage_point_found_is_judged(probe: dict[str, Any], verdict: tuple[bool, bool], part: str) -> None:
    *judged, found = outside(**probe)
    assert tuple(judged) == verdict, found
    assert part in found
