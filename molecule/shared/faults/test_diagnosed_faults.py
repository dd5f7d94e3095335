"""playbooks/diagnose.yml on a box with faults, a few of tests/faults each day, and on the same box without any."""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from conftest import SEED

from tests.faults.injection import Fault, Fleet, load
from tests.fleet import hosts
from tests.fleet.hosts import ROOT

SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
INVENTORY = ROOT / "molecule" / SCENARIO / "inventory"
BOX = f"{SCENARIO}-box1"
ROLES = {"gpu": BOX, "node": BOX, "gateway": BOX}
SAMPLE = 8
HEALTH = "/var/log/ollama/health_check.log"
DAEMON = "/etc/docker/daemon.json"
FAULTS = [
    fault
    for fault in load()
    if fault.spec["host"] in ROLES and not fault.spec.get("fleet") and not fault.spec.get("long")
]
# Secrets and words of each kind, in each place where somebody may have put them.
MARKS = {"key": "zq-marked-key-1f7a", "password": "zq-marked-password-2b", "prompt": "zq marked words of a user 3c"}


def drawn() -> list[Fault]:
    return random.Random(SEED).sample(FAULTS, SAMPLE)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(docker.from_env(timeout=300), INVENTORY, hosts.Fleet.load(f"molecule-{SCENARIO}").state, ROLES)


@pytest.mark.parametrize("fault", drawn(), ids=lambda fault: fault.name.replace(" ", "-"))
def test_the_fault_is_named_as_the_first_cause(fleet: Fleet, fault: Fault) -> None:
    reason, report = fleet.try_out(fault)
    assert not reason, f"{reason}\n{report['output'][-3000:]}"


@pytest.fixture
def marked(fleet: Fleet) -> Iterator[None]:
    """What must not leave the host, where logs and settings may have it."""
    key, password, prompt = MARKS.values()
    proxies = f'{{ "proxies": {{"https-proxy": "http://user:{password}@proxy.example.com:3128"}},'
    fleet.shell(
        BOX,
        f"""
        cp -p {HEALTH} /run/faults-log 2>/dev/null || touch /run/faults-log
        echo '{{"event":"x","api_key":"{key}","prompt":"{prompt}"}}' >> {HEALTH}
        cp -p {DAEMON} /run/faults-daemon
        sed -i '0,/^{{/s|^{{|{proxies}|' {DAEMON}
        systemd-run --quiet --wait --unit=onprem-llm-marked \
          sh -c 'echo "X-Api-Key: {key}"; echo "prompt=\\"{prompt}\\""; echo "http://a:{password}@proxy";
                echo "password={password}"; echo "Authorization: Bearer {key}";
                echo "messages=[{{\\"role\\":\\"user\\",\\"content\\":\\"{prompt}\\"}}]"'
        """,
    )
    yield
    fleet.shell(
        BOX, "cp -p /run/faults-log /var/log/ollama/health_check.log; cp -p /run/faults-daemon /etc/docker/daemon.json"
    )


def test_the_bundle_has_what_helps_and_no_secret(fleet: Fleet, marked: None, tmp_path: Path) -> None:
    report = fleet.diagnose(diagnose_report_dir=str(tmp_path), bundle=True)
    (path,) = tmp_path.glob("bundle-*.tar.gz")
    assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(path) as archive:
        texts = {
            member.name: file.read().decode() for member in archive if (file := archive.extractfile(member)) is not None
        }
    for kind, mark in MARKS.items():
        assert not [name for name, text in texts.items() if mark in text], kind
    secrets = (fleet.state / "secrets.json").read_text(encoding="utf-8")
    for secret in [text for text in secrets.split('"') if len(text) > 20 and " " not in text]:
        assert not [name for name, text in texts.items() if secret in text]
    assert not [name for name, text in texts.items() if "PRIVATE KEY" in text]
    names = " ".join(texts)
    assert "docker_logs" in names
    assert "etc_onprem-llm_plan.json" in names
    # The marks were where they are looked for.
    own = {name: text for name, text in texts.items() if f"/{BOX}/" in name}
    log = next(text for name, text in own.items() if name.endswith("health_check.log"))
    assert '"event":"x"' in log
    for part in ("health_check.log", "daemon.json", "unit_onprem-llm"):
        assert [name for name, text in own.items() if part in name and "[taken out]" in text], part
    assert report["healthy"]


def test_the_box_is_healthy_afterwards(fleet: Fleet) -> None:
    report = fleet.diagnose()
    assert report["status"] == 0, report["output"][-6000:]
    assert report["healthy"]
    assert not report["causes"]
    verdicts = {item["rung"]: item["verdict"] for item in report["hosts"][BOX]}
    assert not {"broken", "unknown"} & set(verdicts.values())
    assert verdicts["gateway"] == verdicts["engine"] == verdicts["offload"] == "ok"
