"""A mirror that is down is named with what to do; one that has more than the plans want gives it back."""

from __future__ import annotations

import json
import re
import subprocess

from tests.fleet.hosts import Fleet
from tests.plays import play

MIRROR, NODE = "airgap-gw1", "airgap-cpu1"
UPSTREAM = json.loads((Fleet.load("molecule-airgap").state / "upstream.json").read_text(encoding="utf-8"))
MODEL, WEIGHTS = UPSTREAM["model"]["name"], UPSTREAM["model"]["digest"][7:]
BLOBS = "/var/lib/onprem-llm/mirror/registry/docker/registry/v2/blobs/sha256"
ASK = """
import ssl, sys, urllib.error, urllib.request
place = "/etc/onprem-llm/pki/"
context = ssl.create_default_context(cafile=place + "ca.crt")
context.load_cert_chain(place + "node.crt", place + "node.key")
accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
try:
    request = urllib.request.Request(sys.argv[1], headers={"Accept": accept})
    print(urllib.request.urlopen(request, context=context).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
FORGET = """
import json, sys, urllib.request
body = json.dumps({"model": sys.argv[1]}).encode()
urllib.request.urlopen(urllib.request.Request("http://172.30.250.2:11434/api/delete", body, method="DELETE"))
"""


def inside(host: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", host, "sh", "-ec", command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_mirror_that_is_down_is_named_with_what_to_do() -> None:
    inside(NODE, f"python3 -c '{FORGET}' {MODEL}")
    inside(MIRROR, "systemctl stop nginx")
    try:
        result = play("site.yml", "--tags", "models_install", "--limit", NODE)
    finally:
        inside(MIRROR, "systemctl start nginx")
    assert result.returncode == 2, result.stdout
    said = " ".join(result.stdout.split())
    assert re.search(
        rf"no registry gives it: 10\.78\.4\.12:8444/library/{MODEL}: .{{0,200}}"
        r"Bring this mirror up \(playbooks/site\.yml without a limit fills it\), "
        r"or let a registry be asked after it \(models_mirror_fallback: true\)",
        said,
    ), said[-3000:]


def test_what_no_plan_wants_is_removed_from_the_mirror_and_the_rest_stays() -> None:
    before = inside(MIRROR, f"ls -d {BLOBS}/*/*").splitlines()
    assert f"{BLOBS}/{WEIGHTS[:2]}/{WEIGHTS}" in before
    search = {
        "name": "search",
        "use": "embedding",
        "models": ["tiny-embedding:latest"],
        "context_length": 512,
        "slots": 1,
    }
    given = json.dumps({"models_prune": True, "models_workloads": [search]})
    result = play("site.yml", "--tags", "model_mirror", f"--extra-vars={given}")
    assert result.returncode == 0, result.stdout
    after = inside(MIRROR, f"ls -d {BLOBS}/*/*").splitlines()
    # The model's weights, configuration and manifest; the image and the file of the other workload stay.
    assert len(set(before) - set(after)) == 3
    assert f"{BLOBS}/{WEIGHTS[:2]}/{WEIGHTS}" not in after
    assert inside(MIRROR, "systemctl is-active docker-registry") == "active"
    for path, status in (
        (f"ollama/ollama/manifests/{UPSTREAM['image']}", "200"),
        (f"library/{MODEL.replace(':', '/manifests/')}", "404"),
    ):
        assert inside(NODE, f"python3 -c '{ASK}' https://10.78.4.12:8444/v2/{path}") == status, path
