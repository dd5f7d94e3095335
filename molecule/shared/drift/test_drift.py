"""Hosts that drifted: files touched, services stopped, a rule removed. Foretold, shown in check mode, then mended."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.plays import play

NODE, GATEWAY = "fleet-cpu1", "fleet-gw1"
SITE = "/etc/nginx/conf.d/onprem-llm-gateway.conf"
RULE = "gateway 443 tcp 10.78.0.0/24"


def on(host: str, command: str) -> str:
    return subprocess.run(
        ["docker", "exec", host, "sh", "-ec", command], check=True, capture_output=True, text=True
    ).stdout


def playbook(name: str, *arguments: str) -> str:
    result = play(name, f"--limit={NODE},{GATEWAY}", *arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout


def changed(output: str) -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", output)}


@pytest.fixture(scope="module", autouse=True)
def drift() -> None:
    on(GATEWAY, f"echo '# by hand' >>{SITE}; systemctl stop prometheus-node-exporter")
    on(GATEWAY, "ufw --force delete allow proto tcp from 10.78.0.0/24 to any port 443")
    on(NODE, "docker stop onprem-llm-ollama; chmod 600 /etc/systemd/system/onprem-llm-health.timer")


def test_the_dry_run_names_all_of_it() -> None:
    report = playbook("preflight.yml").partition("What site.yml would do:\n")[2].partition("\nTASK")[0]
    by_host = {block.split(":\n")[0]: block for block in re.split(r"(?m)^(?=\S+:$)", report)}
    assert re.search(rf"(?m) {SITE}$", by_host[GATEWAY])
    assert f"UFW: allow {RULE}" in by_host[GATEWAY]
    assert "prometheus-node-exporter.service (start)" in by_host[GATEWAY]
    assert "nginx.service (reload, which ends no request)" in by_host[GATEWAY]
    assert "the container onprem-llm-ollama (start)" in by_host[NODE]
    assert "/etc/systemd/system/onprem-llm-health.timer (mode 0600, will be 0644)" in by_host[NODE]


@pytest.mark.contract(1)
def test_check_mode_shows_it_and_changes_nothing() -> None:
    output = playbook("site.yml", "--check", "--diff")
    assert "-# by hand" in output
    assert all(changed(output).values())
    assert on(GATEWAY, f"tail -1 {SITE}") == "# by hand\n"
    assert RULE not in on(GATEWAY, "ufw show added")
    assert on(NODE, "docker inspect --format '{{.State.Running}}' onprem-llm-ollama") == "false\n"


def test_a_run_mends_it() -> None:
    assert all(changed(playbook("site.yml")).values())
    assert "by hand" not in on(GATEWAY, f"cat {SITE}")
    assert RULE in on(GATEWAY, "ufw show added")
    assert on(GATEWAY, "systemctl is-active prometheus-node-exporter") == "active\n"
    assert on(NODE, "docker inspect --format '{{.State.Health.Status}}' onprem-llm-ollama") == "healthy\n"
    assert on(NODE, "stat -c %a /etc/systemd/system/onprem-llm-health.timer") == "644\n"
    report = playbook("preflight.yml")
    assert report.count("nothing to do") == 2, report
