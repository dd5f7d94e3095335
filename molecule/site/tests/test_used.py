"""A used host: what others had on it works as before, and nothing of theirs was lost on the way."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from by_name import NAME, ask, tls

from tests.plays import play

SCENARIO = Path(__file__).parents[1]
STORES = ("/usr/share/ollama/.ollama/models", "/var/lib/onprem-llm/ollama/models")
READ = """
import sys, urllib.request
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5).read().decode(), end="")
"""
# What the first rule in DOCKER-USER says; theirs comes after it.
OURS = "-j ONPREM-LLM"


@pytest.fixture(scope="session")
def box(gateway):
    return gateway.host


@pytest.fixture(scope="session")
def before() -> dict:
    """The host before the collection came."""
    return json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "before.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["shop.example.internal", "a.name.that.nobody.has"])
def test_the_shop_answers_for_its_name_and_for_unknown_ones(gateway, box, name: str) -> None:
    connection, certificate = tls(gateway.address, name)
    assert certificate.split() == box.check_output("cat /etc/ssl/shop/shop.crt").split()
    assert ask(connection, "GET", "/", name)[:2] == (200, "shop: front\n")


def test_the_gateway_answers_for_its_own_name_beside_it(gateway, ca_file: str, secrets: dict) -> None:
    key = {"Authorization": f"Bearer {secrets['users']['app']['api_key']}", "Content-Type": "application/json"}
    body = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "One, two,"}], "max_tokens": 4}
    connection, _ = tls(gateway.address, NAME, ca_file)
    assert ask(connection, "POST", "/v1/chat/completions", NAME, body).status == 401
    connection, _ = tls(gateway.address, NAME, ca_file)
    answer = ask(connection, "POST", "/v1/chat/completions", NAME, body, **key)
    assert answer.status == 200, answer
    assert json.loads(answer.content)["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("port", "answer"), [(80, "shop: plain"), (8080, "shop: office"), (8088, "shop: cart"), (9100, "node_uname_info")]
)
def test_a_neighbour_reaches_what_it_reached(gateway, neighbour, port: int, answer: str) -> None:
    assert answer in neighbour.check_output(
        "python3 -c %s %s", READ, f"http://{gateway.address}:{port}/{'metrics' * (port == 9100)}"
    )


def test_the_shops_container_was_never_stopped(box, before: dict) -> None:
    form = "{{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.RestartCount}}"
    assert box.check_output("docker inspect --format %s shop-cart", form).split() == before["container /shop-cart"]


def test_files_of_others_are_as_they_were(box, before: dict) -> None:
    """All but the few that a collection has to write into; of those, the blocks of theirs."""
    now = json.loads(box.check_output("python3 -c %s", (SCENARIO / "snapshot.py").read_text(encoding="utf-8")))
    files = {path: about for path, about in before.items() if path.startswith("file ")}
    changed = sorted(path.removeprefix("file ") for path in files if now.get(path) != files[path])
    assert changed == CHANGED


# apt's sources make way for the site's mirror, and its authority is believed; daemon.json is merged, UFW's files have
# blocks and rules of ours, Ollama's unit does not start at boot, and there is a user more, the engine's.
CHANGED = [
    "/etc/apt/sources.list",
    "/etc/default/ufw",
    "/etc/docker/daemon.json",
    *(f"/etc/{name}" for name in ("group", "group-", "gshadow", "gshadow-", "passwd", "passwd-", "shadow", "shadow-")),
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/systemd/system/default.target.wants",
    "/etc/systemd/system/default.target.wants/ollama.service",
    *(f"/etc/ufw/{name}" for name in ("after.init", "after.rules", "after6.rules", "user.rules", "user6.rules")),
]


def test_daemon_json_keeps_their_keys(box) -> None:
    merged = json.loads(box.file("/etc/docker/daemon.json").content_string)
    assert merged["insecure-registries"] == ["registry.shop.internal:5000"]
    assert merged["labels"] == ["owner=shop"]
    assert merged["log-opts"]["labels"] == "shop"
    assert merged["live-restore"] is True
    found = box.file("/etc/onprem-llm/docker_daemon.found")
    assert found.content == (SCENARIO / "files/host/etc/docker/daemon.json").read_bytes()


def test_rules_of_others_in_ufw_are_as_they_were(box, before: dict) -> None:
    theirs = [line for line in before["rules of ufw"] if line.startswith("ufw ")]
    now = box.check_output("ufw show added").splitlines()
    assert [line for line in now if line in theirs] == theirs
    # The limit for SSH serves in place of a rule of ours that would lift it.
    assert "ufw limit 22/tcp comment 'admins, slowly'" in theirs
    assert not [line for line in now if "onprem.llm ssh" in line]


def rules(box, tool: str) -> list[str]:
    return box.check_output("%s -S DOCKER-USER", tool).splitlines()[1:]


def assert_rules_in_docker_user(box) -> None:
    first, *rest = rules(box, "iptables")
    assert OURS in first
    assert not [rule for rule in rest if OURS in rule]
    assert len([rule for rule in rest if "10.78.3.77" in rule]) == 1
    assert len([rule for rule in rules(box, "ip6tables") if OURS in rule]) == 1
    chain = box.check_output("iptables -S ONPREM-LLM").splitlines()[1:]
    # Replies, what leaves by two interfaces, the shop's port, what comes from two kinds of Docker's bridges; the rest
    # is dropped.
    assert len(chain) == len(set(chain)) == 7
    assert chain[-1].endswith("-j DROP")


def test_rules_for_containers_outlive_reloads_and_restarts(box) -> None:
    assert_rules_in_docker_user(box)
    for command in ("ufw reload", "ufw reload", "systemctl restart docker", "ufw reload"):
        box.check_output(command)
        assert_rules_in_docker_user(box)


def test_rules_for_containers_outlive_who_empties_the_chain(box) -> None:
    """As other scripts for UFW and Docker do on their reloads."""
    theirs = rules(box, "iptables")[1:]
    box.check_output("iptables -F DOCKER-USER")
    box.check_output("ufw reload")
    assert [OURS in rule for rule in rules(box, "iptables")] == [True]
    for rule in theirs:
        box.check_output(f"iptables {rule}")
    assert_rules_in_docker_user(box)


def test_their_ollama_is_stopped_and_its_models_moved_in(gateway, box, before: dict) -> None:
    assert not box.service("ollama").is_running
    assert not box.service("ollama").is_enabled
    names = {model["name"] for model in gateway.api("/api/tags")["models"]}
    assert {"gemma3:270m", "shop-search:1"} <= names
    store, own = STORES
    linked = 0
    for path in (key.removeprefix("file ") for key in before if re.search("models/blobs/sha256-", key)):
        name = Path(path).name
        assert name == f"sha256-{before[f'file {path}'][0]}"
        linked += box.check_output("stat -c %%i %s/blobs/%s", store, name) == box.check_output(
            "stat -c %%i %s/blobs/%s", own, name
        )
    assert linked >= 3


def test_what_was_adopted_cannot_be_written_by_the_engine(box) -> None:
    assert box.check_output("find %s/blobs -type f -links +1 -user onprem-ollama", STORES[1]) == ""
    assert box.check_output("find %s/blobs -type f -links +1 -perm /022", STORES[1]) == ""


def test_the_exporter_keeps_its_flags(box) -> None:
    flags = box.check_output("pgrep --full --list-full prometheus-node-exporter")
    assert "--no-collector.wifi --collector.processes" in flags
    assert not box.file("/etc/systemd/system/prometheus-node-exporter.service.d").exists


# What an operator could want of this host and cannot have, and what is said of it.
FAULTS = {
    "ollama_existing": "refuse",
    "monitoring_exporter_port": 8088,
    "firewall_container_ports": [],
    "firewall_ssh_port": 2222,
    "gateway_port": 8080,
    "gateway_ip_addresses": ["10.78.3.11"],
}
SAID = [
    "ollama_existing is refuse, and this host has an Ollama of its own: the unit ollama.service (stopped, does not",
    "/usr/local/bin/ollama, 2 models in /usr/share/ollama/.ollama/models. It would compete",
    "monitoring_exporter_port is 8088, and docker-proxy listens there: give a port that is free, such as 8089.",
    "the node exporter that was there before and keeps its own settings listens on *:9100: give its port",
    "firewall_container_ports lacks 8088, which the container shop-cart publishes",
    "UFW on site-box1 has a rule of others that shuts what this role must open: deny 2222/tcp from any.",
    "gateway_port: 8080 on 0.0.0.0 cannot be had: the site in /etc/nginx/sites-enabled/shop has port 8080 without TLS",
    "gateway_http_port: 80 on 0.0.0.0 cannot be had: the site in /etc/nginx/sites-enabled/shop is the default there",
]


def test_what_cannot_be_had_beside_others_is_told_at_once(box) -> None:
    box.check_output("ufw deny 2222/tcp")
    try:
        refused = play("preflight.yml", f"--extra-vars={json.dumps(FAULTS)}")
    finally:
        box.check_output("ufw delete deny 2222/tcp")
    assert refused.returncode != 0
    said = " ".join(refused.stdout.split())
    assert [sentence for sentence in SAID if sentence not in said] == []
    assert "changed=0" in said
