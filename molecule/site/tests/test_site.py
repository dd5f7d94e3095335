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
    ]
    for holder in holders:
        assert (box.file(holder).user, box.file(holder).mode) == ("root", 0o600)
    # What anybody on the host may ask.
    shown = box.check_output("su debian -c 'apt-config dump; systemctl show docker; ps -ef'")
    assert "10.78.3.100:3128" in shown
    assert proxy["password"] not in shown
    assert proxy["password"] not in box.check_output("journalctl --no-pager")


def test_docker_knows_the_proxy_and_the_engine_does_not(box) -> None:
    info = json.loads(box.check_output("docker info --format %s", "{{json .}}"))
    assert info["HttpsProxy"].endswith("@10.78.3.100:3128")
    direct = {"172.30.250.0/28", "localhost", "127.0.0.0/8", "::1", ".internal", "site-box1", "10.78.3.11"}
    assert direct <= {*info["NoProxy"].split(",")}
    engine = json.loads(box.check_output("docker container inspect onprem-llm-ollama"))[0]
    names = {entry.split("=", 1)[0].upper() for entry in engine["Config"]["Env"]}
    assert not names & {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR"}
    assert [mount["Destination"] for mount in engine["Mounts"]] == ["/var/lib/ollama"]
    assert list(engine["NetworkSettings"]["Networks"]) == ["onprem-llm"]


def test_docker_pulls_by_way_of_the_proxy_and_trusts_the_authority(box, neighbour) -> None:
    log = "cat /var/log/tinyproxy/tinyproxy.log"
    before = neighbour.check_output(log).count("CONNECT mirror.site.test:443")
    # The neighbour's mirror holds no images and answers 404 itself; to be told so is to have got there.
    refused = box.run("docker pull mirror.site.test/no/image:1")
    assert refused.rc != 0
    assert "x509" not in refused.stderr
    assert "404" in refused.stderr or "not found" in refused.stderr, refused.stderr
    assert neighbour.check_output(log).count("CONNECT mirror.site.test:443") > before


def test_model_came_from_the_sites_registry_by_way_of_the_proxy(gateway, neighbour) -> None:
    """The box has no way to the mirror, whose certificate is of no public authority, and which asks for a login."""
    model = json.loads((FLEET.state / "registry" / "model.json").read_text(encoding="utf-8"))
    asked = neighbour.check_output("cat /var/log/nginx/access.log").splitlines()
    blob = f"GET /v2/library/site-search/blobs/{model['digest']} "
    came = [line for line in asked if blob in line and '" 206 ' in line]
    assert came
    for line in came:
        assert line.startswith("127.0.0.1 - fleet ")
        assert '"onprem.llm"' in line
    installed = {item["name"]: item["digest"] for item in gateway.api("/api/tags")["models"]}
    assert model["name"] in installed
    blob_file = gateway.host.file(f"/var/lib/onprem-llm/ollama/models/blobs/{model['digest'].replace(':', '-')}")
    assert (blob_file.user, blob_file.group, blob_file.mode) == ("onprem-ollama", "onprem-ollama", 0o640)
    manifest = gateway.host.file("/var/lib/onprem-llm/ollama/models/manifests/registry.ollama.ai/library/site-search/1")
    kept = (FLEET.state / "registry/v2/library/site-search/manifests/1").read_text(encoding="utf-8")
    assert manifest.content_string == kept, "byte by byte"
    staging = gateway.host.file("/var/lib/onprem-llm/ollama/staging")
    assert (staging.user, staging.mode, staging.listdir()) == ("root", 0o700, [])


def test_password_of_the_registry_is_nowhere(box) -> None:
    password = (FLEET.state / "registry_password").read_text(encoding="utf-8")
    assert box.run("grep -rlF %s /etc /opt /var/lib/onprem-llm /home", password).stdout == ""
    assert password not in box.check_output("journalctl --no-pager")


def test_addresses_are_the_fleets_and_not_the_default_routes(box) -> None:
    assert "eth1" in box.check_output("ip route show default")
    certificate = box.check_output("openssl x509 -in /etc/onprem-llm/pki/gateway.crt -noout -ext subjectAltName")
    assert "FD78:3:0:0:0:0:0:11" in certificate
    assert "10.78.3." not in certificate
