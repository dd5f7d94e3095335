"""A host at a site as they are: behind a proxy, with a mirror, an authority and two networks of its own."""

from __future__ import annotations

import json

import docker
import pytest
import testinfra
from conftest import FLEET

BOX = FLEET.hosts[0]


@pytest.fixture(scope="module")
def box(gateway) -> testinfra.host.Host:
    return gateway.host


@pytest.fixture(scope="module")
def proxy() -> dict[str, str]:
    """The site's proxy: its URL, and the password in it."""
    url = (FLEET.state / "proxy_url").read_text(encoding="utf-8")
    return {"url": url, "password": url.split(":")[2].partition("@")[0]}


def test_everything_came_through_the_proxy(box, neighbour) -> None:
    assert "archive" not in box.check_output("ip route show default")
    # Its networks lead nowhere but to each other.
    client = docker.from_env()
    networks = client.containers.get(BOX.name).attrs["NetworkSettings"]["Networks"]
    assert len(networks) == 2
    assert all(client.networks.get(name).attrs["Internal"] for name in networks)
    log = neighbour.check_output("cat /var/log/tinyproxy/tinyproxy.log")
    assert "CONNECT mirror.site.test:443" in log
    # The mirror's certificate is the site's authority's, and apt believes it.
    sources = box.check_output("apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages'").split()
    assert {*sources} == {"https://mirror.site.test/debian/", "https://mirror.site.test/debian-security/"}
    assert box.run("apt-get update --error-on=any").rc == 0


def test_password_of_the_proxy_is_roots_alone(box, proxy: dict) -> None:
    holders = box.check_output("grep -rlF %s /etc /opt /var/lib/onprem-llm /home", proxy["password"]).split()
    assert sorted(holders) == [
        "/etc/apt/auth.conf.d/onprem-llm-proxy.conf",
        "/etc/onprem-llm/docker-proxy.env",
        "/etc/onprem-llm/engine-proxy.env",
    ]
    for holder in holders:
        assert (box.file(holder).user, box.file(holder).mode) == ("root", 0o600)
    # What anybody on the host may ask.
    shown = box.check_output("su debian -c 'apt-config dump; systemctl show docker; ps -ef'")
    assert "10.78.3.100:3128" in shown
    assert proxy["password"] not in shown
    assert proxy["password"] not in box.check_output("journalctl --no-pager")


def test_docker_and_the_engine_know_the_proxy(box, proxy: dict) -> None:
    info = json.loads(box.check_output("docker info --format %s", "{{json .}}"))
    assert info["HttpsProxy"].endswith("@10.78.3.100:3128")
    assert "172.30.250.0/28" in info["NoProxy"].split(",")
    engine = json.loads(box.check_output("docker container inspect onprem-llm-ollama"))[0]
    environment = dict(entry.split("=", 1) for entry in engine["Config"]["Env"])
    assert environment["HTTPS_PROXY"] == proxy["url"]
    assert "HTTP_PROXY" not in environment
    assert {"localhost", "127.0.0.0/8", "::1", ".internal", "site-box1", "10.78.3.11"} <= {
        *environment["NO_PROXY"].split(",")
    }


def test_docker_pulls_by_way_of_the_proxy_and_trusts_the_authority(box, neighbour) -> None:
    log = "cat /var/log/tinyproxy/tinyproxy.log"
    before = neighbour.check_output(log).count("CONNECT mirror.site.test:443")
    # The neighbour's mirror holds no images and answers 404 itself; to be told so is to have got there.
    refused = box.run("docker pull mirror.site.test/no/image:1")
    assert refused.rc != 0
    assert "x509" not in refused.stderr
    assert "404" in refused.stderr or "not found" in refused.stderr, refused.stderr
    assert neighbour.check_output(log).count("CONNECT mirror.site.test:443") > before


def test_engine_pulls_from_the_sites_registry_by_way_of_the_proxy(gateway, neighbour) -> None:
    """The box has no way to the mirror, and no certificate of a public authority is the mirror's."""
    model = json.loads((FLEET.state / "registry" / "model.json").read_text(encoding="utf-8"))
    asked = neighbour.check_output("cat /var/log/nginx/access.log").splitlines()
    blob = f"GET /v2/library/site-search/blobs/{model['digest']} "
    assert [line for line in asked if blob in line and line.startswith("127.0.0.1 ") and "ollama/" in line]
    installed = {item["name"]: item["digest"] for item in gateway.api("/api/tags")["models"]}
    assert model["name"] in installed
    assert gateway.host.file(f"/var/lib/onprem-llm/ollama/models/blobs/{model['digest'].replace(':', '-')}").exists
    engine = json.loads(gateway.host.check_output("docker container inspect onprem-llm-ollama"))[0]
    assert list(engine["NetworkSettings"]["Networks"]) == ["onprem-llm"], "its way out is gone again"


def test_engine_has_the_sites_authority(box) -> None:
    box.check_output(
        "docker exec onprem-llm-ollama sh -c %s",
        'for d in $(echo $SSL_CERT_DIR | tr : " "); do ls $d; done | grep -q onprem-llm-site-ca.crt',
    )


def test_addresses_are_the_fleets_and_not_the_default_routes(box) -> None:
    assert "eth1" in box.check_output("ip route show default")
    certificate = box.check_output("openssl x509 -in /etc/onprem-llm/pki/gateway.crt -noout -ext subjectAltName")
    assert "FD78:3:0:0:0:0:0:11" in certificate
    assert "10.78.3." not in certificate
