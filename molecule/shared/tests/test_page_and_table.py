"""How the fleet is, as a person sees it: the page on the gateway, and playbooks/status.yml."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path

import pytest
from conftest import CPU_NODES, GATEWAYS, GPU_NODES

from tests import plays

UNIT = "onprem-llm-status.service"


@pytest.fixture(scope="module")
def page(gateway, ca_file: str, secrets: dict):
    context = ssl.create_default_context(cafile=ca_file)

    def get(user: str = "") -> tuple[int, str]:
        connection = http.client.HTTPSConnection(gateway.address, timeout=30, context=context)
        headers = {"Authorization": f"Bearer {secrets['users'][user]['api_key']}"} if user else {}
        connection.request("GET", "/status/", headers=headers)
        response = connection.getresponse()
        found = response.status, response.read().decode()
        connection.close()
        return found

    return get


def test_admins_see_every_node_and_its_models(gateway, page) -> None:
    assert gateway.host.service(UNIT).is_running
    assert gateway.host.service(UNIT).is_enabled
    # The nodes are asked twice a minute.
    until = time.monotonic() + 90
    status, text = page("ops")
    while text.count(">warm<") < 2 * len(GPU_NODES + CPU_NODES) and time.monotonic() < until:
        time.sleep(5)
        status, text = page("ops")
    assert status == 200
    for name in GPU_NODES + CPU_NODES + GATEWAYS:
        assert f">{name} <" in text
    assert text.count(">warm<") == 2 * len(GPU_NODES + CPU_NODES), text
    assert "unreachable" not in text
    assert "gemma3:270m" in text


def test_nobody_else_does(page) -> None:
    assert page()[0] == 401
    assert page("app")[0] == 403


def test_its_program_has_no_rights(gateway) -> None:
    shown = gateway.host.check_output(f"systemctl show {UNIT} -p CapabilityBoundingSet -p NoNewPrivileges -p NRestarts")
    assert set(shown.split()) == {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "NRestarts=0"}
    pid = gateway.host.check_output(f"systemctl show {UNIT} -p MainPID --value")
    uid = gateway.host.check_output(f"stat -c %u /proc/{pid}")
    assert uid != "0"


def test_the_table_has_a_line_a_host(tmp_path: Path) -> None:
    told = tmp_path / "status.json"
    began = time.monotonic()
    run = plays.play("status.yml", "--extra-vars", json.dumps({"status_file": str(told)}))
    assert run.returncode == 0, run.stdout
    print(f"{time.monotonic() - began:.1f} s\n{run.stdout}")
    rows = {row["host"]: row for row in json.loads(told.read_text(encoding="utf-8"))["hosts"]}
    assert set(rows) == {*GPU_NODES, *CPU_NODES, *GATEWAYS}
    for name in GPU_NODES + CPU_NODES:
        assert (rows[name]["models_warm"], rows[name]["models_planned"]) == (2, 2), rows[name]
    for row in rows.values():
        assert row["state"] in ("ok", "degraded"), row
