"""Everything that is wrong is told at once, before the first change; `refusals.yml` says what.

`unchanged`, which follows in the sequence, holds the hosts' file systems against their image: nothing was changed.
"""

from __future__ import annotations

import datetime
import functools
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fleet.hosts import Fleet
from tests.plays import play

RUNS = {run["run"]: run for run in yaml.safe_load(Path(__file__).with_name("refusals.yml").read_text(encoding="utf-8"))}
REFUSALS = [(name, refusal) for name, run in RUNS.items() for refusal in run["refusals"]]


def key() -> tuple[ec.EllipticCurvePrivateKey, str]:
    made = ec.generate_private_key(ec.SECP256R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made, made.private_bytes(*form).decode()


def ended_certificate() -> str:
    """A self-signed certificate for another name whose last second has passed."""
    made, _pem = key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other.example.com")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2026, 1, 1))
        .not_valid_after(datetime.datetime(2026, 1, 2))
        .sign(made, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def on_hosts(commands: dict[str, str]) -> None:
    given = {"ENDED": ended_certificate(), "OTHER_KEY": key()[1]}
    for host, command in commands.items():
        passed = [f"--env={name}={value}" for name, value in given.items()]
        subprocess.run(["docker", "exec", *passed, host, "sh", "-ec", command], check=True)


def playbook(directory: Path, run: dict, name: str = "site.yml") -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection on the scenario's hosts, with what the run adds to the inventory."""
    given: dict[str, dict] = {}
    for refusal in run["refusals"]:
        given.setdefault(refusal.get("host", "all"), {}).update(refusal.get("set") or {})
    (directory / "given.yml").write_text(yaml.safe_dump(given.pop("all", {})), encoding="utf-8")
    # Hosts that come with this inventory look for the fleet's state beside it.
    more = {"hosts": given, "vars": {"demo_state_directory": str(Fleet.load("molecule-fleet").state)}}
    more |= (run.get("inventory") or {}).get("all") or {}
    for host, variables in (run.get("hosts") or {}).items():
        more["hosts"].setdefault(host, {}).update(variables)
    (directory / "more.yml").write_text(yaml.safe_dump({"all": more}), encoding="utf-8")
    return play(name, f"--inventory={directory / 'more.yml'}", f"--extra-vars=@{directory / 'given.yml'}")


@pytest.fixture(scope="session")
def refuse(tmp_path_factory: pytest.TempPathFactory):
    """The result of a run of `refusals.yml`, which runs once."""

    @functools.cache
    def once(name: str) -> subprocess.CompletedProcess[str]:
        run = RUNS[name]
        try:
            on_hosts(run.get("prepare") or {})
            return playbook(tmp_path_factory.mktemp("run"), run)
        finally:
            on_hosts(run.get("undo") or {})

    return once


@pytest.mark.contract(2)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_changed(refuse, name: str) -> None:
    result = refuse(name)
    assert result.returncode == 2, result.stdout
    assert "nothing was changed on any host:" in result.stdout
    assert re.findall(r"changed=(\d+)", result.stdout)
    assert set(re.findall(r"changed=(\d+)", result.stdout)) == {"0"}


@pytest.mark.contract(2)
@pytest.mark.parametrize(("name", "refusal"), REFUSALS, ids=[refusal["what"] for _name, refusal in REFUSALS])
def test_fault_is_told_with_value_and_what_would_be_right(refuse, name: str, refusal: dict) -> None:
    said = ".*".join(re.escape(part) for part in refusal["said"].split("…"))
    assert re.search(rf"(?m)^- .*{said}", refuse(name).stdout), refuse(name).stdout


@pytest.fixture(scope="session")
def foretold(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A preflight without faults, of virgin hosts and one that is down."""
    down = {"ansible_host": "10.78.0.99", "ansible_timeout": 3}
    more = {"all": {"children": {"llm_nodes": {"children": {"cpu_nodes": {"hosts": {"fleet-down": down}}}}}}}
    return playbook(tmp_path_factory.mktemp("run"), {"inventory": more, "refusals": []}, "preflight.yml")


def test_a_host_that_is_down_is_left_out_and_the_others_go_on(foretold) -> None:
    assert foretold.returncode == 4, foretold.stdout
    assert "Not reached, and left out: fleet-down" in foretold.stdout
    assert re.search(r"fleet-down .* unreachable=1 ", foretold.stdout)
    recap = dict(re.findall(r"(?m)^(fleet-\S+) .* unreachable=\d+ +failed=(\d+)", foretold.stdout))
    assert recap == dict.fromkeys(["fleet-gpu1", "fleet-cpu1", "fleet-gw1", "fleet-down"], "0")


def test_the_dry_run_says_what_a_virgin_host_would_get(foretold) -> None:
    report = foretold.stdout.partition("What site.yml would do:\n")[2].partition("\nTASK")[0]
    by_host = {block.split(":\n")[0]: block for block in re.split(r"(?m)^(?=\S+:$)", report) if block.strip()}
    assert set(by_host) == {"fleet-gpu1", "fleet-cpu1", "fleet-gw1"}
    for host in ("fleet-gpu1", "fleet-cpu1"):
        for item in ("docker.io", "model gemma3:270m", "nginx", "ufw", "/opt/onprem-llm/ollama/compose.yml (new)"):
            assert item in by_host[host]
        assert "docker.service (start)" in by_host[host]
        assert "what the rules do not admit cannot connect to the host any more" in by_host[host]
    assert "/etc/nginx/conf.d/onprem-llm-gateway.conf (new)" in by_host["fleet-gw1"]
    assert "docker.io" not in by_host["fleet-gw1"]
