"""Logs are rotated without losing a line, and the journal has its bounds."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import ssl

import pytest
from conftest import SCENARIO, Node

if SCENARIO != "single":
    pytest.skip("one host shows it", allow_module_level=True)

ACCESS = "/var/log/nginx/onprem-llm-gateway.log"
CHECKS = "/var/log/ollama/health_check.log"


def test_the_access_log_loses_no_line(gateway: Node, ca_file: str, secrets: dict) -> None:
    """Requests come all the time, while nginx's log is rotated three times."""
    context = ssl.create_default_context(cafile=ca_file)
    key = {"Authorization": f"Bearer {secrets['users']['app']['api_key']}"}

    def ask(_worker: int) -> list[str]:
        names = []
        connection = http.client.HTTPSConnection(gateway.address, timeout=30, context=context)
        for _number in range(60):
            connection.request("GET", "/v1/models", headers=key)
            answer = connection.getresponse()
            answer.read()
            names.append(answer.headers["X-Request-ID"])
        connection.close()
        return names

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, worker) for worker in range(4)]
        for _turn in range(3):
            gateway.host.check_output("logrotate -f /etc/logrotate.d/nginx")
        sent = {name for future in asked for name in future.result()}
    assert len(sent) == 240
    gateway.host.check_output("sleep 1.5")  # nginx writes once a second
    lines = gateway.host.check_output(f"sh -c 'zcat -f {ACCESS}*'").splitlines()
    logged = [json.loads(line)["request_id"] for line in lines]
    assert sorted(name for name in logged if name in sent) == sorted(sent)
    assert gateway.host.run(f"test -s {ACCESS}.1").rc == 0


def test_our_log_loses_no_line(gateway: Node) -> None:
    count = f"sh -c 'zcat -f {CHECKS}* | wc -l'"
    before = int(gateway.host.check_output(count))
    for turn in range(4):
        gateway.host.run("systemctl start onprem-llm-health.service")
        if turn in (1, 2):
            gateway.host.check_output("logrotate -f /etc/logrotate.d/onprem-llm")
    # The timer may have had one run beside them.
    assert int(gateway.host.check_output(count)) - before in (4, 5)


def test_the_journal_has_its_bounds(gateway: Node) -> None:
    read = gateway.host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "\nSystemMaxUse=1G\nMaxRetentionSec=30day\n" in read
    assert gateway.host.service("systemd-journald").is_running
