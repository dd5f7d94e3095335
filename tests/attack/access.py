"""access.json: how the fleet is reached. What it names must be containers of this machine."""

from __future__ import annotations

import ipaddress
import json
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors


class AccessError(Exception):
    """The file cannot be used; the message says which field, and what would be right."""


@dataclass(frozen=True)
class User:
    """``models``: those that it may use, None for all. ``rights``: of raw, template and system, those it has."""

    name: str
    role: str
    api_key: str
    password: str = ""
    models: tuple[str, ...] | None = None
    rights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A host of the fleet. ``engine``: address and port of its engine, as it sees it itself; None on a gateway alone.
    ``ports``: those that its firewall opens to anybody, besides SSH and a gateway's own."""

    name: str
    container: str
    addresses: tuple[str, ...]
    engine: tuple[str, int] | None = None
    gateway: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Access:
    """Where the file's fields are explained: docs/attack.md."""

    gateway: tuple[str, int]
    ca_file: str
    users: dict[str, User]
    model: str
    machines: dict[str, Machine]
    outside: str
    models: tuple[str, ...] = ()
    # Keys that were valid once: expired, revoked, disabled.
    dead_keys: dict[str, str] = field(default_factory=dict)
    admin_api: bool = False
    names: tuple[str, ...] = ()
    http_port: int = 80
    body_max_bytes: int = 32 * 2**20

    @property
    def gateway_machine(self) -> Machine:
        return next(machine for machine in self.machines.values() if self.gateway[0] in machine.addresses)

    @property
    def secrets(self) -> dict[str, str]:
        """Name → secret: every key and password."""
        found = {f"dead key ({state})": key for state, key in self.dead_keys.items()}
        for user in self.users.values():
            found[f"key of {user.name}"] = user.api_key
            found |= {f"password of {user.name}": user.password} if user.password else {}
        return found


def load(path: Path) -> Access:
    """:raises AccessError: a field is missing or is of no use."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AccessError(f"{path} does not exist; `make demo` writes .demo/access.json") from None
    except ValueError as error:
        raise AccessError(f"{path} is no JSON: {error}") from None
    try:
        access = understand(data)
    except KeyError as error:
        raise AccessError(f"{path}: the field {error} is missing") from None
    if not any(user.role == "user" for user in access.users.values()):
        raise AccessError(f"{path}: users has nobody of the role user")
    if access.gateway[0] not in {address for machine in access.machines.values() for address in machine.addresses}:
        raise AccessError(f"{path}: gateway_url leads to {access.gateway[0]}, which is no address of a gateway listed")
    return access


def understand(data: dict) -> Access:
    url = urllib.parse.urlsplit(data["gateway_url"])
    if url.scheme != "https" or not url.hostname:
        raise AccessError(f"gateway_url is {data['gateway_url']!r}; it has to be https://<address>[:<port>]")
    machines: dict[str, Machine] = {}
    for group in ("nodes", "gateways"):
        for name, host in data[group].items():
            known = machines.get(name)
            addresses = [host["address"], *host.get("more_addresses", [])]
            engine = (host["engine_address"], int(host.get("engine_port", 11434))) if group == "nodes" else None
            machines[name] = Machine(
                name,
                host["container"],
                tuple(dict.fromkeys([*(known.addresses if known else ()), *addresses])),
                known.engine if known else engine,
                group == "gateways",
                tuple(host.get("open_ports", ())),
            )
    users = {
        name: User(
            name,
            user["role"],
            user["api_key"],
            user.get("password", ""),
            tuple(user["models"]) if user.get("models") is not None else None,
            tuple(user.get("rights", ())),
        )
        for name, user in data["users"].items()
    }
    return Access(
        (url.hostname, url.port or 443),
        data["ca_file"],
        users,
        data["model"],
        machines,
        data["outside"],
        tuple(data.get("models", ())),
        dict(data.get("dead_keys", {})),
        bool(data.get("admin_api", False)),
        tuple(data.get("names", ())),
        int(data.get("http_port", 80)),
        int(data.get("body_max_mib", 32)) * 2**20,
    )


def require_local_containers(access: Access, client: docker.DockerClient) -> int:
    """See that every address belongs to the running local container that the file names for it, and give the process
    ID of the neighbour's first process. Attacks on anything else are nobody's business here.

    :raises AccessError: says which does not.
    """
    for machine in access.machines.values():
        present = container_addresses(client, machine.container)
        for address in machine.addresses:
            if str(ipaddress.ip_address(address)) not in present:
                raise AccessError(
                    f"{machine.name}: {address} is no address of the local container {machine.container} (it has "
                    f"{', '.join(sorted(present)) or 'none'}); attacks go to containers of this machine alone"
                )
    container_addresses(client, access.outside)
    managed = {machine.container for machine in access.machines.values()}
    if access.outside in managed:
        raise AccessError(f"outside is {access.outside}, a host of the fleet; it has to be a neighbour nobody manages")
    return int(client.containers.get(access.outside).attrs["State"]["Pid"])


def container_addresses(client: docker.DockerClient, name: str) -> set[str]:
    try:
        container = client.containers.get(name)
    except docker.errors.NotFound:
        raise AccessError(f"there is no container {name} on this machine") from None
    if container.status != "running":
        raise AccessError(f"the container {name} does not run")
    networks = container.attrs["NetworkSettings"]["Networks"].values()
    found = {network.get(key) for network in networks for key in ("IPAddress", "GlobalIPv6Address")}
    return {str(ipaddress.ip_address(address)) for address in found if address}
