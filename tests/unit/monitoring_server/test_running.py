# Copyright (c) 2026 onprem.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution's programs, running on loopback with what the role writes."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_sample import STATUS
from role_templates import rendered

from tests.alerts import promtool
from tests.alerts.test_alerts import FOREIGN
from tests.packages import unpacked

PATIENCE = 30.0
SERVICES = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")


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


class Receiver(ThreadingHTTPServer):
    """A receiver of pages or tickets, which keeps what it gets."""

    def __init__(self, port: int) -> None:
        self.received: list[tuple[str | None, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.received.append((self.headers.get("Authorization"), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def arrived(self) -> set[tuple[str, str]]:
        """Alerts that came, by name and host."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for _token, body in self.received
            for alert in body["alerts"]
        }

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class Site:
    """Prometheus, Alertmanager, blackbox and node exporter of one host, with a receiver of pages. That of tickets
    cannot be reached."""

    def __init__(self, place: Path) -> None:
        self.prometheus, self.alertmanager, self.blackbox, self.node, hook, self.closed, self.slow = free_ports(7)
        self.hook = Receiver(hook)
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
            "monitoring_server_ticket": {"webhook_url": f"http://127.0.0.1:{self.closed}/"},
            "monitoring_server_scrape_configs": [
                {"job_name": "slow", "static_configs": [{"targets": [f"127.0.0.1:{self.slow}"]}]}
            ],
            "__monitoring_server_directory": str(place),
        }
        self.place = place
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
            *(self.start(place, name, *self.command(name)) for name in SERVICES),
            self.start(place, "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{self.node}",
                       f"--collector.textfile.directory={place}/textfile"),
        ]  # fmt: skip

    def command(self, name: str) -> list[str]:
        """The arguments that a host's systemd gives a service: by the role's drop-in, with what its package says."""
        drop_in = rendered("monitoring_server", "drop-in.conf.j2", **self.variables, item={"unit": f"{name}.service"})
        (start,) = re.findall(r"(?m)^ExecStart=(/.*)$", drop_in)
        given = (unpacked(name) / "etc/default" / name).read_text()
        (arguments,) = re.findall(r'(?m)^ARGS="(.*)"$', given)
        program, *words = shlex.split(
            start.replace("$ARGS", arguments).replace("/var/lib/prometheus", f"{self.place}/lib")
        )
        assert program == f"/usr/bin/{name}"
        return words

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
        self.hook.end()

    def query(self, expression: str, port: int = 0) -> list[dict[str, Any]]:
        asked = "api/v1/query?query=" + urllib.parse.quote(expression)
        answer = json.loads(get(port or self.prometheus, asked))
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
    wait_for("every target", lambda: len(site.query('up{job!="slow"} == 1')) == 4)
    assert {row["metric"]["instance"] for row in site.query('up{job!="slow"}')} == {"mon1"}
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
    wait_for("every target", lambda: len(site.query('up{job!="slow"} == 1')) == 4)
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

    wait_for("both pages", lambda: {("LLMHostDown", "gpu1"), ("LLMGpuMissing", "gpu2")} <= site.hook.arrived())
    time.sleep(2)
    assert ("LLMGpuMissing", "gpu1") not in site.hook.arrived()
    assert {token for token, _body in site.hook.received} == {"Bearer s3cret-token"}
    silenced = json.loads(get(site.alertmanager, "api/v2/alerts?inhibited=true&silenced=false&active=false"))
    assert [alert["labels"]["instance"] for alert in silenced] == ["gpu1"]


def test_a_receiver_that_cannot_be_reached_loses_no_alert(site: Site) -> None:
    wait_for("Alertmanager", lambda: get(site.alertmanager, "-/ready"))
    site.alert({"alertname": "LLMDiskFull", "severity": "ticket", "instance": "gpu3"})
    wait_for(
        "what LLMAlertsNotSent asks for",
        lambda: site.query('alertmanager_notification_requests_failed_total{integration="webhook"} > 0'),
    )
    late = Receiver(site.closed)
    try:
        wait_for("the ticket", lambda: ("LLMDiskFull", "gpu3") in late.arrived())
    finally:
        late.end()


def test_a_target_that_answers_late_holds_up_no_other(site: Site) -> None:
    """It counts as down."""
    with socket.create_server(("127.0.0.1", site.slow)):
        before = wait_for("an attempt", lambda: site.query('timestamp(up{job="slow"} == 0)'))
        after = wait_for("another", lambda: site.query(f'timestamp(up{{job="slow"}} == 0) > {before[0]["value"][1]}'))
        (node,) = site.query('timestamp(up{job="node"} == 1)')
        assert abs(float(node["value"][1]) - float(after[0]["value"][1])) < 5


def test_a_full_disk_is_told_although_nothing_can_be_stored(site: Site, tmp_path: Path) -> None:
    """Whoever asks for what is missing is heard; everything else falls silent."""
    (port,) = free_ports(1)
    # Longer than targets are looked for at the start.
    rule = {**promtool.alerts()["LLMMonitoringBlind"], "for": "10s"}
    rules = {"groups": [{"name": "blind", "rules": [rule]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "data").mkdir()
    config = yaml.safe_load((site.place / "prometheus.yml").read_text())
    config["rule_files"] = [str(tmp_path / "rules.yml")]
    config["scrape_configs"] = [
        {
            "job_name": "prometheus",
            "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": "mon1"}}],
        }
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        "unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=16m tmpfs {tmp_path}/data && exec "$@"', "sh",
        unpacked("prometheus") / "usr/bin/prometheus", f"--web.listen-address=127.0.0.1:{port}",
        f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", "--query.lookback-delta=3s",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as program:
        try:
            wait_for("a sample", lambda: site.query("up == 1", port))
            # Each query takes the next of 20 places in a file with holes; writing to one without room ends Prometheus.
            for _number in range(25):
                site.query("up", port)
            fill = Path(f"/proc/{program.pid}/root{tmp_path}/data/fill")
            with contextlib.suppress(OSError), fill.open("wb") as file:
                while True:
                    file.write(bytes(4096))
            wait_for("silence", lambda: not site.query("up", port))
            wait_for("the page", lambda: ("LLMMonitoringBlind", "") in site.hook.arrived())
            assert "no space left on device" in (tmp_path / "log").read_text()
            fill.unlink()
            wait_for("samples again", lambda: site.query("up == 1", port))
        finally:
            program.terminate()


def test_the_status_page_reads_what_fires_and_not_what_is_held_back(site: Site) -> None:
    wait_for("Alertmanager", lambda: get(site.alertmanager, "-/ready"))
    down = {"alertname": "LLMHostDown", "severity": "page", "instance": "gpu7"}
    follows = {"alertname": "LLMGpuMissing", "severity": "page", "instance": "gpu7"}
    slowed = {"alertname": "LLMGpuSlowed", "severity": "ticket", "instance": "gpu8"}
    site.alert(down, follows, slowed)
    url = f"http://127.0.0.1:{site.alertmanager}"

    def told() -> list[tuple[str, str, str]]:
        found = STATUS["alerts_state"](url)
        assert (found["known"], found["reason"]) == (True, "")
        rows = [row for row in found["alerts"] if row["host"] in ("gpu7", "gpu8")]
        assert all(abs(row["since"] - time.time()) < 60 and row["summary"] == "x" for row in rows)
        return [(row["name"], row["severity"], row["host"]) for row in rows]

    wanted = [("LLMHostDown", "page", "gpu7"), ("LLMGpuSlowed", "ticket", "gpu8")]
    wait_for("what fires, without what follows from it", lambda: told() == wanted)
