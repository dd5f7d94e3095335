# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the monitoring server's role writes, read by the distribution's own programs; and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from role_templates import evaluated, rendered, role_variables, trusted

from tests.alerts.promtool import RULES, alerts, files, promtool
from tests.packages import unpacked

PROMTOOL = promtool()
AMTOOL = unpacked("prometheus-alertmanager") / "usr/bin/amtool"
BLACKBOX = unpacked("prometheus-blackbox-exporter") / "usr/bin/prometheus-blackbox-exporter"
HOSTS = {
    "mon1": {"ansible_host": "192.0.2.50"},
    "gpu1": {"ansible_host": "192.0.2.11"},
    "gpu2": {"ansible_host": "192.0.2.12", "endpoint_address": "2001:db8::12"},
    "gw1": {"ansible_host": "192.0.2.31", "gateway_port": 8443, "monitoring_exporter_port": 9101},
}
FLEET: dict[str, Any] = {
    "inventory_hostname": "mon1",
    "groups": {"llm_nodes": ["gpu1", "gpu2"], "gateways": ["gw1"], "monitoring_servers": ["mon1"]},
    "hostvars": HOSTS,
}
WEBHOOK = {"webhook_url": "https://alerts.example.com/a?b=c", "webhook_token": "s3cret-token"}
MAIL = {"smarthost": "mail.example.com:587", "from": "llm@example.com", "user": "llm", "password": "s3cret-word"}
TOLD = {
    "monitoring_server_page": WEBHOOK,
    "monitoring_server_ticket": {"mail_to": ["ops@example.com", "more@example.com"]},
    "monitoring_server_mail": MAIL,
}


def written(template: str, **variables: Any) -> str:
    return rendered("monitoring_server", template, **{**FLEET, **variables})


def stated(name: str, **variables: Any) -> Any:
    known = {**role_variables("monitoring_server"), **FLEET, **trusted(variables)}
    return evaluated(known[name], known)


def faults(**variables: Any) -> list[str]:
    return [
        line.strip() for line in (stated("__monitoring_server_faults", **variables) or "").splitlines() if line.strip()
    ]


