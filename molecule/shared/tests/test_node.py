"""Each node runs what its plan says, shut in, and nobody but a gateway reaches it."""

from __future__ import annotations

import base64
import json
import time

import pytest
from conftest import ADDRESSES, ENGINE_ADDRESS, INVENTORY, SITE

PORTS_TRIED = (
    22,
    53,
    80,
    111,
    443,
    2375,
    2376,
    3000,
    5000,
    8000,
    8080,
    8443,
    9090,
    9100,
    9115,
    9400,
    9835,
    11434,
    11435,
    18080,
)
# All at once: a port that a firewall drops answers nothing, and is waited for to the end.
CONNECT = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def answers(target):
    with socket.socket() as s:
        s.settimeout(1.5)
        return s.connect_ex(target) == 0
targets = [(address, int(port)) for address in sys.argv[1].split(",") for port in sys.argv[2].split(",")]
with ThreadPoolExecutor(len(targets)) as pool:
    print(*(f"{a}:{p}" for (a, p), open in zip(targets, pool.map(answers, targets)) if open))
"""


# The last of the ports above: nobody's own.
PUBLISHED = 18080


def open_ports(host, *addresses: str, prefix: str = "") -> dict[str, set[int]]:
    """By address, which ports accept a connection from a host, or from where a prefix such as nsenter leads."""
    ports = ",".join(str(port) for port in PORTS_TRIED)
    found: dict[str, set[int]] = {address: set() for address in addresses}
    for target in host.check_output(f"{prefix} python3 -c %s %s %s", CONNECT, ",".join(addresses), ports).split():
        address, port = target.split(":")
        found[address].add(int(port))
    return found


def container(node) -> dict:
    name = node.host.check_output("docker ps --quiet --filter name=^onprem-llm-ollama$")
    return json.loads(node.host.check_output("docker inspect %s", name))[0]


def test_plan_has_every_workload_and_stays_in_its_budget(node) -> None:
    assert {model["use"] for model in node.models} == {"chat", "embedding"}
    for model in node.models:
        account = model["account"]
        assert 0 < account["weights_bytes"] < account["total_bytes"] <= account["budget_bytes"]
        assert bool(model["gpus"]) == node.has_gpu


@pytest.mark.contract(3)
def test_engine_runs_the_pinned_image_unprivileged(node, supplies: dict) -> None:
    engine = container(node)
    assert engine["Image"] == supplies["engine"]["image_id"]
    assert engine["State"]["Health"]["Status"] == "healthy"
    assert engine["Config"]["User"].split(":")[0] not in ("", "0", "root")
    host = engine["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not host["Privileged"]
    assert not any(engine["NetworkSettings"]["Ports"].values() if engine["NetworkSettings"]["Ports"] else [])


@pytest.mark.contract(7)
def test_engine_has_no_way_out(node) -> None:
    engine = container(node)
    routes = node.host.file(f"/proc/{engine['State']['Pid']}/net/route").content_string.splitlines()[1:]
    assert routes
    assert not [route for route in routes if route.split()[1] == "00000000"]
    inside = f"nsenter --target {engine['State']['Pid']} --net"
    # Its host's own side of the network is in reach without a route, and UFW lets everybody in to SSH.
    own_sides = [network["Gateway"] for network in engine["NetworkSettings"]["Networks"].values() if network["Gateway"]]
    own_sides += [node.host.check_output("ip -4 route get %s", ENGINE_ADDRESS).split(" src ")[1].split()[0]]
    assert not any(open_ports(node.host, *own_sides, prefix=inside).values())
    assert all(open_ports(node.host, *ADDRESSES.values()).values()), "what the host cannot reach proves nothing"
    assert not any(open_ports(node.host, *ADDRESSES.values(), prefix=inside).values())


def test_every_planned_model_is_loaded_and_stays(node) -> None:
    loaded = {model["name"]: model for model in node.api("/api/ps")["models"]}
    for model in node.models:
        assert model["name"] in loaded
        assert int(loaded[model["name"]]["expires_at"][:4]) > 2100


def test_derived_models_answer_by_their_own_texts_in_the_memory_of_their_base(node) -> None:
    derived = json.loads(node.host.check_output("/etc/ansible/facts.d/onprem_llm.fact"))["release"]["derived"]
    before = {model["name"] for model in node.api("/api/ps")["models"]}
    for name, base in derived.items():
        asked = {"messages": [{"role": "user", "content": "a"}], "stream": False, "options": {"num_predict": 1}}
        counts = [node.api("/api/chat", {"model": one, **asked})["prompt_eval_count"] for one in (name, base)]
        assert counts[0] > counts[1], f"{name} has a system message, {base} has none"
    assert {model["name"] for model in node.api("/api/ps")["models"]} == before


@pytest.mark.contract(6)
def test_models_sit_where_the_plan_says(node, supplies: dict) -> None:
    for model in node.api("/api/ps")["models"]:
        if not node.has_gpu:
            assert model["size_vram"] == 0
        elif supplies["engine"]["gpu_proof"] == "required":
            assert model["size_vram"] == model["size"] > 0


@pytest.mark.contract(9)
def test_release_and_plan_are_a_local_fact(node) -> None:
    fact = json.loads(node.host.check_output("/etc/ansible/facts.d/onprem_llm.fact"))
    assert fact["plan"] == node.plan
    engine = node.api("/api/version")["version"]
    assert engine in json.dumps(fact["release"])
    for model in node.models:
        source = model["source"]
        assert (source.get("sha256") or source["digest"])[-64:] in json.dumps(fact["release"])


def test_deep_health_tells_the_truth(node, supplies: dict) -> None:
    timer = node.host.check_output("systemctl list-timers --all --no-legend")
    unit = next(word for word in timer.split() if word.startswith("onprem-llm") and word.endswith(".service"))
    node.host.check_output("systemctl start %s", unit)
    last = json.loads(node.host.check_output("tail -n 1 /var/log/ollama/health_check.log"))
    # A CPU build of the engine serves, and not from the GPU that the plan names.
    lost = node.has_gpu and supplies["engine"]["gpu_proof"] == "report"
    assert last["status"] == ("degraded" if lost else "healthy"), last
    assert last["duration_ms"] > 0


@pytest.mark.contract(7)
def test_node_exporter_is_not_published(node) -> None:
    listening = node.host.check_output("ss --no-header --listening --tcp --numeric")
    exporter = [line.split()[3] for line in listening.splitlines() if line.split()[3].endswith(":9100")]
    # Where somebody is there to listen the firewall lets nobody else in. One that others had before keeps its address.
    address = node.address if INVENTORY["all"]["children"].get("monitoring_servers") else "127.0.0.1"
    assert exporter == [SITE.get("used_exporter", f"{address}:9100")]


@pytest.mark.contract(7)
def test_neighbour_meets_ssh_and_the_gateway_alone(managed, gateway, neighbour) -> None:
    expected = {22, 80, 443} if managed.name == gateway.name else {22}
    assert open_ports(neighbour, managed.address)[managed.address] == expected | set(SITE.get("used_ports", []))


@pytest.mark.contract(7)
def test_neighbour_reaches_no_container_by_port_nor_by_route(node, neighbour, supplies: dict) -> None:
    image = supplies["engine"]["image_id"]
    # Somebody else's container beside the engine, which publishes a port.
    node.host.check_output("docker run --detach --name published --publish %s:11434 %s", str(PUBLISHED), image)
    try:
        published = json.loads(node.host.check_output("docker inspect published"))[0]
        networks = [n for each in (container(node), published) for n in each["NetworkSettings"]["Networks"].values()]
        containers = [network["IPAddress"] for network in networks]
        own_sides = [network["Gateway"] for network in networks if network["Gateway"]]
        deadline = time.monotonic() + 10
        while not all(
            ports & {PUBLISHED, 11434} for ports in open_ports(node.host, node.address, *containers).values()
        ):
            assert time.monotonic() < deadline, "what its own host does not reach proves nothing"
        routed = [*containers, *own_sides]
        for address in routed:
            neighbour.check_output("ip route replace %s via %s", f"{address}/32", node.address)
        try:
            found = open_ports(neighbour, node.address, *routed)
        finally:
            for address in routed:
                neighbour.check_output("ip route del %s", f"{address}/32")
        assert PUBLISHED not in found[node.address]
        assert [found[address] for address in containers] == [set()] * len(containers)
        # The host's own side of a network answers what its other addresses answer, SSH and the gateway.
        assert all(found[address] <= found[node.address] for address in own_sides)
    finally:
        node.host.check_output("docker rm --force published")


@pytest.mark.contract(8)
def test_no_secret_lies_about(managed, secrets: dict) -> None:
    texts = [secrets["pki_ca_passphrase"]]
    texts += [user[key] for user in secrets["users"].values() for key in ("api_key", "password")]
    # Encoded, or the search would find its own command line.
    patterns = base64.b64encode("\n".join(texts).encode()).decode()
    places = "/etc /opt /var/log /var/lib/onprem-llm /home /root /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    found = managed.host.run(f"echo {patterns} | base64 -d | grep -rlF -f - {places}")
    assert found.rc in (1, 2), found.stderr
    assert found.stdout == ""


@pytest.mark.contract(8)
@pytest.mark.parametrize("path", ["/etc/onprem-llm/pki"])
def test_keys_are_not_world_readable(managed, path: str) -> None:
    if managed.host.file(path).exists:
        assert managed.host.check_output("find %s -name '*.key' -perm /007", path) == ""
