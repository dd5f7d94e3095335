"""``python -m tests.faults.watched``: faults put into a fleet with a monitoring server; who is told, and how soon.

Prometheus scrapes and evaluates as often as it does in production. What only waits is left out, since promtool's tests
hold it (tests/alerts): the rules run without their ``for`` and ``keep_firing_for``, those that look 12 hours back look
half a minute back, and Alertmanager sends a group's next alert after 10 seconds. Prometheus has to see the fault within
a look of what tells it, a scrape and an evaluation; the table adds to these what the real rule and Alertmanager wait.

``--only PATTERN`` tries those with such a name; ``--keep`` leaves the fleet up for the next call. ``--write`` keeps
what was seen in watched.json, from which docs/monitoring.md has its table.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import docker
import yaml

from tests import plays
from tests.alerts import promtool
from tests.faults.fleet import HOSTS, INVENTORY, built, down
from tests.faults.injection import HERE, Fault, Fleet, load

RESULTS = HERE / "watched.json"
PAGE = plays.ROOT / "docs/monitoring.md"
MONITOR = HOSTS["gateway"]
RULES = "/etc/prometheus/onprem-llm/rules/alerts.yml"
ALERTMANAGER = "/etc/prometheus/onprem-llm/alertmanager.yml"
RECEIVER_PORT, RECEIVED = 9099, "/run/watched-alerts.jsonl"
# Seconds, as roles/monitoring_server has them: monitoring_server_scrape_interval, and group_wait by severity.
SCRAPE_INTERVAL = 15
GROUP_WAIT = {"page": 10, "ticket": 30}
PATIENCE = 240.0
# On a machine that other runs share.
SLACK = 30
TYPO = "A rule with a typo is refused, and Prometheus goes on with what it has"
UNITS = {"s": 1, "m": 60, "h": 3600}
# The files that are changed for the run, and where they lie meanwhile.
CHANGED = {RULES: "/run/watched-rules.yml", ALERTMANAGER: "/run/watched-alertmanager.yml"}
ASK = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/api/v1/alerts').read().decode())"


@dataclass(frozen=True)
class Case:
    """A fault, the alert that is to tell of it, and seconds between two looks of what tells Prometheus."""

    fault: Fault
    alert: str
    looks: int

    @property
    def rule(self) -> dict[str, Any]:
        return promtool.alerts()[self.alert]

    @property
    def severity(self) -> str:
        return str(self.rule["labels"]["severity"])

    @property
    def seen_by(self) -> int:
        """Seconds after which Prometheus sees the fault at the latest: a look, a scrape, an evaluation."""
        return self.looks + 2 * SCRAPE_INTERVAL

    @property
    def told_by(self) -> int:
        """Seconds from the fault to the notification, at the latest, by the real rules."""
        return self.seen_by + waits(self.rule) + GROUP_WAIT[self.severity]


@dataclass
class Seen:
    """What was seen of a fault. Times in seconds, from the fault on."""

    fault: str
    alert: str
    # To the first evaluation that sees it, and to the receiver without the rule's `for`.
    noticed: float = 0.0
    received: float = 0.0
    # Other alerts on the host meanwhile.
    beside: list[str] = field(default_factory=list)
    healed: bool = False
    missed: str = ""


def seconds(duration: str) -> int:
    """Prometheus' notation of a time.

    :raises ValueError: it is none.
    """
    parts = re.findall(r"(\d+)([smh])", duration)
    if "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"{duration!r} is no time")
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def moment(text: str) -> float:
    """Unix time of what Prometheus writes: UTC, with none to nine digits of a second."""
    whole, _dot, part = text.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{part or 0}")


def waits(rule: Mapping[str, Any]) -> int:
    """Seconds that a rule waits with a condition that holds."""
    back = 43200 if "[12h]" in rule["expr"] else 0
    return seconds(str(rule.get("for", "0s"))) + back


def hasty(text: str) -> str:
    """Rules that fire as soon as Prometheus sees the condition."""
    document = yaml.safe_load(text)
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
            rule.pop("keep_firing_for", None)
            rule["expr"] = rule["expr"].replace("[12h]", "[30s]").replace("offset 12h", "offset 30s")
    return yaml.safe_dump(document, width=1000)


def cases() -> list[Case]:
    known = {fault.name: fault for fault in load()}
    entries = yaml.safe_load((HERE / "watched.yml").read_text(encoding="utf-8"))
    return [
        Case(Fault(entry["fault"], entry) if "host" in entry else known[entry["fault"]], entry["alert"], entry["looks"])
        for entry in entries
    ]


class Monitor:
    """Prometheus and Alertmanager of the fleet, and a receiver beside them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def shell(self, script: str) -> str:
        return self.fleet.shell(MONITOR, script)

    @contextlib.contextmanager
    def hastened(self) -> Iterator[None]:
        """The rules without what they wait, and somebody who receives."""
        self._write("/run/watched-receiver.py", (plays.ROOT / "tests/fleet/receiver.py").read_text(encoding="utf-8"))
        program = f"/usr/bin/python3 -I /run/watched-receiver.py {RECEIVER_PORT} {RECEIVED}"
        self.shell(f"""
            systemctl stop watched-receiver 2>/dev/null; rm -f {RECEIVED}; touch {RECEIVED}
            systemd-run --quiet --unit=watched-receiver {program}
            """)
        for path, kept in CHANGED.items():
            # A run that was cut off has left them.
            self.shell(f"[ -e {kept} ] || cp -p {path} {kept}")
        self._write(RULES, hasty(self.shell(f"cat {CHANGED[RULES]}")))
        self.shell(f"promtool check rules {RULES}; sed -i 's/group_interval: 5m/group_interval: 10s/' {ALERTMANAGER}")
        self.shell("systemctl reload prometheus prometheus-alertmanager")
        try:
            yield
        finally:
            for path, kept in CHANGED.items():
                self.shell(f"cp -p {kept} {path}; rm {kept}")
            self.shell("systemctl reload prometheus prometheus-alertmanager; systemctl stop watched-receiver")

    def _write(self, path: str, text: str) -> None:
        self.fleet.feed(MONITOR, f"cat > {path}", text)

    def alerts(self, host: str) -> dict[str, float]:
        """What fires for a host, and since when (Unix time)."""
        answer = json.loads(self.shell(f"/usr/bin/python3 -I -c {shlex.quote(ASK)}"))
        found: dict[str, float] = {}
        for alert in answer["data"]["alerts"]:
            labels = alert["labels"]
            if host in (labels.get("instance"), labels.get("node")):
                since, name = moment(alert["activeAt"]), labels["alertname"]
                found[name] = min(since, found.get(name, since))
        return found

    def received(self, alert: str, host: str, after: float) -> float:
        """When an alert of a host came to the receiver, at the earliest; 0 where it did not."""
        for line in self.shell(f"cat {RECEIVED}").splitlines():
            body = json.loads(line)
            for one in body["alerts"]:
                named = (one["labels"]["alertname"], one["labels"].get("instance"))
                if body["time"] >= after and one["status"] == "firing" and named == (alert, host):
                    return float(body["time"])
        return 0.0