def asked(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def targets(what: str, **variables: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(written("targets.json.j2", item={"what": what}, **variables))
    return found


def test_targets_come_from_the_inventory() -> None:
    assert targets("node") == [
        {"targets": ["192.0.2.11:9100"], "labels": {"instance": "gpu1"}},
        {"targets": ["[2001:db8::12]:9100"], "labels": {"instance": "gpu2"}},
        {"targets": ["192.0.2.31:9101"], "labels": {"instance": "gw1"}},
        {"targets": ["192.0.2.50:9100"], "labels": {"instance": "mon1"}},
    ]
    assert targets("gateway") == [{"targets": ["https://192.0.2.31:8443/healthz"], "labels": {"instance": "gw1"}}]
    assert {entry["labels"]["port"] for entry in targets("closed_ports", monitoring_server_closed_ports=[11434])} == {
        "192.0.2.11:11434",
        "[2001:db8::12]:11434",
    }


def test_monitoring_servers_watch_each_other() -> None:
    hosts = {**HOSTS, "mon2": {"ansible_host": "192.0.2.51"}}
    groups = {**FLEET["groups"], "monitoring_servers": ["mon1", "mon2"]}
    for own in groups["monitoring_servers"]:
        found = targets("node", inventory_hostname=own, hostvars=hosts, groups=groups)
        assert {entry["labels"]["instance"] for entry in found} == {"gpu1", "gpu2", "gw1", "mon1", "mon2"}


def test_a_host_is_not_asked_for_its_own_closed_ports() -> None:
    """From itself it would see past its own firewall."""
    found = targets("closed_ports", inventory_hostname="gpu1")
    assert {entry["labels"]["instance"] for entry in found} == {"gpu2"}


def test_a_gateway_that_wants_the_proxy_protocol_is_not_probed() -> None:
    hosts = {
        **HOSTS,
        "gw1": {"gateway_trusted_proxies": ["192.0.2.9"], "gateway_trusted_proxies_say": "proxy_protocol"},
    }
    assert targets("gateway", hostvars=hosts) == []


@pytest.fixture
def prometheus(tmp_path: Path) -> Any:
    """promtool's word on the whole configuration, with the rules at their places."""

    def check(**variables: Any) -> subprocess.CompletedProcess[str]:
        rules, looked = tmp_path / "rules", tmp_path / "targets"
        rules.mkdir()
        looked.mkdir()
        for file in files():
            (rules / file.name).write_text(file.read_text())
        (rules / "thresholds.yml").write_text(written("thresholds.yml.j2", **variables))
        for what in ("node", "gateway", "closed_ports"):
            (looked / f"{what}.json").write_text(json.dumps(targets(what, **variables)))
        config = tmp_path / "prometheus.yml"
        config.write_text(written("prometheus.yml.j2", __monitoring_server_directory=str(tmp_path), **variables))
        return asked(PROMTOOL, "check", "config", config)

    return check


def test_prometheus_takes_its_configuration(prometheus: Any) -> None:
    own = [{"job_name": "dcgm", "static_configs": [{"targets": ["192.0.2.11:9400"], "labels": {"instance": "gpu1"}}]}]
    done = prometheus(monitoring_server_scrape_configs=own)
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in done.stdout
    assert "SUCCESS: 2 rules found" in done.stdout


def test_a_wrong_configuration_is_refused(prometheus: Any) -> None:
    """By the command that validates it before it replaces the old one."""
    assert prometheus(monitoring_server_scrape_configs=[{"job_name": "x", "scrape_intervall": "1s"}]).returncode != 0


def test_a_rule_with_a_typo_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yml"
    file.write_text((RULES / "alerts.yml").read_text().replace("up{job=", "up{job", 1))
    assert asked(PROMTOOL, "check", "rules", file).returncode != 0


def test_blackbox_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "blackbox.yml"
    file.write_text(written("blackbox.yml.j2"))
    done = asked(BLACKBOX, "--config.check", f"--config.file={file}")
    assert done.returncode == 0, done.stderr
    modules = set(yaml.safe_load(file.read_text())["modules"])
    jobs = yaml.safe_load(written("prometheus.yml.j2"))["scrape_configs"]
    assert {job["params"]["module"][0] for job in jobs if "params" in job} == modules


@pytest.mark.parametrize(
    "variables",
    [{}, {"monitoring_server_page": WEBHOOK}, TOLD, {**TOLD, "monitoring_server_mail": {**MAIL, "user": ""}}],
    ids=["nobody is told", "webhook", "webhook and mail", "mail without login"],
)
def test_alertmanager_takes_its_configuration(variables: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(written("alertmanager.yml.j2", **variables))
    done = asked(AMTOOL, "check-config", file)
    assert done.returncode == 0, done.stdout + done.stderr
    for severity in ("page", "ticket"):
        routed = asked(AMTOOL, "config", "routes", "test", f"--config.file={file}", f"severity={severity}")
        assert routed.stdout.strip() == severity
    for secret in ("s3cret-token", "s3cret-word"):
        assert secret not in file.read_text()


def test_a_ticket_goes_where_pages_go_if_nothing_else_is_said() -> None:
    config = yaml.safe_load(written("alertmanager.yml.j2", monitoring_server_page=WEBHOOK))
    assert [receiver["webhook_configs"][0]["url"] for receiver in config["receivers"]] == [WEBHOOK["webhook_url"]] * 2
    assert {secret["name"]: secret["text"] for secret in stated("__monitoring_server_secrets", **TOLD)} == {
        "page_token": "s3cret-token", "mail_password": "s3cret-word",
    }  # fmt: skip


def test_inhibitions_name_alerts_that_exist() -> None:
    config = yaml.safe_load(written("alertmanager.yml.j2"))
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            named = matcher.split("=", 1)[1].strip('~"').split("|")
            assert set(named) <= alerts().keys()
    down = config["inhibit_rules"][0]
    assert (down["source_matchers"], down["equal"]) == (['alertname="LLMHostDown"'], ["instance"])


def test_nothing_listens_beyond_the_host() -> None:
    commands = stated("__monitoring_server_commands")
    for unit in stated("__monitoring_server_units"):
        assert "--web.listen-address=127.0.0.1:" in commands[unit]
        drop_in = written("drop-in.conf.j2", item={"unit": unit})
        assert "\nExecStart=\nExecStart=/usr/bin/prometheus" in drop_in
    assert " --cluster.listen-address= " in commands["prometheus-alertmanager.service"]
    assert "--storage.tsdb.retention.size=20GB" in commands["prometheus.service"]


def test_a_good_inventory_has_no_fault() -> None:
    assert faults(**TOLD) == []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"monitoring_server_scrape_interval": "15"}, "monitoring_server_scrape_interval is '15'"),
        ({"monitoring_server_retention_size": "20 G"}, "monitoring_server_retention_size is '20 G'"),
        ({"monitoring_server_prometheus_port": 70000}, "monitoring_server_prometheus_port is 70000"),
        ({"monitoring_server_alertmanager_port": 9090}, "each is 9090 on this host"),
        ({"monitoring_server_page": {"webhook_url": "alerts.example.com"}}, "webhook_url is no URL"),
        ({"monitoring_server_page": {"webhook_token": "x"}}, "has a webhook_token and no webhook_url"),
        ({"monitoring_server_ticket": {"mail_to": ["a@example.com"]}}, "monitoring_server_mail says no smarthost"),
        ({"monitoring_server_mail": {"smarthost": "mail", "from": "a@b"}}, "smarthost is 'mail'"),
        ({"monitoring_server_rules": ["/nowhere/x.yml"]}, "/nowhere/x.yml"),
        ({"monitoring_server_scrape_configs": [{"job_name": "node"}]}, "job_name 'node'"),
        ({"__monitoring_server_look": {"stdout_lines": ["installed prometheus 2.53.3"]}}, "did not install"),
        (
            {"__monitoring_server_look": {"stdout_lines": ["candidate prometheus 2.31.2+ds1-1ubuntu1"]}},
            "has Prometheus 2.31.2",
        ),
    ],
)
def test_fault(variables: dict[str, Any], told: str) -> None:
    found = faults(**variables)
    assert len(found) == 1
    assert told in found[0]
    assert "s3cret" not in found[0]


def test_an_own_installation_is_no_fault() -> None:
    lines = ["installed prometheus 2.53.3+ds1-2", "prometheus is ours"]
    assert faults(__monitoring_server_look={"stdout_lines": lines}) == []
