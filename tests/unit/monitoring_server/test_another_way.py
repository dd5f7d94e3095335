# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Prometheus of others: what the role gives it, and the play of docs/monitoring.md, held against the role's files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from role_templates import evaluated, rendered, role_variables

from tests import plays
from tests.alerts.promtool import RULES
from tests.unit.monitoring_server.test_monitoring_server import AMTOOL, FLEET, asked

PAGE = (plays.ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
(PLAY,) = yaml.safe_load(re.findall(r"(?ms)^```yaml\n(- name: Watch the fleet by.*?)^```", PAGE)[0])
VARIABLES: dict[str, Any] = PLAY["vars"]


def own(template: str) -> Any:
    return yaml.safe_load(rendered("monitoring_server", template, **FLEET, __monitoring_server_directory="/x"))


def test_the_play_scrapes_what_the_role_scrapes() -> None:
    text = json.dumps(VARIABLES["prometheus_scrape_configs"]).replace("{{ inventory_hostname }}", "mon1")
    jobs = json.loads(re.sub(r"/etc/prometheus/file_sd/onprem-llm-", "/x/targets/", text))
    ours = own("prometheus.yml.j2")
    assert jobs == ours["scrape_configs"]
    assert VARIABLES["prometheus_alertmanager_config"] == ours["alerting"]["alertmanagers"]
    assert {name: VARIABLES["prometheus_global"][name] for name in ours["global"]} == ours["global"]
    assert VARIABLES["blackbox_exporter_configuration_modules"] == own("blackbox.yml.j2")["modules"]


def test_the_play_routes_as_the_role_does(tmp_path: Path) -> None:
    ours = own("alertmanager.yml.j2")
    assert VARIABLES["alertmanager_route"] == ours["route"]
    assert VARIABLES["alertmanager_inhibit_rules"][0] in ours["inhibit_rules"]
    file = tmp_path / "alertmanager.yml"
    parts = {name: VARIABLES[f"alertmanager_{name}"] for name in ("route", "receivers", "inhibit_rules")}
    file.write_text(yaml.safe_dump(parts))
    assert asked(AMTOOL, "check-config", file).returncode == 0


def test_the_export_has_rules_and_targets(tmp_path: Path) -> None:
    """By a run on a host that nobody reaches: everything is written here."""
    inventory = {
        "all": {
            "hosts": {"mon1": {"ansible_host": "192.0.2.50"}},
            "children": {
                "llm_nodes": {"hosts": {"gpu1": {"ansible_host": "192.0.2.11"}}},
                "gateways": {"hosts": {"gw1": {"ansible_host": "192.0.2.31"}}},
            },
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play = {
        "hosts": "mon1",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "onprem.llm.monitoring_server", "tasks_from": "export"}}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    run = plays.run(tmp_path / "play.yml", inventory=tmp_path / "hosts.yml", timeout=60)
    assert run.returncode == 0, run.stdout
    found = tmp_path / "onprem-llm-watch"
    assert (found / "rules/onprem-llm-alerts.yml").read_text() == (RULES / "alerts.yml").read_text()
    assert {file.name for file in (found / "rules").iterdir()} == {
        f"onprem-llm-{name}.yml" for name in ("alerts", "recording", "thresholds")
    }
    nodes = json.loads((found / "targets/onprem-llm-node.json").read_text())
    assert [(entry["targets"], entry["labels"]) for entry in nodes] == [
        (["192.0.2.11:9100"], {"instance": "gpu1"}),
        (["192.0.2.31:9100"], {"instance": "gw1"}),
        (["192.0.2.50:9100"], {"instance": "mon1"}),
    ]
    assert {file.name for file in (found / "targets").iterdir()} == {
        f"onprem-llm-{name}.json" for name in ("node", "gateway", "closed_ports")
    }


@pytest.mark.parametrize(
    ("groups", "addresses", "heard"),
    [
        ({}, None, "127.0.0.1"),
        ({}, ["192.0.2.51"], "192.0.2.11"),
        ({"monitoring_servers": ["mon1"]}, None, "192.0.2.11"),
        ({"monitoring_servers": []}, ["192.0.2.51"], "192.0.2.11"),
    ],
)
def test_exporters_are_heard_where_somebody_listens(
    groups: dict[str, Any], addresses: list[str] | None, heard: str
) -> None:
    known = {**role_variables("monitoring"), "groups": groups, "monitoring_address": "192.0.2.11"}
    known |= {} if addresses is None else {"firewall_monitoring_addresses": addresses}
    assert evaluated(known["__monitoring_listen_address"], known) == heard