def wait_for(true: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What is true at last, or false where it never is."""
    deadline = time.monotonic() + patience
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def try_out(fleet: Fleet, monitor: Monitor, case: Case) -> Seen:
    """Put in, wait until somebody was told, take out."""
    host, alert = fleet.hosts[case.fault.spec["host"]], case.alert
    seen = Seen(case.fault.name, alert)
    wait_for(lambda: alert not in monitor.alerts(host))
    before = set(monitor.alerts(host))
    try:
        with fleet.fault(case.fault):
            begun = time.time()
            since = wait_for(lambda: monitor.alerts(host).get(alert))
            if not since:
                seen.missed = f"fires: {', '.join(sorted(monitor.alerts(host))) or 'nothing'}"
            else:
                came = wait_for(lambda: monitor.received(alert, host, begun), 90)
                seen.noticed, seen.received = max(0.0, since - begun), max(0.0, came - begun)
                seen.beside = sorted(set(monitor.alerts(host)) - before - {alert})
                if not came:
                    seen.missed = "it fires, and nothing was received"
                elif seen.noticed > case.seen_by + SLACK:
                    seen.missed = f"seen after {said(seen.noticed)}, later than {said(case.seen_by)}"
    except RuntimeError as error:
        seen.missed = str(error)
    return seen


def a_typo(monitor: Monitor) -> str:
    """Why a rule of the operator's with a typo was not refused before Prometheus read it; empty where it was."""
    rules = "promtool query instant http://127.0.0.1:9090 'prometheus_config_last_reload_success_timestamp_seconds'"
    # A Prometheus that has just begun has not scraped itself yet.
    wait_for(lambda: monitor.shell(rules).strip())
    before = monitor.shell(f"ls {Path(RULES).parent}; {rules} | sed 's/@.*//'")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "own.yml"
        file.write_text("groups: [{name: own, rules: [{alert: Own, expr: 'up ==='}]}]\n", encoding="utf-8")
        given = {"monitoring_server_rules": [str(file)]}
        arguments = (f"--limit={MONITOR}", "--tags=monitoring_server")
        run = plays.run("site.yml", *arguments, inventory=INVENTORY, variables=given, timeout=300)
    if run.returncode == 0 or "Write the rules" not in run.stdout or "unexpected" not in run.stdout:
        return run.stdout[-2000:]
    after = monitor.shell(f"ls {Path(RULES).parent}; {rules} | sed 's/@.*//'")
    return "" if before == after else f"before: {before}, after: {after}"


def lane(entries: Sequence[Case], keep: Callable[[Seen], None], until: float) -> None:
    """Faults of one host, one after another, none begun after a time; then all are to be over."""
    fleet = Fleet(docker.from_env(timeout=300), INVENTORY, Path(), HOSTS)
    monitor = Monitor(fleet)
    tried = []
    for case in entries:
        if time.monotonic() < until:
            seen = try_out(fleet, monitor, case)
            tried.append((fleet.hosts[case.fault.spec["host"]], seen))
            tell(seen)
    for host, seen in tried:
        seen.healed = bool(wait_for(lambda host=host, seen=seen: seen.alert not in monitor.alerts(host)))
        keep(seen)


def tell(seen: Seen) -> None:
    text = seen.missed or f"{seen.alert}, seen after {said(seen.noticed)}, received after {said(seen.received)}"
    more = f"; beside: {', '.join(seen.beside)}" if seen.beside else ""
    print(f"{'MISSED' if seen.missed else 'ok    '} {seen.fault}: {text}{more}", flush=True)


def said(duration: float) -> str:
    """A time as the table has it."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(known: Mapping[str, Seen]) -> str:
    """What is computed of every fault, and what was seen of those that a run has tried."""
    lines = [
        "| fault | alert | the rule waits | told at the latest | seen by Prometheus after |",
        "|---|---|---|---|---|",
    ]
    for case in cases():
        seen = known.get(case.fault.name)
        measured = "not run yet" if seen is None else "missed" if seen.missed else said(seen.noticed)
        waiting = said(waits(case.rule)) if waits(case.rule) else "no time"
        lines.append(
            f"| {case.fault.name} | {case.alert} ({case.severity}) | {waiting} | {said(case.told_by)} | {measured} |"
        )
    return "\n".join(lines)


def results() -> dict[str, Seen]:
    """What the last runs with ``--write`` saw, by fault."""
    if not RESULTS.exists():
        return {}
    return {name: Seen(**values) for name, values in json.loads(RESULTS.read_text(encoding="utf-8")).items()}


def write(known: Mapping[str, Seen]) -> None:
    """Keep what was seen, and put the table into the page in place of the last one."""
    ordered = {case.fault.name: asdict(known[case.fault.name]) for case in cases() if case.fault.name in known}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    fresh = re.sub(r"(?m)^\| fault \| alert .*\n(?:\|.*\n)*", lambda _match: table(known) + "\n", text)
    PAGE.write_text(fresh, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.watched", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of the faults' names")
    parser.add_argument("--keep", action="store_true", help="leave the fleet up, and take one that is up")
    parser.add_argument("--minutes", type=float, default=120, help="begin no further fault after so many minutes")
    parser.add_argument("--write", action="store_true", help="keep the results, and the table of the page")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    fleet = built(arguments.keep)
    entries = [case for case in cases() if re.search(arguments.only, case.fault.name, re.IGNORECASE)]
    known, rows = results(), []

    def keep(seen: Seen) -> None:
        rows.append(seen)
        known[seen.fault] = seen
        if not seen.healed:
            print(f"MISSED {seen.fault}: {seen.alert} still fires", flush=True)
        if arguments.write:
            write(known)

    monitor = Monitor(fleet)
    typos = []
    if re.search(arguments.only, TYPO, re.IGNORECASE):
        typos.append(a_typo(monitor))
        print(f"{'MISSED' if typos[0] else 'ok    '} {TYPO}{': ' if typos[0] else ''}{typos[0]}", flush=True)
    with monitor.hastened() if entries else contextlib.nullcontext():
        # A new set of rules begins without what the old one knew.
        time.sleep(40 if entries else 0)
        until = time.monotonic() + 60 * arguments.minutes
        hosts = dict.fromkeys(case.fault.spec["host"] for case in entries)
        with ThreadPoolExecutor(len(hosts) or 1) as pool:
            lanes = [[case for case in entries if case.fault.spec["host"] == host] for host in hosts]
            for done in [pool.submit(lane, each, keep, until) for each in lanes]:
                done.result()
    if not arguments.keep:
        down()
    missed = [row for row in rows if row.missed or not row.healed]
    failed = len(missed) + sum(map(bool, typos))
    print(f"\n{table(known)}\n\n{len(rows) + len(typos) - failed} passed, {failed} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
