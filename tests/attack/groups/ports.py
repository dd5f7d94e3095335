"""Every TCP port of every host, by each way that leads there.

What may be open to anybody: SSH, on gateways the gateway and its redirect, and what access.json says. A host whose SSH
is not found open proves nothing: perhaps the way to it is not there.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable

from tests.attack import scan
from tests.attack.access import Machine
from tests.attack.model import Attack, NotTried, Verdict
from tests.attack.position import Position

SSH = 22
EVERY = range(1, 65536)
# What engines, their runners and exporters listen on somewhere; those that this host listens on come on top.
KNOWN = {
    *range(1, 1025),
    2375,
    2376,
    3000,
    4000,
    5000,
    5432,
    6379,
    *range(8000, 8100),
    *range(8440, 8450),
    8888,
    *range(9090, 9120),
    9323,
    9400,
    9835,
    11434,
    11435,
}
# Run on a host: its own addresses, those of its containers, and ports on which anything listens.
LOOK = """
import json, subprocess
def lines(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""
links = json.loads(lines("ip", "-json", "address") or "[]")
own = [a["local"] for link in links for a in link["addr_info"] if a["scope"] == "global"]
names = lines("docker", "ps", "-q").split()
details = json.loads(lines("docker", "inspect", *names) or "[]") if names else []
networks = [n for c in details for n in c["NetworkSettings"]["Networks"].values()]
containers = [a for n in networks for a in (n.get("IPAddress"), n.get("GlobalIPv6Address")) if a]
ports = [int(line.split()[3].rpartition(":")[2]) for line in lines("ss", "-Hltn").splitlines()]
exposed = [p.split("/") for c in details for p in c["Config"].get("ExposedPorts") or {}]
exposed = [int(port) for port, protocol in exposed if protocol == "tcp"]
print(json.dumps({"own": own, "containers": containers, "ports": ports + exposed}))
"""


def expected(position: Position, machine: Machine) -> set[int]:
    ports = {SSH, *machine.ports}
    return ports | {position.access.gateway[1], position.access.http_port} if machine.gateway else ports


def judge(position: Position, machine: Machine, found: list[tuple[str, int]], tried: int, control: bool) -> Verdict:
    allowed = expected(position, machine)
    surplus = [f"{address}:{port}" for address, port in found if port not in allowed]
    opened = sorted({port for _address, port in found})
    seen = f"{tried} tried, open: {', '.join(map(str, opened)) or 'none'}"
    if surplus:
        return Verdict(False, f"{seen}; not to be open: {', '.join(surplus[:5])}")
    if control and SSH not in opened:
        return Verdict(False, f"{seen}; without SSH, the others prove nothing")
    return Verdict(True, seen)


def everything(name: str, version: int) -> Callable[[Position], Verdict]:
    def act(position: Position) -> Verdict:
        machine = position.access.machines[name]
        addresses = [a for a in machine.addresses if ipaddress.ip_address(a).version == version]
        if not addresses:
            raise NotTried(f"{name} has no IPv{version} address in access.json")
        found = scan.open_ports((address, port) for address in addresses for port in EVERY)
        return judge(position, machine, found, len(addresses) * len(EVERY), True)

    return act


def link_local(name: str) -> Callable[[Position], Verdict]:
    """IPv6 may be there without anybody having given an address: on the same wire, link-local ones do."""

    def act(position: Position) -> Verdict:
        machine = position.access.machines[name]
        links = json.loads(position.hosts[name].run(["ip", "-json", "-6", "address"]) or "[]")
        addresses = [
            a["local"]
            for link in links
            if link["ifname"] == "eth0"
            for a in link.get("addr_info", [])
            if a["scope"] == "link"
        ]
        if not addresses:
            raise NotTried(f"{name} has no link-local IPv6 address")
        found = scan.open_ports((f"{address}%eth0", port) for address in addresses for port in EVERY)
        return judge(position, machine, found, len(addresses) * len(EVERY), True)

    return act


def routed(name: str) -> Callable[[Position], Verdict]:
    """By a route of the neighbour's own through the host: its containers, and its addresses on other networks."""

    def act(position: Position) -> Verdict:
        machine = position.access.machines[name]
        look = json.loads(position.hosts[name].run(["python3", "-c", LOOK]))
        own = [a for a in look["own"] if a not in machine.addresses]
        ports = sorted(KNOWN | set(look["ports"]))
        found: list[tuple[str, int]] = []
        tried, unreached = [], []
        for address in [*own, *look["containers"]]:
            version = ipaddress.ip_address(address).version
            via = next((a for a in machine.addresses if ipaddress.ip_address(a).version == version), None)
            if via is None:
                unreached.append(address)
                continue
            with_route(position, address, via, lambda: found.extend(scan.open_ports((address, port) for port in ports)))  # noqa: B023
            tried.append(address)
        if not tried:
            raise NotTried(f"{name} has no other address and no container")
        allowed = expected(position, machine)
        surplus = [f"{a}:{port}" for a, port in found if a in look["containers"] or port not in allowed]
        # An address of the host itself that answers shows that the route leads there.
        reached = any(a in own for a, _port in found) or not own
        seen = f"{len(tried)} addresses, {len(ports)} ports each" + (
            f"; open: {', '.join(surplus[:5])}" if surplus else ""
        )
        return Verdict(not surplus, seen + ("" if reached else "; no address of the host's answers either"))

    return act


def with_route(position: Position, address: str, via: str, act: Callable[[], None]) -> None:
    family = "-6" if ":" in address else "-4"
    position.neighbour.run(["ip", family, "route", "add", address, "via", via])
    try:
        act()
    finally:
        position.neighbour.run(["ip", family, "route", "del", address, "via", via])


def attacks(machines: dict[str, Machine]) -> list[Attack]:
    """By host, as access.json lists them."""
    made = []
    for name in machines:
        made += [
            Attack(
                "ports", f"every port of {name}, IPv4", "1 to 65535", "SSH, on gateways 443 and 80", everything(name, 4)
            ),
            Attack(
                "ports", f"every port of {name}, IPv6", "1 to 65535", "SSH, on gateways 443 and 80", everything(name, 6)
            ),
            Attack(
                "ports",
                f"every port of {name}, link-local",
                "1 to 65535",
                "SSH, on gateways 443 and 80",
                link_local(name),
            ),
            Attack(
                "ports",
                f"{name} by route",
                "containers and other addresses, by a route through the host",
                "nothing but SSH",
                routed(name),
            ),
        ]
    return made


def engine(position: Position) -> Verdict:
    """The engine's API itself, by every address of every host."""
    targets = [
        (a, machine.engine[1])
        for machine in position.access.machines.values()
        if machine.engine
        for a in machine.addresses
    ]
    found = scan.open_ports([*targets, *((address, 11434) for address, _port in targets)])
    return Verdict(
        not found, f"open: {', '.join(f'{a}:{p}' for a, p in found)}" if found else f"{len(targets)} addresses, closed"
    )


def endpoint(position: Position) -> Verdict:
    """A node's endpoint, which the gateway alone may reach."""
    targets = [
        (a, port)
        for machine in position.access.machines.values()
        if machine.engine
        for a in machine.addresses
        for port in (8443, 8444)
    ]
    found = [t for t in scan.open_ports(targets) if t not in {position.access.gateway}]
    return Verdict(
        not found, f"open: {', '.join(f'{a}:{p}' for a, p in found)}" if found else f"{len(targets)} targets, closed"
    )


ATTACKS = [
    Attack("ports", "engine's own port", "11434 of every node", "closed", engine),
    Attack("ports", "endpoints of the nodes", "8443 and 8444 of every node", "closed to all but the gateway", endpoint),
]
