"""A site that came out of a bundle alone: it serves, and nothing of it came by another way."""

from __future__ import annotations

import json
import shlex

import pytest
from conftest import FLEET, SITE

from tests.demo.client import complete

UPSTREAM = json.loads((FLEET.state / "upstream.json").read_text(encoding="utf-8"))
RUNS = json.loads((FLEET.state / "runs.json").read_text(encoding="utf-8"))
MIRROR = "10.78.4.12:8444"
CONNECT = """
import socket, sys
try:
    socket.create_connection(("192.0.2.1", 443), 3)
except OSError as error:
    print(error.errno)
"""


def test_no_host_has_a_route_out(managed) -> None:
    assert managed.host.check_output("ip route show default") == ""
    assert managed.host.check_output("ip -6 route show default") == ""
    # ENETUNREACH: not refused somewhere, but nowhere to go.
    assert managed.host.check_output("python3 -c %s", CONNECT) == "101"


def test_upstream_sent_every_blob_once_and_a_second_time_none() -> None:
    first, second = RUNS
    weights = UPSTREAM["model"]["digest"].removeprefix("sha256:")
    assert first["sent"][weights] == UPSTREAM["model"]["size_bytes"]
    assert second["sent"] == {}
    assert second["changed"] == 0
    assert first["sha256"] == second["sha256"]
    assert first["tar"] == second["tar"]


def test_the_bundle_came_as_a_signed_tar_of_the_host_that_made_it(gateway) -> None:
    signers = (FLEET.state / "bundle.signers").read_text(encoding="utf-8")
    script = (
        'allowed=$(mktemp) && printf %s "$0" >"$allowed" && cd /srv/bundle && '
        'ssh-keygen -Y verify -f "$allowed" -I builder -n onprem-llm-bundle -s bundle.json.sig <bundle.json'
    )
    assert gateway.host.check_output(f"sh -c {shlex.quote(script)} {shlex.quote(signers)}").startswith("Good ")
    # nginx reads it.
    assert gateway.host.check_output("find /srv/bundle ! -user root -o -type f ! -perm 0644") == ""


def test_the_gateway_completes(gateway, ca_file: str, secrets: dict) -> None:
    key = secrets["users"]["app"]["api_key"]
    answer = complete(f"https://{gateway.address}", ca_file, key, UPSTREAM["model"]["name"], "the water", max_tokens=16)
    assert answer.tokens >= 8


def test_the_engine_runs_by_digest_from_the_mirror(node) -> None:
    engine = json.loads(node.host.check_output("docker container inspect onprem-llm-ollama"))[0]
    image = engine["Config"]["Image"]
    assert image.startswith(f"{MIRROR}/ollama/ollama:")
    assert image.endswith(f"@{UPSTREAM['image']}")
    digests = json.loads(node.host.check_output("docker image inspect %s", engine["Image"]))[0]["RepoDigests"]
    assert digests == [f"{MIRROR}/ollama/ollama@{UPSTREAM['image']}"]


def test_the_model_has_its_own_name_and_weights(node) -> None:
    names = {model["name"] for model in node.api("/api/tags")["models"]}
    assert names == {UPSTREAM["model"]["name"], "tiny-embedding:latest"}
    blob = UPSTREAM["model"]["digest"].replace(":", "-")
    path = f"/var/lib/onprem-llm/ollama/models/blobs/{blob}"
    assert node.host.check_output("sha256sum %s", path).split()[0] == blob.removeprefix("sha256-")


def test_packages_came_from_the_bundle(managed, gateway) -> None:
    name = "docker.io" if managed.name != gateway.name else "docker-registry"
    policy = managed.host.check_output("apt-cache policy %s", name)
    sources = [line.split()[1] for line in policy.splitlines() if "://" in line or " file:" in line]
    place = "file:/srv/bundle" if managed.name == gateway.name else f"https://{MIRROR}"
    assert sources == [f"{place}/apt/trixie"]
    there = managed.host.check_output("ls /etc/apt/sources.list.d").split()
    assert there == ["onprem-llm-mirror.sources"]
    listed = json.loads(gateway.host.file("/srv/bundle/bundle.json").content_string)["distributions"][0]["packages"]
    version = managed.host.check_output("dpkg-query --show --showformat='${Version}' %s", name)
    assert version == listed[name]


def test_packages_are_served_to_all_and_weights_to_nodes_alone(node) -> None:
    script = (
        "import ssl, sys, urllib.request, urllib.error\n"
        "context = ssl.create_default_context(cafile='/etc/onprem-llm/pki/ca.crt')\n"
        "try:\n"
        "    print(urllib.request.urlopen(sys.argv[1], context=context).status)\n"
        "except urllib.error.HTTPError as error:\n"
        "    print(error.code)\n"
    )
    for path, status in (
        ("/apt/trixie/Release", "200"),
        ("/v2/", "403"),
        ("/bundle.json", "404"),
        ("/oci/index.json", "404"),
    ):
        assert node.host.check_output("python3 -c %s %s", script, f"https://{MIRROR}{path}") == status, path


@pytest.mark.parametrize("what", ["SYN-SENT", "SYN-RECV"])
def test_nothing_is_waiting_for_an_answer_from_outside(managed, what: str) -> None:
    waiting = managed.host.check_output("ss --no-header --tcp --numeric state %s", what.lower())
    assert [line for line in waiting.splitlines() if SITE["demo_subnet"].rsplit(".", 1)[0] not in line] == []


def test_preflight_remembers_what_it_read_of_the_bundle(gateway) -> None:
    read = json.loads(gateway.host.file("/run/onprem-llm-bundle.json").content_string)["/srv/bundle"]
    listed = json.loads(gateway.host.file("/srv/bundle/bundle.json").content_string)["contents"]
    assert len(read) == len(listed)
