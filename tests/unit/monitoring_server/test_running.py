# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution's programs, running on loopback with what the role writes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from role_templates import rendered

from tests.alerts import promtool
from tests.alerts.test_alerts import FOREIGN
from tests.packages import unpacked

PATIENCE = 30.0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _number in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
        return str(answer.read().decode())


def wait_for(what: str, true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            found = true()
            if found:
                return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {PATIENCE:.0f} s")
        time.sleep(0.2)


class Site:
    """Prometheus, Alertmanager, blackbox and node exporter of one host, with a receiver that keeps what it gets."""

    def __init__(self, place: Path) -> None:
        self.prometheus, self.alertmanager, self.blackbox, self.node, hook = free_ports(5)
        self.received: list[tuple[str | None, dict[str, Any]]] = []
        site = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                site.received.append((self.headers.get("Authorization"), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.hook = ThreadingHTTPServer(("127.0.0.1", hook), Receiver)
        threading.Thread(target=self.hook.serve_forever, args=(0.05,), daemon=True).start()
        for name in ("rules", "targets", "secrets", "textfile"):
            (place / name).mkdir()
        for file in promtool.files():
            (place / "rules" / file.name).write_text(file.read_text())
        (place / "secrets" / "page_token").write_text("s3cret-token")
        (place / "textfile" / "x.prom").write_text("onprem_llm_engine_reachable 0\n")
        self.variables = {
            "inventory_hostname": "mon1",
            "hostvars": {"mon1": {"ansible_host": "127.0.0.1", "monitoring_exporter_port": self.node}},
            "monitoring_server_prometheus_port": self.prometheus,
            "monitoring_server_alertmanager_port": self.alertmanager,
            "monitoring_server_blackbox_port": self.blackbox,
            "monitoring_server_scrape_interval": "1s",
            "monitoring_server_page": {"webhook_url": f"http://127.0.0.1:{hook}/", "webhook_token": "s3cret-token"},
            "__monitoring_server_directory": str(place),
        }
        for path, template, more in (
            ("rules/thresholds.yml", "thresholds.yml.j2", {}),
            ("prometheus.yml", "prometheus.yml.j2", {}),
            ("blackbox.yml", "blackbox.yml.j2", {}),
            ("alertmanager.yml", "alertmanager.yml.j2", {}),
            *(
                (f"targets/{what}.json", "targets.json.j2", {"item": {"what": what}})
                for what in ("node", "gateway", "closed_ports")
            ),
        ):
            text = rendered("monitoring_server", template, **{**self.variables, **more})
            # Who waits half a minute for company in production need not in a test.
            (place / path).write_text(re.sub(r"group_wait: \d+s", "group_wait: 1s", text))
        self.programs = [
            self.start(place, "prometheus", f"--web.listen-address=127.0.0.1:{self.prometheus}",
                       f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data"),
            self.start(place, "prometheus-alertmanager", f"--web.listen-address=127.0.0.1:{self.alertmanager}",
                       f"--config.file={place}/alertmanager.yml", f"--storage.path={place}/alerts",
                       "--cluster.listen-address="),
            self.start(place, "prometheus-blackbox-exporter", f"--web.listen-address=127.0.0.1:{self.blackbox}",
                       f"--config.file={place}/blackbox.yml"),
            self.start(place, "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{self.node}",
                       f"--collector.textfile.directory={place}/textfile"),
        ]  # fmt: skip

    @staticmethod
    def start(place: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Alertmanager has its templates below /usr/share alone, so each program sees its package's files there."""
        package = unpacked(name)
        share = f"mount -t overlay overlay -o lowerdir={package}/usr/share:/usr/share /usr/share"
        command = ["unshare", "--mount", "sh", "-c", f'{share} && exec "$@"', "sh", package / "usr/bin" / name]
        with (place / f"{name}.log").open("wb") as log:
            return subprocess.Popen([*command, *arguments], stdout=log, stderr=log)

    def end(self) -> None:
        for program in self.programs:
            program.terminate()
        for program in self.programs:
            program.wait(30)
        self.hook.shutdown()
        self.hook.server_close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = json.loads(get(self.prometheus, "api/v1/query?query=" + urllib.request.quote(expression)))  # type: ignore[attr-defined]
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def alert(self, *named: dict[str, str]) -> None:
        body = json.dumps([{"labels": labels, "annotations": {"summary": "x"}} for labels in named]).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.alertmanager}/api/v2/alerts", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        made.end()


def test_targets_and_rules_work(site: Site) -> None:
    wait_for("every target", lambda: len(site.query("up == 1")) == 4)
    assert {row["metric"]["instance"] for row in site.query("up")} == {"mon1"}
    (row,) = wait_for("the textfile's metric", lambda: site.query("onprem_llm_engine_reachable"))
    assert (row["metric"]["job"], row["metric"]["instance"]) == ("node", "mon1")
    wait_for(
        "an alert that waits to fire", lambda: site.query('ALERTS{alertname="LLMEngineDown",alertstate="pending"}')
    )
    wait_for("a threshold", lambda: site.query("onprem_llm:threshold_first_token_seconds == 10"))
    rules = json.loads(get(site.prometheus, "api/v1/rules"))["data"]["groups"]
    assert sum(len(group["rules"]) for group in rules) == len(promtool.alerts()) + 9 + 2
    assert not [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]


def test_the_series_of_others_that_alerts_ask_for_exist(site: Site) -> None:
    """By the distribution's own programs. What only a failure brings into being is left out."""
    wait_for("every target", lambda: len(site.query("up == 1")) == 4)
    told = set()
    for port in (site.prometheus, site.alertmanager, site.node):
        told |= set(re.findall(r"(?m)^# TYPE (\S+)", wait_for("metrics", lambda port=port: get(port, "metrics"))))
    closed = f"probe?module=port&target=127.0.0.1:{free_ports(1)[0]}"
    told |= set(re.findall(r"(?m)^# TYPE (\S+)", get(site.blackbox, closed)))
    assert FOREIGN - told == {"up", "ALERTS", "probe_ssl_earliest_cert_expiry"}


def test_a_page_arrives_with_its_token_and_without_what_follows_from_it(site: Site) -> None:
    wait_for("Alertmanager", lambda: get(site.alertmanager, "-/ready"))
    down = {"alertname": "LLMHostDown", "severity": "page", "instance": "gpu1"}
    follows = {"alertname": "LLMGpuMissing", "severity": "page", "instance": "gpu1"}
    elsewhere = {"alertname": "LLMGpuMissing", "severity": "page", "instance": "gpu2"}
    site.alert(down, follows, elsewhere)

    def arrived() -> set[tuple[str, str]]:
        return {
            (alert["labels"]["alertname"], alert["labels"]["instance"])
            for _token, body in site.received
            for alert in body["alerts"]
        }

    wait_for("both pages", lambda: {("LLMHostDown", "gpu1"), ("LLMGpuMissing", "gpu2")} <= arrived())
    time.sleep(2)
    assert ("LLMGpuMissing", "gpu1") not in arrived()
    assert {token for token, _body in site.received} == {"Bearer s3cret-token"}
    silenced = json.loads(get(site.alertmanager, "api/v2/alerts?inhibited=true&silenced=false&active=false"))
    assert [alert["labels"]["instance"] for alert in silenced] == ["gpu1"]
